"""Batches whose records are chosen by class or by shape, and read one by one from the shards.

Each call makes or opens the index of the records (`record_index`), not the images. Then a step
reads just its own records, several at once, with their checksums: 6,000 a second of 275 kB from
the page cache of 4 cores, as fast as reading in order. A bucket far away answers many small reads
slowly, so copy the shards first.

The batches are those of `pipeline.training_batches`: endless, the same in every run, and what is
undecodable has weight 0. A run that starts at `first_step` starts at once.
"""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from input_pipeline import examples, ops, record_index, sampling
from input_pipeline.buckets import Buckets
from input_pipeline.pipeline import ImageSet

READS = 16  # at once
_HEAD = 12  # bytes before a record's payload


def class_batches(
    images: ImageSet,
    *,
    square: ops.Square,
    classes_per_batch: int,
    images_per_class: int,
    seed: int,
    first_step: int = 0,
    noisy_weight: float = 1.0,
    augmentation: Sequence[ops.Op] = (),
    crop: ops.Op | None = None,
    index: np.ndarray | None = None,
) -> tf.data.Dataset:
    """Endless batches of P classes with K images each, see `sampling.ClassBatches`.

    Args:
        images: the set.
        square: the resize to S × S pixels.
        classes_per_batch: P.
        images_per_class: K.
        seed: of the order and the augmentation.
        first_step: steps already done.
        noisy_weight: loss weight of an image outside the clean set.
        augmentation: ops on the resized image.
        crop: an op on the image as decoded.
        index: of the set's records. Default: `load_index(images)`.

    Returns:
        Dataset of (image uint8 `(P·K, S, S, 3)`, label int32 `(P·K,)`, weight float32 `(P·K,)`),
        the images of a class side by side.

    Raises:
        ValueError: the set has fewer than P classes.
    """
    index = load_index(images) if index is None else index
    choose = sampling.ClassBatches(
        index["label"], classes=classes_per_batch, images=images_per_class, seed=seed
    )
    records = _chosen_records(images, index, choose, seed=seed, first_step=first_step)
    chain = [*([crop] if crop else []), ops.resize(square), *augmentation]
    return _batches(images, records, chain, choose.batch_size, noisy_weight)


def balanced_batches(
    images: ImageSet,
    *,
    square: ops.Square,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    noisy_weight: float = 1.0,
    augmentation: Sequence[ops.Op] = (),
    crop: ops.Op | None = None,
    index: np.ndarray | None = None,
) -> tf.data.Dataset:
    """Endless batches with every class as often as any other, see `sampling.BalancedBatches`.

    Arguments and result are those of `pipeline.training_batches`, and `index`, the set's records.
    Default: `load_index(images)`.
    """
    index = load_index(images) if index is None else index
    choose = sampling.BalancedBatches(index["label"], batch_size=batch_size, seed=seed)
    records = _chosen_records(images, index, choose, seed=seed, first_step=first_step)
    chain = [*([crop] if crop else []), ops.resize(square), *augmentation]
    return _batches(images, records, chain, batch_size, noisy_weight)


def bucket_batches(
    images: ImageSet,
    *,
    buckets: Buckets | Sequence[Buckets],
    batch_size: int,
    seed: int,
    first_step: int = 0,
    noisy_weight: float = 1.0,
    antialias: bool = False,
    augmentation: Sequence[ops.Op] = (),
    index: np.ndarray | None = None,
) -> tf.data.Dataset:
    """Endless batches of one shape each, so that images keep their proportions.

    A batch has one of a few shapes: a function compiled for a batch is compiled once for each.
    See `sampling.BucketBatches` for the order.

    Args:
        images: the set.
        buckets: the shapes; several of the same number are scales, one of which is drawn for
            each batch. The first one decides an image's bucket.
        batch_size: global batch B.
        seed: of the order and the augmentation.
        first_step: steps already done.
        noisy_weight: loss weight of an image outside the clean set.
        antialias: smooth before shrinking.
        augmentation: ops on the resized image.
        index: of the set's records. Default: `load_index(images)`.

    Returns:
        Dataset of (image uint8 `(B, H, W, 3)`, label int32 `(B,)`, weight float32 `(B,)`) with H
        and W from `buckets`.

    Raises:
        ValueError: scales with different numbers of buckets.
    """
    scales = [buckets] if isinstance(buckets, Buckets) else list(buckets)
    count = len(scales[0].shapes)
    if {len(scale.shapes) for scale in scales} != {count}:
        raise ValueError(f"expected scales of {count} buckets each. Received: {scales}")
    index = load_index(images) if index is None else index
    nearest = sampling.nearest_buckets(index["height"], index["width"], scales[0].shapes)
    choose = sampling.BucketBatches(
        nearest, batch_size=batch_size, seed=seed, count=count, scales=len(scales)
    )
    records = _chosen_records(images, index, choose, seed=seed, first_step=first_step)
    shapes = tf.constant([shape for scale in scales for shape in scale.shapes])  # (S·count, 2)

    def resize(features: ops.Features) -> ops.Features:
        shape = tf.gather(shapes, features["shape"])
        return {**features, "image": ops.bilinear(features["image"], shape, antialias)}

    return _batches(images, records, [resize, *augmentation], batch_size, noisy_weight)


def load_index(images: ImageSet, **options) -> np.ndarray:
    """Returns the index of a set's training records; `options` are those of record_index.load."""
    return record_index.load(images.manifest, *images.splits, **options)


def _chosen_records(
    images: ImageSet,
    index: np.ndarray,
    choose: Callable[[tf.Tensor], sampling.Choice],
    *,
    seed: int,
    first_step: int,
) -> tf.data.Dataset:
    """Returns {"serialized", "seed", "shape"} of each record of each step."""
    if len(index) != images.num_images:
        raise ValueError(
            f"expected an index of {images.num_images} records. Received: {len(index)}"
        )
    columns = {name: tf.constant(index[name]) for name in ("shard", "offset")}
    size, step_seed = choose.batch_size, tf.constant(seed, tf.int64)

    def places(step: tf.Tensor) -> ops.Features:
        choice = choose(step)
        positions = step * size + tf.range(size, dtype=tf.int64)
        found = {name: tf.gather(column, choice.records) for name, column in columns.items()}
        seeds = tf.stack([tf.fill((size,), step_seed), positions], 1)
        return {**found, "seed": seeds, "shape": tf.fill((size,), choice.shape)}

    paths = tf.constant(images.shard_paths())

    def read(place: ops.Features) -> ops.Features:
        serialized = _read(tf.gather(paths, place["shard"]), place["offset"])
        return {"serialized": serialized, "seed": place["seed"], "shape": place["shape"]}

    steps = tf.data.Dataset.range(first_step, np.iinfo(np.int64).max)
    chosen = steps.map(places, num_parallel_calls=2).unbatch()
    return chosen.map(read, num_parallel_calls=READS)


def _read(path: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    """Returns the payload of one record, () string; TensorFlow's kernel checks its checksum."""
    variant = tf.raw_ops.TFRecordDatasetV2(
        filenames=[path],
        compression_type="",
        buffer_size=0,
        byte_offsets=[offset - _HEAD],
    )
    records = tf.data.experimental.from_variant(variant, tf.TensorSpec((), tf.string))
    return records.take(1).get_single_element()


def _batches(
    images: ImageSet,
    records: tf.data.Dataset,
    chain: Sequence[ops.Op],
    batch_size: int,
    noisy_weight: float,
) -> tf.data.Dataset:
    chain = [*chain, *images.labelling(noisy_weight)]
    prepared = examples.prepare(records, chain, blank_label=images.first_label)
    return prepared.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
