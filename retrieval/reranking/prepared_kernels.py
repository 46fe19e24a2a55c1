"""Compiled loops of `retrieval.reranking.prepared_gallery`; importing this module loads numba.

The query is row N of a set whose first N rows are the vectors. Its own influence on the vectors'
lists is written to other lists (see `k_reciprocal_kernels`); among equally near rows it comes
first, as in the batch, where queries precede vectors.
"""

import numba
import numpy as np

from retrieval.nearest.neighbor_kernels import compare
from retrieval.reranking.k_reciprocal_kernels import encode_row, positions_of, rank, reciprocal


@numba.njit(nogil=True)
def find_affected(query, vectors, products, half, halves, reach, slack, rows, distances):
    """Writes the vectors that have the query in their lists, with its squared distance.

    Args:
        query: (D,).
        vectors: (N, D).
        products: (N,) inner products with the query.
        half: half the query's squared norm.
        halves: (N,) those of the vectors.
        reach: (N,) squared distance of the last entry of each vector's list.
        slack: error of a squared distance from products; closer cases are computed in float64.
        rows: (N,) int32, written.
        distances: (N,), written.

    Returns:
        How many there are.
    """
    count = 0
    for row in range(len(products)):
        if 2 * (half + halves[row] - products[row]) > reach[row] + slack:
            continue
        distances[count] = compare(query, vectors[row])[0]
        if distances[count] <= reach[row]:
            rows[count] = row
            count += 1
    return count


@numba.njit(nogil=True)
def lists_with_query(positions, distances, rows, own, other_positions, other_distances):
    """Writes the affected vectors' lists with the query in its place.

    Args:
        positions: (N, K) int32 of the gallery's lists.
        distances: (N, K) squared distances.
        rows: (A,) affected vectors.
        own: (A,) their squared distances to the query.
        other_positions: (A + 1, L) with L of K or, in a small gallery, K + 1; written from row 1.
        other_distances: the same.
    """
    known, length = positions.shape[1], other_positions.shape[1]
    for j in range(len(rows)):
        slot = 0
        while slot < known and distances[rows[j], slot] < own[j]:
            slot += 1
        for m in range(length):
            source = m if m < slot else m - 1
            other_positions[j + 1, m] = positions[rows[j], source]
            other_distances[j + 1, m] = distances[rows[j], source]
        other_positions[j + 1, slot] = len(positions)
        other_distances[j + 1, slot] = own[j]


@numba.njit(nogil=True)
def _remember(graph, sizes, row, place, pool, used):
    """Encodes a row once; returns (pool, used) with the row's feature in the pool.

    Args:
        graph: (vectors, query (1, D), lists, farthest).
        sizes: see `encode_row`.
        row: which one.
        place: (N + 1, 2) int32: start and length of each feature, start -1 for none.
        pool: (columns, values), the features one behind the other.
        used: entries of the pool in use.
    """
    if place[row, 0] >= 0:
        return pool, used
    room = sizes[0] * (1 + sizes[1])
    columns, values = pool
    if used + room > len(columns):
        longer = 2 * len(columns) + room
        more_columns, more_values = np.empty(longer, np.int32), np.empty(longer, values.dtype)
        more_columns[:used] = columns[:used]
        more_values[:used] = values[:used]
        columns, values = more_columns, more_values
    vectors, query, lists, farthest = graph
    count = encode_row(vectors, query, lists, farthest, sizes, row, columns[used:], values[used:])
    place[row, 0], place[row, 1] = used, count
    return (columns, values), used + count


@numba.njit(nogil=True)
def _reached(lists, sizes, column, found, near, further):
    """Writes all rows whose feature has a column (some of them more than once, some without it).

    j is in R(i, n) if and only if i is in R(j, n): the rows are those in R(column, k1), and those
    in R(j, k1) for every j in R(column, k1 / 2).
    """
    count = reciprocal(lists, column, sizes[0], found)
    middle = reciprocal(lists, column, sizes[1], near)
    for j in range(middle):
        size = reciprocal(lists, near[j], sizes[0], further)
        for m in range(size):
            found[count + m] = further[m]
        count += size
    return count


