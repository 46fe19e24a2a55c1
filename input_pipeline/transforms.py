"""Pillow's simple transformations of uint8 (H, W, 3), the alphabet of the policies.

Each is a function of an image and a magnitude () float32 in [−1, 1]; 0 changes nothing. The ranges
are those of AutoAugment (Cubuk et al., arXiv:1805.09501, table 6). Where a transformation has no
direction the magnitude's sign does not count.
"""

import math
from collections.abc import Callable, Mapping

import tensorflow as tf

from input_pipeline.geometry import about_middle, warp_nearest
from input_pipeline.photometric import enhance, to_uint8

LARGEST_SHEAR = 0.3
LARGEST_SHIFT = 150 / 331  # of a side: 150 pixels of the paper's 331
LARGEST_ANGLE = math.radians(30.0)
LARGEST_CHANGE = 0.9  # of contrast, colour, brightness and sharpness
FILL = 128


def identity(image: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    """Changes nothing."""
    del magnitude
    return image


def auto_contrast(image: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    """Stretches each channel to 0 … 255."""
    del magnitude
    width = tf.shape(image)[1]
    # Rows of 3W values, as in `photometric`: a broadcast over three channels takes 7 times as long.
    rows = tf.reshape(tf.cast(image, tf.float32), (tf.shape(image)[0], -1))  # (H, 3W)
    low = tf.reduce_min(tf.reshape(tf.reduce_min(rows, 0), (-1, 3)), 0)  # (3,)
    high = tf.reduce_max(tf.reshape(tf.reduce_max(rows, 0), (-1, 3)), 0)  # (3,)
    flat = high <= low
    scale = tf.where(flat, 1.0, 255.0 / tf.where(flat, 1.0, high - low))
    offset = tf.where(flat, 0.0, -low * scale)
    stretched = to_uint8(rows * tf.tile(scale, [width]) + tf.tile(offset, [width]))
    return _like(stretched, image)


def equalize(image: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    """Makes the histogram of each channel even.

    Keras' layer does the same with floats in more time, see benchmarks/augmentation.py.
    """
    del magnitude
    tables = [_equal_table(image[..., channel]) for channel in range(3)]
    offsets = tf.tile(tf.constant([0, 256, 512]), [tf.shape(image)[1]])  # (3W,)
    rows = tf.reshape(tf.cast(image, tf.int32), (tf.shape(image)[0], -1)) + offsets
    return _like(tf.gather(tf.concat(tables, 0), rows), image)


def _equal_table(channel: tf.Tensor) -> tf.Tensor:
    """Returns (256,) uint8: the new value of each, by Pillow's integer rule."""
    values = tf.reshape(tf.cast(channel, tf.int32), (-1,))
    counts = tf.math.bincount(values, minlength=256, maxlength=256)  # (256,)
    step = (tf.size(values) - counts[tf.reduce_max(values)]) // 255
    below = tf.cumsum(counts, exclusive=True)
    table = (below + step // 2) // tf.maximum(step, 1)
    table = tf.where(step == 0, tf.range(256), tf.minimum(table, 255))
    return tf.cast(table, tf.uint8)


def invert(image: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    """Gives each value v the value 255 − v."""
    del magnitude
    return tf.bitwise.invert(image)


def posterize(image: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    """Keeps 8 to 4 bits of each value."""
    dropped = tf.cast(tf.round(4.0 * tf.abs(magnitude)), tf.int32)
    mask = tf.cast(256 - tf.bitwise.left_shift(1, dropped), tf.uint8)
    return tf.bitwise.bitwise_and(image, mask)


def solarize(image: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    """Inverts values from 256 · (1 − |magnitude|) on."""
    threshold = tf.cast(tf.math.ceil(256.0 * (1.0 - tf.abs(magnitude))), tf.int32)
    bright = tf.cast(image >= tf.cast(tf.minimum(threshold, 255), tf.uint8), tf.uint8)
    flips = tf.cast(tf.where(threshold < 256, 255, 0), tf.uint8)
    return tf.bitwise.bitwise_xor(image, bright * flips)


def color(image: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    """Multiplies the distance from grey."""
    return enhance(image, saturation=1.0 + LARGEST_CHANGE * magnitude)


def contrast(image: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    """Multiplies the distance from the mean grey."""
    return enhance(image, contrast=1.0 + LARGEST_CHANGE * magnitude)


def brightness(image: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    """Multiplies the values."""
    return to_uint8(tf.cast(image, tf.float32) * (1.0 + LARGEST_CHANGE * magnitude) + 0.5)


def sharpness(image: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    """Multiplies the distance from a smoothed image; the border of one pixel stays."""
    factor = 1.0 + LARGEST_CHANGE * magnitude
    smooth = tf.constant([[1.0, 1.0, 1.0], [1.0, 5.0, 1.0], [1.0, 1.0, 1.0]]) / 13.0
    kernel = (1.0 - factor) * smooth + factor * tf.pad([[1.0]], [[1, 1], [1, 1]])  # (3, 3)
    kernel = tf.tile(kernel[:, :, tf.newaxis, tf.newaxis], (1, 1, 3, 1))
    pixels = tf.cast(image, tf.float32)[tf.newaxis]
    inner = tf.nn.depthwise_conv2d(pixels, kernel, (1, 1, 1, 1), "VALID")[0]
    inner = to_uint8(inner + 0.5)
    middle = tf.concat([image[1:-1, :1], inner, image[1:-1, -1:]], 1)
    return tf.ensure_shape(tf.concat([image[:1], middle, image[-1:]], 0), image.shape)


def shear_x(image: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    """Moves rows sideways, by their distance from the middle."""
    return _linear(image, [[1.0, LARGEST_SHEAR * magnitude], [0.0, 1.0]])


def shear_y(image: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    """Moves columns up and down, by their distance from the middle."""
    return _linear(image, [[1.0, 0.0], [LARGEST_SHEAR * magnitude, 1.0]])


def translate_x(image: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    """Moves the image sideways."""
    return _linear(image, [[1.0, 0.0], [0.0, 1.0]], (LARGEST_SHIFT * magnitude, 0.0))


def translate_y(image: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    """Moves the image up or down."""
    return _linear(image, [[1.0, 0.0], [0.0, 1.0]], (0.0, LARGEST_SHIFT * magnitude))


def rotate(image: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    """Rotates about the middle."""
    cos, sin = tf.cos(LARGEST_ANGLE * magnitude), tf.sin(LARGEST_ANGLE * magnitude)
    return _linear(image, [[cos, -sin], [sin, cos]])


def _linear(image: tf.Tensor, linear, shift=(0.0, 0.0)) -> tf.Tensor:
    return warp_nearest(image, about_middle(image, linear, shift), FILL)


def _like(values: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    return tf.ensure_shape(tf.reshape(values, tf.shape(image)), image.shape)


Transform = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
TRANSFORMS: Mapping[str, Transform] = {
    "identity": identity,
    "auto_contrast": auto_contrast,
    "equalize": equalize,
    "invert": invert,
    "posterize": posterize,
    "solarize": solarize,
    "color": color,
    "contrast": contrast,
    "brightness": brightness,
    "sharpness": sharpness,
    "shear_x": shear_x,
    "shear_y": shear_y,
    "translate_x": translate_x,
    "translate_y": translate_y,
    "rotate": rotate,
}


def apply(
    image: tf.Tensor, names: tuple[str, ...], choice: tf.Tensor, magnitude: tf.Tensor
) -> tf.Tensor:
    """Applies the transformation `names[choice]`; only that one is computed."""
    branches = [lambda name=name: TRANSFORMS[name](image, magnitude) for name in names]
    return tf.ensure_shape(tf.switch_case(choice, branches), image.shape)
