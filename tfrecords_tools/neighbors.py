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
from retrieval import search as retrieval_search

OWN = 5  # neighbours of the same label that are compared with; see tfrecords_tools/clean.py
NO_LABEL = -1

_BLOCK = 8192  # queries of the whole set at a time
_TILE = 1 << 24  # similarities within a class at a time, 64 MiB
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
    if labels.shape != (len(vectors),):
        raise ValueError(
            f"expected one label for each of {len(vectors)} vectors. Received: {labels.shape}"
        )
    if min(neighbors, own) < 1:
        raise ValueError(f"expected neighbors and own of at least 1. Received: {neighbors}, {own}")
    near = _distance_to_all(vectors, neighbors, search, stream)
    same = _distance_to_own(vectors, labels, own, stream)
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
        if not inside.size:
            continue
        class_vectors = vectors[members]
        for chosen, products in _tiles(class_vectors, inside):
            order = _nearest(products, min(k, len(members) - 1))
            yield from zip(members[chosen].tolist(), members[order], strict=True)


def _distance_to_all(
    vectors: np.ndarray, neighbors: int, search: str, stream: TextIO | None
) -> np.ndarray:
    """Returns the mean distance to the nearest other images, (N,) float32."""
    k = min(neighbors, len(vectors) - 1)
    if k < 1:
        return np.full(len(vectors), np.nan, np.float32)
    searcher = retrieval_search.make_searcher(search, vectors, k + 1)
    distances = np.empty(len(vectors), np.float32)
    progress = Progress("neighbours", len(vectors), stream)
    for first in range(0, len(vectors), _BLOCK):
        block = np.asarray(vectors[first : first + _BLOCK])
        positions, similarities = searcher.search(block, k + 1)  # (B, k + 1)
        is_self = positions == np.arange(first, first + len(block))[:, None]
        # An approximate search may miss the image itself: then the farthest is one too many.
        is_self[~is_self.any(axis=1), -1] = True
        others = similarities[~is_self].reshape(len(block), k)
        distances[first : first + len(block)] = _distance(others).mean(axis=1)
        progress.advance(len(block))
    progress.close()
    return distances


def _distance_to_own(
    vectors: np.ndarray, labels: np.ndarray, own: int, stream: TextIO | None
) -> np.ndarray:
    """Returns the mean distance to the nearest images of the same label; NaN without any."""
    distances = np.full(len(vectors), np.nan, np.float32)
    progress = Progress("classes", int((labels != NO_LABEL).sum()), stream)
    for members in _classes(labels):
        k = min(own, len(members) - 1)
        if k:
            for chosen, products in _tiles(vectors[members], np.arange(len(members))):
                best = np.partition(products, -k, axis=1)[:, -k:]
                distances[members[chosen]] = _distance(best).mean(axis=1)
        progress.advance(len(members))
    progress.close()
    return distances


def _classes(labels: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the rows of each class, ascending."""
    order = np.argsort(labels, kind="stable")
    order = order[np.count_nonzero(labels == NO_LABEL) :]
    if order.size:
        yield from np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def _tiles(vectors: np.ndarray, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (some of `rows`, their similarities to all vectors (R, N), -inf to themselves)."""
    step = max(1, _TILE // len(vectors))
    for first in range(0, len(rows), step):
        chosen = rows[first : first + step]
        products = vectors[chosen] @ vectors.T
        products[np.arange(len(chosen)), chosen] = -np.inf
        yield chosen, products


def _nearest(products: np.ndarray, k: int) -> np.ndarray:
    """Returns the positions of the k largest of each row (R, N), the largest first: (R, k)."""
    if k < 1:
        return np.empty((len(products), 0), np.int64)
    best = np.argpartition(products, -k, axis=1)[:, -k:]
    order = np.argsort(-np.take_along_axis(products, best, axis=1), axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1)


def _distance(similarities: np.ndarray) -> np.ndarray:
    """Returns squared Euclidean distances of unit vectors; rounding makes none negative."""
    return np.maximum(2 - 2 * similarities, 0)