@numba.njit(nogil=True)
def _query_feature(graph, sizes, average, place, pool, used, slots, columns, values):
    """Writes the query's averaged feature and each column's slot; returns (pool, used, length)."""
    lists, row, count = graph[2], len(graph[0]), 0
    for j in range(average):
        other = positions_of(lists, row)[j] if average > 1 else row
        pool, used = _remember(graph, sizes, other, place, pool, used)
        for entry in range(place[other, 0], place[other, 0] + place[other, 1]):
            column = pool[0][entry]
            if slots[column] < 0:
                slots[column] = count
                columns[count], values[count] = column, 0
                count += 1
            values[slots[column]] += pool[1][entry] / average
    return pool, used, count


@numba.njit(nogil=True)
def _overlap(lists, row, average, place, pool, slots, feature, sums):
    """Returns the sum of minima of the query's feature and a vector's averaged one."""
    sums[: len(feature)] = 0
    for j in range(average):
        other = positions_of(lists, row)[j] if average > 1 else row
        if place[other, 0] < 0:  # it shares nothing with the query
            continue
        for entry in range(place[other, 0], place[other, 0] + place[other, 1]):
            slot = slots[pool[0][entry]]
            if slot >= 0:
                sums[slot] += pool[1][entry] / average
    shared = 0.0
    for slot in range(len(feature)):
        shared += min(sums[slot], feature[slot])
    return shared


@numba.njit(nogil=True)
def _candidates(graph, sizes, average, reverse, columns, place, pool, used, marks, found):
    """Encodes all rows that share a column with the query; writes the vectors averaging them.

    Returns (pool, used, number of vectors).
    """
    vectors, lists = graph[0], graph[2]
    count = 0
    rows = np.empty(sizes[0] * (1 + sizes[1]), np.int32)
    near, further = np.empty(sizes[1], np.int32), np.empty(sizes[0], np.int32)
    for column in columns:
        size = _reached(lists, sizes, column, rows, near, further)
        for j in range(size):
            row = rows[j]
            if marks[row] & 1:
                continue
            marks[row] |= 1
            pool, used = _remember(graph, sizes, row, place, pool, used)
            if row == len(vectors):
                continue
            first, last = (reverse[0][row], reverse[0][row + 1]) if average > 1 else (0, 1)
            for entry in range(first, last):
                vector = reverse[1][entry] if average > 1 else row
                if marks[vector] & 2 == 0:
                    marks[vector] |= 2
                    found[count] = vector
                    count += 1
    return pool, used, count


@numba.njit(nogil=True)
def answer_one(graph, sizes, average, reverse, affected, weight, near, best, positions):
    """Writes the answers to one query.

    Args:
        graph: (vectors (N, D), query (1, D), lists, farthest (N + 1,)) with the query as row N.
        sizes: see `encode_row`.
        average: k2, or less in a small set; 1 for no average.
        reverse: (starts (N + 1,), rows): which lists have a vector among their first k2.
        affected: the vectors that have the query in their lists.
        weight: lambda.
        near: (positions, squared distances) of the nearest vectors.
        best: (k,) float64, written.
        positions: (k,) int64, written.
    """
    vectors, query, lists, farthest = graph
    count, room = len(vectors), sizes[0] * (1 + sizes[1])
    place = np.full((count + 1, 2), -1, np.int32)
    slots = np.full(count + 1, -1, np.int32)
    marks = np.zeros(count + 1, np.uint8)
    pool = np.empty(16 * room, np.int32), np.empty(16 * room, lists[1].dtype)
    columns, values = np.empty(average * room, np.int32), np.empty(average * room)
    pool, used, length = _query_feature(
        graph, sizes, average, place, pool, 0, slots, columns, values
    )
    found = np.empty(count, np.int32)
    pool, used, size = _candidates(
        graph, sizes, average, reverse, columns[:length], place, pool, used, marks, found
    )
    for row in affected:
        if marks[row] & 2 == 0:  # the query may be among the first k2
            found[size] = row
            size += 1
    shared = np.zeros(count)
    sums = np.empty(length)
    for row in found[:size]:
        shared[row] = _overlap(lists, row, average, place, pool, slots, values[:length], sums)
    rank(query[0], vectors, farthest[count], weight, near, shared, found[:size], best, positions)
