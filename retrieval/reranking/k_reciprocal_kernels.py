"""Compiled loops of k-reciprocal re-ranking; importing this module loads numba.

Neighbour lists come as a tuple (positions (N, K), squared distances (N, K), slot, other positions
(M, K), other distances (M, K)). A row i whose slot[i] is not negative has the list slot[i] of the
others instead of its own; an empty slot stands for none.

Vectors come as two matrices, heads and tails, the rows of the one below those of the other.
"""

import numba
import numpy as np

from retrieval.nearest.neighbor_kernels import compare, vector


@numba.njit(nogil=True)
def positions_of(lists, row):
    """Returns a row's neighbours."""
    if len(lists[2]) > 0 and lists[2][row] >= 0:
        return lists[3][lists[2][row]]
    return lists[0][row]


@numba.njit(nogil=True)
def _distances(lists, row):
    if len(lists[2]) > 0 and lists[2][row] >= 0:
        return lists[4][lists[2][row]]
    return lists[1][row]


@numba.njit(nogil=True)
def _find(values, count, value):
    """Returns the place of a value among the first `count`, -1 if it is not there."""
    for j in range(count):
        if values[j] == value:
            return j
    return -1


@numba.njit(nogil=True)
def reciprocal(lists, row, size, found):
    """Writes the neighbours of a row that list it as well; the lists are `size` long.

    Returns their number.
    """
    count = 0
    own = positions_of(lists, row)
    for j in range(size):
        if _find(positions_of(lists, own[j]), size, row) >= 0:
            found[count] = own[j]
            count += 1
    return count


@numba.njit(nogil=True)
def _distance(heads, tails, lists, a, b):
    """Returns the squared distance of two rows, from their lists if one lists the other."""
    place = _find(positions_of(lists, a), lists[0].shape[1], b)
    if place >= 0:
        return np.float64(_distances(lists, a)[place])
    place = _find(positions_of(lists, b), lists[0].shape[1], a)
    if place >= 0:
        return np.float64(_distances(lists, b)[place])
    return compare(vector(heads, tails, a), vector(heads, tails, b))[0]


@numba.njit(nogil=True)
def encode_row(heads, tails, lists, farthest, sizes, row, columns, values):
    """Writes the k-reciprocal feature of one row, the sum of which is 1; returns its length.

    Args:
        heads: vectors.
        tails: vectors.
        lists: see the module.
        farthest: (N,) largest squared distance of every row.
        sizes: lengths of the lists of the row and of its expansion, k1 + 1 and round(k1 / 2) + 1.
        row: position of the row.
        columns: int32, written; it has room for size_0 (1 + size_1).
        values: of the same length, written.
    """
    near = np.empty(sizes[0], np.int32)
    own = reciprocal(lists, row, sizes[0], near)
    for j in range(own):
        columns[j] = near[j]
    count = own
    further = np.empty(sizes[1], np.int32)
    for j in range(own):
        size = reciprocal(lists, near[j], sizes[1], further)
        common = 0
        for m in range(size):
            common += _find(near, own, further[m]) >= 0
        if 3 * common <= 2 * size:
            continue
        for m in range(size):
            if _find(columns, count, further[m]) < 0:
                columns[count] = further[m]
                count += 1
    total = 0.0
    for j in range(count):
        distance = _distance(heads, tails, lists, row, columns[j])
        values[j] = np.exp(-_share(distance, farthest[row]))
        total += values[j]
    for j in range(count):
        values[j] /= total
    return count


@numba.njit(nogil=True)
def _share(distance, largest):
    """Returns distance / largest, and 0 where all distances are 0."""
    return distance / np.float64(largest) if largest > 0 else 0.0


