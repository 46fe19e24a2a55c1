"""The image ops of the input pipeline, against the layers of keras-cv and Keras, in one run.

    python benchmarks/augmentation.py [--sizes 224 512] [--ops blur noise] [--passes 3]

Prints the CPU milliseconds per image on one core inside tf.data (uint8 to uint8, the median of
interleaved passes) and how many times as long the layer of keras-cv, of Keras or the functions of
TensorFlow take that do the same; of a layer, the faster of one image at a time and batches of 16.
Those layers draw from a generator with a state; ours give the same image for the same seed.
"""

import argparse
import io
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterable

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import keras_cv
import numpy as np
import tensorflow as tf
from PIL import Image

from input_pipeline import crops, erasing, geometry, ops, photometric, policies, regions, schema

IMAGES = 16
RANGE = (0, 255)
PEERS = ("keras-cv", "Keras", "TensorFlow")


def ours(size: int) -> dict[str, ops.Op]:
    """Our ops for images of size × size pixels."""
    return {
        "flip": geometry.random_flip(),
        "quarter turn": geometry.random_turn(),
        "rotation": geometry.random_rotation(30.0),
        "affine": geometry.random_affine(0.2),
        "perspective": geometry.random_perspective(0.5),
        "resized crop": crops.random_resized_crop(size),
        "decode, crop": crops.decode_and_crop(crops.pixel_window()),
        "color": photometric.color_jitter(0.4, 0.4, 0.4),
        "color and hue": photometric.color_jitter(0.4, 0.4, 0.4, 0.1),
        "blur": photometric.blur((0.5, 2.0)),
        "noise": photometric.noise((1.0, 20.0)),
        "JPEG quality": photometric.jpeg_quality(40, 90),
        "cutout": erasing.cutout(size // 4),
        "random erasing": erasing.random_erasing((0.02, 0.2)),
        "RandAugment": policies.rand_augment(2, 5.0),
        "AutoAugment": policies.auto_augment(),
        "region shuffle": regions.shuffle_regions(8 if size % 7 else 7),
    }


def peers(size: int) -> dict[tuple[str, str], Callable]:
    """Layers, of float images, and TensorFlow's functions of features, by (op, whose)."""
    cv, layers = keras_cv.layers, keras.layers
    factor, hue, quarter = (0.6, 1.4), 0.1, (0.25, 0.25)
    turn, range_cv = 30 / 360, {"value_range": RANGE}
    cv_color = {"brightness_factor": 0.4, "contrast_factor": 0.4, "saturation_factor": (0.3, 0.7)}
    color = {"brightness_factor": 0.4, "contrast_factor": 0.4, "saturation_factor": (0.3, 0.7)}
    return {
        ("flip", "keras-cv"): cv.RandomFlip("horizontal"),
        ("flip", "Keras"): layers.RandomFlip("horizontal"),
        ("rotation", "keras-cv"): cv.RandomRotation(turn, fill_mode="constant"),
        ("rotation", "Keras"): layers.RandomRotation(turn, fill_mode="constant"),
        ("affine", "keras-cv"): cv.RandomShear(0.2, 0.2, fill_mode="constant"),
        ("affine", "Keras"): layers.RandomShear(0.2, 0.2, fill_mode="constant"),
        ("perspective", "Keras"): layers.RandomPerspective(scale=0.5),
        ("resized crop", "keras-cv"): cv.RandomCropAndResize(
            (size, size), (0.08, 1.0), (0.75, 4 / 3)
        ),
        ("decode, crop", "TensorFlow"): decode_then_crop(),
        ("color", "TensorFlow"): tensorflow_color(*factor),
        ("color and hue", "keras-cv"): cv.RandomColorJitter(hue_factor=hue, **range_cv, **cv_color),
        ("color and hue", "Keras"): layers.RandomColorJitter(hue_factor=hue, **range_cv, **color),
        ("color and hue", "TensorFlow"): tensorflow_color(*factor, hue),
        ("blur", "keras-cv"): cv.RandomGaussianBlur(13, (0.5, 1.0)),
        ("blur", "Keras"): layers.RandomGaussianBlur(kernel_size=13, sigma=1.0),
        ("noise", "TensorFlow"): tensorflow_noise,
        ("JPEG quality", "keras-cv"): cv.RandomJpegQuality((40, 90)),
        ("cutout", "keras-cv"): cv.RandomCutout(*quarter),
        ("random erasing", "Keras"): layers.RandomErasing(scale=(0.02, 0.2)),
        ("RandAugment", "keras-cv"): cv.RandAugment(RANGE, 2, 0.5, 0.0, rate=1.0),
        ("RandAugment", "Keras"): layers.RandAugment(RANGE, 2, 0.5),
    }


def decode_then_crop() -> ops.Op:
    """Decodes the whole image before it is cut."""
    decode, cut = ops.decode(), crops.crop(crops.pixel_window())
    return lambda features: cut(decode(features))


def tensorflow_color(low: float, high: float, hue: float = 0.0) -> ops.Op:
    """tf.image's stateless functions, one after the other."""

    def op(features: ops.Features) -> ops.Features:
        image, seed = features["image"], features["seed"]
        image = tf.image.stateless_random_brightness(image, high - 1.0, seed)
        image = tf.image.stateless_random_contrast(image, low, high, seed)
        image = tf.image.stateless_random_saturation(image, low, high, seed)
        if hue:
            image = tf.image.stateless_random_hue(image, hue, seed)
        return {**features, "image": image}

    return op


def tensorflow_noise(features: ops.Features) -> ops.Features:
    """Adds tf.random.stateless_normal."""
    image = features["image"]
    noise = tf.random.stateless_normal(tf.shape(image), features["seed"], 0.0, 10.0)
    noisy = tf.clip_by_value(tf.round(tf.cast(image, tf.float32) + noise), 0.0, 255.0)
    return {**features, "image": tf.cast(noisy, tf.uint8)}


def examples(size: int) -> tf.data.Dataset:
    """Endless examples of `IMAGES` smooth pictures with a little noise."""
    random = np.random.default_rng(0)
    images, encoded = [], []
    for _ in range(IMAGES):
        rough = Image.fromarray(random.integers(0, 256, (12, 12, 3), np.uint8))
        smooth = np.asarray(rough.resize((size, size), Image.Resampling.BICUBIC), np.int16)
        noise = random.integers(-8, 9, (size, size, 1), np.int16)
        images.append(np.clip(smooth + noise, 0, 255).astype(np.uint8))
        file = io.BytesIO()
        Image.fromarray(images[-1]).save(file, "JPEG", quality=90)
        encoded.append(file.getvalue())
    pictures = tf.data.Dataset.from_tensor_slices(
        {
            "image": np.array(images),
            schema.ENCODED: np.array(encoded, object),
            schema.HEIGHT: np.full(IMAGES, size),
            schema.WIDTH: np.full(IMAGES, size),
        }
    )
    numbers = tf.data.Dataset.range(2**62)
    return tf.data.Dataset.zip(pictures.cache().repeat(), numbers).map(
        lambda picture, number: {**picture, "seed": tf.stack([number, number])}
    )


def layer_op(layer: keras.Layer) -> ops.Op:
    """A layer as an op, on one image or a batch."""

    def op(features: ops.Features) -> ops.Features:
        image = layer(tf.cast(features["image"], tf.float32), training=True)
        return {**features, "image": tf.cast(image, tf.uint8)}

    return op


def one_thread(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The dataset without parallelism."""
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    options.autotune.enabled = False
    return dataset.with_options(options)


def timer(dataset: tf.data.Dataset, images: int, seconds: float) -> Callable[[], float]:
    """Returns a function that measures the CPU milliseconds per image over about `seconds`."""
    iterator = iter(one_thread(dataset))
    for _ in range(2):
        next(iterator)
    start = time.perf_counter()
    next(iterator)
    count = max(4, round(seconds / (time.perf_counter() - start)))
    count = min(count, 2000)

    def measure() -> float:
        begin = time.process_time()
        for _ in range(count):
            next(iterator)
        return (time.process_time() - begin) * 1000 / (count * images)

    return measure


def candidates(name: str, size: int) -> dict[str, list[tuple[tf.data.Dataset, int]]]:
    """For ours and every peer of one op its datasets, with images per element."""
    source = examples(size)
    found = {"": [(source, 1)], "ours": [(source.map(ours(size)[name]), 1)]}
    for (op, whose), peer in peers(size).items():
        if op != name:
            continue
        if isinstance(peer, keras.Layer):
            batches = source.batch(IMAGES).map(layer_op(peer))
            found[whose] = [(source.map(layer_op(peer)), 1), (batches, IMAGES)]
        else:
            found[whose] = [(source.map(peer), 1)]
    return found


def measure(name: str, size: int, passes: int, seconds: float) -> dict[str, float]:
    """Returns the CPU milliseconds per image of ours and of each peer, less the empty pipeline's.

    Args:
        name: a key of `ours`.
        size: side of the square images, pixels.
        passes: interleaved measurements; the median counts.
        seconds: of each.
    """
    timers = {
        whose: [timer(dataset, images, seconds) for dataset, images in datasets]
        for whose, datasets in candidates(name, size).items()
    }
    times = {whose: [[] for _ in each] for whose, each in timers.items()}
    for _ in range(passes):
        for whose, each in timers.items():
            for values, one in zip(times[whose], each, strict=True):
                values.append(one())
    best = {whose: min(map(statistics.median, values)) for whose, values in times.items()}
    empty = best.pop("")
    return {whose: value - empty for whose, value in best.items()}


def report(names: Iterable[str], sizes: Iterable[int], passes: int, seconds: float) -> None:
    """Prints one line for each op and size."""
    print(f"{'op':16}{'pixels':>8}{'ours, ms':>10}" + "".join(f"{peer:>13}" for peer in PEERS))
    for name in names:
        for size in sizes:
            times = measure(name, size, passes, seconds)
            ratios = [f"{times[p] / times['ours']:.1f} x" if p in times else "" for p in PEERS]
            line = f"{name:16}{size:8}{times['ours']:10.2f}" + "".join(f"{r:>13}" for r in ratios)
            print(line, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 512])
    parser.add_argument("--ops", nargs="+", choices=list(ours(224)), default=list(ours(224)))
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.4, help="of each measurement")
    args = parser.parse_args(argv)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.get_logger().setLevel("ERROR")  # what keras-cv's layers cannot do for a whole batch
    report(args.ops, args.sizes, args.passes, args.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
