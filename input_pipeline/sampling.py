"""Which records make up a batch, as a function of the step alone.

Nothing is remembered from one step to the next: every choice is a place in some permutation that
the seed defines, and one place of it is computed without the others. So a run starts at any step
at no cost. All of it is TensorFlow ops, so that no Python runs beside the training: 2 ms for a
batch of 128 out of 4.1 million records.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

_ROUNDS = 32
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, odd


def permuted(positions: tf.Tensor, sizes: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    """Returns the elements at `positions` of random permutations, elementwise.

    The permutation of range(size) that belongs to a key is a swap-or-not shuffle: in each of 32
    rounds all elements are paired, and a pair is exchanged or not.

    Args:
        positions: int64, 0 ≤ position < size.
        sizes: int64 of a shape that broadcasts.
        keys: uint64 of a shape that broadcasts, see `key`.

    Returns:
        int64 of the broadcast shape.

    Reference:
        Hoang, Morris, Rogaway, "An Enciphering Scheme Based on a Card Shuffle", arXiv:1208.1176.
    """
    sizes = tf.cast(sizes, tf.uint64)
    values = tf.cast(positions, tf.uint64) + tf.zeros_like(sizes + keys)  # of the broadcast shape

    def swap_or_not(number: tf.Tensor, values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        round_keys = _mix(keys + _constant(_GOLDEN) * number)
        partners = (round_keys % sizes + sizes - values) % sizes
        coins = _mix(tf.bitwise.bitwise_xor(round_keys, _mix(tf.maximum(values, partners))))
        swapped = tf.where(coins % _constant(2) == _constant(1), partners, values)
        return number + _constant(2), swapped

    # A loop in the graph: written out, the rounds would take seconds to trace.
    last = _constant(2 * _ROUNDS)
    _, values = tf.while_loop(lambda number, _: number < last, swap_or_not, (_constant(1), values))
    return tf.cast(values, tf.int64)


def key(*parts: int | tf.Tensor) -> tf.Tensor:
    """Returns uint64 keys made from integers, of the shape to which these broadcast."""
    mixed = _constant(0)
    for part in parts:
        number = tf.cast(tf.cast(part, tf.int64), tf.uint64)
        mixed = _mix(mixed + number + _constant(_GOLDEN))
    return mixed


def _mix(values: tf.Tensor) -> tf.Tensor:
    """Returns uint64 hashes: the finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values = _xor_shift(values, shift) * _constant(factor)
    return _xor_shift(values, 31)


def _xor_shift(values: tf.Tensor, shift: int) -> tf.Tensor:
    return tf.bitwise.bitwise_xor(values, tf.bitwise.right_shift(values, _constant(shift)))


def _constant(value: int) -> tf.Tensor:
    return tf.constant(value, tf.uint64)


class Choice(NamedTuple):
    """The records of one batch.

    Attributes:
        records: `(B,)` int64, positions in the index.
        shape: () int64, the number of the shape of the batch's images.
    """

    records: tf.Tensor
    shape: tf.Tensor