@numba.njit(nogil=True)
def encode(heads, tails, lists, farthest, sizes, first, counts, columns, values):
    """Writes the features of rows first, first + 1, ... one behind the other.

    Args:
        heads: see `encode_row`, also for `tails`, `lists`, `farthest` and `sizes`.
        first: position of the first row.
        counts: (B,) int64, written: length of every feature.
        columns: int32, written; it has room for B size_0 (1 + size_1).
        values: of the same length, written.

    Returns:
        How much of `columns` and `values` was written.
    """
    end = 0
    for j in range(len(counts)):
        counts[j] = encode_row(
            heads, tails, lists, farthest, sizes, first + j, columns[end:], values[end:]
        )
        end += counts[j]
    return end


@numba.njit(nogil=True)
def rank(query, vectors, largest, weight, near, shared, touched, best, positions):
    """Writes the k smallest final distances of one query, equal ones by position.

    Only vectors in `near` or `touched` can be among them: all others have the Jaccard distance 1
    and are not nearer than those in `near`, which are k or all.

    Args:
        query: (D,).
        vectors: (N, D).
        largest: the query's largest squared distance.
        weight: lambda, of the original distance.
        near: (positions, squared distances) of the k or more nearest vectors.
        shared: (N,) float64 sum of minima of the features; left as zeros.
        touched: the positions where it is not zero.
        best: (k,) float64, written.
        positions: (k,) int64, written.
    """
    best[:] = np.inf
    positions[:] = np.iinfo(np.int64).max
    for j in range(len(near[0])):
        position = near[0][j]
        original = weight * _share(np.float64(near[1][j]), largest)
        _insert(best, positions, original + (1 - weight) * _jaccard(shared[position]), position)
        shared[position] = 0
    bound = weight * _share(np.float64(near[1][-1]), largest)
    for j in range(len(touched)):
        position = touched[j]
        if shared[position] == 0:
            continue
        far = (1 - weight) * _jaccard(shared[position])
        shared[position] = 0
        # It is not in `near`, so its original distance is not below the last one there.
        if far + bound * (1 - 1e-6) > best[-1]:
            continue
        distance = compare(query, vectors[position])[0]
        _insert(best, positions, far + weight * _share(distance, largest), position)


@numba.njit(nogil=True)
def _jaccard(shared):
    return 1 - shared / (2 - shared)


@numba.njit(nogil=True)
def _insert(best, positions, value, position):
    slot = len(best) - 1
    if value > best[slot] or (value == best[slot] and position > positions[slot]):
        return
    while slot > 0 and (
        best[slot - 1] > value or (best[slot - 1] == value and positions[slot - 1] > position)
    ):
        best[slot], positions[slot] = best[slot - 1], positions[slot - 1]
        slot -= 1
    best[slot], positions[slot] = value, position


@numba.njit(nogil=True)
def answer(queries, vectors, farthest, weight, near, rows, inverted, first, best, positions):
    """Writes the answers to queries first, first + 1, ...

    Args:
        queries: (Q, D).
        vectors: (N, D).
        farthest: (Q,) largest squared distance of every query.
        weight: lambda.
        near: (positions, squared distances) (Q, A) of the nearest vectors.
        rows: the queries' features in CSR, (starts, columns, values).
        inverted: the vectors' features in CSC, (starts, vectors, values).
        first: the first query.
        best: (B, k) float64, written.
        positions: (B, k) int64, written.
    """
    shared = np.zeros(len(vectors))
    touched = np.empty(len(vectors), np.int32)
    for j in range(len(best)):
        query = first + j
        count = 0
        for at in range(rows[0][query], rows[0][query + 1]):
            column, value = rows[1][at], rows[2][at]
            for entry in range(inverted[0][column], inverted[0][column + 1]):
                position = inverted[1][entry]
                if shared[position] == 0:
                    touched[count] = position
                    count += 1
                shared[position] += min(value, inverted[2][entry])
        rank(
            queries[query],
            vectors,
            farthest[query],
            weight,
            (near[0][query], near[1][query]),
            shared,
            touched[:count],
            best[j],
            positions[j],
        )
