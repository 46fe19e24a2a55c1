"""Strategies of several logical CPUs, and a trainer so small that its steps take no time."""

import keras
import numpy as np
import tensorflow as tf

from models.heads import CosineSoftmax
from models.losses import CosineSoftmaxCrossEntropy
from models.objectives import CosineSoftmaxObjective, Embedder
from training.optimizers import build_optimizer
from training.replicas import gather
from training.sharded_head import Rule, ShardedHead, ShardedObjective
from training.trainer import Trainer

CLASSES, SIZE, BATCH, DIMENSION = 21, 8, 24, 6


def strategy_of(replicas):
    """One device, or so many logical CPUs; collectives would bind a process to one number."""
    if replicas == 1:
        return tf.distribute.get_strategy()
    devices = [device.name for device in tf.config.list_logical_devices("CPU")[:replicas]]
    assert len(devices) == replicas, "tests/conftest.py makes the logical CPUs"
    reduction = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(devices, cross_device_ops=reduction)


def examples(count, seed=0):
    """Images of four random fields of colour each, so that their embeddings differ."""
    rng = np.random.default_rng(seed)
    fields = rng.integers(0, 256, (count, 2, 2, 3), dtype=np.uint8)
    images = fields.repeat(SIZE // 2, axis=1).repeat(SIZE // 2, axis=2)
    labels = rng.integers(0, CLASSES, count, dtype=np.int32)
    weights = rng.uniform(0.5, 2.0, count).astype(np.float32)
    return images, labels, weights


def distributed(trainer, data, batch_size=BATCH):
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(batch_size, drop_remainder=True)
    return trainer.strategy.experimental_distribute_dataset(dataset)


def make_model(layers=(), head=True):
    """An image model, without BatchNorm unless it is among the `layers` before the bottleneck."""
    keras.utils.set_random_seed(1)
    images = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    values = keras.layers.Rescaling(1 / 255, dtype="float32")(images)
    values = keras.layers.Flatten()(values)
    for make in layers:
        values = make()(values)
    values = keras.layers.Dense(DIMENSION, name="bottleneck")(values)
    if head:
        values = CosineSoftmax(CLASSES, name="head")(values)
    return keras.Model(images, values)


def first_centers():
    """Class centres to begin with, `(C, D)`."""
    return np.random.default_rng(1).normal(size=(CLASSES, DIMENSION)).astype(np.float32)


def make_trainer(
    replicas=1,
    *,
    layers=(),
    sharded=False,
    loss=None,
    optimizer="sgd",
    rate=0.1,
    sample_rate=1.0,
    is_global=False,
    frozen=True,
    batch_size=BATCH,
    **options,
):
    strategy = strategy_of(replicas)
    loss = {"scale": 10.0, **(loss or {})}
    with strategy.scope():
        model, head = make_model(layers, head=not sharded), None
        if sharded:
            head = ShardedHead(strategy, CLASSES, DIMENSION, build_optimizer(optimizer, rate))
            head.sharded(head.centers).assign(first_centers())
            rule = Rule(**loss, sample_rate=sample_rate)
            objective = ShardedObjective(head, rule, Embedder(freeze_batchnorm=frozen))
        else:
            model.get_layer("head").centers.assign(first_centers().T)
            objective = CosineSoftmaxObjective(
                CosineSoftmaxCrossEntropy(**loss),
                freeze_batchnorm=frozen,
                gather=gather if is_global else None,
            )
        return Trainer(
            strategy,
            model,
            objective,
            build_optimizer(optimizer, rate),
            global_batch_size=batch_size,
            head=head,
            **options,
        )


def weights_of(trainer):
    """The weights of the model, and last the centres of a sharded head as a whole one has them."""
    weights = [variable.numpy() for variable in trainer.model.weights]
    if trainer.head is not None:
        weights.append(trainer.head.sharded(trainer.head.centers).numpy().T)
    return weights


def largest_difference(first, second):
    pairs = zip(weights_of(first), weights_of(second), strict=True)
    return max(np.abs(a - b).max() for a, b in pairs)


def train(trainer, steps, data=None):
    data = examples(BATCH * 5) if data is None else data
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(trainer.global_batch_size)
    dataset = dataset.repeat().take(steps)
    return trainer.train(iter(trainer.strategy.experimental_distribute_dataset(dataset)), steps)
