"""From shards to batches of (image, label, weight), with static shapes, the same in every run."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from input_pipeline import examples, ops, schema, shares
from input_pipeline.class_weights import clean_class_weights, total_class_weights
from input_pipeline.shares import Share

TRAINING_SPLITS = {
    "clean": (schema.TRAIN_CLEAN,),
    "total": (schema.TRAIN_CLEAN, schema.TRAIN_NOISY),
}


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """The clean or the total set of a data directory, as training needs it.

    Attributes:
        manifest: what the shards hold.
        data: "clean" or "total".
    """

    manifest: schema.Manifest
    data: str

    def __post_init__(self):
        if self.data not in TRAINING_SPLITS:
            raise ValueError(f"data: expected 'clean' or 'total'. Received: {self.data!r}")

    @property
    def num_classes(self) -> int:
        """Classes of this set: C of the softmax."""
        if self.data == "clean":
            return self.manifest.num_clean_classes
        return self.manifest.num_classes

    @property
    def num_images(self) -> int:
        """Training images of this set."""
        return sum(self.manifest.images(split) for split in self.splits)

    @property
    def num_validation_images(self) -> int:
        """Validation images; 0 where the data directory has none."""
        return self.manifest.images(schema.VALIDATION)

    def class_weights(self, noisy_weight: float) -> np.ndarray:
        """Returns the `(C,)` float32 weights of the classes, see `input_pipeline.class_weights`."""
        clean, noisy = map(np.asarray, (self.manifest.clean_counts, self.manifest.noisy_counts))
        if self.data == "clean":
            return clean_class_weights(clean[clean > 0])
        return total_class_weights(clean, noisy, noisy_weight)

    def shard_paths(self) -> list[str]:
        """Returns the training shards' paths."""
        return self.manifest.shard_paths(*self.splits)

    def shard_counts(self) -> list[int]:
        """Returns the number of images in each of the training shards."""
        return [shard.images for name in self.splits for shard in self.manifest.splits[name]]

    def class_counts(self) -> np.ndarray:
        """Returns the `(C,)` int64 numbers of training images of the classes."""
        clean, noisy = map(np.asarray, (self.manifest.clean_counts, self.manifest.noisy_counts))
        return clean[clean > 0] if self.data == "clean" else clean + noisy

    def labelling(self, noisy_weight: float, class_weights: bool = True) -> list[ops.Op]:
        """Returns the ops that set `label` and `weight` of a training image."""
        weights = self.class_weights(noisy_weight) if class_weights else np.ones(self.num_classes)
        table = tf.constant(weights, tf.float32)
        return [ops.map_label(self.label_table()), ops.weigh(table, noisy_weight)]

    @property
    def first_label(self) -> int:
        """The smallest stored label of a class in this set."""
        if self.data == "clean":
            return int(np.argmax(self.manifest.clean_labels() >= 0))
        return 0

    def label_table(self) -> tf.Tensor | None:
        """Returns stored label → label of this set, or None where they are the same."""
        return tf.constant(self.manifest.clean_labels()) if self.data == "clean" else None

    @property
    def splits(self) -> Sequence[str]:
        """The splits of the training images, in the order of `shard_paths`."""
        return [name for name in TRAINING_SPLITS[self.data] if name in self.manifest.splits]


def training_batches(
    images: ImageSet,
    *,
    square: ops.Square | Sequence[ops.Square] | ops.Op,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    noisy_weight: float = 1.0,
    class_weights: bool = True,
    augmentation: Sequence[ops.Op] = (),
    crop: ops.Op | None = None,
    share: Share | None = None,
) -> tf.data.Dataset:
    """Endless batches, epoch after epoch, each in an order of its own.

    The order and every random choice follow from `seed`, TensorFlow's global seed, the epoch and
    the position. A batch is B consecutive positions, whatever they hold: an image that does not
    decode keeps its place with weight 0. So a run that starts at `first_step` sees exactly what an
    uninterrupted one sees from there, and what it reads before the first batch does not grow with
    the step; see `order`. Neither does a batch depend on the number of hosts; see `shares`.

    Args:
        images: the set.
        square: the resize to S × S pixels; of several, one is drawn for each batch; or an op that
            brings images to one shape in a way of its own.
        batch_size: global batch B; an epoch is num_images // B steps, the rest is left out.
        seed: of the order and the augmentation.
        first_step: steps already done.
        noisy_weight: loss weight of an image outside the clean set.
        class_weights: False gives every class the weight 1.
        augmentation: ops on the resized image.
        crop: an op on the image as decoded.
        share: this host's rows of each batch; None for whole batches.

    Returns:
        Dataset of (image uint8 `(B, S, S, 3)`, label int32 `(B,)`, weight float32 `(B,)`), or of a
        share's pieces, that many for each step. With several squares S is not part of the static
        shape, and a function compiled for a batch is compiled once for each.

    Raises:
        ValueError: fewer images than one batch, or a batch that cannot be shared equally.
    """
    share = share or Share()
    if images.num_images < batch_size:
        raise ValueError(
            f"expected at least one batch of {batch_size} training images in "
            f"{images.manifest.directory}. Received: {images.num_images}"
        )
    records = shares.training_records(
        images.shard_paths(),
        images.shard_counts(),
        seed=seed,
        batch_size=batch_size,
        first_step=first_step,
        share=share,
    )
    chain = [*([crop] if crop else []), sizing(square, batch_size), *augmentation]
    chain += images.labelling(noisy_weight, class_weights)
    return endless_batches(images, records, chain, share.piece_size(batch_size))


