"""Input at 512 px: from files of photographs to batches of uint8, against other ways, in one run.

    python benchmarks/input_pipeline.py [--photos FOLDER] [--passes 5]

Prints the CPU milliseconds per image, all threads together and all on one core: the median of
interleaved passes over the same photographs, and the ratio to ours. (Four threads on four hardware
threads of two cores hinder each other: the same work then takes a fifth more CPU time.) Each pass
is a process of its own, since threads that read ahead would work in another's time. What is not
installed is left out with a sentence.

    ours, originals  input_pipeline/pipeline.py from shards of tfrecords_tools/write.py
    ours, shrunk     the same from shards of --max-side 768 --quality 92
    ours, unguarded  from originals, without the guard that keeps the place of undecodable images
    kernels alone    TensorFlow's decoding, resize and rounding of originals, and nothing else
    torch PIL        torch's DataLoader, decoded and resized by Pillow
    torch turbo      torch's DataLoader, decoded by simplejpeg, resized as uint8 by torch
    grain PIL        grain from ArrayRecords, decoded and resized by Pillow
    turbo, originals simplejpeg decodes and nothing else: the limit
    turbo, shrunk    the same of the shrunk images

Without --photos they are the demo's drawings, enlarged to about 1 megapixel and 270 kB, the size of
a Google Landmarks v2 training image; the shards hold each of them REPEATS times, since a set of a
few hundred images would begin a new block of shards every second.
"""

import argparse
import io
import itertools
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from PIL import Image

from benchmarks.photographs import make_photographs
from input_pipeline import ops, order, pipeline, records, schema
from tfrecords_tools.write import write

SIZE = 512
BATCH = 32
REPEATS = 4
NOT_INSTALLED = 3  # exit code
WARM_UP = 60  # batches, in which the buffers fill that tf.data reads ahead

Pass = Callable[[], Iterator]


def ours(shards: str) -> Pass:
    """Training batches of our pipeline."""
    images = pipeline.ImageSet(schema.Manifest.load(shards), "total")
    batches = pipeline.training_batches(images, square=ops.Square(SIZE), batch_size=BATCH, seed=0)
    return lambda: iter(batches)


