"""Fills neighbour lists from a symmetric matrix product, tile by tile, on all cores."""

from __future__ import annotations

import itertools
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator

import numpy as np

from progress import Progress, ordered_map
from retrieval.nearest import exact

# A tile of 1024 x 1024 float32 stays in the last cache between its product and its survey.
_TILE = 1024
_SHOW_PROGRESS_FROM = 50_000
_PIECE = 8192


class Union:
    """The rows of the queries, then those of the vectors, without a copy of them.

    Args:
        queries: (Q, D), Q may be 0.
        vectors: (N, D), float32 or float64, finite; the queries have the same dtype.

    Attributes:
        halves: (Q + N,) half of each row's squared norm.

    Raises:
        ValueError: if the matrices do not fit.
    """

    def __init__(self, queries: np.ndarray, vectors: np.ndarray) -> None:
        check_vectors("vectors", vectors)
        if len(queries):
            check_vectors("queries", queries)
        if queries.shape[1:] != vectors.shape[1:] or queries.dtype != vectors.dtype:
            raise ValueError(
                f"expected queries of dimension {vectors.shape[1]} and {vectors.dtype}, as the "
                f"vectors have. Received: shape {queries.shape}, {queries.dtype}"
            )
        if len(queries) + len(vectors) > np.iinfo(np.int32).max:
            raise ValueError(
                f"expected fewer than 2^31 rows. Received: {len(queries) + len(vectors):,}"
            )
        self.queries = np.ascontiguousarray(np.asarray(queries))
        self.vectors = np.ascontiguousarray(np.asarray(vectors))
        parts = [half_squared_norms(self.queries), half_squared_norms(self.vectors)]
        self.halves = np.concatenate(parts)

    def __len__(self) -> int:
        return len(self.queries) + len(self.vectors)

    def block(self, first: int, last: int) -> np.ndarray:
        """Returns rows first ... last - 1, which are all queries or all vectors."""
        count = len(self.queries)
        if first >= count:
            return self.vectors[first - count : last - count]
        return self.queries[first:last]


