"""Optimizers and learning-rate schedules."""

from collections.abc import Sequence

import keras
from keras import ops

# Biases, BatchNorm's scale and shift and GeM's power are not decayed.
UNDECAYED = ("bias", "gamma", "beta", "power")
SCHEDULES = ("constant", "inverse_time", "cosine", "step")
OPTIMIZERS = ("sgd", "adam", "adamw", "lamb")


@keras.saving.register_keras_serializable(package="waymark")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule times min(1, step / warmup_steps).

    The schedule's own clock runs from step 0, so that its milestones stay where they are.

    Args:
        schedule: a schedule, or a constant rate.
        warmup_steps: steps of the linear rise from zero.

    Reference:
        Goyal et al., arXiv:1706.02677, section 2.2.
    """

    def __init__(self, schedule, warmup_steps: int):
        super().__init__()
        if warmup_steps < 1:
            raise ValueError(f"warmup_steps: expected at least 1. Received: {warmup_steps}")
        self.schedule = schedule
        self.warmup_steps = warmup_steps

    def __call__(self, step):
        """Returns the rate of a step."""
        rate = self.schedule(step) if callable(self.schedule) else self.schedule
        share = ops.cast(step, "float32") / self.warmup_steps
        return rate * ops.minimum(share, 1.0)

    def get_config(self):
        """Returns what `from_config` needs."""
        return {
            "schedule": keras.saving.serialize_keras_object(self.schedule),
            "warmup_steps": self.warmup_steps,
        }

    @classmethod
    def from_config(cls, config):
        """Makes the schedule again."""
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(schedule, config["warmup_steps"])


def build_schedule(
    schedule: str,
    *,
    learning_rate: float,
    total_steps: int,
    warmup_steps: int = 0,
    decay: float = 0.0,
    milestones: Sequence[int] = (),
    factor: float = 0.1,
):
    """Returns a learning rate for Keras' optimizers.

    Args:
        schedule: "constant"; "inverse_time", lr / (1 + decay·step), which is what Keras 2's
            `SGD(decay=…)` did; "cosine", a half cosine to zero after the warm-up
            (arXiv:1608.03983); "step", lr·factor^k after k milestones.
        learning_rate: the highest rate.
        total_steps: steps of the stage.
        warmup_steps: of those, the first ones, in which the rate rises linearly from zero.
        decay: per step ("inverse_time").
        milestones: rising numbers of steps ("step"); the step of that number has the new rate.
        factor: what a milestone multiplies the rate by ("step").
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule: expected one of {SCHEDULES}. Received: {schedule!r}")
    if schedule == "cosine":
        return _cosine(learning_rate, total_steps, warmup_steps)
    rate = learning_rate
    if schedule == "inverse_time":
        rate = keras.optimizers.schedules.InverseTimeDecay(
            learning_rate, decay_steps=1, decay_rate=decay
        )
    elif schedule == "step":
        rate = _steps(learning_rate, milestones, factor)
    return WarmUp(rate, warmup_steps) if warmup_steps else rate


def _cosine(learning_rate: float, total_steps: int, warmup_steps: int):
    if not warmup_steps:
        return keras.optimizers.schedules.CosineDecay(learning_rate, total_steps)
    return keras.optimizers.schedules.CosineDecay(
        0.0,
        max(1, total_steps - warmup_steps),
        warmup_target=learning_rate,
        warmup_steps=warmup_steps,
    )


def _steps(learning_rate: float, milestones: Sequence[int], factor: float):
    if not milestones or list(milestones) != sorted(set(milestones)) or milestones[0] < 1:
        raise ValueError(
            f"milestones: expected rising steps from 1 on. Received: {tuple(milestones)}"
        )
    # Keras' boundaries still belong to the piece before them.
    return keras.optimizers.schedules.PiecewiseConstantDecay(
        [int(step) - 1 for step in milestones],
        [learning_rate * factor**passed for passed in range(len(milestones) + 1)],
    )


def build_optimizer(
    optimizer: str,
    learning_rate,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
) -> keras.optimizers.Optimizer:
    """Returns the optimizer of that name; clipping and weight decay are `updates.Update`'s.

    Args:
        optimizer: "sgd"; "adam" (arXiv:1412.6980); "adamw", the same by a name that asks for
            decoupled decay (arXiv:1711.05101); "lamb" (arXiv:1904.00962).
        learning_rate: a number or a schedule.
        momentum, nesterov: of "sgd".
    """
    if optimizer == "sgd":
        return keras.optimizers.SGD(learning_rate, momentum=momentum, nesterov=nesterov)
    if optimizer in ("adam", "adamw"):
        return keras.optimizers.Adam(learning_rate)
    if optimizer == "lamb":
        return keras.optimizers.Lamb(learning_rate)
    raise ValueError(f"optimizer: expected one of {OPTIMIZERS}. Received: {optimizer!r}")
