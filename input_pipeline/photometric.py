"""Colour, blur, noise and JPEG's artefacts.

Keras' and keras-cv's layers draw from a generator with a state, so that an example could not be
made again from its seed. See benchmarks/augmentation.py for what each costs beside theirs.
"""

import math

import tensorflow as tf

from input_pipeline.ops import Features, Op, fold

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's conversion to grey


def color_jitter(
    brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0
) -> Op:
    """Changes brightness, contrast and saturation by factors in [1 − x, 1 + x], and the hue.

    In this order: brightness towards black, contrast towards the mean grey, saturation towards
    the pixel's grey, all three as Pillow's ImageEnhance, but clipped once; then the hue by a share
    of the circle in [−hue, hue].

    The first three together are one matrix: 1.0 ms per 512 × 512 image on one core, a third of
    what tf.image's functions take; the hue is tf.image's kernel, 1.5 ms.
    """
    for value in (brightness, contrast, saturation):
        if not 0 <= value <= 1:
            raise ValueError(f"expected changes from 0 to 1. Received: {value}")

    def op(features: Features) -> Features:
        seed = fold(features, "color_jitter")
        draws = tf.unstack(tf.random.stateless_uniform((4,), seed, -1.0, 1.0))
        largest = (brightness, contrast, saturation)
        factors = [1.0 + draw * most for draw, most in zip(draws, largest, strict=False)]
        image = features["image"]
        if any(largest):
            image = enhance(image, *factors)
        if hue:
            turned = tf.raw_ops.AdjustHue(images=tf.cast(image, tf.float32), delta=draws[3] * hue)
            image = to_uint8(turned + 0.5)
        return {**features, "image": image}

    return op


def enhance(image: tf.Tensor, brightness=1.0, contrast=1.0, saturation=1.0) -> tf.Tensor:
    """Multiplies brightness, contrast and saturation of uint8 `(H, W, 3)` by the factors () ."""
    pixels = tf.reshape(tf.cast(image, tf.float32), (-1, 3))  # (HW, 3)
    luma = tf.constant(LUMA)[:, tf.newaxis]  # (3, 1)
    grey = tf.matmul(_channel_means(image)[tf.newaxis], luma)[0, 0]
    matrix = contrast * brightness * (saturation * tf.eye(3) + (1.0 - saturation) * luma)
    offset = (1.0 - contrast) * brightness * grey
    changed = to_uint8(tf.matmul(pixels, matrix) + (offset + 0.5))  # (HW, 3)
    return tf.ensure_shape(tf.reshape(changed, tf.shape(image)), image.shape)


def _channel_means(image: tf.Tensor) -> tf.Tensor:
    # Row by row first: three times as fast as one reduction to three numbers.
    rows = tf.reshape(tf.cast(image, tf.float32), (tf.shape(image)[0], -1))  # (H, 3W)
    return tf.reduce_mean(tf.reshape(tf.reduce_mean(rows, 0), (-1, 3)), 0)  # (3,)


def to_uint8(values: tf.Tensor) -> tf.Tensor:
    """Clips and drops the fraction: add 0.5 before, where it is cheap, to round."""
    return tf.cast(tf.clip_by_value(values, 0.0, 255.0), tf.uint8)


def blur(sigma: tuple[float, float]) -> Op:
    """Gaussian blur with a standard deviation in the range `sigma`, pixels.

    The kernel ends at 3 times the largest; at the border the image is mirrored. Two depthwise
    convolutions: 0.8 ms per 224 × 224 image at radius 6, 3.5 per 512 × 512. keras-cv's layer takes
    0.5 and 3.5 and draws darker borders; sums of shifted images take 8, other convolutions 6.4.
    """
    low, high = sigma
    if not 0 < low <= high:
        raise ValueError(f"expected a range above 0, low end first. Received: {sigma}")
    radius = math.ceil(3 * high)

    def op(features: Features) -> Features:
        image = features["image"]
        width = tf.random.stateless_uniform((), fold(features, "blur"), low, high)
        places = tf.range(-radius, radius + 1, dtype=tf.float32)
        weights = tf.exp(-0.5 * tf.square(places / width))
        weights = weights / tf.reduce_sum(weights)  # (2 radius + 1,)
        kernel = tf.tile(weights[:, tf.newaxis, tf.newaxis, tf.newaxis], (1, 1, 3, 1))
        padded = tf.cast(_mirrored(image, radius), tf.float32)[tf.newaxis]
        for each in (kernel, tf.transpose(kernel, (1, 0, 2, 3))):
            padded = tf.nn.depthwise_conv2d(padded, each, (1, 1, 1, 1), "VALID")
        return {**features, "image": tf.ensure_shape(to_uint8(padded[0] + 0.5), image.shape)}

    return op


def _mirrored(image: tf.Tensor, width: int) -> tf.Tensor:
    """Extends `image` by mirrored borders: 0.2 ms for 512 × 512, where tf.pad takes 2.8."""
    tf.debugging.assert_greater_equal(
        tf.shape(image)[:2], width, "expected sides of at least 3 times the largest sigma"
    )
    top, bottom = tf.reverse(image[:width], [0]), tf.reverse(image[-width:], [0])
    image = tf.concat([top, image, bottom], 0)
    left, right = tf.reverse(image[:, :width], [1]), tf.reverse(image[:, -width:], [1])
    return tf.concat([left, image, right], 1)


def noise(sigma: tuple[float, float]) -> Op:
    """Adds Gaussian noise with a standard deviation in the range `sigma`, grey levels.

    One random byte per value goes through `_normal_quantile`: 2.4 ms per 512 × 512 image, where
    tf.random.stateless_normal takes 4.5 times as long.
    """
    low, high = sigma
    if not 0 <= low <= high:
        raise ValueError(f"expected a range from 0, low end first. Received: {sigma}")

    def op(features: Features) -> Features:
        image, seed = features["image"], fold(features, "noise")
        width = tf.random.stateless_uniform((), seed, low, high)
        centered = tf.cast(random_bytes(tf.shape(image), seed), tf.float32) - 127.5
        added = _normal_quantile(centered / 128.0) * width
        noisy = to_uint8(tf.cast(image, tf.float32) + added + 0.5)
        return {**features, "image": tf.ensure_shape(noisy, image.shape)}

    return op


def _normal_quantile(u: tf.Tensor) -> tf.Tensor:
    """Maps 256 even steps in (−1, 1) to the normal distribution, standard deviation 1.

    A rational function fitted to the exact quantiles by least squares: at most 0.04 away.
    """
    v = u * u
    return u * (1.23297 - 1.14528 * v) / (1.0 + v * (0.29628 * v - 1.27053))


def random_bytes(shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Returns uint8 of `shape`, every value as likely; four for each draw."""
    count = tf.reduce_prod(shape)
    draws = tf.random.stateless_uniform([(count + 3) // 4], seed, None, None, tf.int32)
    return tf.reshape(tf.reshape(tf.bitcast(draws, tf.uint8), [-1])[:count], shape)


def jpeg_quality(low: int, high: int) -> Op:
    """Encodes `image` as a JPEG of a quality in [low, high) and decodes it again.

    1.3 ms per 512 × 512 image.
    """

    def op(features: Features) -> Features:
        seed, image = fold(features, "jpeg_quality"), features["image"]
        coded = tf.image.stateless_random_jpeg_quality(image, low, high, seed)
        return {**features, "image": tf.ensure_shape(coded, image.shape)}

    return op