class RunningLists:
    """Lists that are being filled: the largest scores, score = product - norm^2 / 2 of the other.

    Args:
        count: lists.
        width: entries of each; every list must be offered at least as many.
        dtype: of the scores.
    """

    def __init__(self, count: int, width: int, dtype: np.dtype) -> None:
        self.scores = np.full((count, width), -np.inf, dtype)
        self.positions = np.zeros((count, width), np.int32)
        self.lowest = np.full(count, np.inf, dtype)

    def rows_of(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns scores, positions and lowest scores of some lists, to be changed in place."""
        rows = slice(first, last)
        return self.scores[rows], self.positions[rows], self.lowest[rows]


def fill(
    union: Union,
    lists: RunningLists,
    answers: RunningLists,
    *,
    queries_only: bool,
    workers: int | None,
) -> None:
    """Offers all rows to all lists.

    Each thread multiplies tiles of its own, with a BLAS of one thread for as long: small products
    shared by the threads of BLAS took three times the CPU time. The product of two blocks of rows
    serves the lists of both. BLAS has one thread for the whole process until the end.

    Args:
        union: the rows.
        lists: one list of union positions per row.
        answers: one list of positions in the vectors per query; may have no entries.
        queries_only: offer only what involves a query.
        workers: threads; all cores if absent.
    """
    import threadpoolctl

    workers = workers or os.cpu_count() or 1
    blocks, query_blocks = _blocks(len(union.queries), len(union))
    limit = query_blocks if queries_only else len(blocks)
    total = sum(min(limit, len(blocks) - distance) for distance in range(len(blocks)))
    compare = _Comparison(union, lists, answers, blocks, workers)
    progress = progress_of("neighbours", len(union), total, "tiles")
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        for _ in ordered_map(compare, _pairs(len(blocks), limit), workers=workers):
            progress.advance()
    progress.close()


class _Comparison:
    """Offers two blocks of rows to each other's lists."""

    def __init__(self, union, lists, answers, blocks, workers: int) -> None:
        self.union, self.lists, self.answers, self.blocks = union, lists, answers, blocks
        self.locks = [threading.Lock() for _ in blocks]
        self.tiles: queue.SimpleQueue = queue.SimpleQueue()
        for _ in range(workers):
            self.tiles.put(np.empty(_TILE * _TILE, union.halves.dtype))

    def __call__(self, pair: tuple[int, int]) -> None:
        from retrieval.nearest import neighbor_kernels

        (first, last), (start, stop) = (self.blocks[number] for number in pair)
        halves, count = self.union.halves, len(self.union.queries)
        tile = self.tiles.get()
        products = tile[: (last - first) * (stop - start)].reshape(last - first, stop - start)
        np.matmul(self.union.block(first, last), self.union.block(start, stop).T, out=products)
        with self.locks[pair[0]]:
            rows = self.lists.rows_of(first, last)
            neighbor_kernels.update_rows(products, start, halves[start:stop], *rows)
            if first < count <= start and self.answers.scores.shape[1]:
                rows = self.answers.rows_of(first, last)
                neighbor_kernels.update_rows(products, start - count, halves[start:stop], *rows)
        if pair[0] != pair[1]:
            with self.locks[pair[1]]:
                columns = self.lists.rows_of(start, stop)
                neighbor_kernels.update_columns(products, first, halves[first:last], *columns)
        self.tiles.put(tile)


def for_parts(function: Callable[[int, int], None], count: int, workers: int | None) -> None:
    """Runs function(first, last) over range(count) in threads, some thousand rows at a time."""
    workers = workers or os.cpu_count() or 1
    size = max(1, min(_PIECE, -(-count // workers)))
    parts = [(first, min(first + size, count)) for first in range(0, count, size)]
    for _ in ordered_map(lambda part: function(*part), parts, workers=workers):
        pass


def progress_of(what: str, rows: int, total: int, unit: str) -> Progress:
    """Returns a line on stderr where the work takes more than some seconds."""
    return Progress(what, total, sys.stderr if rows >= _SHOW_PROGRESS_FROM else None, unit=unit)


def as_kernels_take(matrix: np.ndarray) -> np.ndarray:
    """Returns a contiguous, read-only array of NumPy's own class; seldom a copy.

    Another kind, such as a memory map's, would be compiled for again.
    """
    plain = np.ascontiguousarray(np.asarray(matrix)).view()
    plain.flags.writeable = False
    return plain


def half_squared_norms(vectors: np.ndarray) -> np.ndarray:
    """Returns (N,) half of each row's squared norm, of the vectors' dtype, summed in float64."""
    halves = np.empty(len(vectors), vectors.dtype)
    for first in range(0, len(vectors), _PIECE):
        block = vectors[first : first + _PIECE]
        halves[first : first + _PIECE] = np.einsum("nd,nd->n", block, block, dtype=np.float64) / 2
    return halves


def check_vectors(name: str, matrix: np.ndarray) -> None:
    """Raises ValueError unless `matrix` is (N >= 1, D >= 1), float32 or float64, and finite."""
    if matrix.dtype != np.float64:
        exact.check_matrix(name, matrix)
    elif matrix.ndim != 2 or 0 in matrix.shape or not np.isfinite(matrix).all():
        raise ValueError(
            f"expected {name} to be a finite matrix with at least one row and column. "
            f"Received: shape {matrix.shape}, {matrix.dtype}"
        )


def _blocks(queries: int, rows: int) -> tuple[list[tuple[int, int]], int]:
    """Returns blocks (first, last), none with both queries and vectors, and the queries' number."""
    starts = [*range(0, queries, _TILE)]
    query_blocks = len(starts)
    starts += [*range(queries, rows, _TILE), rows]
    return list(itertools.pairwise(starts)), query_blocks


def _pairs(blocks: int, limit: int) -> Iterator[tuple[int, int]]:
    """Yields all pairs (a, b) of blocks with a <= b and a < limit.

    Pairs that follow each other share no block, so that threads seldom wait for the same lists.
    """
    for distance in range(blocks):
        for first in range(min(limit, blocks - distance)):
            yield first, first + distance