class _Groups:
    """Records by group: the members of group g, in the order of the records.

    Args:
        numbers: `(N,)` the group of each record.
        count: how many groups there are, empty ones too.
    """

    def __init__(self, numbers: np.ndarray, count: int):
        sizes = np.bincount(numbers, minlength=count).astype(np.int64)
        self.members = tf.constant(np.argsort(numbers, kind="stable").astype(np.int32))  # (N,)
        self.sizes = tf.constant(sizes)  # (count,)
        self._starts = tf.constant(np.cumsum(sizes) - sizes)  # (count,)

    def pick(self, groups: tf.Tensor, places: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """Returns the records at `places` of the groups, each permuted by its key."""
        members = permuted(places, tf.gather(self.sizes, groups), keys)
        return tf.cast(tf.gather(self.members, tf.gather(self._starts, groups) + members), tf.int64)


class ClassBatches:
    """P classes and K images of each, as batch-hard triplets and pair losses need them.

    An epoch takes the classes in a random order, P at a time, each once; the rest of fewer than P
    is left out, other classes in each epoch. Over the epochs a class goes through its images in a
    random order, K at a time, then in another. Only a class of fewer than K repeats an image in a
    batch, each one as often as the others or once less.

    Args:
        labels: `(N,)` of the records.
        classes: P.
        images: K.
        seed: of all choices.

    Call arguments:
        step: () int64.

    Returns:
        `Choice` of B = P·K records, the K images of a class side by side.

    Raises:
        ValueError: fewer than P classes have an image.

    Reference:
        Hermans, Beyer, Leibe, "In Defense of the Triplet Loss for Person Re-Identification",
        arXiv:1703.07737.
    """

    def __init__(self, labels: np.ndarray, *, classes: int, images: int, seed: int):
        found, numbers = np.unique(labels, return_inverse=True)
        if not 0 < classes <= len(found) or images < 1:
            raise ValueError(
                f"expected 1 to {len(found)} classes and at least one image of each. "
                f"Received: {classes} classes, {images} images"
            )
        self.batch_size = classes * images
        self.steps_per_epoch = len(found) // classes
        self._num_classes = len(found)
        self._groups = _Groups(numbers, len(found))
        self._classes, self._images, self._seed = classes, images, seed

    def __call__(self, step: tf.Tensor) -> Choice:
        """Returns the records of a step."""
        step = tf.cast(step, tf.int64)
        epoch, number = step // self.steps_per_epoch, step % self.steps_per_epoch
        places = number * self._classes + tf.range(self._classes, dtype=tf.int64)
        chosen = permuted(places, self._num_classes, key(self._seed, 0, epoch))[:, tf.newaxis]
        sizes = tf.gather(self._groups.sizes, chosen)  # (P, 1)
        visits = tf.maximum(sizes // self._images, 1)  # of one random order
        places = epoch % visits * self._images + tf.range(self._images, dtype=tf.int64)  # (P, K)
        keys = key(self._seed, 1, chosen, epoch // visits, places // sizes)
        records = self._groups.pick(chosen, places % sizes, keys)  # (P, K)
        return Choice(tf.reshape(records, (self.batch_size,)), tf.constant(0, tf.int64))


class BalancedBatches:
    """Every class as often as any other, however many images it has.

    The classes come in a random order, all of them once, then in another order. A class goes
    through all its images in a random order before one comes again.

    Args:
        labels: `(N,)` of the records.
        batch_size: B.
        seed: of all choices.

    Call arguments:
        step: () int64.

    Returns:
        `Choice` of B records.
    """

    def __init__(self, labels: np.ndarray, *, batch_size: int, seed: int):
        found, numbers = np.unique(labels, return_inverse=True)
        self.batch_size = batch_size
        self._num_classes = len(found)
        self._groups = _Groups(numbers, len(found))
        self._seed = seed

    def __call__(self, step: tf.Tensor) -> Choice:
        """Returns the records of a step."""
        visits = tf.cast(step, tf.int64) * self.batch_size + tf.range(
            self.batch_size, dtype=tf.int64
        )
        turns, places = visits // self._num_classes, visits % self._num_classes
        chosen = permuted(places, self._num_classes, key(self._seed, 0, turns))
        sizes = tf.gather(self._groups.sizes, chosen)
        keys = key(self._seed, 1, chosen, turns // sizes)
        return Choice(self._groups.pick(chosen, turns % sizes, keys), tf.constant(0, tf.int64))


class BucketBatches:
    """Batches of one shape: all images of a batch have nearly the same aspect ratio.

    Each bucket goes through its images in a random order, B at a time, then in another; what is
    left of an order at its end is the beginning of the next batch. An epoch has as many batches
    of a bucket as its images, with those left from the epoch before, fill; they come in a random
    order, which mixes the buckets.

    Args:
        buckets: `(N,)` the bucket of each record.
        batch_size: B.
        seed: of all choices.
        count: number of buckets.
        scales: sizes of images; one is drawn for each batch.

    Call arguments:
        step: () int64.

    Returns:
        `Choice` of B records; its shape is scale · count + bucket.

    Raises:
        ValueError: no record.
    """

    def __init__(
        self, buckets: np.ndarray, *, batch_size: int, seed: int, count: int, scales: int = 1
    ):
        if not len(buckets):
            raise ValueError("expected at least one record. Received: none")
        self.batch_size = batch_size
        self._groups = _Groups(buckets, count)
        self._seed, self._count, self._scales = seed, count, scales
        self._num_records = len(buckets)

    def __call__(self, step: tf.Tensor) -> Choice:
        """Returns the records of a step and its shape."""
        step = tf.cast(step, tf.int64)
        epoch = self._epoch(step)
        before, after = tf.unstack(self._batches(tf.stack([epoch, epoch + 1])))  # (count,) each
        ends = tf.cumsum(after - before)
        place = step - tf.reduce_sum(before)
        chosen = permuted(place, ends[-1], key(self._seed, 0, epoch))
        bucket = tf.reduce_sum(tf.cast(ends <= chosen, tf.int64))
        number = after[bucket] - ends[bucket] + chosen
        places = number * self.batch_size + tf.range(self.batch_size, dtype=tf.int64)
        size = self._groups.sizes[bucket]
        keys = key(self._seed, 1, bucket, places // size)
        records = self._groups.pick(tf.fill((self.batch_size,), bucket), places % size, keys)
        scale = tf.cast(key(self._seed, 2, step) % _constant(self._scales), tf.int64)
        return Choice(records, scale * self._count + bucket)

    def _batches(self, epochs: tf.Tensor) -> tf.Tensor:
        """Returns `(epochs, count)`: the batches of each bucket before each of `epochs`."""
        return epochs[:, tf.newaxis] * self._groups.sizes // self.batch_size

    def _epoch(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the last epoch with at most `step` batches before it.

        Before epoch e there are at most e·N / B batches and at least that less the buckets.
        """
        first = step * self.batch_size // self._num_records
        more = (self._count + 1) * self.batch_size // self._num_records + 2
        batches = tf.reduce_sum(self._batches(first + tf.range(more, dtype=tf.int64)), 1)
        return first + tf.reduce_sum(tf.cast(batches <= step, tf.int64)) - 1


def nearest_buckets(
    heights: np.ndarray, widths: np.ndarray, shapes: Sequence[tuple[int, int]]
) -> np.ndarray:
    """Returns `(N,)`: the shape (height, width) whose aspect ratio is nearest to each image's."""
    ratios = np.array([np.log(width / height) for height, width in shapes])
    order = np.argsort(ratios)
    edges = (ratios[order][1:] + ratios[order][:-1]) / 2
    found = np.log(widths.astype(np.float64) / heights.astype(np.float64))
    return order[np.searchsorted(edges, found)]
