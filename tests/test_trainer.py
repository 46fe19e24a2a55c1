"""The training step and loop against plain NumPy, on one replica and on several."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import trainers
from trainers import BATCH, examples

from input_pipeline.pipeline import _fill_up
from training import replicas
from training.averaging import WeightAverage
from training.trainer import NonFiniteError, Trainer

Normalization = keras.layers.BatchNormalization


def test_steps_match_a_loop_without_any_of_it():
    """Three steps of SGD with momentum, gradients by TensorFlow, everything else by hand."""
    trainer, data = trainers.make_trainer(), examples(3 * BATCH)
    model = trainers.make_model()
    model.get_layer("head").centers.assign(trainers.first_centers().T)
    result = trainers.train(trainer, 3, data)
    velocity = [np.zeros(v.shape) for v in model.trainable_variables]
    total, correct, norms = 0.0, 0, []
    for start in range(0, 3 * BATCH, BATCH):
        images, labels, weights = (part[start : start + BATCH] for part in data)
        with tf.GradientTape() as tape:
            cosines = model(images)
            entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, 10.0 * cosines)
            loss = tf.reduce_mean(entropy * weights)
        total += float(loss)
        correct += int((np.argmax(cosines, 1) == labels).sum())
        gradients = tape.gradient(loss, model.trainable_variables)
        norms.append(np.sqrt(sum((g.numpy() ** 2).sum() for g in gradients)))
        for i, variable in enumerate(model.trainable_variables):
            velocity[i] = 0.9 * velocity[i] - 0.1 * gradients[i].numpy()
            variable.assign_add(velocity[i])
    assert trainer.step == 3
    assert result["loss"] == pytest.approx(total / 3, rel=1e-5)
    assert result["accuracy"] == pytest.approx(correct / (3 * BATCH))
    assert result["gradient_norm"] == pytest.approx(np.mean(norms), rel=1e-5)
    assert (result["scale"], result["learning_rate"]) == (10.0, pytest.approx(0.1))
    for a, b in zip(trainer.model.weights, model.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6)


@pytest.mark.parametrize("number", [1, 2, 3, 8])
def test_evaluation_counts_every_image_once(number):
    """19 images in batches of 24: with 8 replicas two of them see nothing but filling."""
    trainer, (images, labels, _) = trainers.make_trainer(number), examples(BATCH + 19)
    batches = tf.data.Dataset.from_tensor_slices((images, labels, np.ones(len(images), "f4")))
    batches = batches.batch(BATCH).map(lambda *batch: _fill_up(batch, BATCH))
    result = trainer.evaluate(trainer.strategy.experimental_distribute_dataset(batches))
    cosines = trainer.model(images).numpy()
    entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, 10.0 * cosines)
    assert result == {
        "loss": pytest.approx(float(np.mean(entropy)), rel=1e-5),
        "accuracy": pytest.approx((cosines.argmax(1) == labels).mean()),
    }


@pytest.mark.parametrize(("number", "one_program"), [(1, False), (1, True), (2, False)])
def test_a_loss_that_is_not_finite_leaves_the_weights_of_the_step_before(
    monkeypatch, number, one_program
):
    """The third batch of five is bad; BatchNorm has seen it before its loss was known."""
    options = {"layers": [Normalization], "frozen": False, "make_average": WeightAverage}
    whole = trainers.make_trainer(number, **options)
    trainer = trainers.make_trainer(number, **options)
    images, labels, weights = examples(5 * BATCH)
    trainers.train(whole, 2, (images, labels, weights))
    monkeypatch.setattr(replicas, "is_one_program", lambda: one_program)  # as on a TPU
    weights[2 * BATCH + 1] = np.inf
    with pytest.raises(NonFiniteError, match="the loss of step 3 is inf") as caught:
        trainers.train(trainer, 5, (images, labels, weights))
    assert (caught.value.position, caught.value.step, trainer.step) == (2, 2, 2)
    for name, variables in whole.checkpoint_variables().items():
        for a, b in zip(variables, trainer.checkpoint_variables()[name], strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert np.isfinite(trainers.train(trainer, 2, examples(2 * BATCH))["loss"])


def test_batch_must_divide_over_replicas_and_pieces():
    strategy = trainers.strategy_of(2)
    with pytest.raises(ValueError, match=r"2 replicas times 2 micro-batches\. Received: 6"):
        Trainer(strategy, None, None, None, global_batch_size=6, accumulate=2)


@pytest.mark.parametrize("number", [1, 2])
def test_accumulation_equals_the_batch_in_one_piece(number):
    whole = trainers.make_trainer(clip_norm=0.5)
    pieces = trainers.make_trainer(number, clip_norm=0.5, accumulate=3)
    results = [trainers.train(trainer, 5) for trainer in (whole, pieces)]
    assert results[0] == pytest.approx(results[1], rel=1e-5)
    assert trainers.largest_difference(whole, pieces) < 2e-6


@pytest.mark.parametrize("number", [1, 2])
def test_clipping_is_of_the_whole_batchs_gradient(number):
    """One step of plain SGD moves the weights by learning rate times the limit."""
    limit, rate = 0.01, 0.1
    trainer = trainers.make_trainer(number, rate=rate, clip_norm=limit)
    before = trainers.weights_of(trainer)
    assert trainers.train(trainer, 1)["gradient_norm"] > 1
    moved = [a - b for a, b in zip(trainers.weights_of(trainer), before, strict=True)]
    norm = np.sqrt(sum((m.astype(float) ** 2).sum() for m in moved))
    assert norm == pytest.approx(rate * limit, rel=1e-4)


def dropped(trainer):
    """The places that each replica drops in its next step."""
    layer = next(x for x in trainer.model.layers if isinstance(x, keras.layers.Dropout))
    ones = tf.ones((1, 400))
    masks = trainer.strategy.run(tf.function(lambda: layer(ones, training=True)))
    return [mask.numpy() for mask in trainer.strategy.experimental_local_results(masks)]


def test_dropout_differs_between_replicas_and_goes_on_after_a_restore(tmp_path):
    make_layers = [lambda: keras.layers.Dropout(0.5, seed=3)]
    trainer, again, one = (
        trainers.make_trainer(number, layers=make_layers, frozen=False) for number in (4, 4, 1)
    )
    trainers.train(trainer, 2)
    path = tf.train.Checkpoint(**trainer.checkpoint_variables()).write(str(tmp_path / "c"))
    masks = dropped(trainer)
    assert len({mask.tobytes() for mask in masks}) == 4
    for copy in (again, one):
        tf.train.Checkpoint(**copy.checkpoint_variables()).read(path).assert_consumed()
        for mask, expected in zip(dropped(copy), masks, strict=False):
            np.testing.assert_array_equal(mask, expected)
    layer = trainer.model.layers[3]
    states = [value.numpy() for value in layer.seed_generator.state.value.values]
    assert all(np.array_equal(state, states[0]) for state in states)
    assert not any(np.array_equal(a, b) for a, b in zip(dropped(trainer), masks, strict=True))


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize(
    ("options", "shares"),
    [
        ({"decay": 0.5}, [1, 0.5, 0.5, 0.5]),  # 1/2 at update 1 by both rules, 1/3 later is less
        ({"decay": 0.9}, [1, 1 / 2, 1 / 3, 1 / 4]),
        ({"first_step": 1, "every": 2}, [0, 0, 1, 0]),
        ({"first_step": 1}, [0, 1, 1 / 2, 1 / 3]),
    ],
)
def test_averages_by_hand(number, options, shares):
    trainer = trainers.make_trainer(number, make_average=lambda v: WeightAverage(v, **options))
    expected = [np.zeros(w.shape) for w in trainers.weights_of(trainer)]
    for share in shares:
        trainers.train(trainer, 1)
        weights = trainers.weights_of(trainer)
        expected = [a + share * (w - a) for a, w in zip(expected, weights, strict=True)]
    with trainer.averaged_weights():
        for a, b in zip(trainers.weights_of(trainer), expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
    for a, b in zip(trainers.weights_of(trainer), weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_evaluation_is_of_the_averaged_weights():
    average = {"make_average": lambda variables: WeightAverage(variables, first_step=2)}
    averaged, plain = trainers.make_trainer(**average), trainers.make_trainer()
    data = examples(2 * BATCH)
    data = (*data[:2], np.ones(2 * BATCH, np.float32))
    for steps, equal in [(2, True), (3, False)]:
        losses = []
        for trainer in (averaged, plain):
            trainers.train(trainer, steps)
            losses.append(trainer.evaluate(trainers.distributed(trainer, data))["loss"])
        assert (losses[0] == losses[1]) is equal
    with averaged.averaged_weights():
        assert averaged.evaluate(trainers.distributed(averaged, data))["loss"] == losses[1]
