"""Compiled loops of k-reciprocal re-ranking; importing this module loads numba.

Every function is compiled for every kind of its arguments, which takes 0.1 to 1 s: row numbers are
int64 throughout, vectors read-only. Parts of arrays are copied in loops, as numba's assignment of a
slice to a slice takes 2 s to compile.

Neighbour lists come as a tuple (positions (N, K), squared distances (N, K), slot, other positions
(M, K), other distances (M, K)). A row i whose slot[i] is not negative has the list slot[i] of the
others instead of its own; an empty slot stands for none.

Vectors come as two matrices, heads and tails, the rows of the one below those of the other.
"""

import numba
import numpy as np

from retrieval.nearest.neighbor_kernels import compare, vector


@numba.njit(nogil=True)
def _list_of(lists, row):
    """Returns a row's neighbours and their squared distances."""
    if len(lists[2]) > 0 and lists[2][row] >= 0:
        return lists[3][lists[2][row]], lists[4][lists[2][row]]
    return lists[0][row], lists[1][row]


@numba.njit(nogil=True)
def _find(values, count, value):
    """Returns the place of a value among the first `count`, -1 if it is not there."""
    for j in range(count):
        if values[j] == value:
            return j
    return -1


@numba.njit(nogil=True)
def _reciprocal(lists, row, size, found):
    """Writes the neighbours of a row that list it as well; the lists are `size` long.

    Returns their number.
    """
    count = 0
    own = _list_of(lists, row)[0]
    for j in range(size):
        if _find(_list_of(lists, np.int64(own[j]))[0], size, row) >= 0:
            found[count] = own[j]
            count += 1
    return count


@numba.njit(nogil=True)
def _distance(heads, tails, lists, a, b):
    """Returns the squared distance of two rows, from their lists if one lists the other."""
    for row, other in ((a, b), (b, a)):
        positions, distances = _list_of(lists, row)
        place = _find(positions, len(positions), other)
        if place >= 0:
            return np.float64(distances[place])
    return compare(vector(heads, tails, a), vector(heads, tails, b))[0]


@numba.njit(nogil=True)
def _expanded(lists, sizes, row, near, further, columns):
    """Writes R* of a row, see `k_reciprocal`; returns its length. Near and further are scratch."""
    own = _reciprocal(lists, row, sizes[0], near)
    for j in range(own):
        columns[j] = near[j]
    count = own
    for j in range(own):
        size = _reciprocal(lists, np.int64(near[j]), sizes[1], further)
        common = 0
        for m in range(size):
            common += _find(near, own, np.int64(further[m])) >= 0
        if 3 * common <= 2 * size:
            continue
        for m in range(size):
            if _find(columns, count, np.int64(further[m])) < 0:
                columns[count] = further[m]
                count += 1
    return count


@numba.njit(nogil=True)
def _share(distance, largest):
    """Returns distance / largest, and 0 where all distances are 0."""
    return distance / largest if largest > 0 else 0.0


@numba.njit(nogil=True)
def encode(heads, tails, lists, farthest, sizes, rows, counts, columns, values):
    """Writes the k-reciprocal features of some rows, each with the sum 1, one behind the other.

    Args:
        heads: vectors.
        tails: vectors.
        lists: see the module.
        farthest: (N,) largest squared distance of every row.
        sizes: lengths of the lists of a row and of its expansion, k1 + 1 and round(k1 / 2) + 1.
        rows: (B,) int64.
        counts: (B,) int64, written: length of every feature.
        columns: int32, written; it has room for B size_0 (1 + size_1).
        values: of the same length, written.

    Returns:
        How much of `columns` and `values` was written.
    """
    near, further = np.empty(sizes[0], np.int32), np.empty(sizes[1], np.int32)
    first = 0
    for j in range(len(rows)):
        row, largest = rows[j], np.float64(farthest[rows[j]])
        counts[j] = _expanded(lists, sizes, row, near, further, columns[first:])
        end = first + counts[j]
        total = 0.0
        for m in range(first, end):
            distance = _distance(heads, tails, lists, row, np.int64(columns[m]))
            values[m] = np.exp(-_share(distance, largest))
            total += values[m]
        for m in range(first, end):
            values[m] /= total
        first = end
    return first


@numba.njit(nogil=True)
def reach(lists, sizes, columns, marks):
    """Marks all rows whose feature has one of the columns, and some others.

    j is in R(i, n) if and only if i is in R(j, n): the rows are those in R(column, k1), and those
    in R(j, k1) for every j in R(column, k1 / 2).

    Args:
        lists: see the module.
        sizes: see `encode`.
        columns: (n,) int64.
        marks: (N,) bool, written.
    """
    near, further = np.empty(sizes[0], np.int32), np.empty(sizes[0], np.int32)
    for column in columns:
        for j in range(_reciprocal(lists, column, sizes[0], near)):
            marks[near[j]] = True
        for j in range(_reciprocal(lists, column, sizes[1], near)):
            for m in range(_reciprocal(lists, np.int64(near[j]), sizes[0], further)):
                marks[further[m]] = True


@numba.njit(nogil=True)
def add_minima(feature, inverted, shared, touched):
    """Adds up the minima of one feature and all features of the vectors.

    Args:
        feature: (columns, values).
        inverted: the vectors' features in CSC, (starts, vectors, values).
        shared: (N,) float64 of zeros, written.
        touched: (N,) int32, written: where it is not zero any more.

    Returns:
        How many are touched.
    """
    count = 0
    for at in range(len(feature[0])):
        column, value = feature[0][at], feature[1][at]
        for entry in range(inverted[0][column], inverted[0][column + 1]):
            position = inverted[1][entry]
            if shared[position] == 0:
                touched[count] = position
                count += 1
            shared[position] += min(value, inverted[2][entry])
    return count


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
        touched: int32 positions where it is not zero.
        best: (k,) float64, written.
        positions: (k,) int64, written.
    """
    for j in range(len(best)):
        best[j], positions[j] = np.inf, np.iinfo(np.int64).max
    for j in range(len(near[0])):
        position = np.int64(near[0][j])
        original = weight * _share(np.float64(near[1][j]), largest)
        _insert(best, positions, original + (1 - weight) * _jaccard(shared[position]), position)
        shared[position] = 0
    bound = weight * _share(np.float64(near[1][-1]), largest)
    for j in range(len(touched)):
        position = np.int64(touched[j])
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
