"""What happens to one example on its way from the shard to the batch.

Each op is a factory of a function from a dict of features to a dict of features. This module has
those that every run needs; `crops`, `sizes`, `buckets`, `geometry`, `photometric`, `erasing`,
`regions` and `policies` have the others.

Random ops are stateless: they read `features["seed"]`, two integers that the pipeline makes from
the recipe's seed, the epoch and the position, and fold the op's name into it. So an example looks
the same in every run, and two different ops draw independently. `chain` tells two of the same name
apart.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Mapping

import tensorflow as tf

from input_pipeline import schema

Features = dict[str, tf.Tensor]
Op = Callable[[Features], Features]

FITS = ("stretch", "crop", "pad")

# The specification of tf.io.parse_single_example: scalars only, none may be absent.
FEATURES: Mapping[str, tf.io.FixedLenFeature] = {
    schema.ENCODED: tf.io.FixedLenFeature([], tf.string),
    schema.FORMAT: tf.io.FixedLenFeature([], tf.string),
    schema.HEIGHT: tf.io.FixedLenFeature([], tf.int64),
    schema.WIDTH: tf.io.FixedLenFeature([], tf.int64),
    schema.LABEL: tf.io.FixedLenFeature([], tf.int64),
    schema.ID: tf.io.FixedLenFeature([], tf.string),
    schema.IS_CLEAN: tf.io.FixedLenFeature([], tf.int64),
}


def fold(features: Features, name: str) -> tf.Tensor:
    """Returns the seed `(2,)` int64 of the op called `name`, for TensorFlow's stateless draws."""
    number = tf.constant(zlib.crc32(name.encode()), tf.int64)
    return tf.random.experimental.stateless_fold_in(features["seed"], number)


def chain(*ops: Op) -> Op:
    """Applies `ops` in order, each with a seed of its own, so that one may stand there twice.

    Without random ops, as in validation, no `seed` is needed.
    """

    def op(features: Features) -> Features:
        if "seed" not in features:
            return functools.reduce(lambda example, each: each(example), ops, features)
        seed = features["seed"]
        for number, each in enumerate(ops):
            own = tf.random.experimental.stateless_fold_in(seed, tf.constant(number, tf.int64))
            features = each({**features, "seed": own})
        return {**features, "seed": seed}

    return op


def maybe(op: Op, probability: float) -> Op:
    """Applies `op`, which may add no features, with `probability`; else the example stays."""
    if not 0 <= probability <= 1:
        raise ValueError(f"expected a probability from 0 to 1. Received: {probability}")
    name = f"maybe {getattr(op, '__module__', '')}.{getattr(op, '__qualname__', '')}"

    def sometimes(features: Features) -> Features:
        draw = tf.random.stateless_uniform((), fold(features, name))
        return tf.cond(draw < probability, lambda: op(features), lambda: features)

    return sometimes


def parse() -> Op:
    """Parses `serialized`, a tf.train.Example as `FEATURES` describes it."""

    def op(features: Features) -> Features:
        return {**features, **tf.io.parse_single_example(features["serialized"], dict(FEATURES))}

    return op


def decode() -> Op:
    """Decodes the encoded bytes into `image`, uint8 (H, W, 3)."""

    def op(features: Features) -> Features:
        return {**features, "image": decode_image(features[schema.ENCODED])}

    return op


def decode_image(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes JPEG or PNG bytes (scalar string) to RGB, uint8 (H, W, 3)."""
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    return tf.ensure_shape(image, (None, None, 3))


@dataclasses.dataclass(frozen=True)
class Square:
    """Bilinear resize to a square; plain, it neither crops nor keeps the aspect ratio.

    Training and export both call this one. Values are rounded back to uint8, half a grey level
    at most, so that what goes to the device is a quarter of the bytes.

    Attributes:
        size: side S, pixels.
        antialias: smooth first where the image shrinks (0.5 to 1 ms for 348 × 464 pixels).
        fit: "stretch", the plain one; "crop", the middle square of the image is resized; "pad",
            the longer side is resized to S and black goes on both sides of the shorter one.

    Call arguments:
        images: uint8 `(H, W, 3)` or `(B, H, W, 3)`.

    Returns:
        uint8 `(S, S, 3)` or `(B, S, S, 3)`.
    """

    size: int
    antialias: bool = False
    fit: str = "stretch"

    def __post_init__(self):
        if self.fit not in FITS:
            raise ValueError(f"fit: expected one of {FITS}. Received: {self.fit!r}")

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """Resizes one image or a batch."""
        shape = (self.size, self.size)
        if self.fit == "stretch":
            return bilinear(images, shape, self.antialias)
        sides = tf.shape(images)[-3:-1]
        if self.fit == "crop":
            free = sides - tf.reduce_min(sides)
            end = sides - free + free // 2
            images = images[..., free[0] // 2 : end[0], free[1] // 2 : end[1], :]
            return bilinear(images, shape, self.antialias)
        shares = tf.cast(sides, tf.float32) / tf.cast(tf.reduce_max(sides), tf.float32)
        shape = tf.maximum(tf.cast(tf.round(shares * self.size), tf.int32), 1)
        missing = self.size - shape
        paddings = tf.stack([missing // 2, missing - missing // 2], 1)  # (2, 2)
        paddings = tf.pad(paddings, [[images.shape.rank - 3, 1], [0, 0]])
        padded = tf.pad(bilinear(images, shape, self.antialias), paddings)
        return tf.ensure_shape(padded, (*images.shape[:-3], self.size, self.size, 3))

    @property
    def name(self) -> str:
        """A name for the input of a signature: "square_512", "square_512_antialias_crop"."""
        words = ["antialias"] * self.antialias + [self.fit] * (self.fit != "stretch")
        return "_".join(["square", str(self.size), *words])


def resize(square: Square) -> Op:
    """Resizes `image` to (S, S, 3)."""

    def op(features: Features) -> Features:
        return {**features, "image": square(features["image"])}

    return op


def bilinear(
    images: tf.Tensor, shape: tf.Tensor | tuple[int, int], antialias: bool = False
) -> tf.Tensor:
    """Resizes uint8 `([B,] H, W, 3)` to height and width `shape`, rounded back to uint8."""
    return tf.cast(tf.round(tf.image.resize(images, shape, antialias=antialias)), tf.uint8)


def map_label(labels: tf.Tensor | None) -> Op:
    """Sets `label`: the stored total label, or what the table `labels` (classes,) maps it to."""

    def op(features: Features) -> Features:
        label = features[schema.LABEL]
        if labels is not None:
            label = tf.gather(labels, label)
        return {**features, "label": tf.cast(label, tf.int32)}

    return op


def weigh(class_weights: tf.Tensor, noisy_weight: float = 1.0) -> Op:
    """Sets `weight`: w(label), times `noisy_weight` for an image outside the clean set."""

    def op(features: Features) -> Features:
        clean = tf.cast(features[schema.IS_CLEAN], tf.bool)
        weight = tf.gather(class_weights, features["label"])
        return {**features, "weight": weight * tf.where(clean, 1.0, noisy_weight)}

    return op
