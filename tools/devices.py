"""Says on what train.py would run here: `python tools/devices.py [--tpu [NAME]]`.

The exit code is 2, after a sentence that says why, where the TPU that was asked for does not start.
"""

import argparse
import os
import pathlib
import sys

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import tensorflow_wheels


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--tpu", nargs="?", const="", help="as in train.py")
    args = parser.parse_args(argv)
    os.environ.update(tensorflow_wheels.environment())
    import keras

    from training import strategy
    from training.probes import DeviceError

    try:
        where = strategy.make_strategy(args.tpu)
    except DeviceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    keras.config.set_dtype_policy(strategy.precision_for(where))
    print(strategy.describe(where))
    return 0


if __name__ == "__main__":
    sys.exit(main())
