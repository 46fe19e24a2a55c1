"""Compiled loops of `retrieval.nearest.neighbors`; importing this module loads numba.

Nothing is compiled before its first call, and nothing is stored on the disk. All loops release the
GIL, so that threads share the rows.
"""

import numba
import numpy as np

# Sums may be reordered for the vector units; there is no NaN, as all vectors are checked.
_FAST = {"reassoc", "contract", "nsz", "nnan"}
_CHUNK = 32  # similarities compared at once; few chunks hold one that enters a list


@numba.njit(nogil=True)
def insert(scores, positions, score, position):
    """Puts one answer into a list ordered by (score descending, position ascending)."""
    slot = len(scores) - 1
    while slot > 0 and (
        scores[slot - 1] < score or (scores[slot - 1] == score and positions[slot - 1] > position)
    ):
        scores[slot] = scores[slot - 1]
        positions[slot] = positions[slot - 1]
        slot -= 1
    scores[slot] = score
    positions[slot] = position


@numba.njit(nogil=True, fastmath=_FAST)
def _survey(products, halves, threshold, lowest):
    """Returns whether a score reaches the threshold, and the lowest score so far."""
    found = 0
    for j in range(len(products)):
        score = products[j] - halves[j]
        found += score >= threshold
        lowest = score if score < lowest else lowest
    return found, lowest


@numba.njit(nogil=True, fastmath=_FAST)
def _survey_columns(products, half, thresholds, lowest):
    """Does `_survey` for one similarity each of several lists; returns whether one reaches."""
    found = 0
    for j in range(len(products)):
        score = products[j] - half
        found += score >= thresholds[j]
        lowest[j] = score if score < lowest[j] else lowest[j]
    return found


@numba.njit(nogil=True)
def update_rows(products, first, halves, scores, positions, lowest):
    """Sorts the columns of a tile into the lists of its rows.

    Args:
        products: (B, C) inner products.
        first: position of column 0.
        halves: (C,) half the squared norms of the columns; score = product - half.
        scores: (B, k) of the lists, descending, changed in place.
        positions: (B, k) int32 of the lists, changed in place.
        lowest: (B,) lowest score seen, changed in place.
    """
    count = products.shape[1]
    for row in range(len(products)):
        worst = scores[row, -1]
        low = lowest[row]
        for start in range(0, count, _CHUNK):
            end = min(start + _CHUNK, count)
            found, low = _survey(products[row, start:end], halves[start:end], worst, low)
            if found == 0:
                continue
            for j in range(start, end):
                score = products[row, j] - halves[j]
                if score > worst or (score == worst and first + j < positions[row, -1]):
                    insert(scores[row], positions[row], score, first + j)
                    worst = scores[row, -1]
        lowest[row] = low


@numba.njit(nogil=True)
def update_columns(products, first, halves, scores, positions, lowest):
    """Sorts the rows of a tile into the lists of its columns.

    Args:
        products: (B, C) inner products.
        first: position of row 0.
        halves: (B,) half the squared norms of the rows.
        scores: (C, k) of the lists, descending, changed in place.
        positions: (C, k) int32 of the lists, changed in place.
        lowest: (C,) lowest score seen, changed in place.
    """
    worst = scores[:, -1].copy()
    count = products.shape[1]
    for row in range(len(products)):
        half = halves[row]
        for start in range(0, count, _CHUNK):
            part = slice(start, min(start + _CHUNK, count))
            line = products[row, part]
            if _survey_columns(line, half, worst[part], lowest[part]) == 0:
                continue
            for j in range(start, part.stop):
                score = products[row, j] - half
                if score > worst[j] or (score == worst[j] and first + row < positions[j, -1]):
                    insert(scores[j], positions[j], score, first + row)
                    worst[j] = scores[j, -1]


@numba.njit(nogil=True, fastmath=_FAST)
def compare(a, b):
    """Returns (squared Euclidean distance, inner product) of two vectors, summed in float64."""
    distance = 0.0
    product = 0.0
    for d in range(len(a)):
        x = np.float64(a[d])
        y = np.float64(b[d])
        distance += (x - y) * (x - y)
        product += x * y
    return distance, product


@numba.njit(nogil=True)
def vector(heads, tails, position):
    """Returns row `position` of two matrices, the one below the other."""
    if position < len(heads):
        return heads[position]
    return tails[position - len(heads)]


@numba.njit(nogil=True)
def refine(queries, vectors, first, offset, candidates, positions, distances, products):
    """Orders candidates by their distance in float64, ties by position, and keeps the first k.

    Args:
        queries: (Q, D); the positions count queries and vectors through.
        vectors: (N, D).
        first: position of the row that the first list belongs to.
        offset: is added to the candidates, and taken off again from the positions.
        candidates: (B, m) int32 with m >= k.
        positions: (B, k) int32, written.
        distances: (B, k) squared distances, written.
        products: (B, k) inner products, written.
    """
    count, k = candidates.shape[1], positions.shape[1]
    near = np.empty(count, np.float64)
    inner = np.empty(count, np.float64)
    order = np.empty(count, np.int32)
    for row in range(len(candidates)):
        own = vector(queries, vectors, first + row)
        for j in range(count):
            position = np.int64(candidates[row, j])
            distance, product = compare(own, vector(queries, vectors, position + offset))
            slot = j
            while slot > 0 and (
                near[slot - 1] > distance
                or (near[slot - 1] == distance and order[slot - 1] > position)
            ):
                near[slot], inner[slot] = near[slot - 1], inner[slot - 1]
                order[slot] = order[slot - 1]
                slot -= 1
            near[slot], inner[slot], order[slot] = distance, product, position
        for j in range(k):
            positions[row, j] = order[j]
            distances[row, j] = near[j]
            products[row, j] = inner[j]
