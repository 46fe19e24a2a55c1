"""Checkpoints: weights, random state, optimizer slots and step; atomic, the newest two kept."""

import keras
import tensorflow as tf


class Checkpoints:
    """Saves and restores the state of one stage.

    Args:
        directory: where the checkpoints lie.
        variables: all state, see `Trainer.checkpoint_variables`.
        optimizer: the built optimizer, which counts the steps.
    """

    def __init__(
        self, directory: str, variables: dict[str, list], optimizer: keras.optimizers.Optimizer
    ):
        checkpoint = tf.train.Checkpoint(**variables)
        self._manager = tf.train.CheckpointManager(checkpoint, directory, max_to_keep=2)
        self._optimizer = optimizer

    def restore(self) -> int | None:
        """Restores the newest checkpoint whole; returns its step, or None if there is none."""
        newest = self._manager.latest_checkpoint
        if newest is None:
            return None
        status = self._manager.checkpoint.restore(newest)
        status.assert_existing_objects_matched()
        return int(self._optimizer.iterations.numpy())

    def save(self) -> None:
        """Writes a checkpoint of the present step and drops the oldest."""
        self._manager.save(checkpoint_number=int(self._optimizer.iterations.numpy()))