def unguarded(shards: str) -> Pass:
    """The same order, decoding and resize in plain tf.data, which drops undecodable images."""
    images = pipeline.ImageSet(schema.Manifest.load(shards), "total")
    chain = [ops.parse(), ops.decode(), ops.resize(ops.Square(SIZE)), *images.labelling(1.0)]

    def decoded(features: ops.Features) -> ops.Features:
        return chain[1](chain[0](features))

    def example(features: ops.Features) -> tuple[tf.Tensor, ...]:
        for op in chain[2:]:
            features = op(features)
        return features["image"], features["label"], features["weight"]

    found = order.shuffled_records(
        images.shard_paths(),
        images.shard_counts(),
        seed=0,
        images_per_epoch=images.num_images // BATCH * BATCH,
    )
    decoding = found.map(decoded, num_parallel_calls=tf.data.AUTOTUNE).ignore_errors()
    prepared = decoding.map(example, num_parallel_calls=tf.data.AUTOTUNE)
    batches = prepared.batch(BATCH, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    return lambda: iter(batches)


def kernels(images: list[bytes]) -> Pass:
    """What ours calls for one image, without reading, parsing, shuffling, guarding or batching."""
    square = ops.Square(SIZE)

    def batches() -> Iterator:
        while True:
            for start in range(0, len(images), BATCH):
                for data in images[start : start + BATCH]:
                    square(ops.decode_image(data))
                yield start

    return batches


def _pillow_square(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def torch_pillow(paths: list[str]) -> Pass:
    """Torch's DataLoader with Pillow, in one process."""
    import torch

    def load(path: str) -> torch.Tensor:
        return torch.from_numpy(_pillow_square(pathlib.Path(path).read_bytes()).copy())

    return _data_loader(paths, load)


def torch_turbo(paths: list[str]) -> Pass:
    """Torch's DataLoader with libjpeg-turbo and torch's resize of uint8, in one process."""
    import simplejpeg
    import torch

    def load(path: str) -> torch.Tensor:
        pixels = torch.from_numpy(simplejpeg.decode_jpeg(pathlib.Path(path).read_bytes()))
        image = pixels.permute(2, 0, 1)[None]
        return torch.nn.functional.interpolate(
            image, size=(SIZE, SIZE), mode="bilinear", antialias=True
        )[0]

    return _data_loader(paths, load)


def _data_loader(paths: list[str], load: Callable) -> Pass:
    import torch

    class Photographs(torch.utils.data.Dataset):
        def __len__(self):
            return len(paths)

        def __getitem__(self, position):
            return load(paths[position])

    torch.set_num_threads(1)
    loader = torch.utils.data.DataLoader(Photographs(), batch_size=BATCH, shuffle=True)
    return lambda: iter(loader)


def grain_pillow(paths: list[str], folder: str) -> Pass:
    """Grain with ArrayRecords and Pillow, in one process and its reading threads."""
    import grain.python as grain
    from array_record.python.array_record_module import ArrayRecordWriter

    name = os.path.join(folder, "photographs.array_record")
    writer = ArrayRecordWriter(name, "group_size:1")
    for path in paths:
        writer.write(pathlib.Path(path).read_bytes())
    writer.close()

    class Square(grain.MapTransform):
        def map(self, element):
            return _pillow_square(element)

    source = grain.ArrayRecordDataSource([name])
    sampler = grain.IndexSampler(len(paths), shard_options=grain.NoSharding(), shuffle=True, seed=0)
    steps = [Square(), grain.Batch(BATCH, drop_remainder=True)]
    loader = grain.DataLoader(data_source=source, sampler=sampler, operations=steps)
    return lambda: iter(loader)


def turbo(images: list[bytes]) -> Pass:
    """Libjpeg-turbo decodes, a batch at a time."""
    import simplejpeg

    def batches() -> Iterator:
        while True:
            for start in range(0, len(images), BATCH):
                for data in images[start : start + BATCH]:
                    simplejpeg.decode_jpeg(data)
                yield start

    return batches


def make_data(photos: str, scratch: str) -> None:
    """Writes both sets of shards below `scratch`."""
    for name, options in (("originals", {}), ("shrunk", {"max_side": 768, "quality": 92})):
        sources = [f"{number}=folder:{photos}" for number in range(REPEATS)]
        folder = os.path.join(scratch, name)
        write(folder, sources=sources, validation="none", stream=None, **options)


def make_ways(photos: str, scratch: str) -> dict[str, Callable[[], Pass]]:
    """Returns {name: what makes what begins a pass}."""
    paths = sorted(str(path) for path in pathlib.Path(photos).rglob("*.jpg"))

    def originals() -> list[bytes]:
        return [pathlib.Path(path).read_bytes() for path in paths]

    def shards(name: str) -> str:
        return os.path.join(scratch, name)

    return {
        "ours, originals": lambda: ours(shards("originals")),
        "ours, shrunk": lambda: ours(shards("shrunk")),
        "ours, unguarded": lambda: unguarded(shards("originals")),
        "kernels alone": lambda: kernels(originals()),
        "torch PIL": lambda: torch_pillow(paths),
        "torch turbo": lambda: torch_turbo(paths),
        "grain PIL": lambda: grain_pillow(paths, scratch),
        "turbo, originals": lambda: turbo(originals()),
        "turbo, shrunk": lambda: turbo(list(_encoded(shards("shrunk")))),
    }


def _encoded(shards: str) -> Iterator[bytes]:
    for path in schema.Manifest.load(shards).shard_paths(schema.TRAIN_CLEAN):
        for record in records.read_records(path):
            feature = tf.train.Example.FromString(record).features.feature
            yield feature[schema.ENCODED].bytes_list.value[0]


def measure_one(begin: Pass, batches: int) -> float:
    """Returns CPU milliseconds per image, with full buffers at the beginning and at the end."""
    iterator = _endless(begin)
    _take(iterator, WARM_UP)
    start = time.process_time()
    _take(iterator, batches)
    return 1000 * (time.process_time() - start) / (batches * BATCH)


def measure(photos: str, scratch: str, passes: int, batches: int) -> dict[str, list[float]]:
    """Returns {way: CPU milliseconds per image of each pass}."""
    times: dict[str, list[float]] = {}
    for name in list(make_ways(photos, scratch)) * passes:
        command = [sys.executable, __file__, "--photos", photos, "--batches", str(batches)]
        command += ["--way", name, "--scratch", scratch]
        found = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if found.returncode == NOT_INSTALLED:
            print(f"{name}: left out, {found.stdout.strip()} is not installed")
            continue
        found.check_returncode()
        times.setdefault(name, []).append(float(found.stdout.split()[-1]))
    return times


def _endless(begin: Pass) -> Iterator:
    return itertools.chain.from_iterable(begin() for _ in itertools.count())


def _take(iterator: Iterator, batches: int) -> None:
    for _ in range(batches):
        next(iterator)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--photos", help="folder per class of JPEG files (default: made ones)")
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--batches", type=int, default=100, help=f"of {BATCH} images, each pass")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if args.way:
        return _print_one(args)
    with tempfile.TemporaryDirectory() as scratch:
        photos = args.photos or os.path.join(scratch, "photos")
        if args.photos is None:
            os.makedirs(photos)
            make_photographs(photos, 256)
        make_data(photos, scratch)
        times = measure(photos, scratch, args.passes, args.batches)
    fastest = statistics.median(times["ours, originals"])
    print(f"{'way':<18}{'CPU ms per image':>18}{'least':>8}{'times ours':>12}")
    for name, values in times.items():
        middle = statistics.median(values)
        print(f"{name:<18}{middle:>18.2f}{min(values):>8.2f}{middle / fastest:>12.2f}")
    return 0


def _print_one(args: argparse.Namespace) -> int:
    try:
        begin = make_ways(args.photos, args.scratch)[args.way]()
    except ImportError as error:
        print(error.name)
        return NOT_INSTALLED
    print(measure_one(begin, args.batches))
    return 0


if __name__ == "__main__":
    sys.exit(main())
