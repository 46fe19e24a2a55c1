"""What a full disk, or another place where nothing can be written, means for a training."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf


class StorageError(Exception):
    """Something could not be written; what was there before is whole."""


@contextlib.contextmanager
def writing(what: str, directory: str) -> Iterator[None]:
    """Turns the errors of writing below `directory` into one sentence.

    Args:
        what: is written, such as "the log".
        directory: where the user has to look.

    Raises:
        StorageError: in place of any error of the file system.
    """
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        raise StorageError(
            f"{what} could not be written ({reason(error)}); the checkpoints before it are whole. "
            f"Make room or allow writing in {directory} and start the same command again, which "
            "goes on from the newest of them"
        ) from error


def reason(error: Exception) -> str:
    """Returns the first line of what an error says, without TensorFlow's names of nodes."""
    text = getattr(error, "message", None) or str(error) or type(error).__name__
    line = text.strip().splitlines()[0]
    if line.startswith("{{"):
        line = line.split("}}", 1)[-1].strip()
    return line.removesuffix(".")[:300]
