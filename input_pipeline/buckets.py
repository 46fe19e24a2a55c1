"""Aspect-ratio buckets: a few fixed shapes, so that images keep their proportions on a TPU."""

import dataclasses
import itertools
import math

import tensorflow as tf

from input_pipeline import schema
from input_pipeline.ops import Features, Op, bilinear


@dataclasses.dataclass(frozen=True)
class Buckets:
    """The shapes that images are resized to.

    Attributes:
        shapes: height and width of each bucket, in pixels.
    """

    shapes: tuple[tuple[int, int], ...]

    @classmethod
    def of_size(
        cls,
        size: int,
        count: int = 12,
        ratios: tuple[float, float] = (0.25, 2.0),
        multiple: int = 32,
    ) -> "Buckets":
        """Makes `count` shapes of about size² pixels.

        Their width-to-height ratios go from the first to the second of `ratios` in equal factors,
        as near as sides that are multiples of `multiple` pixels allow. For multi-scale training
        take several sizes: the bucket of an image stays nearly the same.

        Raises:
            ValueError: the size is too small for as many different shapes.
        """
        factor = (ratios[1] / ratios[0]) ** (1 / max(count - 1, 1))
        wanted = [ratios[0] * factor**number for number in range(count)]
        shapes = tuple(_nearest_shape(size, ratio, multiple) for ratio in wanted)
        if len(set(shapes)) < count:
            raise ValueError(
                f"expected a size with {count} different shapes of multiples of {multiple} "
                f"pixels. Received: {size}, which has {len(set(shapes))}"
            )
        return cls(shapes)

    def choose(self, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
        """Returns the bucket, () int32, whose aspect ratio is nearest to the image's."""
        ratios = tf.constant([math.log(wide / high) for high, wide in self.shapes], tf.float32)
        ratio = tf.math.log(tf.cast(width, tf.float32) / tf.cast(height, tf.float32))
        return tf.argmin(tf.abs(ratios - ratio), output_type=tf.int32)


def _nearest_shape(size: int, ratio: float, multiple: int) -> tuple[int, int]:
    sides = range(multiple, math.ceil(size * max(ratio, 1 / ratio)) + 2 * multiple, multiple)

    def error(shape: tuple[int, int]) -> float:
        height, width = shape
        area, proportion = height * width / size**2, width / height / ratio
        return math.log(area) ** 2 + math.log(proportion) ** 2

    return min(itertools.product(sides, sides), key=error)


def choose_bucket(buckets: Buckets) -> Op:
    """Sets `bucket`, () int32, by the sides of `image` or, before decoding, by the stored ones."""

    def op(features: Features) -> Features:
        if "image" in features:
            height, width, _ = tf.unstack(tf.shape(features["image"]))
        else:
            height, width = features[schema.HEIGHT], features[schema.WIDTH]
        return {**features, "bucket": buckets.choose(height, width)}

    return op


def resize_to_bucket(buckets: Buckets, antialias: bool = False) -> Op:
    """Resizes `image` to the shape of its `bucket`.

    The static shape is (None, None, 3), for it depends on the example: group by `bucket` before
    batching, and give the batches of bucket b `tf.ensure_shape` of `buckets.shapes[b]`.
    """

    def op(features: Features) -> Features:
        shape = tf.gather(tf.constant(buckets.shapes), features["bucket"])
        return {**features, "image": bilinear(features["image"], shape, antialias)}

    return op
