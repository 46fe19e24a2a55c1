"""What happens to one example on its way from the shard to the batch.

Each op is a factory of a function from a dict of features to a dict of features. Random ops are
stateless: they read `features["seed"]`, two integers that the pipeline makes from the recipe's
seed, the epoch and the position, so that an example looks the same in every run.
"""

import dataclasses
import math
from collections.abc import Callable

import tensorflow as tf

from input_pipeline import schema

Features = dict[str, tf.Tensor]
Op = Callable[[Features], Features]


def parse() -> Op:
    """Parses `serialized`, a tf.train.Example as `schema.FEATURES` describes it."""

    def op(features: Features) -> Features:
        parsed = tf.io.parse_single_example(features["serialized"], schema.FEATURES)
        return {**features, **parsed}

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
    """Plain square bilinear resize: no crop, the aspect ratio is not kept.

    Training and export both call this one. Values are rounded back to uint8, half a grey level
    at most, so that what goes to the device is a quarter of the bytes.

    Attributes:
        size: side S, pixels.
        antialias: smooth first where the image shrinks (0.5 to 1 ms for 348 × 464 pixels).

    Call arguments:
        images: uint8 `(H, W, 3)` or `(B, H, W, 3)`.

    Returns:
        uint8 `(S, S, 3)` or `(B, S, S, 3)`.
    """

    size: int
    antialias: bool = False

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """Resizes one image or a batch."""
        resized = tf.image.resize(images, (self.size, self.size), antialias=self.antialias)
        return tf.cast(tf.round(resized), tf.uint8)

    @property
    def name(self) -> str:
        """A name for the input of a signature: "square_512" or "square_512_antialias"."""
        return f"square_{self.size}" + ("_antialias" if self.antialias else "")


def resize(square: Square) -> Op:
    """Resizes `image` to (S, S, 3)."""

    def op(features: Features) -> Features:
        return {**features, "image": square(features["image"])}

    return op


def random_crop(smallest_area: float, largest_ratio: float = 4 / 3) -> Op:
    """Cuts out a random window: area share in [smallest_area, 1], sides' ratio up to largest_ratio.

    The ratio is relative to the image's own, since the square resize that follows distorts that
    away. Reference: Szegedy et al., "Going Deeper with Convolutions", arXiv:1409.4842.
    """

    def op(features: Features) -> Features:
        draws = tf.random.stateless_uniform((4,), _seed(features, 1))
        area = smallest_area + (1.0 - smallest_area) * draws[0]
        ratio = tf.exp((2.0 * draws[1] - 1.0) * math.log(largest_ratio) / 2.0)
        sides = tf.minimum(tf.sqrt(tf.stack([area * ratio, area / ratio])), 1.0)  # (2,) shares
        whole = tf.shape(features["image"])[:2]
        window = tf.maximum(tf.cast(sides * tf.cast(whole, tf.float32), tf.int32), 1)
        free = tf.cast(whole - window, tf.float32)
        corner = tf.cast(tf.round(free * draws[2:]), tf.int32)
        begin = tf.concat([corner, [0]], 0)
        image = tf.slice(features["image"], begin, tf.concat([window, [3]], 0))
        return {**features, "image": image}

    return op


def random_flip() -> Op:
    """Mirrors `image` left and right with probability 1/2."""

    def op(features: Features) -> Features:
        image = tf.image.stateless_random_flip_left_right(features["image"], _seed(features, 2))
        return {**features, "image": image}

    return op


def random_color(strength: float) -> Op:
    """Changes brightness, contrast and saturation by factors in [1 − strength, 1 + strength]."""

    def op(features: Features) -> Features:
        factors = tf.random.stateless_uniform(
            (3,), _seed(features, 3), 1.0 - strength, 1.0 + strength
        )
        image = tf.cast(features["image"], tf.float32) * factors[0]
        mean = tf.reduce_mean(image)
        image = (image - mean) * factors[1] + mean
        grey = tf.reduce_mean(image, -1, keepdims=True)
        image = (image - grey) * factors[2] + grey
        image = tf.cast(tf.clip_by_value(tf.round(image), 0.0, 255.0), tf.uint8)
        return {**features, "image": image}

    return op


def random_affine(strength: float) -> Op:
    """Rotates and shears by up to `strength` radians, scales by exp(±strength), and shifts.

    Expects a square `image`; what is uncovered becomes white.
    """

    def op(features: Features) -> Features:
        draws = tf.random.stateless_uniform((6,), _seed(features, 4), -strength, strength)
        image = features["image"]
        side = tf.cast(tf.shape(image)[0], tf.float32)
        moved = tf.raw_ops.ImageProjectiveTransformV3(
            images=image[tf.newaxis],
            transforms=_affine_matrix(draws, side)[tf.newaxis],
            output_shape=tf.shape(image)[:2],
            interpolation="BILINEAR",
            fill_mode="CONSTANT",
            fill_value=255.0,
        )[0]
        return {**features, "image": tf.ensure_shape(moved, image.shape)}

    return op


def _affine_matrix(draws: tf.Tensor, side: tf.Tensor) -> tf.Tensor:
    """Returns (8,): the map from output to input pixels about the centre, row by row."""
    angle, shear, log_scale, log_stretch, right, down = tf.unstack(draws)
    scale, stretch = tf.exp(log_scale), tf.exp(log_stretch / 2.0)
    a, b = tf.cos(angle) * scale * stretch, (shear - tf.sin(angle)) * scale
    c, d = tf.sin(angle) * scale, tf.cos(angle) * scale / stretch
    middle = (side - 1.0) / 2.0
    x = middle - (a + b) * middle + right * side / 2.0
    y = middle - (c + d) * middle + down * side / 2.0
    return tf.stack([a, b, x, c, d, y, 0.0, 0.0])


def _seed(features: Features, op_number: int) -> tf.Tensor:
    return tf.random.experimental.stateless_fold_in(features["seed"], op_number)


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
