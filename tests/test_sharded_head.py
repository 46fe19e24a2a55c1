"""The class-sharded head against the head in one piece, and what becomes of it between stages."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import trainers
from trainers import BATCH, CLASSES, DIMENSION, examples

from models.storage import load_model
from training import stages
from training.averaging import WeightAverage
from training.hand_over import hand_over
from training.optimizers import build_optimizer
from training.replicas import replica_id
from training.sharded_head import Rule, ShardedHead, ShardedObjective

RULES = [
    {"scale": 10.0},
    {"scale": "adacos"},
    {"scale": "adacos_fixed"},
    {"scale": 30.0, "margin": "arcface", "margin_size": 0.3},
    {"scale": 64.0, "margin": "cosface", "margin_size": 0.4},
]


@pytest.mark.parametrize("loss", RULES, ids=lambda loss: "-".join(map(str, loss.values())))
def test_twenty_steps_equal_the_head_in_one_piece(loss):
    """21 classes on 2 replicas: 11 and 10, and one place of filling."""
    options = {"loss": loss, "clip_norm": 1.0, "weight_decay": 0.01}
    whole = trainers.make_trainer(is_global=loss["scale"] == "adacos", **options)
    sharded = trainers.make_trainer(2, sharded=True, **options)
    results = [trainers.train(trainer, 20) for trainer in (whole, sharded)]
    assert results[0] == pytest.approx(results[1], rel=1e-5)
    assert trainers.largest_difference(whole, sharded) < 1e-5
    data = (*examples(BATCH, seed=5)[:2], np.ones(BATCH, np.float32))
    evaluated = [t.evaluate(trainers.distributed(t, data)) for t in (whole, sharded)]
    assert evaluated[0] == pytest.approx(evaluated[1], rel=1e-5)


def test_on_eight_replicas_too():
    """3 classes a replica: the last one holds nothing but filling."""
    options = {"optimizer": "adam", "rate": 0.01, "loss": {"scale": "adacos"}}
    whole = trainers.make_trainer(is_global=True, **options)
    sharded = trainers.make_trainer(8, sharded=True, **options)
    for trainer in (whole, sharded):
        trainers.train(trainer, 20)
    assert trainers.largest_difference(whole, sharded) < 1e-5


def test_the_first_centers_do_not_depend_on_the_replicas(monkeypatch):
    monkeypatch.setattr("training.sharded_tensor.BLOCK_ROWS", 8)
    drawn = []
    for replicas in (1, 2, 3, 8):
        strategy = trainers.strategy_of(replicas)
        with strategy.scope():
            head = ShardedHead(strategy, CLASSES, 4, build_optimizer("sgd", 0.1), seed=7)
        drawn.append(head.sharded(head.centers).numpy())
        np.testing.assert_array_equal(drawn[-1], drawn[0])
    assert len(np.unique(drawn[0])) == drawn[0].size
    limit = np.sqrt(6 / (CLASSES + 4))
    assert 0.9 * limit < np.abs(drawn[0]).max() <= limit


@pytest.mark.parametrize(("before", "after"), [(2, 8), (3, 1)])
def test_checkpoints_go_from_any_number_of_replicas_to_any_other(
    tmp_path, monkeypatch, before, after
):
    """Five steps with Adam and an average, saved, and five more, beside ten in one go."""
    monkeypatch.setattr("training.sharded_tensor.BLOCK_ROWS", 8)
    options = {
        "sharded": True,
        "optimizer": "adam",
        "rate": 0.01,
        "make_average": lambda variables: WeightAverage(variables, decay=0.8),
    }
    first, second, whole = (trainers.make_trainer(r, **options) for r in (before, after, before))
    halves = [trainers.train(trainer, 5) for trainer in (first, whole)]
    assert halves[0] == halves[1]
    path = tf.train.Checkpoint(**first.checkpoint_variables()).write(str(tmp_path / "c"))
    shapes = tf.train.load_checkpoint(path).get_variable_to_shape_map()
    rows = sorted(shape[0] for name, shape in shapes.items() if "rows-" in name)
    assert rows == [5] * 4 + [8] * 8  # centres, two slots and the average: 8 + 8 + 5 rows each
    tf.train.Checkpoint(**second.checkpoint_variables()).read(path).assert_consumed()
    assert second.step == 5
    for trainer in (second, whole):
        trainers.train(trainer, 5)
    assert trainers.largest_difference(second, whole) < 1e-5
    with second.averaged_weights(), whole.averaged_weights():
        assert trainers.largest_difference(second, whole) < 1e-5


def finish(trainer, directory):
    """Leaves what a finished stage leaves; returns the model's path."""
    trainers.train(trainer, 1)
    directory.mkdir()
    if trainer.head is not None:
        trainer.head.save(str(directory))
    stages.save_model(trainer.model, str(directory / "model.keras"))
    return str(directory / "model.keras")


