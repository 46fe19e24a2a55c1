"""Compiled loops of `retrieval.reranking.diffusion`; importing this module loads numba.

A graph is a symmetric affinity matrix in CSR: (starts, columns, values).
"""

import numba
import numpy as np

from retrieval.nearest.neighbor_kernels import insert


@numba.njit(nogil=True)
def subgraph(graph, scales, rows, slots):
    """Returns the graph of some rows, with values divided by the roots of both degrees.

    Args:
        graph: of N nodes.
        scales: (N,) one over the root of each degree; empty for the degrees within the subgraph.
        rows: (n,) the nodes, each once.
        slots: (N,) int32 of -1; left as it was.
    """
    starts = np.zeros(len(rows) + 1, np.int64)
    for j in range(len(rows)):
        slots[rows[j]] = j
    for j in range(len(rows)):
        count = 0
        for entry in range(graph[0][rows[j]], graph[0][rows[j] + 1]):
            count += slots[graph[1][entry]] >= 0
        starts[j + 1] = starts[j] + count
    columns = np.empty(starts[-1], np.int32)
    values = np.empty(starts[-1], np.float64)
    at = 0
    for j in range(len(rows)):
        for entry in range(graph[0][rows[j]], graph[0][rows[j] + 1]):
            slot = slots[graph[1][entry]]
            if slot >= 0:
                columns[at], values[at] = slot, graph[2][entry]
                at += 1
    for j in range(len(rows)):
        slots[rows[j]] = -1
    _normalize(starts, columns, values, scales, rows)
    return starts, columns, values


@numba.njit(nogil=True)
def _normalize(starts, columns, values, scales, rows):
    own = np.zeros(len(rows))
    for j in range(len(rows)):
        degree = 0.0
        for entry in range(starts[j], starts[j + 1]):
            degree += values[entry]
        if len(scales) > 0:
            own[j] = scales[rows[j]]
        elif degree > 0:
            own[j] = 1 / np.sqrt(degree)
    for j in range(len(rows)):
        for entry in range(starts[j], starts[j + 1]):
            values[entry] *= own[j] * own[columns[entry]]


@numba.njit(nogil=True)
def solve(transition, start, alpha, iterations, tolerance):
    """Returns f of (I - alpha S) f = start by conjugate gradients from 0.

    Args:
        transition: S, (starts, columns, values) of n nodes.
        start: (n,) float64.
        alpha: below 1.
        iterations: at most so many.
        tolerance: stop when the residual's norm is this part of the start's.
    """
    count = len(start)
    solution, image = np.zeros(count), np.empty(count)
    residual, direction = start.copy(), start.copy()
    energy = 0.0
    for j in range(count):
        energy += start[j] * start[j]
    limit = tolerance * tolerance * energy
    for _ in range(iterations):
        if energy <= limit:
            break
        curvature = 0.0
        for j in range(count):
            total = 0.0
            for entry in range(transition[0][j], transition[0][j + 1]):
                total += transition[2][entry] * direction[transition[1][entry]]
            image[j] = direction[j] - alpha * total
            curvature += direction[j] * image[j]
        step = energy / curvature
        renewed = 0.0
        for j in range(count):
            solution[j] += step * direction[j]
            residual[j] -= step * image[j]
            renewed += residual[j] * residual[j]
        for j in range(count):
            direction[j] = residual[j] + renewed / energy * direction[j]
        energy = renewed
    return solution


@numba.njit(nogil=True)
def best_of(solution, rows, scores, positions):
    """Writes the k largest positive scores, ties by position; returns how many there are.

    Args:
        solution: (n,) scores.
        rows: (n,) int64, their positions.
        scores: (k,) of zeros, written.
        positions: (k,) int64, written as far as there are scores.
    """
    last = len(scores) - 1
    found = 0
    for j in range(len(rows)):
        score = solution[j]
        if score <= 0:
            continue
        if score > scores[last] or (score == scores[last] and rows[j] < positions[last]):
            insert(scores, positions, score, rows[j])
            found = min(found + 1, len(scores))
    return found


@numba.njit(nogil=True)
def combine(weights, rows, columns, values, sums, touched):
    """Adds up weighted sparse rows.

    Args:
        weights: (m,) of the rows.
        rows: (m,) which rows.
        columns: (N, n) int32.
        values: (N, n).
        sums: (N,) float64 of zeros, written.
        touched: (m n,) int32, written: the columns whose sum is not zero any more.

    Returns:
        How many columns are touched; some are so twice.
    """
    count = 0
    for j in range(len(rows)):
        for m in range(columns.shape[1]):
            value = weights[j] * values[rows[j], m]
            if value == 0:
                continue
            column = columns[rows[j], m]
            if sums[column] == 0:
                touched[count] = column
                count += 1
            sums[column] += value
    return count
