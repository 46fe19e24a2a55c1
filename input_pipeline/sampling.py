"""Which records make up a batch, as a function of the step alone.

Nothing is remembered from one step to the next: every choice is a place in some permutation that
the seed defines, and one place of it is computed without the others. So a run starts at any step
at no cost.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

_ROUNDS = 32
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, odd


def permuted(positions: np.ndarray, sizes: np.ndarray | int, keys: np.ndarray) -> np.ndarray:
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
    values, sizes, keys = np.broadcast_arrays(
        np.atleast_1d(positions).astype(np.uint64), np.asarray(sizes, np.uint64), keys
    )
    for number in range(_ROUNDS):
        round_keys = _mix(keys + np.uint64(_GOLDEN * (2 * number + 1) % 2**64))
        partners = (round_keys % sizes + sizes - values) % sizes
        coins = _mix(round_keys ^ _mix(np.maximum(values, partners)))
        values = np.where(coins & np.uint64(1), partners, values)
    return values.astype(np.int64)


def key(*parts: int | np.ndarray) -> np.ndarray:
    """Returns uint64 keys of at least one dimension, made from integers that broadcast."""
    mixed = np.zeros(1, np.uint64)
    for part in parts:
        mixed = _mix(mixed + np.atleast_1d(part).astype(np.uint64) + np.uint64(_GOLDEN))
    return mixed


def _mix(values: np.ndarray) -> np.ndarray:
    """Returns uint64 hashes: the finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class _Groups:
    """Records by group: the members of group g, in the order of the records.

    Args:
        numbers: `(N,)` the group of each record.
        count: how many groups there are, empty ones too.
    """

    def __init__(self, numbers: np.ndarray, count: int):
        self.members = np.argsort(numbers, kind="stable").astype(np.int32)  # (N,)
        self.sizes = np.bincount(numbers, minlength=count).astype(np.int64)  # (count,)
        self.starts = np.cumsum(self.sizes) - self.sizes  # (count,)

    def pick(self, groups: np.ndarray, places: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Returns the records at `places` of the groups, each permuted by its key."""
        return self.members[
            self.starts[groups] + permuted(places, self.sizes[groups], keys)
        ].astype(np.int64)


@dataclasses.dataclass(frozen=True)
class Choice:
    """The records of one batch.

    Attributes:
        records: `(B,)` int64, positions in the index.
        shape: number of the shape of the batch's images.
    """

    records: np.ndarray
    shape: int = 0


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

    Raises:
        ValueError: fewer than P classes have an image.

    Reference:
        Hermans, Beyer, Leibe, "In Defense of the Triplet Loss for Person Re-Identification",
        arXiv:1703.07737.
    """

    def __init__(self, labels: np.ndarray, *, classes: int, images: int, seed: int):
        self._labels = np.unique(labels)
        if not 0 < classes <= len(self._labels) or images < 1:
            raise ValueError(
                f"expected 1 to {len(self._labels)} classes and at least one image of each. "
                f"Received: {classes} classes, {images} images"
            )
        self.batch_size = classes * images
        self.steps_per_epoch = len(self._labels) // classes
        self._groups = _Groups(np.searchsorted(self._labels, labels), len(self._labels))
        self._classes, self._images, self._seed = classes, images, seed

    def __call__(self, step: int) -> Choice:
        """Returns the records of a step, the K images of a class side by side."""
        epoch, number = divmod(step, self.steps_per_epoch)
        places = number * self._classes + np.arange(self._classes)
        chosen = permuted(places, len(self._labels), key(self._seed, 0, epoch))[:, np.newaxis]
        sizes = self._groups.sizes[chosen]  # (P, 1)
        rounds, visit = np.divmod(epoch, np.maximum(sizes // self._images, 1))
        repeats, places = np.divmod(visit * self._images + np.arange(self._images), sizes)
        keys = key(self._seed, 1, chosen, rounds, repeats)
        return Choice(self._groups.pick(chosen, places, keys).reshape(-1))  # (P·K,)


class BalancedBatches:
    """Every class as often as any other, however many images it has.

    The classes come in a random order, all of them once, then in another order. A class goes
    through all its images in a random order before one comes again.

    Args:
        labels: `(N,)` of the records.
        batch_size: B.
        seed: of all choices.
    """

    def __init__(self, labels: np.ndarray, *, batch_size: int, seed: int):
        self._labels = np.unique(labels)
        self.batch_size = batch_size
        self._groups = _Groups(np.searchsorted(self._labels, labels), len(self._labels))
        self._seed = seed

    def __call__(self, step: int) -> Choice:
        """Returns the records of a step."""
        visits = step * self.batch_size + np.arange(self.batch_size)
        turn, places = np.divmod(visits, len(self._labels))
        chosen = permuted(places, len(self._labels), key(self._seed, 0, turn))
        rounds, places = np.divmod(turn, self._groups.sizes[chosen])
        return Choice(self._groups.pick(chosen, places, key(self._seed, 1, chosen, rounds)))


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
        scales: sizes of images; one is drawn for each batch.
        count: number of buckets. `Choice.shape` is scale · count + bucket.
    """

    def __init__(
        self, buckets: np.ndarray, *, batch_size: int, seed: int, count: int, scales: int = 1
    ):
        if not len(buckets):
            raise ValueError("expected at least one record. Received: none")
        self.batch_size = batch_size
        self._groups = _Groups(buckets, count)
        self._seed, self._count, self._scales = seed, count, scales

    def __call__(self, step: int) -> Choice:
        """Returns the records of a step and its shape."""
        epoch = self._epoch(step)
        before, after = self._batches(epoch), self._batches(epoch + 1)
        ends = np.cumsum(after - before)
        place = np.int64(step - before.sum())
        chosen = int(permuted(place, int(ends[-1]), key(self._seed, 0, epoch))[0])
        bucket = int(np.searchsorted(ends, chosen, side="right"))
        number = int(after[bucket] - ends[bucket]) + chosen
        places = number * self.batch_size + np.arange(self.batch_size)
        rounds, places = np.divmod(places, self._groups.sizes[bucket])
        groups = np.full(self.batch_size, bucket)
        records = self._groups.pick(groups, places, key(self._seed, 1, bucket, rounds))
        scale = int(key(self._seed, 2, step)[0] % np.uint64(self._scales))
        return Choice(records, scale * self._count + bucket)

    def _batches(self, epoch: int) -> np.ndarray:
        """Returns `(count,)`: the batches of each bucket before `epoch`."""
        return self._groups.sizes * epoch // self.batch_size

    def _epoch(self, step: int) -> int:
        low, high = 0, 1
        while self._batches(high).sum() <= step:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._batches(middle).sum() <= step else (low, middle)
        return low


def nearest_buckets(
    heights: np.ndarray, widths: np.ndarray, shapes: Sequence[tuple[int, int]]
) -> np.ndarray:
    """Returns `(N,)`: the shape (height, width) whose aspect ratio is nearest to each image's."""
    ratios = np.array([np.log(width / height) for height, width in shapes])
    order = np.argsort(ratios)
    edges = (ratios[order][1:] + ratios[order][:-1]) / 2
    found = np.log(widths.astype(np.float64) / heights.astype(np.float64))
    return order[np.searchsorted(edges, found)]
