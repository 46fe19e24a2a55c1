"""The order of the training records: shuffled shards, read in blocks of a few at a time.

In each epoch the shards are shuffled and cut into blocks of `OPEN_SHARDS`. The records of a block
are interleaved and go through a shuffle buffer, which is drained before the next block begins. So
the shards' counts say in which block a position lies: to start there, whole blocks are skipped
unread, and only records of that one block are read and thrown away.

Several lanes, one beside the other, share an epoch: the shuffled shards laid end to end are cut
into as many stretches of equally many records, inside a shard where it must be. A lane has its
part of the open shards and of the buffer, and reads no shard but its own; see `shares`.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

# Shards read at once; records are shuffled globally when they are written, so the buffer only has
# to break up the order within the shards that are open. It takes 250 MB of 120 kB JPEGs, and so do
# the buffers of the next two blocks, which fill meanwhile.
OPEN_SHARDS = 16
SHUFFLE_BUFFER = 2048
READ_BUFFER = 8 * 2**20  # bytes per open shard; a bucket answers small reads slowly

_EPOCH_STEP = 1_000_003  # seeds of epochs lie that far apart, those of blocks and lanes farther
_BLOCK_STEP = 7_368_787_001
_LANE_STEP = 2_862_933_555_771


@dataclasses.dataclass(frozen=True)
class Lane:
    """One of the lanes that an epoch's records come in.

    Attributes:
        number: which one, from 0 on.
        count: how many there are; `OPEN_SHARDS` is a multiple of it.
    """

    number: int = 0
    count: int = 1

    @property
    def open_shards(self) -> int:
        """Shards that this lane reads at once."""
        return OPEN_SHARDS // self.count


def shuffled_records(
    paths: Sequence[str],
    counts: Sequence[int],
    *,
    seed: int,
    images_per_epoch: int,
    first: int = 0,
    lane: Lane | None = None,
) -> tf.data.Dataset:
    """Endless records of one lane, epoch after epoch, each in an order of its own.

    While a block is used up, the buffers of the next two fill. A file that cannot be read or does
    not have its count of records is an error: any other way on would move all later positions.

    Args:
        paths: the shards.
        counts: records of each shard.
        seed: of the order.
        images_per_epoch: records of an epoch in this lane, at most all; those that come last are
            left out.
        first: records of this lane that are skipped, over all epochs.
        lane: which one; None for the only one.

    Returns:
        Dataset of {"serialized": scalar string, "seed": int64 `(2,)`}; the second is made from
        `seed` and the epoch, and the position in the epoch of this lane.
    """
    lane = lane or Lane()
    blocks = _blocks(counts, lane)
    first_epoch, position = divmod(first, images_per_epoch)
    _, _, starts = _stretch(_shard_order(len(paths), seed, first_epoch), counts, lane)
    starts = starts.numpy()
    first_block = int(np.searchsorted(starts, position, side="right")) - 1
    first_number, skipped = first_epoch * blocks + first_block, position - starts[first_block]

    def numbered_block(number: tf.Tensor) -> tf.data.Dataset:
        epoch, block = number // blocks, number % blocks
        shards, parts, starts = _stretch(_shard_order(len(paths), seed, epoch), counts, lane)
        opened = slice(block * lane.open_shards, (block + 1) * lane.open_shards)
        epoch_seed = seed + epoch * _EPOCH_STEP
        records = _block_records(
            tf.gather(tf.constant(paths), shards[opened]),
            tf.gather(tf.constant(counts, tf.int64), shards[opened]),
            parts[opened],
            epoch_seed + block * _BLOCK_STEP + lane.number * _LANE_STEP,
            lane,
        )
        # The numbers allow for the longest stretch: blocks after the end of this one are empty.
        starts = tf.pad(starts, [[0, blocks]], constant_values=images_per_epoch)
        positions = tf.data.Dataset.range(starts[block], images_per_epoch)
        seeds = positions.map(lambda position: tf.stack([epoch_seed, position]))
        return tf.data.Dataset.zip({"serialized": records, "seed": seeds}).skip(
            tf.where(number == first_number, skipped, 0)
        )

    numbers = tf.data.Dataset.range(first_number, np.iinfo(np.int64).max)
    # One block at a time; an interleave of one keeps two inputs ready beside it.
    return numbers.interleave(
        numbered_block, cycle_length=1, block_length=16, num_parallel_calls=1, deterministic=True
    )


def _blocks(counts: Sequence[int], lane: Lane) -> int:
    """Returns how many blocks the stretch of a lane has at most, in any order of the shards."""
    length = -(-sum(counts) // lane.count)
    # Of the smallest shards most fit, and at both ends a stretch may have a part of one.
    shards = int(np.searchsorted(np.cumsum(np.sort(counts)), length, side="right")) + 2
    return -(-min(shards, len(counts)) // lane.open_shards)


def _shard_order(shards: int, seed: int, epoch: int | tf.Tensor) -> tf.Tensor:
    """Returns int64 `(shards,)`: the numbers of the shards as `epoch` takes them."""
    seeds = tf.stack([tf.constant(seed, tf.int64), tf.cast(epoch, tf.int64)])
    return tf.random.experimental.stateless_shuffle(tf.range(shards, dtype=tf.int64), seeds)


def _stretch(
    order: tf.Tensor, counts: Sequence[int], lane: Lane
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns what a lane reads in an epoch.

    Returns:
        int64 `(S,)` the numbers of its S shards in order, `(S, 2)` the first and the number of its
        records in each, and `(blocks,)` the position in its epoch at which each block begins.
    """
    ordered = tf.gather(tf.constant(counts, tf.int64), order)
    ends = tf.cumsum(ordered)
    total = sum(counts)
    first, last = (total * number // lane.count for number in (lane.number, lane.number + 1))
    begins = tf.maximum(ends - ordered, first)
    lengths = tf.minimum(ends, last) - begins
    own = lengths > 0
    parts = tf.stack([begins - (ends - ordered), lengths], 1)
    positions = tf.boolean_mask(begins, own) - first
    return tf.boolean_mask(order, own), tf.boolean_mask(parts, own), positions[:: lane.open_shards]


def _block_records(
    paths: tf.Tensor, counts: tf.Tensor, parts: tf.Tensor, seed: tf.Tensor, lane: Lane
) -> tf.data.Dataset:
    shards = tf.data.Dataset.from_tensor_slices((paths, counts, parts))
    records = shards.interleave(
        _shard_records,
        cycle_length=lane.open_shards,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    buffer = SHUFFLE_BUFFER // lane.count
    return records.shuffle(buffer, seed=seed, reshuffle_each_iteration=False)


def _shard_records(path: tf.Tensor, count: tf.Tensor, part: tf.Tensor) -> tf.data.Dataset:
    records = tf.data.TFRecordDataset(path, buffer_size=READ_BUFFER)
    records = records.apply(tf.data.experimental.assert_cardinality(count))
    # Up to the end there is no limit, so that a record too many is seen.
    limit = tf.where(tf.reduce_sum(part) == count, tf.constant(-1, tf.int64), part[1])
    return records.skip(part[0]).take(limit)
