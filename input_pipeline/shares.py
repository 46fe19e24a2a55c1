"""Which images of each step a host reads: the same batches on one host and on many.

An epoch's records come in L lanes (`order.Lane`) side by side, and row j of a batch of B images
comes from lane j // (B / L). L is the largest power of two, 8 at most, that divides B and leaves
`order.OPEN_SHARDS` shards to each lane; so it depends on the data and the batch, never on the
hosts. Host h of H has the rows [h·B/H, (h+1)·B/H) and opens the shards of their lanes only:

- Where H divides L, its own lanes, B/H records a step, and no shard is read by another host, but
  for the one at either end of a lane.
- Otherwise the lanes that hold one of its rows; what it reads there beyond its rows it does not
  decode. With fewer than 32 shards there is one lane, which all hosts read.

So row j of step s is the same image with the same augmentation whatever H is, in the same replica
if the number of replicas is the same.
"""

import dataclasses
import math
from collections.abc import Sequence

import tensorflow as tf

from input_pipeline import order

MOST_LANES = 8


@dataclasses.dataclass(frozen=True)
class Share:
    """One host's part of every global batch, and the pieces that it comes in.

    Attributes:
        host: which host, from 0 on.
        hosts: number of hosts H.
        pieces: number of pieces, of equally many rows, that the part is cut into: one for each
            replica of the host.
    """

    host: int = 0
    hosts: int = 1
    pieces: int = 1

    def rows(self, batch_size: int) -> range:
        """Returns the host's rows of a global batch.

        Raises:
            ValueError: the batch does not divide over hosts and pieces.
        """
        if batch_size % (self.hosts * self.pieces):
            raise ValueError(
                f"batch_size: expected a multiple of {self.hosts} hosts times {self.pieces} "
                f"replicas. Received: {batch_size}"
            )
        size = batch_size // self.hosts
        return range(self.host * size, (self.host + 1) * size)

    def piece_size(self, batch_size: int) -> int:
        """Returns the number of rows in a piece."""
        return len(self.rows(batch_size)) // self.pieces


def number_of_lanes(shards: int, batch_size: int) -> int:
    """Returns L, see above."""
    fits = 1 << max(0, (shards // order.OPEN_SHARDS).bit_length() - 1)
    return math.gcd(batch_size, MOST_LANES, fits)


def training_records(
    paths: Sequence[str],
    counts: Sequence[int],
    *,
    seed: int,
    batch_size: int,
    first_step: int = 0,
    share: Share | None = None,
) -> tf.data.Dataset:
    """Endless records of the share's rows, step after step.

    Args:
        paths: the shards.
        counts: records of each shard.
        seed: of the order.
        batch_size: global batch B; an epoch is sum(counts) // B steps.
        first_step: steps already done.
        share: whose rows; None for all.

    Returns:
        Dataset of {"serialized": scalar string, "seed": int64 `(2,)`}; the second is the seed of
        the record's augmentation, made from `seed`, the epoch and the position, which is
        step · B + row.
    """
    rows = (share or Share()).rows(batch_size)
    count = number_of_lanes(len(paths), batch_size)
    width = batch_size // count  # rows of a lane
    steps = sum(counts) // batch_size

    def records_of(number: int) -> tf.data.Dataset:
        records = order.shuffled_records(
            paths,
            counts,
            seed=seed,
            images_per_epoch=steps * width,
            first=first_step * width,
            lane=order.Lane(number, count),
        )
        return records.map(lambda record: {**record, "seed": place(record["seed"], number)})

    def place(own: tf.Tensor, number: int) -> tf.Tensor:
        epoch_seed, position = tf.unstack(own)
        row = number * width + position % width
        return tf.stack([epoch_seed, position // width * batch_size + row])

    numbers = range(rows.start // width, (rows.stop - 1) // width + 1)
    lanes = [records_of(number) for number in numbers]
    records = lanes[0] if len(lanes) == 1 else _side_by_side(lanes, width)
    if len(rows) < len(numbers) * width:
        records = records.filter(lambda record: _is_among(record["seed"][1] % batch_size, rows))
    return records


def validation_records(paths: Sequence[str], *, batch_size: int, share: Share) -> tf.data.Dataset:
    """The records of the share's rows once, in the order of the shards.

    Returns:
        Dataset of {"serialized": scalar string}.
    """
    rows = share.rows(batch_size)
    records = tf.data.TFRecordDataset(
        paths, buffer_size=order.READ_BUFFER, num_parallel_reads=tf.data.AUTOTUNE
    )
    if share.hosts > 1:
        numbered = records.enumerate()
        numbered = numbered.filter(lambda number, _: _is_among(number % batch_size, rows))
        records = numbered.map(lambda _, serialized: serialized)
    return records.map(lambda serialized: {"serialized": serialized})


def _side_by_side(lanes: Sequence[tf.data.Dataset], width: int) -> tf.data.Dataset:
    """Takes `width` records of each lane in turn."""
    turns = tf.data.Dataset.range(len(lanes)).repeat()
    turns = turns.flat_map(lambda number: tf.data.Dataset.from_tensors(number).repeat(width))
    return tf.data.Dataset.choose_from_datasets(lanes, turns)


def _is_among(row: tf.Tensor, rows: range) -> tf.Tensor:
    return (row >= rows.start) & (row < rows.stop)
