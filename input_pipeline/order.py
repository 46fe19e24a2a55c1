"""The order of the training records: shuffled shards, read in blocks of a few at a time.

In each epoch the shards are shuffled and cut into blocks of `OPEN_SHARDS`. The records of a block
are interleaved and go through a shuffle buffer, which is drained before the next block begins. So
the shards' counts say in which block a position lies: to start there, whole blocks are skipped
unread, and only records of that one block are read and thrown away.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

# Shards read at once; records are shuffled globally when they are written, so the buffer only has
# to break up the order within the shards that are open. It takes 250 MB of 120 kB JPEGs, and so do
# the buffers of the next two blocks, which fill meanwhile.
OPEN_SHARDS = 16
SHUFFLE_BUFFER = 2048
READ_BUFFER = 8 * 2**20  # bytes per open shard; a bucket answers small reads slowly

_EPOCH_STEP = 1_000_003  # seeds of epochs lie that far apart, those of blocks farther
_BLOCK_STEP = 7_368_787_001


def shuffled_records(
    paths: Sequence[str],
    counts: Sequence[int],
    *,
    seed: int,
    images_per_epoch: int,
    first: int = 0,
) -> tf.data.Dataset:
    """Endless records, epoch after epoch, each in an order of its own.

    While a block is used up, the buffers of the next two fill. A file that cannot be read or does
    not have its count of records is an error: any other way on would move all later positions.

    Args:
        paths: the shards.
        counts: records of each shard.
        seed: of the order.
        images_per_epoch: records of an epoch, at most all; those that come last are left out.
        first: records that are skipped, over all epochs.

    Returns:
        Dataset of {"serialized": scalar string, "seed": int64 `(2,)`}; the second is the seed of
        the record's augmentation, made from `seed`, the epoch and the position.
    """
    blocks = -(-len(paths) // OPEN_SHARDS)
    first_epoch, position = divmod(first, images_per_epoch)
    starts = _block_starts(_shard_order(len(paths), seed, first_epoch), counts).numpy()
    first_block = int(np.searchsorted(starts, position, side="right")) - 1
    first_number, skipped = first_epoch * blocks + first_block, position - starts[first_block]

    def numbered_block(number: tf.Tensor) -> tf.data.Dataset:
        epoch, block = number // blocks, number % blocks
        order = _shard_order(len(paths), seed, epoch)
        start = _block_starts(order, counts)[block]
        opened = order[block * OPEN_SHARDS : (block + 1) * OPEN_SHARDS]
        epoch_seed = seed + epoch * _EPOCH_STEP
        records = _block_records(
            tf.gather(tf.constant(paths), opened),
            tf.gather(tf.constant(counts, tf.int64), opened),
            epoch_seed + block * _BLOCK_STEP,
        )
        positions = tf.data.Dataset.range(start, images_per_epoch)
        seeds = positions.map(lambda position: tf.stack([epoch_seed, position]))
        return tf.data.Dataset.zip({"serialized": records, "seed": seeds}).skip(
            tf.where(number == first_number, skipped, 0)
        )

    numbers = tf.data.Dataset.range(first_number, np.iinfo(np.int64).max)
    # One block at a time; an interleave of one keeps two inputs ready beside it.
    return numbers.interleave(
        numbered_block, cycle_length=1, block_length=16, num_parallel_calls=1, deterministic=True
    )


def _shard_order(shards: int, seed: int, epoch: int | tf.Tensor) -> tf.Tensor:
    """Returns int64 `(shards,)`: the numbers of the shards as `epoch` takes them."""
    seeds = tf.stack([tf.constant(seed, tf.int64), tf.cast(epoch, tf.int64)])
    return tf.random.experimental.stateless_shuffle(tf.range(shards, dtype=tf.int64), seeds)


def _block_starts(order: tf.Tensor, counts: Sequence[int]) -> tf.Tensor:
    """Returns int64 `(blocks,)`: the position in the epoch at which each block begins."""
    ordered = tf.gather(tf.constant(counts, tf.int64), order)
    return tf.cumsum(ordered, exclusive=True)[::OPEN_SHARDS]


def _block_records(paths: tf.Tensor, counts: tf.Tensor, seed: tf.Tensor) -> tf.data.Dataset:
    shards = tf.data.Dataset.from_tensor_slices((paths, counts))
    records = shards.interleave(
        _shard_records,
        cycle_length=OPEN_SHARDS,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    return records.shuffle(SHUFFLE_BUFFER, seed=seed, reshuffle_each_iteration=False)


def _shard_records(path: tf.Tensor, count: tf.Tensor) -> tf.data.Dataset:
    records = tf.data.TFRecordDataset(path, buffer_size=READ_BUFFER)
    return records.apply(tf.data.experimental.assert_cardinality(count))
