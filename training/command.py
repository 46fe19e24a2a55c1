"""What the commands that train share: options, exit codes, one sentence for each failure."""

import argparse
import sys
from collections.abc import Callable

import tensorflow as tf

from training.probes import DeviceError
from training.stop_signal import StoppedError
from training.writing import StorageError

WRONG = (ValueError, FileNotFoundError, FloatingPointError, DeviceError)


def add_options(parser: argparse.ArgumentParser, *, log_every: int) -> None:
    """Adds the options that say where a training runs, and how it is watched and goes on."""
    add = parser.add_argument
    add(
        "--tpu", nargs="?", const="", help="the environment's TPU, or NAME, local, grpc://host:port"
    )
    add("--cpus", type=int, default=1, metavar="N", help="N replicas on one CPU, to try them out")
    add(
        "--log-every",
        type=int,
        default=log_every,
        metavar="STEPS",
        help=f"a line each (default: {log_every})",
    )
    add(
        "--checkpoint-seconds",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="between two checkpoints at least; they take 2 %% of the time at most (default: 10)",
    )
    add(
        "--changed",
        action="store_true",
        help="go on from checkpoints although the training was begun with other settings, such as "
        "a higher learning rate",
    )


def exit_code(work: Callable[[], None], *, damaged: str) -> int:
    """Does the work of a command; tells a failure in one sentence on stderr.

    Args:
        work: trains, from the last checkpoint on.
        damaged: what is told where a file of the data is damaged.

    Returns:
        0: done. 1: a file, a disk, memory, a bucket or another machine failed. 2: wrong arguments,
        data or devices, or a step that is not finite. 130: stopped by a signal, all saved.
    """
    try:
        work()
    except WRONG as error:
        return _told(error, 2)
    except tf.errors.DataLossError:  # any other way on would move all later images
        return _told(damaged, 1)
    except tf.errors.UnavailableError:
        return _told(
            "another host, the TPU or a bucket no longer answers; the same command, started again "
            "on every host, goes on from the last checkpoint",
            1,
        )
    except tf.errors.ResourceExhaustedError as error:
        return _told(
            "a device's memory is full; of images at once --set stage.batch_size=… takes fewer, "
            "stage.accumulate=… the same in pieces, stage.rematerialize=… computes blocks twice; "
            f"with --changed a stage that was begun goes on ({str(error).splitlines()[0][:200]})",
            1,
        )
    except (StorageError, OSError) as error:
        return _told(error, 1)
    except (StoppedError, KeyboardInterrupt) as stopped:
        print(f"{str(stopped) or 'stopped'}; the same command goes on from there", file=sys.stderr)
        return 130
    return 0


def _told(problem: object, code: int) -> int:
    print(f"error: {problem}", file=sys.stderr)
    return code
