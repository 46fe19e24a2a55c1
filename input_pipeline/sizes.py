"""Resizing by one side, and padding."""

import tensorflow as tf

from input_pipeline.ops import Features, Op, bilinear


def resize_to(height: int, width: int, antialias: bool = False) -> Op:
    """Resizes `image` to (height, width, 3); the aspect ratio is not kept."""

    def op(features: Features) -> Features:
        return {**features, "image": bilinear(features["image"], (height, width), antialias)}

    return op


def resize_shortest(size: int, antialias: bool = False) -> Op:
    """Resizes `image` so that its shorter side has `size` pixels; the aspect ratio is kept."""
    return _resize_side(size, tf.reduce_min, antialias)


def resize_longest(size: int, antialias: bool = False) -> Op:
    """Resizes `image` so that its longer side has `size` pixels; the aspect ratio is kept."""
    return _resize_side(size, tf.reduce_max, antialias)


def _resize_side(size: int, which, antialias: bool) -> Op:
    def op(features: Features) -> Features:
        image = features["image"]
        sides = tf.cast(tf.shape(image)[:2], tf.float32)
        shape = tf.cast(tf.round(sides * (size / which(sides))), tf.int32)
        return {**features, "image": bilinear(image, tf.maximum(shape, 1), antialias)}

    return op


def pad_to(height: int, width: int, fill: int = 0) -> Op:
    """Puts `image`, at most as large, in the middle of (height, width, 3) of the value `fill`."""

    def op(features: Features) -> Features:
        image = features["image"]
        missing = tf.stack([height, width, 3]) - tf.shape(image)  # (3,)
        paddings = tf.stack([missing // 2, missing - missing // 2], 1)  # (3, 2)
        padded = tf.pad(image, paddings, constant_values=tf.constant(fill, tf.uint8))
        return {**features, "image": tf.ensure_shape(padded, (height, width, 3))}

    return op
