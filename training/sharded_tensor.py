"""A matrix whose rows are split over the replicas, and how it is saved as one tensor."""

import numpy as np
import tensorflow as tf

# Initial values and files do not depend on the split: both go by blocks of so many rows, of
# 134 MB at 512 columns.
BLOCK_ROWS = 65_536


def make_shards(strategy: tf.distribute.Strategy, rows: int, columns: int) -> tf.Variable:
    """Returns a variable of zeros, `(ceil(rows / R), columns)` float32 in each of R replicas.

    `ON_READ`: every replica writes and reads its own values and nothing keeps them equal.

    Args:
        strategy: where.
        rows: of the whole matrix; the last shard is filled up.
        columns: of the whole matrix.
    """
    shape = (-(-rows // strategy.num_replicas_in_sync), columns)
    with strategy.scope():
        return tf.Variable(
            tf.zeros(shape),
            trainable=True,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            name="centers",
        )


class ShardedTensor(tf.__internal__.tracking.Trackable):
    """Saves and restores the shards of a matrix, whatever the number of replicas is and was.

    A checkpoint holds the rows in order, in blocks of `BLOCK_ROWS` under the names "rows-…". A
    shard's rows are copied from and to where they lie, by way of the host's memory; no device
    ever holds more than its own.

    Args:
        variable: of `make_shards`, or a slot of an optimizer beside it.
        rows: of the whole matrix.
    """

    def __init__(self, variable: tf.Variable, rows: int):
        self.rows = rows
        self._shards = list(getattr(variable, "values", [variable]))
        size = variable.shape[0]
        starts = [size * number for number in range(len(self._shards))]
        self._spans = [(start, min(size, rows - start)) for start in starts]

    def numpy(self) -> np.ndarray:
        """Returns the whole matrix, `(rows, columns)`."""
        parts = [s.numpy()[:length] for s, (_, length) in self._parts()]
        return np.concatenate(parts)

    def assign(self, matrix: np.ndarray) -> None:
        """Sets the shards to the rows of a whole matrix."""
        for shard, (start, length) in self._parts():
            shard[:length].assign(np.asarray(matrix[start : start + length], np.float32))

    def initialize(self, limit: float, seed: int) -> None:
        """Draws all entries from [−limit, limit), the same for any number of replicas."""
        for first, rows in self._blocks():
            shape = (rows, self._shards[0].shape[1])
            self._write(first, tf.random.stateless_uniform(shape, (seed, first), -limit, limit))

    def _parts(self):
        parts = zip(self._shards, self._spans, strict=True)
        return [(shard, span) for shard, span in parts if span[1] > 0]

    def _blocks(self):
        firsts = range(0, self.rows, BLOCK_ROWS)
        return [(first, min(BLOCK_ROWS, self.rows - first)) for first in firsts]

    def _overlaps(self, first: int, rows: int):
        """Yields (shard, slice of it, slice of the block) where a block meets a shard."""
        for shard, (start, length) in self._parts():
            low, high = max(first, start), min(first + rows, start + length)
            if low < high:
                yield shard, slice(low - start, high - start), slice(low - first, high - first)

    def _read(self, first: int, rows: int) -> tf.Tensor:
        with tf.device("CPU:0"):
            parts = [tf.identity(shard[own]) for shard, own, _ in self._overlaps(first, rows)]
            return tf.concat(parts, axis=0)

    def _write(self, first: int, block: tf.Tensor) -> None:
        for shard, own, others in self._overlaps(first, block.shape[0]):
            shard[own].assign(block[others])

    def _serialize_to_tensors(self):
        return {_name(first): self._read(first, rows) for first, rows in self._blocks()}

    def _restore_from_tensors(self, restored):
        for first, _ in self._blocks():
            self._write(first, restored[_name(first)])


def _name(first: int) -> str:
    return f"rows-{first:012d}"


def read_shape(path: str) -> tuple[int, int]:
    """Returns the shape of the one matrix that a checkpoint holds."""
    shapes = tf.train.load_checkpoint(path).get_variable_to_shape_map()
    blocks = [shape for name, shape in shapes.items() if "rows-" in name]
    return sum(rows for rows, _ in blocks), blocks[0][1]


def read_matrix(path: str) -> np.ndarray:
    """Returns the one matrix that a checkpoint holds, whole."""
    reader = tf.train.load_checkpoint(path)
    names = sorted(name for name in reader.get_variable_to_shape_map() if "rows-" in name)
    return np.concatenate([reader.get_tensor(name) for name in names])
