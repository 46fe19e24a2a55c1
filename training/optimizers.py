"""Optimizers and learning-rate schedules."""

import keras

# Biases, BatchNorm's scale and shift and GeM's power are not decayed.
UNDECAYED = ("bias", "gamma", "beta", "power")


def build_schedule(
    schedule: str,
    *,
    learning_rate: float,
    total_steps: int,
    warmup_steps: int = 0,
    decay: float = 0.0,
):
    """Returns a learning rate for Keras' optimizers.

    Args:
        schedule: "constant"; "inverse_time", lr / (1 + decay·step), which is what Keras 2's
            `SGD(decay=…)` did; "cosine", linear warm-up and then a half cosine to zero
            (arXiv:1608.03983).
        learning_rate: the highest rate.
        total_steps: steps of the stage.
        warmup_steps: of those, the rising ones ("cosine").
        decay: per step ("inverse_time").
    """
    if schedule == "constant":
        return learning_rate
    if schedule == "inverse_time":
        return keras.optimizers.schedules.InverseTimeDecay(
            learning_rate, decay_steps=1, decay_rate=decay
        )
    if schedule == "cosine":
        if not warmup_steps:
            return keras.optimizers.schedules.CosineDecay(learning_rate, total_steps)
        return keras.optimizers.schedules.CosineDecay(
            0.0,
            max(1, total_steps - warmup_steps),
            warmup_target=learning_rate,
            warmup_steps=warmup_steps,
        )
    raise ValueError(
        f"schedule: expected 'constant', 'inverse_time' or 'cosine'. Received: {schedule!r}"
    )


def build_optimizer(
    optimizer: str,
    learning_rate,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> keras.optimizers.Optimizer:
    """Returns "sgd" or "adamw"; `weight_decay` is decoupled (arXiv:1711.05101)."""
    if optimizer == "sgd":
        built = keras.optimizers.SGD(
            learning_rate, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay or None
        )
    elif optimizer == "adamw":
        built = keras.optimizers.AdamW(learning_rate, weight_decay=weight_decay)
    else:
        raise ValueError(f"optimizer: expected 'sgd' or 'adamw'. Received: {optimizer!r}")
    if weight_decay:
        built.exclude_from_weight_decay(var_names=list(UNDECAYED))
    return built
