"""The engine: strategy, trainer, optimizers, checkpoints and reporting."""
