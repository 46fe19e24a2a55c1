"""Averages of the weights along a training: EMA and SWA."""

from collections.abc import Iterable

import tensorflow as tf

from training import replicas


class WeightAverage:
    """A running average of variables, kept beside them on the devices.

    Update number n moves the average by max(1 − decay, 1/(n + 1)) of the way to the weights: it
    begins as their plain mean, free of the random start, and goes over into an exponential one.
    With decay 1 it stays the plain mean, which is SWA (Izmailov et al., arXiv:1803.05407).
    The statistics of BatchNorm are averaged like weights; the paper computes them anew with a
    pass over the data, which frozen BatchNorm does not need.

    Args:
        variables: `tf.Variable`s under the strategy whose scope is open.
        decay: 0.9999 means about the last 10,000 updates; 1 a plain mean.
        first_step: the first step whose weights count.
        every: steps between two updates.

    Attributes:
        pairs: (variable, its average).
        updates: how many have been made; with the averages, what a checkpoint needs.

    Raises:
        ValueError: a decay outside of (0, 1].
    """

    def __init__(
        self,
        variables: Iterable[tf.Variable],
        *,
        decay: float = 1.0,
        first_step: int = 0,
        every: int = 1,
    ):
        if not 0 < decay <= 1:
            raise ValueError(f"decay: expected a number above 0, at most 1. Received: {decay}")
        weights = [variable for variable in variables if variable.dtype.is_floating]
        self.pairs = [(variable, _zeros_like(variable)) for variable in weights]
        self.updates = tf.Variable(0, trainable=False, dtype=tf.int32, name="average_updates")
        self.decay = decay
        self.first_step = first_step
        self.every = every

    @property
    def begun(self) -> bool:
        """Whether there is an average yet."""
        return int(self.updates.numpy()) > 0

    def update(
        self, strategy: tf.distribute.Strategy, step: tf.Tensor, apply: tf.Tensor | bool = True
    ) -> None:
        """Averages after step number `step` (from 1 on), if it was applied and one is due."""
        due = (step > self.first_step) & ((step - self.first_step) % self.every == 0) & apply
        if replicas.is_one_program():  # a conditional would need the averages twice
            self._move(strategy, due)
        else:
            tf.cond(due, lambda: self._move(strategy, True), lambda: None)

    def exchange(self, strategy: tf.distribute.Strategy) -> None:
        """Swaps weights and averages on every device; a second call swaps them back, exactly."""
        for weight, average in self.pairs:
            strategy.extended.update(weight, _swap, args=(average,))

    def _move(self, strategy: tf.distribute.Strategy, due: tf.Tensor | bool) -> None:
        share = tf.maximum(1.0 - self.decay, 1.0 / tf.cast(self.updates + 1, tf.float32))
        share = tf.where(due, share, 0.0)
        for weight, average in self.pairs:
            strategy.extended.update(average, _approach, args=(weight, share), group=False)
        one = tf.cast(due, tf.int32)
        strategy.extended.update(self.updates, lambda v: v.assign_add(one), group=False)


def _zeros_like(variable: tf.Variable) -> tf.Variable:
    """Returns a variable of the same shape that lies on the devices as `variable` does."""
    return tf.Variable(
        tf.zeros(variable.shape, variable.dtype),
        trainable=False,
        synchronization=variable.synchronization,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA
        if variable.synchronization == tf.VariableSynchronization.ON_READ
        else tf.VariableAggregation.NONE,
    )


def _approach(average, weight, share):
    average.assign_add(tf.cast(share, average.dtype) * (weight - average))


def _swap(weight, average):
    kept = tf.identity(weight)
    weight.assign(average)
    average.assign(kept)
