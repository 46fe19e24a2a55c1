"""Conversion of photographs to TFRecords, against other ways, in one run.

    python benchmarks/conversion.py [--photos FOLDER] [--passes 5]

Prints the CPU milliseconds per image of one process: the median of interleaved passes over the
same files, and the ratio to ours. Without --photos they are the demo's drawings, enlarged to about
1 megapixel and 275 kB, the size of a Google Landmarks v2 training image.

    ours      tfrecords_tools/write.py: look at head and end, catalogue, shuffle, shards
    DELF      as the TensorFlow models' DELF builder does: decode each image to learn its size
    Pillow    TFRecordWriter, the size read by Pillow from the header
    copy      read and write the bytes: the limit
"""

import argparse
import io
import os
import pathlib
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
from PIL import Image

from benchmarks.photographs import make_photographs
from tfrecords_tools.write import write


def ours(paths: list[str], folder: str, output: str) -> None:
    """Waymark's conversion in one process."""
    write(output, sources=[f"folder:{folder}"], workers=1, stream=None)


def delf(paths: list[str], folder: str, output: str) -> None:
    """Decodes every image, as research/delf's build_image_dataset.py does."""

    def size_of(data: bytes) -> tuple[int, int]:
        height, width, _ = tf.io.decode_jpeg(data, channels=3).shape
        return height, width

    _write_examples(paths, output, size_of)


def pillow(paths: list[str], folder: str, output: str) -> None:
    """Reads the size from the header by Pillow."""

    def size_of(data: bytes) -> tuple[int, int]:
        width, height = Image.open(io.BytesIO(data)).size
        return height, width

    _write_examples(paths, output, size_of)


def copy(paths: list[str], folder: str, output: str) -> None:
    """Copies the bytes into one file."""
    os.makedirs(output)
    with open(os.path.join(output, "all"), "wb") as file:
        for path in paths:
            file.write(pathlib.Path(path).read_bytes())


def _write_examples(
    paths: list[str], output: str, size_of: Callable[[bytes], tuple[int, int]]
) -> None:
    os.makedirs(output)
    with tf.io.TFRecordWriter(os.path.join(output, "train-00000-of-00001")) as writer:
        for path in paths:
            data = pathlib.Path(path).read_bytes()
            height, width = size_of(data)
            example = tf.train.Example()
            feature = example.features.feature
            feature["image/encoded"].bytes_list.value.append(data)
            feature["image/format"].bytes_list.value.append(b"jpeg")
            feature["image/height"].int64_list.value.append(height)
            feature["image/width"].int64_list.value.append(width)
            feature["image/id"].bytes_list.value.append(os.path.basename(path).encode())
            feature["image/class/label"].int64_list.value.append(0)
            writer.write(example.SerializeToString())


WAYS = {"ours": ours, "DELF": delf, "Pillow": pillow, "copy": copy}


def measure(folder: str, passes: int) -> dict[str, list[float]]:
    """Returns {way: CPU milliseconds per image of each pass}; a first pass is not counted."""
    paths = sorted(str(path) for path in pathlib.Path(folder).rglob("*.jpg"))
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(passes + 1):
            for name, way in WAYS.items():
                output = os.path.join(scratch, name)
                start = time.process_time()
                way(paths, folder, output)
                if number:
                    times[name].append(1000 * (time.process_time() - start) / len(paths))
                shutil.rmtree(output)
    return times


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--photos", help="folder of JPEG files (default: made ones)")
    parser.add_argument("--passes", type=int, default=5)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as made:
        if args.photos is None:
            make_photographs(made, 400)
        times = measure(args.photos or made, args.passes)
    fastest = statistics.median(times["ours"])
    print(f"{'way':<8}{'CPU ms per image':>18}{'times ours':>12}")
    for name, values in times.items():
        middle = statistics.median(values)
        print(f"{name:<8}{middle:>18.3f}{middle / fastest:>12.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
