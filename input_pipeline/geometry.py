"""Flips, turns and warps. Each keeps the image's size; what a warp uncovers is `fill`, white.

Per 512 × 512 image on one core: a flip takes 0.1 ms, a quarter turn 0.7, a bilinear warp 7. The
warp is TensorFlow's kernel, which the layers of keras-cv and Keras call too and take as long or up
to twice that. Their layers draw from a generator with a state, so that an example could not be
made again from its seed. See benchmarks/augmentation.py.
"""

import math

import tensorflow as tf

from input_pipeline.ops import Features, Op, fold

FILL = 255


def random_flip() -> Op:
    """Mirrors `image` left and right with probability 1/2."""

    def op(features: Features) -> Features:
        seed = fold(features, "random_flip")
        image = tf.image.stateless_random_flip_left_right(features["image"], seed)
        return {**features, "image": image}

    return op


def random_vertical_flip() -> Op:
    """Mirrors `image` up and down with probability 1/2."""

    def op(features: Features) -> Features:
        seed = fold(features, "random_vertical_flip")
        image = tf.image.stateless_random_flip_up_down(features["image"], seed)
        return {**features, "image": image}

    return op


def random_turn(quarters: tuple[int, ...] = (0, 1, 2, 3)) -> Op:
    """Turns `image` anticlockwise by one of `quarters` times 90 degrees, each as likely.

    The static shape is kept where the image is square, else sides may be exchanged.
    """
    if not quarters or not set(quarters) <= {0, 1, 2, 3}:
        raise ValueError(f"expected numbers of quarter turns from 0 to 3. Received: {quarters}")

    def op(features: Features) -> Features:
        image = features["image"]
        seed = fold(features, "random_turn")
        draw = tf.random.stateless_uniform((), seed, 0, len(quarters), tf.int32)
        turned = tf.image.rot90(image, tf.gather(tf.constant(quarters), draw))
        height, width, _ = image.shape
        shape = image.shape if height == width else (None, None, 3)
        return {**features, "image": tf.ensure_shape(turned, shape)}

    return op


def random_rotation(degrees: float, fill: int = FILL) -> Op:
    """Rotates `image` about its middle by an angle in [−degrees, degrees]."""

    def op(features: Features) -> Features:
        seed = fold(features, "random_rotation")
        angle = tf.random.stateless_uniform((), seed, -1.0, 1.0) * math.radians(degrees)
        cos, sin = tf.cos(angle), tf.sin(angle)
        matrix = about_middle(features["image"], [[cos, -sin], [sin, cos]])
        return {**features, "image": warp(features["image"], matrix, fill)}

    return op


def random_affine(strength: float, fill: int = FILL) -> Op:
    """Rotates and shears by up to `strength` radians, scales by exp(±strength), and shifts.

    The shift is at most strength / 2 of the sides; the sides' ratio changes by exp(±strength).
    """

    def op(features: Features) -> Features:
        seed = fold(features, "random_affine")
        draws = tf.random.stateless_uniform((6,), seed, -strength, strength)
        angle, shear, log_scale, log_stretch, right, down = tf.unstack(draws)
        scale, stretch = tf.exp(log_scale), tf.exp(log_stretch / 2.0)
        linear = [
            [tf.cos(angle) * scale * stretch, (shear - tf.sin(angle)) * scale],
            [tf.sin(angle) * scale, tf.cos(angle) * scale / stretch],
        ]
        matrix = about_middle(features["image"], linear, (right / 2.0, down / 2.0))
        return {**features, "image": warp(features["image"], matrix, fill)}

    return op


