"""One step of an optimizer on gradients that are already summed over the replicas."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from training import replicas
from training.averaging import WeightAverage
from training.optimizers import UNDECAYED


def global_norm(gradients: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns the square root of the sum of all squares, float32."""
    squares = [tf.reduce_sum(tf.square(tf.cast(g, tf.float32))) for g in gradients]
    return tf.sqrt(tf.add_n(squares))


def clip(gradients: Sequence[tf.Tensor], norm: tf.Tensor, limit: float) -> list[tf.Tensor]:
    """Returns the gradients times min(1, limit / norm), Pascanu et al., arXiv:1211.5063."""
    factor = tf.minimum(1.0, limit / tf.maximum(norm, 1e-12))
    return [gradient * tf.cast(factor, gradient.dtype) for gradient in gradients]


class Update:
    """Applies summed gradients, with weight decay, unless the step is to be left out.

    Whether it is decided on the device, so that neither the weights nor the optimizer's slots nor
    the step count nor the average see a step that is left out, and the host need not look. On
    TPU every new value is selected against the old one, which XLA fuses into the update at no
    cost, where a conditional doubles the memory of weights and slots; elsewhere one conditional
    holds all writes, where selects would copy them.

    Args:
        optimizers: each with the variables it trains; all count the same steps.
        weight_decay: strength λ; none for variables whose name has a word of `UNDECAYED`.
        coupled_decay: False: w ← w − lr·λ·w beside the optimizer's step, "decoupled"
            (arXiv:1711.05101, as Keras scales it). True: λ·w is added to the gradient, after the
            clipping, and goes through momentum and adaptive rates: "L2", what PyTorch's SGD and
            Adam call weight_decay.
        average: kept up to date after each step.
    """

    def __init__(
        self,
        optimizers: Sequence[tuple[keras.optimizers.Optimizer, Sequence]],
        *,
        weight_decay: float = 0.0,
        coupled_decay: bool = False,
        average: WeightAverage | None = None,
    ):
        self.optimizers = [(optimizer, list(variables)) for optimizer, variables in optimizers]
        self.weight_decay = weight_decay
        self.coupled_decay = coupled_decay
        self.average = average
        for optimizer, variables in self.optimizers:
            optimizer.build(variables)

    def __call__(self, gradients, apply, kept=()) -> None:
        """Applies the gradients in a replica.

        Args:
            gradients: one list per optimizer, equal on all replicas (or of the replica's shard).
            apply: scalar bool, equal on all replicas.
            kept: (variable, value) pairs that a step left out is to write back.
        """
        tf.__internal__.distribute.interim.maybe_merge_call(
            self._apply_or_keep,
            tf.distribute.get_strategy(),
            gradients,
            apply,
            [value for _, value in kept],
            variables=[variable for variable, _ in kept],
        )

    def _apply_or_keep(self, strategy, gradients, apply, values, *, variables):
        apply = strategy.experimental_local_results(apply)[0]
        if replicas.is_one_program():
            self._apply_selected(strategy, gradients, apply)
            _select(strategy, apply, variables, values)
            self._average(strategy, apply)
            return

        def everything():
            self._apply(strategy, gradients)
            self._average(strategy, True)

        tf.cond(apply, everything, lambda: _select(strategy, False, variables, values))

    def _apply_selected(self, strategy, gradients, apply):
        state = [v for pair in self.optimizers for v in (*pair[0].variables, *pair[1])]
        state = [_tf_variable(variable) for variable in state]
        before = [tf.identity(variable) for variable in state]
        self._apply(strategy, gradients)
        _select(strategy, apply, state, before)

    def _average(self, strategy, apply):
        if self.average is not None:
            step = tf.cast(self.optimizers[0][0].iterations.value, tf.int32)
            self.average.update(strategy, step, apply)

    def _apply(self, strategy, gradients):
        for (optimizer, variables), own in zip(self.optimizers, gradients, strict=True):
            rate = optimizer.learning_rate
            for variable, gradient in zip(variables, own, strict=True):
                strategy.extended.update(
                    _tf_variable(variable),
                    self._step_of(optimizer, self._decay_of(variable)),
                    args=(gradient, rate),
                    group=False,
                )
        for optimizer, _ in self.optimizers:
            count = _tf_variable(optimizer.iterations)
            strategy.extended.update(count, lambda v: v.assign_add(1), group=False)

    def _decay_of(self, variable) -> float:
        return 0.0 if any(word in variable.name for word in UNDECAYED) else self.weight_decay

    def _step_of(self, optimizer, decay: float):
        def step(variable, gradient, rate):
            if decay and self.coupled_decay:
                gradient = gradient + decay * variable
            elif decay:
                variable.assign_sub(variable * tf.cast(rate * decay, variable.dtype))
            optimizer.update_step(gradient, variable, rate)

        return step


def _select(strategy, keep, variables, values):
    """Leaves variables as they are where `keep` holds, else writes the values."""
    for variable, value in zip(variables, values, strict=True):
        strategy.extended.update(
            variable, lambda v, old: v.assign(tf.where(keep, v, old)), (value,), group=False
        )


def _tf_variable(variable) -> tf.Variable:
    return variable.value if isinstance(variable, keras.Variable) else variable
