"""How well the label of an image agrees with its neighbours in descriptor space.

Compares the distance to the nearest images of the same label with the distance to the nearest
images of the whole set, whatever their labels: the idea of the local outlier factor (Breunig et
al., "LOF: Identifying Density-Based Local Outliers", SIGMOD 2000), with the class as the
neighbourhood that is put to the test. Distances are squared Euclidean ones of unit vectors,
2 - 2 cos. Memory is bounded: vectors may be a memory map, and are read block by block.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TextIO

import numpy as np

from progress import Progress
from retrieval.nearest.searchers import make_searcher

OWN = 5  # neighbours of the same label that are compared with; see tfrecords_tools/clean.py
NO_LABEL = -1

_BLOCK = 8192  # images whose neighbours are searched at a time
# Added to both distances: exact copies have the distance 0, and float32 leaves 1e-7 of it.
_EPSILON = 1e-6


def measure_agreement(
    vectors: np.ndarray,
    labels: np.ndarray,
    *,
    neighbors: int = 50,
    own: int = OWN,
    search: str = "auto",
    stream: TextIO | None = sys.stderr,
) -> np.ndarray:
    """Returns for each image how near its own label's images are, next to the nearest of all.

        agreement = (mean distance to the `neighbors` nearest images of the whole set)
                  / (mean distance to the `own` nearest images of the same label)

    About 1 or more: its nearest images have its own label. Near 0: many others are far nearer.
    The number has no unit and keeps its meaning from model to model.

    Args:
        vectors: (N, D) float32, rows L2-normalised and finite.
        labels: (N) integers; NO_LABEL takes part as a neighbour of the others only.
        neighbors: nearest images of the whole set; fewer if there are fewer.
        own: nearest images of the same label; fewer in smaller classes.
        search: "exact", "scann" or "auto", see `retrieval.search.make_searcher`.
        stream: where progress goes; None shows nothing.

    Returns:
        (N,) float32; NaN without a label or without another image of it.

    Raises:
        ValueError: if the arguments do not fit each other or a vector is not finite.
    """
    if labels.shape != (len(vectors),) or len(vectors) < 2:
        raise ValueError(
            "expected at least two vectors and one label for each. "
            f"Received: {len(vectors)} vectors and labels of shape {labels.shape}"
        )
    if min(neighbors, own) < 1:
        raise ValueError(f"expected neighbors and own of at least 1. Received: {neighbors}, {own}")
    near = _distance_to_all(vectors, neighbors, search, stream)
    same = _distance_to_own(vectors, labels, own, search, stream)
    return (near + np.float32(_EPSILON)) / (same + np.float32(_EPSILON))


def own_neighbors(
    vectors: np.ndarray, labels: np.ndarray, rows: np.ndarray, k: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (row, rows of the k nearest other images of its label, nearest first).

    Args:
        vectors: (N, D) float32, rows L2-normalised.
        labels: (N) integers.
        rows: (R) rows that are asked for, in any order; they come class by class.
        k: how many; smaller classes give fewer.
    """
    asked = np.zeros(len(labels), bool)
    asked[rows] = True
    for members in _classes(labels):
        inside = np.flatnonzero(asked[members])
        for chosen, others, _ in _search_others(vectors[members], inside, k, "auto"):
            yield from zip(members[chosen].tolist(), members[others], strict=True)


def _distance_to_all(
    vectors: np.ndarray, neighbors: int, search: str, stream: TextIO | None
) -> np.ndarray:
    """Returns the mean distance to the nearest other images, (N,) float32."""
    distances = np.empty(len(vectors), np.float32)
    progress = Progress("neighbours", len(vectors), stream)
    rows = np.arange(len(vectors))
    for chosen, _, similarities in _search_others(vectors, rows, neighbors, search):
        distances[chosen] = _distance(similarities).mean(axis=1)
        progress.advance(len(chosen))
    progress.close()
    return distances


def _distance_to_own(
    vectors: np.ndarray, labels: np.ndarray, own: int, search: str, stream: TextIO | None
) -> np.ndarray:
    """Returns the mean distance to the nearest images of the same label; NaN without any."""
    distances = np.full(len(vectors), np.nan, np.float32)
    progress = Progress("classes", int((labels != NO_LABEL).sum()), stream)
    # An index of a small class by ScaNN would cost more than it saves.
    search = "exact" if search == "exact" else "auto"
    for members in _classes(labels):
        rows = np.arange(len(members))
        for chosen, _, similarities in _search_others(vectors[members], rows, own, search):
            if similarities.size:
                distances[members[chosen]] = _distance(similarities).mean(axis=1)
            progress.advance(len(chosen))
    progress.close()
    return distances


def _classes(labels: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the rows of each class, ascending."""
    order = np.argsort(labels, kind="stable")
    order = order[np.count_nonzero(labels == NO_LABEL) :]
    if order.size:
        yield from np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def _search_others(
    vectors: np.ndarray, rows: np.ndarray, k: int, search: str
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Finds for each of `rows` (R) its nearest among the other vectors, nearest first.

    Yields some of the rows (B), the others' positions (B, k) and similarities (B, k); k is smaller
    where there are fewer.
    """
    k = min(k, len(vectors) - 1)
    searcher = make_searcher(search, vectors, k + 1)
    for first in range(0, len(rows), _BLOCK):
        chosen = rows[first : first + _BLOCK]
        positions, similarities = searcher.search(vectors[chosen], k + 1)
        is_self = positions == chosen[:, None]
        # An image with many copies, or an approximate search, may leave the image itself out.
        is_self[~is_self.any(axis=1), -1] = True
        shape = (len(chosen), k)
        yield chosen, positions[~is_self].reshape(shape), similarities[~is_self].reshape(shape)


def _distance(similarities: np.ndarray) -> np.ndarray:
    """Returns squared Euclidean distances of unit vectors; rounding makes none negative."""
    return np.maximum(2 - 2 * similarities, 0)