def random_perspective(distortion: float, fill: int = FILL) -> Op:
    """Moves each corner of `image` inwards by up to `distortion` of half a side, on both axes."""
    if not 0 <= distortion < 1:
        raise ValueError(f"expected a distortion of at least 0, below 1. Received: {distortion}")

    def op(features: Features) -> Features:
        image = features["image"]
        draws = tf.random.stateless_uniform((4, 2), fold(features, "random_perspective"))
        corners = tf.constant([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])  # (4, 2): x, y
        moved = corners + (1.0 - 2.0 * corners) * draws * (distortion / 2.0)
        height, width, _ = tf.unstack(tf.cast(tf.shape(image), tf.float32))
        last = tf.stack([width - 1.0, height - 1.0])  # (2,): x, y
        return {**features, "image": warp(image, _homography(moved * last, corners * last), fill)}

    return op


def _homography(start: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
    """Returns (8,): the perspective map, row by row, that takes points `start` to `end` (4, 2)."""
    one, zero = tf.ones((4,)), tf.zeros((4,))
    (x, y), (u, v) = tf.unstack(start, axis=1), tf.unstack(end, axis=1)
    rows_u = tf.stack([x, y, one, zero, zero, zero, -u * x, -u * y], 1)  # (4, 8)
    rows_v = tf.stack([zero, zero, zero, x, y, one, -v * x, -v * y], 1)  # (4, 8)
    system = tf.cast(tf.concat([rows_u, rows_v], 0), tf.float64)
    values = tf.cast(tf.concat([u, v], 0), tf.float64)
    return tf.cast(tf.linalg.solve(system, values[:, tf.newaxis])[:, 0], tf.float32)


def about_middle(image: tf.Tensor, linear, shift=(0.0, 0.0)) -> tf.Tensor:
    """Returns (8,): output to input pixels, x' = linear·(x − middle) + middle + shift·sides."""
    (a, b), (c, d) = linear
    height, width, _ = tf.unstack(tf.cast(tf.shape(image), tf.float32))
    x, y = (width - 1.0) / 2.0, (height - 1.0) / 2.0
    right = x - a * x - b * y + shift[0] * width
    down = y - c * x - d * y + shift[1] * height
    return tf.stack([a, b, right, c, d, down, 0.0, 0.0])


def warp(image: tf.Tensor, matrix: tf.Tensor, fill: int = FILL) -> tf.Tensor:
    """Bilinear projective warp of uint8 `(H, W, 3)`.

    Args:
        image: the image.
        matrix: (8,) a, b, c, d, e, f, g, h: the pixel (x, y) shows the image at
            (ax + by + c, dx + ey + f) / (gx + hy + 1), counted from the middle of the first pixel.
        fill: what lies outside of the image, on every side of it.
    """
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(image, tf.float32)[tf.newaxis],  # of uint8 the kernel drops the fraction
        transforms=matrix[tf.newaxis],
        output_shape=tf.shape(image)[:2],
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
        fill_value=float(fill),
    )[0]
    return tf.ensure_shape(tf.cast(tf.round(moved), tf.uint8), image.shape)


def warp_nearest(image: tf.Tensor, matrix: tf.Tensor, fill: int) -> tf.Tensor:
    """The affine `warp` with the nearest pixel in place of interpolation; g = h = 0.

    Gathering whole pixels takes 1.6 ms per 512 × 512 image, TensorFlow's kernel 4.3.
    """
    height, width, _ = tf.unstack(tf.shape(image))
    a, b, c, d, e, f = tf.unstack(matrix[:6])
    x = tf.range(tf.cast(width, tf.float32))  # (W,)
    y = tf.range(tf.cast(height, tf.float32))[:, tf.newaxis]  # (H, 1)
    column = tf.cast(tf.floor(a * x + (c + 0.5) + b * y), tf.int32)  # (H, W)
    row = tf.cast(tf.floor(d * x + (f + 0.5) + e * y), tf.int32)  # (H, W)
    column = tf.clip_by_value(column, -1, width) + 1
    row = tf.clip_by_value(row, -1, height) + 1
    frame = [[1, 1], [1, 1], [0, 0]]
    framed = tf.pad(image, frame, constant_values=tf.constant(fill, tf.uint8))
    moved = tf.gather(tf.reshape(framed, (-1, 3)), row * (width + 2) + column)
    return tf.ensure_shape(moved, image.shape)
