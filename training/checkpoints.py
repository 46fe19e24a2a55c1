"""Checkpoints: weights, random state, optimizer slots and step; atomic, the newest two kept."""

import os
import re
import sys

import keras
import tensorflow as tf

from training.writing import reason, writing

KEPT = 2
_PARTIAL = "partial-"  # what the files of a checkpoint are called until all are written
_OWN = re.compile(r"ckpt-(\d+)[._]")
_INDEX = re.compile(r"ckpt-(\d+)\.index")
# The storage does not answer or refuses: another day the same files are good.
_NOT_DAMAGE = (
    tf.errors.UnavailableError,
    tf.errors.PermissionDeniedError,
    tf.errors.UnauthenticatedError,
    tf.errors.DeadlineExceededError,
    tf.errors.ResourceExhaustedError,
)
# What TensorFlow 2.20 raises for files that are cut off, empty, missing or have other bytes (150
# random damages), and where names or shapes are others than the model's.
_DAMAGE = (tf.errors.OpError, IndexError, AssertionError, ValueError)


class Checkpoints:
    """Saves and restores the state of one stage.

    The files ckpt-N.index say which checkpoints there are; N is the step. TensorFlow's state file
    "checkpoint" is neither written nor read: what it does not list would be lost.

    Args:
        directory: where the checkpoints lie.
        variables: all state, see `Trainer.checkpoint_variables`.
        optimizer: the built optimizer, which counts the steps.

    Attributes:
        kept: steps of the checkpoints known to be whole, the newest last.
    """

    def __init__(
        self, directory: str, variables: dict[str, list], optimizer: keras.optimizers.Optimizer
    ):
        self._checkpoint = tf.train.Checkpoint(**variables)
        self._directory = directory
        self._optimizer = optimizer
        self.kept: list[int] = []

    def restore(self) -> int | None:
        """Restores the newest checkpoint that is whole; returns its step, None if there is none.

        A damaged one is named in a warning, and stays until the next checkpoint is saved.

        Raises:
            ValueError: there are some, and all are damaged or of another model.
        """
        steps = self._steps()
        for step in reversed(steps):
            path = self._path(step)
            try:
                self._checkpoint.read(path).assert_existing_objects_matched()
            except _NOT_DAMAGE:
                raise
            except _DAMAGE as error:
                print(
                    f"warning: the checkpoint {path} is damaged or of another model and is left "
                    f"out ({reason(error)})",
                    file=sys.stderr,
                    flush=True,
                )
                continue
            self.kept = [number for number in steps if number <= step][-KEPT:]
            return int(self._optimizer.iterations.numpy())
        if steps:
            raise ValueError(
                f"none of the checkpoints in {self._directory} can be read (steps "
                f"{', '.join(map(str, steps))}). Put one back, or remove that folder to start "
                "the stage anew"
            )
        return None

    def tidy(self) -> None:
        """Removes what a run that was killed while it saved has left; for the chief alone."""
        self._remove_all_but(self._steps())

    def save(self) -> None:
        """Writes a checkpoint of the present step, unless it is there, and drops the oldest.

        Raises:
            StorageError: it could not be written; those before it are as they were.
        """
        step = int(self._optimizer.iterations.numpy())
        if step in self.kept:
            return
        with writing(f"the checkpoint of step {step}", self._directory):
            try:
                tf.io.gfile.makedirs(self._directory)
                partial = os.path.join(self._directory, f"{_PARTIAL}{step}")
                self._checkpoint.write(partial)
                self._rename(partial, step)
            except BaseException:
                self._remove_all_but(self._steps())
                raise
            self.kept = [*self.kept, step][-KEPT:]
            self._remove_all_but(self.kept)

    def _path(self, step: int) -> str:
        return os.path.join(self._directory, f"ckpt-{step}")

    def _names(self) -> list[str]:
        if not tf.io.gfile.isdir(self._directory):
            return []
        return sorted(name.rstrip("/") for name in tf.io.gfile.listdir(self._directory))

    def _steps(self) -> list[int]:
        found = map(_INDEX.fullmatch, self._names())
        return sorted(int(match[1]) for match in found if match)

    def _rename(self, partial: str, step: int) -> None:
        prefix = os.path.basename(partial) + "."
        names = [name for name in self._names() if name.startswith(prefix)]
        # The index comes last: where it is, the rest is.
        for name in sorted(names, key=lambda name: name.endswith(".index")):
            new = f"{self._path(step)}.{name.removeprefix(prefix)}"
            tf.io.gfile.rename(os.path.join(self._directory, name), new, overwrite=True)

    def _remove_all_but(self, steps: list[int]) -> None:
        for name in self._names():
            own = _OWN.match(name)
            is_stale = name.startswith(_PARTIAL) or (own and int(own[1]) not in steps)
            path = os.path.join(self._directory, name)
            if is_stale and tf.io.gfile.isdir(path):
                tf.io.gfile.rmtree(path)
            elif is_stale:
                tf.io.gfile.remove(path)