@pytest.mark.parametrize("before", [(2, True), (1, False)])
@pytest.mark.parametrize("after", [(3, True), (1, False)])
def test_centers_are_handed_over_between_all_kinds_of_heads(tmp_path, before, after):
    first = trainers.make_trainer(before[0], sharded=before[1])
    path = finish(first, tmp_path / "stage")
    assert ("head" in {layer.name for layer in load_model(path).layers}) is not before[1]
    second = trainers.make_trainer(after[0], sharded=after[1])
    hand_over(path, second, ())
    assert trainers.largest_difference(first, second) == 0
    third = trainers.make_trainer(after[0], sharded=after[1])
    hand_over(path, third, ("head",))
    centers = [trainers.weights_of(trainer)[-1] for trainer in (third, second)]
    np.testing.assert_array_equal(centers[0], trainers.first_centers().T)
    assert not np.array_equal(*centers)


def test_centers_of_other_classes_are_refused(tmp_path):
    path = finish(trainers.make_trainer(2, sharded=True), tmp_path / "stage")
    strategy = trainers.strategy_of(1)
    head = ShardedHead(strategy, CLASSES + 1, DIMENSION, build_optimizer("sgd", 0.1))
    with pytest.raises(ValueError, match=r"expected 22 class centres .* Received: \(21, 6\)"):
        head.load(str(tmp_path / "stage"))
    with pytest.raises(ValueError, match="Received: none; skip the layer 'head'"):
        head.load(str(tmp_path))
    whole = finish(trainers.make_trainer(), tmp_path / "whole")
    other = trainers.make_trainer(sharded=True)
    other.head = head
    with pytest.raises(ValueError, match=r"shape \(6, 22\), .* Received: \(6, 21\)"):
        hand_over(whole, other, ())
    assert path.endswith("model.keras")


