"""What --max-side and --quality of a conversion cost and bring.

    python benchmarks/reencoding.py --photos FOLDER [--pixels 512] [--images 60]

For each setting: bytes per image, CPU milliseconds to convert one, CPU milliseconds to decode it
and resize it to the square of training, and how close that square is to the one from the original
file (PSNR in dB over all images; identical is "exact").
"""

import argparse
import os
import pathlib
import sys
import tempfile
import time

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

from benchmarks.photographs import make_photographs
from input_pipeline import ops
from tfrecords_tools.conversion import images

SETTINGS = [(None, 92), (1024, 92), (768, 95), (768, 92), (768, 85), (640, 92), (512, 92)]


def squares_of(encoded: list[bytes], pixels: int) -> tuple[np.ndarray, float]:
    """Returns uint8 `(N, S, S, 3)` and CPU milliseconds per image, on one thread."""
    square = ops.Square(pixels)
    data = tf.data.Dataset.from_tensor_slices(encoded)
    data = data.map(lambda one: square(ops.decode_image(one)), num_parallel_calls=1)
    list(data.take(2).as_numpy_iterator())
    start = time.process_time()
    result = np.stack(list(data.as_numpy_iterator()))
    return result, 1000 * (time.process_time() - start) / len(encoded)


def convert(files: list[bytes], max_side: int | None, quality: int) -> tuple[list[bytes], float]:
    """Returns what a conversion stores, and CPU milliseconds per image."""
    start = time.process_time()
    stored = []
    for data in files:
        known = images.inspect(data, max_side=max_side) if max_side else None
        stored.append(images.stored_bytes(data, known, quality=quality) if known else data)
    return stored, 1000 * (time.process_time() - start) / len(files)


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the peak signal-to-noise ratio in dB; infinite for equal arrays."""
    error = np.mean(np.square(first.astype(np.float32) - second))
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--photos", help="folder of JPEG files (default: made ones)")
    parser.add_argument("--pixels", type=int, default=512, help="side of the square")
    parser.add_argument("--images", type=int, default=60)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as made:
        if args.photos is None:
            make_photographs(made, args.images)
        paths = sorted(pathlib.Path(args.photos or made).rglob("*.jpg"))[: args.images]
        originals = [path.read_bytes() for path in paths]
    reference, _ = squares_of(originals, args.pixels)
    print("max side  quality  kB/image  ms to convert  ms to decode and resize   PSNR")
    for max_side, quality in SETTINGS:
        stored, converting = convert(originals, max_side, quality)
        squares, decoding = squares_of(stored, args.pixels)
        closeness = psnr(squares, reference)
        size = sum(map(len, stored)) / len(stored) / 1000
        text = "exact" if np.isinf(closeness) else f"{closeness:.1f} dB"
        print(
            f"{max_side or 'none':>8}{quality if max_side else '':>9}{size:>10.1f}"
            f"{converting:>15.2f}{decoding:>25.2f}   {text}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
