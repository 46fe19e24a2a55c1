"""Windows of an image, random or fixed, and a JPEG decoder that reads no more than the window."""

import math
from collections.abc import Callable

import tensorflow as tf

from input_pipeline import schema
from input_pipeline.ops import Features, Op, Square, decode_image, fold

# From a seed (2,) and an image's height and width (2,) int32 to top, left, height, width (4,) int32
Window = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

ATTEMPTS = 10


def relative_window(smallest_area: float, largest_ratio: float = 4 / 3) -> Window:
    """A window of an area share in [smallest_area, 1], sides' ratio up to largest_ratio.

    The ratio is relative to the image's own, for a square resize distorts that away.
    """

    def window(seed: tf.Tensor, sides: tf.Tensor) -> tf.Tensor:
        draws = tf.random.stateless_uniform((4,), seed)
        area = smallest_area + (1.0 - smallest_area) * draws[0]
        ratio = tf.exp((2.0 * draws[1] - 1.0) * math.log(largest_ratio) / 2.0)
        shares = tf.minimum(tf.sqrt(tf.stack([area * ratio, area / ratio])), 1.0)  # (2,)
        size = tf.maximum(tf.cast(shares * tf.cast(sides, tf.float32), tf.int32), 1)
        return _placed(size, sides, draws[2:])

    return window


def pixel_window(
    area: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3)
) -> Window:
    """A window of an area share in `area` and a width-to-height ratio, in pixels, in `ratio`.

    The area is uniform, the ratio log-uniform; the first of ten draws that fits the image is
    taken, or, where none does, one of them shrunk until it fits. It takes 25 µs. TensorFlow's
    `stateless_sample_distorted_bounding_box` takes 9 but draws the height evenly, not the area.
    Reference: Szegedy et al., "Going Deeper with Convolutions", arXiv:1409.4842.
    """
    for low, high in (area, ratio):
        if not 0 < low <= high:
            raise ValueError(f"expected a range above 0, low end first. Received: {(low, high)}")

    def window(seed: tf.Tensor, sides: tf.Tensor) -> tf.Tensor:
        draws = tf.random.stateless_uniform((2, ATTEMPTS + 1), seed)
        whole = tf.cast(sides, tf.float32)  # (2,)
        areas = (area[0] + (area[1] - area[0]) * draws[0, :-1]) * whole[0] * whole[1]
        spread = math.log(ratio[1] / ratio[0])
        ratios = ratio[0] * tf.exp(spread * draws[1, :-1])
        sizes = tf.sqrt(tf.stack([areas / ratios, areas * ratios], 1))  # (ATTEMPTS, 2)
        fits = tf.reduce_all(tf.round(sizes) <= whole, 1)
        size = sizes[tf.argmax(tf.cast(fits, tf.int32))]
        size = size * tf.minimum(tf.reduce_min(whole / size), 1.0)
        size = tf.clip_by_value(tf.cast(tf.round(size), tf.int32), 1, sides)
        return _placed(size, sides, draws[:, -1])

    return window


def _placed(size: tf.Tensor, sides: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Puts a window of `size` (2,) where the `draws` (2,) in [0, 1) say: every place as likely."""
    places = tf.cast(sides - size + 1, tf.float32)
    corner = tf.minimum(tf.cast(draws * places, tf.int32), sides - size)
    return tf.concat([corner, size], 0)


def crop(window: Window) -> Op:
    """Cuts the window out of `image`."""

    def op(features: Features) -> Features:
        image = features["image"]
        place = window(fold(features, "crop"), tf.shape(image)[:2])
        return {**features, "image": _cut(image, place)}

    return op


def decode_and_crop(window: Window) -> Op:
    """Decodes into `image` what `decode` and then `crop` would, leaving out rows of a JPEG.

    The sides are the stored ones. With `pixel_window` it takes 0.9 of the time for 1-megapixel
    photographs and as long for those of 350 pixels: see benchmarks/augmentation.py.
    """

    def op(features: Features) -> Features:
        encoded = features[schema.ENCODED]
        sides = tf.stack([features[schema.HEIGHT], features[schema.WIDTH]])
        place = window(fold(features, "crop"), tf.cast(sides, tf.int32))
        top, left, height, width = tf.unstack(place)

        def jpeg() -> tf.Tensor:
            # Whole rows: leaving out columns too takes longer, and the decoder's interpolation of
            # chroma would change the first and last column by up to 27 grey levels.
            rows = tf.stack([top, 0, height, tf.cast(sides[1], tf.int32)])
            return tf.image.decode_and_crop_jpeg(encoded, rows, channels=3)

        def other() -> tf.Tensor:
            return decode_image(encoded)[top : top + height]

        image = tf.cond(tf.io.is_jpeg(encoded), jpeg, other)[:, left : left + width]
        return {**features, "image": tf.ensure_shape(image, (None, None, 3))}

    return op


def _cut(image: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    begin, size = tf.concat([place[:2], [0]], 0), tf.concat([place[2:], [3]], 0)
    return tf.ensure_shape(tf.slice(image, begin, size), (None, None, 3))


def random_crop(smallest_area: float, largest_ratio: float = 4 / 3) -> Op:
    """Cuts out a `relative_window`."""
    return crop(relative_window(smallest_area, largest_ratio))


def random_resized_crop(
    size: int,
    area: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    antialias: bool = False,
) -> Op:
    """Cuts out a `pixel_window` and resizes it to (size, size, 3)."""
    cut, square = crop(pixel_window(area, ratio)), Square(size, antialias)

    def op(features: Features) -> Features:
        features = cut(features)
        return {**features, "image": square(features["image"])}

    return op


def random_crop_of(height: int, width: int) -> Op:
    """Cuts a window of height × width pixels out of `image`, which is at least as large."""

    def op(features: Features) -> Features:
        seed = fold(features, "random_crop_of")
        image = tf.image.stateless_random_crop(features["image"], (height, width, 3), seed)
        return {**features, "image": image}

    return op


def center_crop(height: int, width: int) -> Op:
    """Cuts the middle height × width pixels out of `image`, which is at least as large."""

    def op(features: Features) -> Features:
        return {**features, "image": _windows(features["image"], height, width)[-1]}

    return op


def ten_crop(height: int, width: int) -> Op:
    """Makes `image` (10, height, width, 3): the four corners and the middle, then their mirrors.

    The order is top left, top right, bottom left, bottom right, middle. Reference: Krizhevsky et
    al., "ImageNet Classification with Deep Convolutional Neural Networks", NIPS 2012.
    """

    def op(features: Features) -> Features:
        five = tf.stack(_windows(features["image"], height, width))  # (5, height, width, 3)
        return {**features, "image": tf.concat([five, tf.reverse(five, [2])], 0)}

    return op


def _windows(image: tf.Tensor, height: int, width: int) -> list[tf.Tensor]:
    free = tf.shape(image)[:2] - (height, width)
    down, right = free[0], free[1]
    corners = [(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)]
    return [tf.slice(image, (top, left, 0), (height, width, 3)) for top, left in corners]
