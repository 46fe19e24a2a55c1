"""What a model remembers beside its weights: class centres and the embeddings of other batches."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from trainers import strategy_of

from models.center_loss import CenterLoss
from models.cosine_cross_entropy import cosine_cross_entropy
from models.memory import EmbeddingMemory, replayed_loss
from models.pair_losses import circle_loss
from training import replicas


def built(layer, size=3):
    layer.build((None, size))
    return layer


def example(batch=8, size=3, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(batch, size)).astype(np.float32), rng.integers(0, classes, batch)


def on_replicas(strategy, step, *values):
    """Runs `step` on each half of the values, on two replicas; returns what each returned."""

    def replica():
        i = replicas.replica_id()
        halves = [tf.reshape(tf.constant(v), (2, len(v) // 2, *v.shape[1:]))[i] for v in values]
        return step(*halves)

    results = tf.function(lambda: strategy.run(replica), autograph=False)()
    return [strategy.experimental_local_results(result) for result in results]


def test_centers_move_by_the_papers_rule():
    layer = built(CenterLoss(4, rate=0.5))
    first = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    layer.centers.assign(first)
    x, labels = example(classes=3)
    embeddings = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        losses = layer.losses_of(embeddings, labels, training=True)
    differences = x.astype(float) - first[labels]
    np.testing.assert_allclose(losses, 0.5 * (differences**2).sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(tape.gradient(losses, embeddings), differences, rtol=1e-5)
    expected = first.astype(float)
    for label in range(4):
        own = x[labels == label]
        expected[label] -= 0.5 * (first[label] - own).sum(axis=0) / (1 + len(own))
    np.testing.assert_allclose(layer.centers, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(layer.centers[3], first[3])
    assert layer.trainable_variables == []


def test_centers_stay_in_evaluation_and_in_bfloat16_are_float32():
    layer = built(CenterLoss(5, dtype="mixed_bfloat16"))
    x, labels = example()
    half = tf.cast(x, tf.bfloat16)
    losses = layer.losses_of(half, labels)
    assert losses.dtype == layer.centers.dtype == "float32"
    np.testing.assert_array_equal(layer.centers, np.zeros((5, 3)))
    assert layer(half).dtype == tf.bfloat16


def test_centers_on_two_replicas_are_those_of_one():
    x, labels = example()
    one = built(CenterLoss(5))
    strategy = strategy_of(2)
    with strategy.scope():
        two = built(CenterLoss(5))

    def step(x, labels):
        losses = two.losses_of(x, labels, training=True, gather=replicas.gather)
        return losses, tf.convert_to_tensor(two.centers)

    for _ in range(2):
        losses, centers = on_replicas(strategy, step, x, labels)
        expected = one.losses_of(x, labels, training=True)
        np.testing.assert_allclose(np.concatenate(losses), expected, rtol=1e-5)
        for received in centers:
            np.testing.assert_allclose(received, one.centers, rtol=1e-5, atol=1e-6)


def test_memory_is_a_ring():
    memory = built(EmbeddingMemory(7), 2)
    assert not np.any(memory.read().valid)
    rows = np.arange(20, dtype=np.float32).reshape(10, 2)
    labels = np.arange(10)
    for start in (0, 3, 6):
        held = memory.read()
        count = np.sum(held.valid)
        assert count == min(start, 7)
        np.testing.assert_array_equal(held.embeddings[:count], rows[:count])
        memory.enqueue(rows[start : start + 3], labels[start : start + 3])
    held = memory.read()
    assert np.all(held.valid)
    np.testing.assert_array_equal(held.labels, [7, 8, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(held.embeddings, rows[[7, 8, 2, 3, 4, 5, 6]])


def test_memory_waits_for_its_start():
    memory = built(EmbeddingMemory(10, start=2))
    x, labels = example(4)
    counts = []
    for _ in range(3):
        counts.append(int(np.sum(memory.read().valid)))
        memory.enqueue(x, labels)
    assert counts == [0, 0, 8]


def test_memory_compiled_and_in_bfloat16_holds_the_rows():
    memory = built(EmbeddingMemory(12))
    x, labels = (tf.constant(v) for v in example())

    @tf.function(jit_compile=True, autograph=False)
    def step(x, labels):
        with tf.GradientTape() as tape:
            tape.watch(x)
            losses = circle_loss(x, labels, references=memory.read())
        memory.enqueue(x, labels)
        return losses, tape.gradient(losses, x)

    losses, _ = step(tf.cast(x, tf.bfloat16), labels)
    np.testing.assert_array_equal(losses, np.zeros(8))  # nothing to compare with
    held = memory.read()
    losses, slopes = step(tf.cast(-x, tf.bfloat16), labels)
    np.testing.assert_array_equal(held.embeddings[:8], tf.cast(tf.cast(x, tf.bfloat16), tf.float32))
    assert np.all(np.isfinite(losses))
    assert np.max(losses) > 0
    assert np.any(tf.cast(slopes, tf.float32) != 0)


def test_memory_holds_the_global_batch_on_every_replica():
    x, labels = example()
    one = built(EmbeddingMemory(20))
    strategy = strategy_of(2)
    with strategy.scope():
        two = built(EmbeddingMemory(20))

    def step(x, labels):
        held = two.read()
        two.enqueue(x, labels, gather=replicas.gather)
        losses = circle_loss(
            x,
            labels,
            references=held,
            gather=replicas.gather,
            replica_id=replicas.replica_id(),
        )
        return losses, held.embeddings

    for turn in range(3):
        losses, rows = on_replicas(strategy, step, x + turn, labels)
        held = one.read()
        one.enqueue(x + turn, labels)
        expected = circle_loss(x + turn, labels, references=held)
        for received in rows:
            np.testing.assert_array_equal(received, held.embeddings)
        np.testing.assert_allclose(np.concatenate(losses), expected, rtol=1e-5)


def test_replay_is_the_mean_over_the_valid_rows():
    """The classifier's gradient is that of a batch of the rows alone; the memory has none."""
    memory = built(EmbeddingMemory(9))
    x, labels = example(6)
    centers = tf.constant(np.random.default_rng(2).normal(size=(3, 5)).astype(np.float32))

    def replay(embeddings, labels, valid):
        with tf.GradientTape() as tape:
            tape.watch(centers)
            losses = cosine_cross_entropy(embeddings, centers, labels, scale=10.0)["loss"]
            replayed = replayed_loss(losses, valid, 4)
            mean = tf.reduce_mean(replayed)
        return replayed, tape.gradient(mean, centers)

    empty = memory.read()
    replayed, slopes = replay(empty.embeddings, empty.labels, empty.valid)
    np.testing.assert_array_equal(replayed, np.zeros(4))
    np.testing.assert_array_equal(slopes, np.zeros((3, 5)))
    memory.enqueue(x, labels)
    held = memory.read()
    replayed, slopes = replay(held.embeddings, held.labels, held.valid)
    expected, expected_slopes = replay(tf.constant(x), labels, np.ones(6, bool))
    assert replayed.shape == (4,)
    np.testing.assert_allclose(replayed, expected, rtol=1e-5)
    np.testing.assert_allclose(slopes, expected_slopes, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "make", [lambda p: CenterLoss(5, dtype=p), lambda p: EmbeddingMemory(5, dtype=p)]
)
def test_embeddings_keep_their_digits_in_mixed_precision(make):
    x, _ = example()
    received = make("mixed_bfloat16")(x)
    assert received.dtype == tf.float32
    np.testing.assert_array_equal(received, x)


def test_both_are_saved_with_the_model_and_hand_on_what_they_get(tmp_path):
    inputs = keras.Input((3,))
    outputs = EmbeddingMemory(4, start=1, name="memory")(CenterLoss(5, name="centers")(inputs))
    model = keras.Model(inputs, outputs)
    x, labels = example(4)
    model.get_layer("memory").enqueue(x, labels)
    model.get_layer("centers").losses_of(x, labels, training=True)
    np.testing.assert_array_equal(model(x), x)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert len(model.variables) == 5
    for a, b in zip(model.variables, again.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    assert again.get_layer("memory").get_config() == model.get_layer("memory").get_config()


@pytest.mark.parametrize(
    "make",
    [
        lambda: CenterLoss(5, rate=0),
        lambda: EmbeddingMemory(0),
        lambda: built(EmbeddingMemory(3)).enqueue(*example(4)),
    ],
)
def test_what_cannot_be_is_refused(make):
    with pytest.raises(ValueError, match="Received"):
        make()