def endless_batches(
    images: ImageSet,
    records: tf.data.Dataset,
    chain: Sequence[ops.Op],
    batch_size: int,
) -> tf.data.Dataset:
    """Makes batches of `batch_size` of endless records of a set, see `examples.prepare`."""
    prepared = examples.prepare(records, chain, blank_label=images.first_label)
    batches = prepared.batch(batch_size, drop_remainder=True)
    # Hosts that know this need not ask each other before each step whether a batch is left.
    endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
    return batches.apply(endless).prefetch(tf.data.AUTOTUNE)


def sizing(square: ops.Square | Sequence[ops.Square] | ops.Op, batch_size: int) -> ops.Op:
    """Returns the op for what `training_batches` calls `square`."""
    if isinstance(square, ops.Square):
        return ops.resize(square)
    if isinstance(square, Sequence):
        return _resize_batchwise(square, batch_size)
    return square


def validation_batches(
    images: ImageSet, *, square: ops.Square, batch_size: int, share: Share | None = None
) -> tf.data.Dataset:
    """The validation images once, in order, unweighted.

    The last batch is filled up with weight 0, so that shapes are static and every image counts
    exactly once.

    Args:
        images: the set whose labels are wanted.
        square: the resize to S × S pixels.
        batch_size: global batch B.
        share: this host's rows of each batch; None for whole batches.

    Returns:
        Dataset of (image uint8 `(B, S, S, 3)`, label int32 `(B,)`, weight float32 `(B,)`), or of a
        share's pieces, on every host equally many.
    """
    share = share or Share()
    size = share.piece_size(batch_size)
    paths = images.manifest.shard_paths(schema.VALIDATION)
    ones = tf.ones((images.num_classes,))
    chain = [ops.resize(square), ops.map_label(images.label_table()), ops.weigh(ones)]
    records = shares.validation_records(paths, batch_size=batch_size, share=share)
    prepared = examples.prepare(records, chain, blank_label=images.first_label)
    batches = prepared.batch(size).map(lambda *batch: _fill_up(batch, size))
    filling = tf.data.Dataset.from_tensors(_filling(batches)).repeat()
    steps = -(-images.num_validation_images // batch_size)
    return batches.concatenate(filling).take(steps * share.pieces).prefetch(tf.data.AUTOTUNE)


def _resize_batchwise(squares: Sequence[ops.Square], batch_size: int) -> ops.Op:
    """Resizes all images of a batch to the same one of `squares`."""
    if len({square.antialias for square in squares}) != 1:
        raise ValueError(f"expected squares, all with antialias or none. Received: {squares}")
    sizes = tf.constant([square.size for square in squares])

    def op(features: ops.Features) -> ops.Features:
        epoch_seed, position = tf.unstack(features["seed"])
        batch = {"seed": tf.stack([epoch_seed, position // batch_size])}
        seed = ops.fold(batch, "resize_batchwise")
        size = tf.gather(sizes, tf.random.stateless_uniform((), seed, 0, len(squares), tf.int32))
        image = ops.bilinear(features["image"], tf.stack([size, size]), squares[0].antialias)
        return {**features, "image": image}

    return op


def _filling(batches: tf.data.Dataset) -> tuple[tf.Tensor, ...]:
    """Returns a batch of black images that count for nothing."""
    return tuple(tf.zeros(spec.shape, spec.dtype) for spec in batches.element_spec)


def _fill_up(batch: Sequence[tf.Tensor], batch_size: int) -> tuple[tf.Tensor, ...]:
    missing = batch_size - tf.shape(batch[0])[0]

    def fill(values: tf.Tensor) -> tf.Tensor:
        paddings = [[0, missing]] + [[0, 0]] * (values.shape.rank - 1)
        return tf.ensure_shape(tf.pad(values, paddings), (batch_size, *values.shape[1:]))

    return tuple(fill(values) for values in batch)
