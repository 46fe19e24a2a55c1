"""Losses across the batch against reference values, and against their formulas pair by pair."""

import functools
import pathlib

import numpy as np
import pytest
import slow_losses
import tensorflow as tf
from trainers import strategy_of

from models import pair_losses
from models.memory import References
from models.pair_losses import PAIR_LOSSES
from training import replicas

GOLDEN = pathlib.Path(__file__).parent / "golden" / "metric_losses_small.npz"
SLOW = {
    "contrastive": slow_losses.contrastive,
    "circle": slow_losses.circle,
    "multi_similarity": slow_losses.multi_similarity,
    "triplet": slow_losses.triplet,
}
CASES = [
    ("contrastive", {}),
    ("contrastive", {"positive_margin": 0.4, "negative_margin": 1.5}),
    ("circle", {}),
    ("circle", {"margin": 0.25, "scale": 32.0}),
    ("multi_similarity", {}),
    ("multi_similarity", {"alpha": 5.0, "beta": 20.0, "base": 0.3, "epsilon": 0.1}),
    ("triplet", {}),
    ("triplet", {"margin": "soft"}),
]
# One for each way through the code, where a case takes long.
WAYS = [CASES[0], CASES[2], CASES[5], CASES[6]]


def assert_close(received, expected, tolerance=1e-5):
    """Relative to the largest value: a gradient's small entries are differences of large ones."""
    received, expected = np.asarray(received, np.float64), np.asarray(expected)
    limit = tolerance * max(np.abs(expected).max(), 1e-30)
    np.testing.assert_allclose(received, expected, rtol=0, atol=limit)


def run(loss, x, labels, **kwargs):
    """Returns the losses, their mean, and the mean's gradient."""
    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        losses = loss(x, labels, **kwargs)
        mean = tf.reduce_mean(losses)
    return losses, mean, tf.convert_to_tensor(tape.gradient(mean, x))


