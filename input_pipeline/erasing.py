"""Rectangles of an image covered: cutout and random erasing.

The image is cut apart and put together around the patch: 0.1 ms per 512 × 512 image, where a mask
and tf.where take 2.6, and keras-cv's cutout and Keras' random erasing 20 and 50 times as long as
ours. Their layers draw from a generator with a state, so that an example could not be made again
from its seed. See benchmarks/augmentation.py.
"""

import tensorflow as tf

from input_pipeline.crops import pixel_window
from input_pipeline.ops import Features, Op, fold
from input_pipeline.photometric import random_bytes


def cutout(side: int, fill: int = 128) -> Op:
    """Covers a square of `side` pixels whose middle is anywhere; it may hang over the border.

    Reference: DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with
    Cutout", arXiv:1708.04552.
    """

    def op(features: Features) -> Features:
        image = features["image"]
        whole = tf.shape(image)[:2]
        draws = tf.random.stateless_uniform((2,), fold(features, "cutout"))
        middle = tf.cast(draws * tf.cast(whole, tf.float32), tf.int32)
        begin = tf.maximum(middle - side // 2, 0)
        end = tf.minimum(middle - side // 2 + side, whole)
        patch = tf.fill(tf.concat([end - begin, [3]], 0), tf.constant(fill, tf.uint8))
        return {**features, "image": cover(image, begin, patch)}

    return op


def random_erasing(
    area: tuple[float, float] = (0.02, 0.4),
    ratio: tuple[float, float] = (0.3, 1 / 0.3),
    fill: int | None = None,
) -> Op:
    """Covers a window of an area share in `area` with a width-to-height ratio in `ratio`.

    `fill` is a grey level; None gives every value of the window a random one, the best of the
    paper's choices. Its probability of 1/2 is `ops.maybe`'s. Reference: Zhong et al., "Random
    Erasing Data Augmentation", arXiv:1708.04896.
    """
    window = pixel_window(area, ratio)

    def op(features: Features) -> Features:
        image = features["image"]
        place = window(fold(features, "random_erasing"), tf.shape(image)[:2])
        shape = tf.concat([place[2:], [3]], 0)
        if fill is None:
            patch = random_bytes(shape, fold(features, "random_erasing's values"))
        else:
            patch = tf.fill(shape, tf.constant(fill, tf.uint8))
        return {**features, "image": cover(image, place[:2], patch)}

    return op


def cover(image: tf.Tensor, corner: tf.Tensor, patch: tf.Tensor) -> tf.Tensor:
    """Puts `patch` uint8 (h, w, 3) into `image` (H, W, 3), its top left at `corner` (2,)."""
    top, left = tf.unstack(corner)
    height, width, _ = tf.unstack(tf.shape(patch))
    bottom, right = top + height, left + width
    middle = tf.concat([image[top:bottom, :left], patch, image[top:bottom, right:]], 1)
    return tf.ensure_shape(tf.concat([image[:top], middle, image[bottom:]], 0), image.shape)
