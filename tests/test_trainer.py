"""The training step and loop against plain NumPy and against several replicas."""

import dataclasses
import os
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from models.heads import CosineSoftmax
from models.losses import CosineSoftmaxCrossEntropy
from models.storage import load_model
from training import stages
from training.optimizers import build_optimizer, build_schedule
from training.trainer import Trainer

CLASSES, SIZE, BATCH = 5, 8, 8


def small_model():
    """An image model without BatchNorm, so that replicas see the same function."""
    keras.utils.set_random_seed(0)
    images = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    pixels = keras.layers.Rescaling(1 / 255, dtype="float32")(images)
    pooled = keras.layers.Flatten()(pixels)
    return keras.Model(images, CosineSoftmax(CLASSES)(keras.layers.Dense(4)(pooled)))


def make_trainer(strategy=None, learning_rate=0.1, scale=10.0):
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        return Trainer(
            strategy,
            small_model(),
            CosineSoftmaxCrossEntropy(scale),
            build_optimizer("sgd", learning_rate),
            global_batch_size=BATCH,
            freeze_batchnorm=True,
        )


def examples(count, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
    labels = rng.integers(0, CLASSES, count, dtype=np.int32)
    weights = rng.uniform(0.5, 2.0, count).astype(np.float32)
    return images, labels, weights


def distributed(trainer, data):
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(BATCH, drop_remainder=True)
    return trainer.strategy.experimental_distribute_dataset(dataset)


def test_steps_match_a_loop_without_any_of_it():
    """Three steps of SGD with momentum, gradients by TensorFlow, everything else by hand."""
    trainer, model, data = make_trainer(), small_model(), examples(3 * BATCH)
    result = trainer.train(iter(distributed(trainer, data)), 3)
    velocity = [np.zeros(v.shape) for v in model.trainable_variables]
    total, correct = 0.0, 0
    for start in range(0, 3 * BATCH, BATCH):
        images, labels, weights = (part[start : start + BATCH] for part in data)
        with tf.GradientTape() as tape:
            cosines = model(images)
            entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, 10.0 * cosines)
            loss = tf.reduce_mean(entropy * weights)
        total += float(loss)
        correct += int((np.argmax(cosines, 1) == labels).sum())
        gradients = tape.gradient(loss, model.trainable_variables)
        for i, variable in enumerate(model.trainable_variables):
            velocity[i] = 0.9 * velocity[i] - 0.1 * gradients[i].numpy()
            variable.assign_add(velocity[i])
    assert trainer.step == 3
    assert result["loss"] == pytest.approx(total / 3, rel=1e-5)
    assert result["accuracy"] == correct / (3 * BATCH)
    for a, b in zip(trainer.model.weights, model.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6)


def test_two_replicas_equal_one():
    cpus = tf.config.list_logical_devices("CPU")
    assert len(cpus) >= 2, "tests/conftest.py makes two logical CPUs"
    mirrored = tf.distribute.MirroredStrategy([device.name for device in cpus[:2]])
    trainers, data = [make_trainer(), make_trainer(mirrored)], examples(4 * BATCH)
    results = [trainer.train(iter(distributed(trainer, data)), 4) for trainer in trainers]
    assert trainers[1].strategy.num_replicas_in_sync == 2
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], rel=1e-5)
    assert results[0]["accuracy"] == results[1]["accuracy"]
    for a, b in zip(trainers[0].model.weights, trainers[1].model.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=2e-6)


def test_evaluation_leaves_out_what_fills_up_the_last_batch():
    trainer, (images, labels, _) = make_trainer(), examples(2 * BATCH)
    weights = np.ones(2 * BATCH, np.float32)
    weights[11:] = 0
    result = trainer.evaluate(distributed(trainer, (images, labels, weights)))
    cosines = trainer.model(images[:11]).numpy()
    entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels[:11], 10.0 * cosines)
    assert result["loss"] == pytest.approx(float(np.mean(entropy)), rel=1e-5)
    assert result["accuracy"] == pytest.approx((cosines.argmax(1) == labels[:11]).mean())


