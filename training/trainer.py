"""The training step and the device loop, the same on TPU, GPU and CPU.

An explicit loop and not `fit`, which fails or misreports on several replicas (keras-team/keras
#19246): `tf.range` steps run on the devices between two looks from the host.
"""

import keras
import numpy as np
import tensorflow as tf


class Trainer:
    """Trains and evaluates one model under one strategy.

    The loss of a step is Σ weight·CE over the global batch, divided by the global batch size, so
    that the sum of the replicas' gradients is the gradient of one big batch.

    Args:
        strategy: where.
        model: `(B, S, S, 3)` uint8 → `(B, C)` cosines; made inside `strategy.scope()`.
        loss: `(labels, cosines)` → `(B,)` loss per example.
        optimizer: made inside `strategy.scope()`.
        global_batch_size: images of all replicas together.
        freeze_batchnorm: run the model in inference mode while it trains: BatchNorm uses and
            keeps its stored statistics and stochastic depth is off.

    Raises:
        ValueError: the batch does not divide over the replicas.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        model: keras.Model,
        loss: keras.losses.Loss,
        optimizer: keras.optimizers.Optimizer,
        *,
        global_batch_size: int,
        freeze_batchnorm: bool,
    ):
        replicas = strategy.num_replicas_in_sync
        if global_batch_size % replicas:
            raise ValueError(
                f"batch_size: expected a multiple of the {replicas} replicas. "
                f"Received: {global_batch_size}"
            )
        self.strategy = strategy
        self.model = model
        self.loss = loss
        self.optimizer = optimizer
        self.global_batch_size = global_batch_size
        self.freeze_batchnorm = freeze_batchnorm
        with strategy.scope():
            self._totals = {
                name: tf.Variable(
                    0.0,
                    trainable=False,
                    synchronization=tf.VariableSynchronization.ON_READ,
                    aggregation=tf.VariableAggregation.SUM,
                )
                for name in ("loss", "correct", "images")
            }
            optimizer.build(model.trainable_variables)

    @property
    def step(self) -> int:
        """Steps done so far, as the optimizer counts them."""
        return int(self.optimizer.iterations.numpy())

    @property
    def learning_rate(self) -> float:
        """The rate of the next step."""
        return float(keras.ops.convert_to_numpy(self.optimizer.learning_rate))

    def train(self, batches, steps: int) -> dict[str, float]:
        """Runs `steps` steps on the device; returns the mean loss and accuracy over them.

        Args:
            batches: iterator over the distributed dataset of (image, label, weight).
            steps: number of steps.

        Raises:
            FloatingPointError: the loss is no longer finite.
        """
        self._reset()
        self._train_loop(batches, tf.constant(steps))
        result = self._means(steps * self.global_batch_size)
        if not np.isfinite(result["loss"]):
            raise FloatingPointError(
                f"the loss is {result['loss']} after step {self.step}. Lower the learning rate "
                "(--set stage.learning_rate=...) and start again from the last checkpoint"
            )
        return result

    def evaluate(self, dataset) -> dict[str, float]:
        """Returns the mean loss and the accuracy, each image of weight 1 counted once."""
        self._reset()
        for batch in dataset:
            self._evaluate_batch(batch)
        return self._means(float(self._totals["images"].numpy()))

    @tf.function
    def _train_loop(self, batches, steps):
        for _ in tf.range(steps):
            self.strategy.run(self._train_step, args=next(batches))

    @tf.function
    def _evaluate_batch(self, batch):
        self.strategy.run(self._evaluate_step, args=batch)

    def _train_step(self, images, labels, weights):
        with tf.GradientTape() as tape:
            cosines = self.model(images, training=not self.freeze_batchnorm)  # (B, C)
            losses = self.loss(labels, cosines) * weights  # (B,)
            loss = tf.reduce_sum(losses) / self.global_batch_size
        variables = self.model.trainable_variables
        gradients = tape.gradient(loss, variables)
        self.optimizer.apply(gradients, variables)
        self._count(losses, cosines, labels, tf.ones_like(weights))

    def _evaluate_step(self, images, labels, weights):
        cosines = self.model(images, training=False)  # (B, C)
        self._count(self.loss(labels, cosines) * weights, cosines, labels, weights)

    def _count(self, losses, cosines, labels, counted):
        best = tf.argmax(cosines, axis=1, output_type=labels.dtype)
        correct = tf.cast(best == labels, tf.float32) * counted
        self._totals["loss"].assign_add(tf.reduce_sum(losses))
        self._totals["correct"].assign_add(tf.reduce_sum(correct))
        self._totals["images"].assign_add(tf.reduce_sum(counted))

    def _reset(self):
        for total in self._totals.values():
            total.assign(0.0)

    def _means(self, images: float) -> dict[str, float]:
        return {
            "loss": float(self._totals["loss"].numpy()) / images,
            "accuracy": float(self._totals["correct"].numpy()) / images,
        }