@pytest.mark.parametrize("replicas", [1, 2])
def test_sampling_lowers_the_loss_by_about_the_log_of_its_rate(replicas):
    """Random centres, so that the others decide: ln 4 is the bias that Rule's docstring states."""
    strategy, batch = trainers.strategy_of(replicas), 8
    with strategy.scope():
        head = ShardedHead(strategy, 1000, 32, build_optimizer("sgd", 0.1))
    embeddings = np.random.default_rng(0).normal(size=(batch, 32)).astype(np.float32)
    labels = np.arange(batch, dtype=np.int32) * 100

    def losses(rate, training):
        rule = Rule(scale=10.0, sample_rate=rate)
        objective = ShardedObjective(head, rule, embed=lambda model, images, training: images)

        def step():
            own = slice(*(batch // replicas * (replica_id() + k) for k in (0, 1)))
            parts = [tf.ensure_shape(x[own], (batch // replicas, *x.shape[1:])) for x in arrays]
            return objective(None, *parts, training=training)["loss"]

        run = tf.function(lambda: strategy.experimental_local_results(strategy.run(step)))
        return np.mean([np.concatenate(run()) for _ in range(50)], axis=0)

    arrays = tf.constant(embeddings), tf.constant(labels)
    full = losses(1.0, training=True)
    np.testing.assert_allclose(losses(0.25, training=False), full, rtol=1e-6)
    bias = losses(0.25, training=True) - full  # (8,)
    # Jensen: the log of a sum over 250 draws lies below the log of its mean, by 0.01 or so.
    assert np.mean(bias) == pytest.approx(np.log(0.25), abs=0.05)


@pytest.mark.parametrize(("own", "rate"), [(0.0, 1.0), (0.0, 0.25), (0.9, 1.0), (0.9, 0.25)])
def test_sampling_divides_each_probability_by_that_of_the_classes_drawn(own, rate):
    """The bias by hand: 1 image, a cosine of `own` to its class and of 0 to 999 others, s = 10.

    With q the probability of the classes left out, p becomes p / (1 − q): at a rate of 1/4 and
    where the others decide (p = 1/1000) the loss is ln 4 lower and the push 4 times as strong;
    where the own class does (p = 0.89) the pull is too weak by 0.080, which is nearly q = 0.082.
    """
    exponential = np.exp(10 * own)
    total = exponential + 999
    drawn = 1 - (1 - rate) * 1000 / total  # 1 − q
    probabilities = np.array([exponential, 1]) / total / drawn  # of the own class, of each other
    strategy = trainers.strategy_of(1)
    head = ShardedHead(strategy, 1000, 3, build_optimizer("sgd", 0.1))
    centers = np.tile([0, 1, 0], (1000, 1)).astype(np.float32)
    centers[7] = own, 0, np.sqrt(1 - own**2)
    head.sharded(head.centers).assign(centers)
    rule = Rule(scale=10.0, sample_rate=rate)
    objective = ShardedObjective(head, rule, embed=lambda model, images, training: images)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            outputs = objective(None, tf.constant([[1.0, 0, 0]]), tf.constant([7]), training=True)
        return outputs["loss"], tf.convert_to_tensor(tape.gradient(outputs["loss"], head.centers))

    loss, gradient = step()
    assert float(loss[0]) == pytest.approx(-np.log(probabilities[0]), rel=1e-5)
    # The gradient of a cosine to its centre is the image less what lies along the centre.
    pull, push = gradient[7, 0], np.delete(gradient, 7, axis=0)[:, 0]
    assert float(pull) == pytest.approx(-10 * (1 - probabilities[0]) * (1 - own**2), rel=1e-5)
    assert np.count_nonzero(push) == round(1000 * rate) - 1
    np.testing.assert_allclose(push[push != 0], 10 * probabilities[1], rtol=1e-5)


def test_sampling_keeps_all_own_classes_and_draws_others_evenly():
    """60 of 300 classes, 3 of them always: each other one in 57 of 297 draws."""
    strategy = trainers.strategy_of(1)
    head = ShardedHead(strategy, 300, DIMENSION, build_optimizer("sgd", 0.1))
    objective = ShardedObjective(head, Rule(sample_rate=0.2), embed=None)
    labels = tf.constant([5, 5, 250, 17], tf.int32)
    drawn = tf.function(lambda: objective._centers(labels, training=True))
    counts = np.zeros(300, int)
    for _ in range(400):
        centers, classes = drawn()
        assert centers.shape == (60, DIMENSION)
        assert len(set(classes.numpy())) == 60
        counts[classes.numpy()] += 1
    assert (counts[[5, 17, 250]] == 400).all()
    others = np.delete(counts, [5, 17, 250])
    # Binomial with p = 57/297: 6 standard deviations.
    assert np.abs(others - 400 * 57 / 297).max() < 6 * np.sqrt(400 * 57 / 297 * 240 / 297)
    np.testing.assert_array_equal(centers, head.sharded(head.centers).numpy()[classes.numpy()])


def test_a_large_batch_is_sampled_with_all_its_classes():
    """24 images of up to 21 classes: a rate of 0.1 cannot leave any of them out."""
    trainer = trainers.make_trainer(2, sharded=True, sample_rate=0.1)
    assert np.isfinite(trainers.train(trainer, 3)["loss"])


def test_what_cannot_be_sharded_is_refused():
    strategy = trainers.strategy_of(1)
    with pytest.raises(ValueError, match="Received: lamb"):
        ShardedHead(strategy, 5, 2, keras.optimizers.Lamb())
    with pytest.raises(ValueError, match="Received: 0"):
        Rule(sample_rate=0)
    with pytest.raises(ValueError, match="Received: 'sphereface'"):
        Rule(margin="sphereface")
    with pytest.raises(ValueError, match="Received: 'dynamic'"):
        Rule(scale="dynamic")
    workers = tf.distribute.MultiWorkerMirroredStrategy()
    with pytest.raises(ValueError, match="Received: MultiWorkerMirroredStrategy"):
        ShardedHead(workers, 5, 2, build_optimizer("sgd", 0.1))
