"""Batches of images with boxes: decode, flip, scale, place on a canvas; static shapes throughout.

Boxes are padded to the largest number in an image of the set. Every random choice follows from the
seed, the epoch and the position, and an order is computed rather than kept, so that a run that goes
on from any step sees what one in a single piece sees.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from detection.boxes import BoxSet
from input_pipeline import ops
from input_pipeline.shares import Share

GREY = 124  # of the canvas around an image, near the mean of photographs
NO_CLASS = -1.0
LEAST_VISIBLE = 0.3  # share of an object's area; what is left of others is no example of it
LEAST_SIDE = 2.0  # pixels

_BLANK_SIDE = 16  # pixels


@dataclasses.dataclass(frozen=True)
class Variation:
    """How training images vary.

    Attributes:
        scales: smallest and largest size, times that at which the image just fits the canvas; drawn
            evenly on a logarithmic scale. The canvas keeps its size: what stands out is cut off.
        flip: whether half of the images are mirrored.
    """

    scales: tuple[float, float] = (0.5, 1.5)
    flip: bool = True

    def __post_init__(self):
        low, high = self.scales
        if not 0 < low <= high:
            raise ValueError(f"scales: expected 0 < smallest <= largest. Received: {self.scales}")


def padded_boxes(found: BoxSet) -> np.ndarray:
    """Returns `(M, N, 5)` float32: corners in pixels and the number of the class, −1 for none."""
    number = {name: index for index, name in enumerate(found.classes)}
    most = max((len(image.boxes) for image in found.images), default=0)
    padded = np.zeros((len(found.images), max(most, 1), 5), np.float32)
    padded[..., 4] = NO_CLASS
    for row, image in zip(padded, found.images, strict=True):
        row[: len(image.boxes), :4] = image.boxes
        row[: len(image.boxes), 4] = [number[name] for name in image.labels]
    return padded


def training_batches(
    found: BoxSet,
    *,
    image_size: int,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    variation: Variation | None = None,
    share: Share | None = None,
) -> tf.data.Dataset:
    """Endless batches, epoch after epoch, each in an order of its own.

    An image that does not decode keeps its place as a grey one of weight 0.

    Args:
        found: the images and boxes.
        image_size: side S of the canvas.
        batch_size: global batch B; an epoch is num_images // B steps.
        seed: of the order and the variation.
        first_step: steps already done.
        variation: see `Variation`.
        share: this host's rows of each batch; None for whole batches.

    Returns:
        Dataset of (image uint8 `(B, S, S, 3)`, boxes float32 `(B, N, 5)`, weight float32 `(B,)`),
        or of a share's pieces.

    Raises:
        ValueError: fewer images than one batch.
    """
    share, variation = share or Share(), variation or Variation()
    count = len(found.images)
    if count < batch_size:
        raise ValueError(
            f"expected at least one batch of {batch_size} images with boxes. Received: {count}"
        )
    rows = share.rows(batch_size)
    per_epoch = count // batch_size * batch_size
    paths = tf.constant([image.path for image in found.images])
    boxes = tf.constant(padded_boxes(found))

    def example(number):
        position = number // len(rows) * batch_size + rows.start + number % len(rows)
        epoch, place = position // per_epoch, position % per_epoch
        order = tf.stack([tf.constant(seed, tf.int64), epoch])
        index = tf.random.experimental.index_shuffle(place, order, count - 1)
        features = _decoded_or_blank(tf.gather(paths, index))
        features["boxes"] = tf.gather(boxes, index)
        features["seed"] = tf.stack([seed * 1_000_003 + epoch, place])
        return _varied(features, image_size, variation)

    numbers = tf.data.Dataset.range(first_step * len(rows), np.iinfo(np.int64).max)
    examples = numbers.map(example, num_parallel_calls=tf.data.AUTOTUNE)
    batches = examples.batch(share.piece_size(batch_size), drop_remainder=True)
    endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
    return batches.apply(endless).prefetch(tf.data.AUTOTUNE)


def ids_of_batch(found: BoxSet, *, batch_size: int, seed: int, step: int) -> list[str]:
    """Returns the ids of the images of the batch after `step` steps."""
    count = len(found.images)
    per_epoch = count // batch_size * batch_size
    epoch, first = divmod(step * batch_size, per_epoch)  # no batch lies in two epochs
    places = np.arange(first, first + batch_size, dtype=np.int64)
    order = tf.random.experimental.index_shuffle(places, tf.constant([seed, epoch]), count - 1)
    return [found.images[index].id for index in order.numpy()]


def place(image, boxes, *, size: int, scale, slack) -> tuple[tf.Tensor, tf.Tensor]:
    """Scales an image, keeping its shape, and puts it on a canvas; what stands out is cut off.

    Args:
        image: uint8 `(H, W, 3)`.
        boxes: float32 `(N, 5)`.
        size: side S of the canvas.
        scale: 1 where the longer side of the image just fits.
        slack: `(2,)` in [0, 1]: which part of the free space lies above and left of the image, or
            of what stands out.

    Returns:
        uint8 `(S, S, 3)`, and the boxes in its pixels. The class of those of which less than
        `LEAST_VISIBLE` or `LEAST_SIDE` is left is −1.
    """
    shape = tf.cast(tf.shape(image)[:2], tf.float32)  # height, width
    ratio = size * scale / tf.reduce_max(shape)
    scaled = tf.maximum(tf.round(shape * ratio), 1.0)
    free = size - scaled
    offset = tf.where(free >= 0, tf.floor(slack * free), -tf.floor(slack * -free))
    resized = ops.bilinear(image, tf.cast(scaled, tf.int32), antialias=True)
    cut = tf.cast(tf.maximum(-offset, 0.0), tf.int32)
    kept = resized[cut[0] : cut[0] + size, cut[1] : cut[1] + size]
    start = tf.cast(tf.maximum(offset, 0.0), tf.int32)
    end = size - start - tf.shape(kept)[:2]
    canvas = tf.pad(kept, [[start[0], end[0]], [start[1], end[1]], [0, 0]], constant_values=GREY)
    factors = tf.tile((scaled / shape)[::-1], [2])  # of x, y, x, y
    moved = boxes[:, :4] * factors + tf.tile(offset[::-1], [2])
    return tf.ensure_shape(canvas, (size, size, 3)), _cut(moved, boxes[:, 4], size)


def _cut(corners, classes, size: int) -> tf.Tensor:
    inside = tf.clip_by_value(corners, 0.0, float(size))
    sides, whole = inside[:, 2:] - inside[:, :2], corners[:, 2:] - corners[:, :2]
    area = tf.reduce_prod(whole, axis=1)
    visible = tf.reduce_prod(sides, axis=1) >= LEAST_VISIBLE * area
    visible &= tf.reduce_min(sides, axis=1) >= LEAST_SIDE
    classes = tf.where(visible, classes, NO_CLASS)
    return tf.concat([inside, classes[:, None]], axis=1)


def _varied(features: ops.Features, size: int, variation: Variation) -> tuple:
    draws = tf.random.stateless_uniform((4,), ops.fold(features, "detection variation"))
    low, high = variation.scales
    scale = low * (high / low) ** draws[0]
    image, boxes = place(
        features["image"], features["boxes"], size=size, scale=scale, slack=draws[1:3]
    )
    if variation.flip:
        mirror = draws[3] < 0.5
        image = tf.where(mirror, image[:, ::-1], image)
        xmin, ymin, xmax, ymax, label = tf.unstack(boxes, axis=1)
        mirrored = tf.stack([size - xmax, ymin, size - xmin, ymax, label], axis=1)
        boxes = tf.where(mirror, mirrored, boxes)
    weight = tf.cast(features["is_readable"], tf.float32)
    return image, boxes, weight


def _decoded_or_blank(path: tf.Tensor) -> ops.Features:
    """Returns the image of a file, or a small grey one if it cannot be read or decoded."""
    blank = tf.fill((_BLANK_SIDE, _BLANK_SIDE, 3), tf.constant(GREY, tf.uint8))
    nothing = tf.data.Dataset.from_tensors((blank, tf.constant(False)))
    one = tf.data.Dataset.from_tensors(path)
    decoded = one.map(lambda name: (ops.decode_image(tf.io.read_file(name)), tf.constant(True)))
    image, is_readable = decoded.ignore_errors().concatenate(nothing).take(1).get_single_element()
    warning = "warning: an image does not decode and gets weight 0:"
    tf.cond(is_readable, tf.no_op, lambda: tf.print(warning, path))
    return {"image": image, "is_readable": is_readable}
