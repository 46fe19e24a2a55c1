"""What the tests of the image ops share."""

import itertools

import numpy as np
import tensorflow as tf
from PIL import Image


def picture(height=28, width=28, seed=1):
    """A photograph's smoothness with a little noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), int)
    return np.clip(smooth + rng.integers(-9, 10, (height, width, 3)), 0, 255).astype(np.uint8)


def features(image, seed=0):
    return {"image": tf.constant(image), "seed": tf.constant([7, seed], tf.int64)}


def seeds(count):
    """A dataset of `count` seeds."""
    return tf.data.Dataset.range(count).map(lambda i: tf.stack([tf.constant(3, tf.int64), i]))


def slow_bilinear(image, height, width):
    """Bilinear interpolation between pixel centres, one pixel at a time."""
    result = np.zeros((height, width, 3))
    for i, j in itertools.product(range(height), range(width)):
        y = min(max((i + 0.5) * image.shape[0] / height - 0.5, 0), image.shape[0] - 1)
        x = min(max((j + 0.5) * image.shape[1] / width - 0.5, 0), image.shape[1] - 1)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, image.shape[0] - 1), min(left + 1, image.shape[1] - 1)
        upper = image[top, left] * (1 - x + left) + image[top, right] * (x - left)
        lower = image[bottom, left] * (1 - x + left) + image[bottom, right] * (x - left)
        result[i, j] = upper * (1 - y + top) + lower * (y - top)
    return result