def example(batch=10, size=6, classes=4, seed=0):
    """Embeddings with something of their class; the last image is alone in its own."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, batch)
    labels[-1] = classes
    centers = rng.normal(size=(classes + 1, size))
    return (rng.normal(size=(batch, size)) + centers[labels]).astype(np.float32), labels


@pytest.mark.parametrize(
    ("golden", "name", "options"),
    [
        ("triplet_batch_hard_euclidean_m0.3", "triplet", {}),
        ("triplet_batch_hard_euclidean_m2", "triplet", {"margin": 2.0}),
        ("triplet_batch_hard_soft", "triplet", {"margin": "soft"}),
        ("circle_m0.4_g80", "circle", {}),
        ("multi_similarity_a2_b50_base0.5", "multi_similarity", {}),
        ("contrastive_pos0_neg1", "contrastive", {}),
    ],
)
def test_values_and_gradients_are_those_of_pytorch_metric_learning(golden, name, options):
    with np.load(GOLDEN, allow_pickle=False) as file:
        x, labels = file["x"], file["y"]
        mean, slope = file[f"{golden}__loss"], file[f"{golden}__grad_x"]
    received = run(PAIR_LOSSES[name], x, labels, **options)
    assert received[0].shape == (12,)
    np.testing.assert_allclose(received[1], mean, rtol=1e-5)
    assert_close(received[2], slope)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_same_as_pair_by_pair(name, options):
    x, labels = example()
    _, mean, slope = run(PAIR_LOSSES[name], x, labels, **options)
    np.testing.assert_allclose(mean, SLOW[name](x.astype(float), labels, **options), rtol=1e-5)
    held = {"constant": x.astype(float)} if name == "circle" else {}
    slow = functools.partial(SLOW[name], labels=labels, **options, **held)
    assert_close(slope, slow_losses.gradient(slow, x), 2e-5)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_bfloat16_embeddings_get_the_loss_of_their_float32_values(name, options):
    x, labels = example()
    x = tf.cast(x, tf.bfloat16)
    received = run(PAIR_LOSSES[name], x, labels, **options)
    expected = run(PAIR_LOSSES[name], tf.cast(x, tf.float32), labels, **options)
    assert received[0].dtype == tf.float32
    assert received[2].dtype == tf.bfloat16
    np.testing.assert_array_equal(received[0], expected[0])
    np.testing.assert_array_equal(received[2], tf.cast(expected[2], tf.bfloat16))


@pytest.mark.parametrize(("name", "options"), WAYS)
def test_compiled_is_eager(name, options):
    x, labels = example()

    @tf.function(jit_compile=True, autograph=False)
    def compiled(x, labels):
        return run(PAIR_LOSSES[name], x, labels, **options)

    received = compiled(tf.constant(x), tf.constant(labels))
    for a, b in zip(received, run(PAIR_LOSSES[name], x, labels, **options), strict=True):
        assert_close(a, b)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_degenerate_batches_are_finite(name, options):
    x, labels = example()
    copies, zeros = np.repeat(x[:1], len(x), axis=0), np.zeros_like(x)
    for rows in (x, copies, zeros, np.concatenate([zeros[:3], copies[:3], x[:4]]), 1e4 * x):
        for classes in (labels, np.zeros_like(labels), np.arange(len(labels))):
            for values in run(PAIR_LOSSES[name], rows, classes, **options):
                assert np.isfinite(values).all()
    for values in run(PAIR_LOSSES[name], x[:1], labels[:1], **options):
        np.testing.assert_array_equal(values, np.zeros_like(values))


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_without_any_pair_there_is_no_pull_or_push(name):
    """One image a class has nothing to pull, one class nothing to push."""
    x, labels = example()
    alone = run(PAIR_LOSSES[name], x, np.arange(len(x)))
    one = run(PAIR_LOSSES[name], x, np.zeros_like(labels))
    if name in ("circle", "triplet"):
        assert alone[1] == one[1] == 0
    else:
        np.testing.assert_allclose(alone[1], SLOW[name](x, np.arange(len(x))), rtol=1e-5)
        np.testing.assert_allclose(one[1], SLOW[name](x, np.zeros_like(labels)), rtol=1e-5)


@pytest.mark.parametrize(("name", "options"), WAYS)
def test_two_replicas_equal_one_device(name, options):
    """The replicas' gradients to shared weights add up to those of the whole batch; among the
    images of one replica are copies of the other's.
    """
    images, labels = example(batch=8)
    images[5], labels[5] = images[1], labels[1]
    strategy = strategy_of(2)
    with strategy.scope():
        weights = tf.Variable(np.random.default_rng(2).normal(size=(6, 5)).astype(np.float32))

    def losses_and_gradient(images, labels, **kwargs):
        with tf.GradientTape() as tape:
            losses = PAIR_LOSSES[name](tf.matmul(images, weights), labels, **options, **kwargs)
            mean = tf.reduce_sum(losses) / 8
        return losses, replicas.add_up(tape.gradient(mean, weights))

    def replica():
        number = replicas.replica_id()
        part = [tf.reshape(tf.constant(v), (2, 4, *v.shape[1:]))[number] for v in (images, labels)]
        return losses_and_gradient(*part, gather=replicas.gather, replica_id=number)

    losses, gradients = tf.function(lambda: strategy.run(replica), autograph=False)()
    expected = losses_and_gradient(tf.constant(images), tf.constant(labels))
    assert_close(np.concatenate(strategy.experimental_local_results(losses)), expected[0])
    for received in strategy.experimental_local_results(gradients):
        assert_close(received, expected[1])


@pytest.mark.parametrize(("name", "options"), CASES)
def test_references_are_compared_with(name, options):
    """A batch against a memory of other images and of empty places."""
    x, labels = example()
    rows, classes = example(seed=3)
    places = np.concatenate([rows, np.full((3, 6), 7, np.float32)])
    valid = np.arange(13) < 10
    memory = References(places, np.concatenate([classes, [0, 0, 0]]), valid)
    losses, mean, slope = run(PAIR_LOSSES[name], x, labels, references=memory, **options)
    assert losses.shape == (10,)
    held = {"constant": x.astype(float)} if name == "circle" else {}
    slow = functools.partial(
        SLOW[name], labels=labels, references=(rows, classes), **options, **held
    )
    np.testing.assert_allclose(mean, slow(x.astype(float)), rtol=1e-5)
    assert_close(slope, slow_losses.gradient(slow, x), 2e-5)
    empty = References(places, memory.labels, np.zeros_like(valid))
    for values in run(PAIR_LOSSES[name], x, labels, references=empty, **options):
        np.testing.assert_array_equal(values, np.zeros_like(values))


def test_gather_needs_the_number_of_the_replica():
    x, labels = example()
    with pytest.raises(ValueError, match="which row is itself"):
        pair_losses.circle_loss(x, labels, gather=lambda values: values)


def test_unknown_margin_is_refused():
    with pytest.raises(ValueError, match="Received: 'hard'"):
        pair_losses.batch_hard_triplet_loss(*example(), margin="hard")
