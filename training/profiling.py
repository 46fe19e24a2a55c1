"""TensorFlow's profiler over a range of steps, for TensorBoard's page "Profile"."""

import argparse
import os

import tensorflow as tf


class Profile:
    """Records from the loop that begins with step `first` to the one that ends with `last`.

    Args:
        directory: the stage's folder; the trace lies in its "tensorboard".
        steps: (first, last), counted from 1; None records nothing.
    """

    def __init__(self, directory: str, steps: tuple[int, int] | None):
        self._path = os.path.join(directory, "tensorboard")
        self._steps = steps
        self._running = False

    def at(self, step: int) -> None:
        """Starts or stops where it is due; `step` steps are done."""
        if self._steps is None:
            return
        first, last = self._steps
        if not self._running and first - 1 <= step < last:
            tf.profiler.experimental.start(self._path)
            self._running = True
        elif self._running and step >= last:
            self.stop()

    def stop(self) -> None:
        """Writes what is recorded so far."""
        if self._running:
            tf.profiler.experimental.stop()
            self._running = False


def parse(text: str) -> tuple[int, int]:
    """Returns "10:20" as (10, 20).

    Raises:
        argparse.ArgumentTypeError: it is something else.
    """
    first, colon, last = text.partition(":")
    is_range = colon and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)
    if not is_range:
        raise argparse.ArgumentTypeError(
            f"expected FIRST:LAST, steps from 1 on. Received: {text!r}"
        )
    return int(first), int(last)