def test_a_loss_that_is_not_finite_ends_the_run():
    trainer, (images, labels, weights) = make_trainer(), examples(BATCH)
    with pytest.raises(FloatingPointError, match="Lower the learning rate"):
        trainer.train(iter(distributed(trainer, (images, labels, weights * np.inf))), 1)


def test_batch_must_divide_over_the_replicas():
    cpus = tf.config.list_logical_devices("CPU")
    mirrored = tf.distribute.MirroredStrategy([device.name for device in cpus[:2]])
    with pytest.raises(ValueError, match=r"multiple of the 2 replicas\. Received: 3"):
        Trainer(mirrored, None, None, None, global_batch_size=3, freeze_batchnorm=True)


def test_schedules_by_their_formulas():
    inverse = build_schedule("inverse_time", learning_rate=1e-3, total_steps=1, decay=1e-5)
    assert float(inverse(100_000)) == pytest.approx(5.0e-4)
    cosine = build_schedule("cosine", learning_rate=2.0, total_steps=110, warmup_steps=10)
    values = [float(cosine(step)) for step in (0, 5, 10, 60, 110)]
    np.testing.assert_allclose(values, [0, 1, 2, 1, 0], atol=1e-6)
    plain = build_schedule("cosine", learning_rate=2.0, total_steps=100)
    assert float(plain(50)) == pytest.approx(1.0)
    assert build_schedule("constant", learning_rate=0.3, total_steps=1) == 0.3
    with pytest.raises(ValueError, match="Received: 'step'"):
        build_schedule("step", learning_rate=1.0, total_steps=1)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_weight_decay_spares_biases(name):
    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    layer.set_weights([np.ones((3, 2)), np.ones(2)])
    optimizer = build_optimizer(name, 0.5, weight_decay=0.1)
    optimizer.build(layer.trainable_variables)
    optimizer.apply([tf.zeros((3, 2)), tf.zeros(2)], layer.trainable_variables)
    np.testing.assert_allclose(layer.kernel, np.full((3, 2), 0.95))
    np.testing.assert_allclose(layer.bias, np.ones(2))
    with pytest.raises(ValueError, match="Received: 'lamb'"):
        build_optimizer("lamb", 0.1)


def test_a_stop_in_the_last_loop_still_finishes_the_stage(tmp_path):
    """The signal comes during the last validation: the model is written, the next stage waits."""
    trainer, data = make_trainer(), examples(BATCH)

    def validation():
        os.kill(os.getpid(), signal.SIGTERM)
        yield tuple(tf.constant(part) for part in data)

    shapes = [((BATCH, SIZE, SIZE, 3), tf.uint8), ((BATCH,), tf.int32), ((BATCH,), tf.float32)]
    dataset = tf.data.Dataset.from_generator(
        validation, output_signature=tuple(tf.TensorSpec(*shape) for shape in shapes)
    )
    batches = tf.data.Dataset.from_tensors(data).repeat()
    with pytest.raises(stages.StoppedError, match="stage 1 is finished"):
        stages.run_stage(
            str(tmp_path / "model.keras"),
            trainer,
            stages.Plan(stage=1, total_steps=1, steps_per_epoch=1),
            lambda first_step: batches,
            dataset,
        )
    again = load_model(str(tmp_path / "model.keras"))
    np.testing.assert_array_equal(again(data[0]), trainer.model(data[0]))


def test_loops_end_at_epochs_and_at_the_end():
    plan = stages.Plan(stage=1, total_steps=25, steps_per_epoch=10, steps_per_loop=4)
    stops = [0]
    while stops[-1] < 25:
        stops.append(plan.next_stop(stops[-1]))
    assert stops == [0, 4, 8, 10, 14, 18, 20, 24, 25]
    assert dataclasses.replace(plan, steps_per_loop=100).next_stop(0) == 10
