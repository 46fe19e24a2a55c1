"""What whitening is fitted on: means and covariances in blocks, and pairs of images of one class.

Sums are float64, so that millions of rows lose nothing; memory is a block and D x D numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

_BLOCK_BYTES = 2**26  # of a block in float64


@dataclasses.dataclass(frozen=True)
class Moments:
    """Mean and scatter of the rows of a matrix.

    Attributes:
        count: N.
        mean: (D,) float64.
        scatter: (D, D) float64, sum of (x - mean)(x - mean)^T; N times the covariance.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    def about(self, centre: np.ndarray) -> np.ndarray:
        """Returns sum of (x - centre)(x - centre)^T, (D, D) float64."""
        shift = self.mean - centre
        return self.scatter + self.count * np.outer(shift, shift)


def moments(blocks: Iterator[np.ndarray]) -> Moments:
    """Adds up blocks of rows (n, D), at least one row in all.

    Every block is centred by its own mean and merged as in Chan, Golub and LeVeque, "Updating
    formulae and a pairwise algorithm for computing sample variances", 1979: nothing cancels however
    far the mean is from 0.
    """
    count, mean, scatter = 0, None, None
    for block in blocks:
        new, dimension = block.shape
        if mean is None:
            mean, scatter = np.zeros(dimension), np.zeros((dimension, dimension))
        block_mean = block.mean(axis=0, dtype=np.float64)
        centred = block - block_mean
        shift = block_mean - mean
        scatter += centred.T @ centred  # NumPy sees the symmetry: half of the products
        scatter += np.outer(shift, shift) * (count * new / (count + new))
        count += new
        mean += shift * (new / count)
    if mean is None:
        raise ValueError("expected at least one vector. Received: none")
    return Moments(count, mean, scatter)


def block_rows(dimension: int) -> int:
    """Returns how many rows of a dimension are taken at a time."""
    return max(1, _BLOCK_BYTES // (8 * dimension))


def row_blocks(vectors: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the rows of `vectors` (N, D) in blocks, float32 and contiguous.

    Raises:
        ValueError: if a number is NaN or infinite.
    """
    rows = block_rows(vectors.shape[1])
    for first in range(0, len(vectors), rows):
        block = np.ascontiguousarray(vectors[first : first + rows], np.float32)
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            row = first + int(np.argmin(finite))
            raise ValueError(f"expected finite vectors. Received: NaN or infinity in row {row}")
        yield block


def difference_covariance(
    vectors: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    transform: Callable[[np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the left vectors of pairs, and mean of d d^T for the differences d of the pairs.

    Args:
        vectors: (N, D); a memory map is read at the rows of the pairs.
        left: (P,) rows.
        right: (P,) rows.
        transform: what is done to a block of rows first.

    Returns:
        mean (D',) and covariance (D', D') float64.
    """
    rows = block_rows(vectors.shape[1])
    total, scatter = 0.0, 0.0
    for first in range(0, len(left), rows):
        here, there = (
            transform(np.asarray(vectors[side[first : first + rows]], np.float32))
            for side in (left, right)
        )
        total = total + here.sum(axis=0, dtype=np.float64)
        difference = here.astype(np.float64) - there
        scatter = scatter + difference.T @ difference
    return total / len(left), scatter / len(left)


def within_class_pairs(
    classes: np.ndarray, *, most: int = 1_000_000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of two images of one class: all of them, or a sample that is fair to small classes.

    Where there are more than `most`, a number is found that is the same for all classes: smaller
    classes give all their pairs, larger ones that many at random. Where even one pair per class is
    too many, classes are drawn.

    Args:
        classes: (N,) int64 class numbers from 0.
        most: upper bound of the number of pairs.
        seed: of the drawing; equal arguments give equal pairs.

    Returns:
        two (P,) int64 arrays of rows.

    Raises:
        ValueError: if no class has two images.
    """
    if most < 1:
        raise ValueError(f"expected at least one pair. Received: most = {most}")
    order = np.argsort(classes, kind="stable")
    sizes = np.bincount(classes)
    starts = np.cumsum(sizes) - sizes
    pairs = sizes * (sizes - 1) // 2
    usable = np.flatnonzero(pairs)
    if not usable.size:
        raise ValueError("expected classes of two images or more. Received: none")
    rng = np.random.default_rng(seed)
    if len(usable) > most:
        usable = np.sort(rng.choice(usable, most, replace=False))
    quota = _quota(pairs[usable], most)
    chosen = []
    for number in usable:
        if pairs[number] <= quota:
            flat = np.arange(pairs[number])
        else:
            flat = np.sort(rng.choice(pairs[number], quota, replace=False, shuffle=False))
        chosen.append(order[starts[number] + _triangle(flat)])  # (2, n)
    left, right = np.concatenate(chosen, axis=1)
    return left, right


def _quota(pairs: np.ndarray, most: int) -> int:
    """Returns the largest number c for which sum of min(pairs, c) is at most `most`."""
    low, high = 1, int(pairs.max())
    while low < high:
        middle = (low + high + 1) // 2
        fits = np.minimum(pairs, middle).sum() <= most
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def _triangle(flat: np.ndarray) -> np.ndarray:
    """Returns (2, n): the pairs i < j of these numbers in (0,1), (0,2), (1,2), (0,3), ..."""
    j = ((1 + np.sqrt(1 + 8 * flat.astype(np.float64))) / 2).astype(np.int64)
    j -= j * (j - 1) // 2 > flat  # the square root may round up to a whole number
    return np.stack([flat - j * (j - 1) // 2, j])
