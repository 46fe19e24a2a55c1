"""Exact nearest neighbours by inner product: blocked matrix products and a running threshold."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from concurrent.futures import Executor

import numpy as np

from retrieval.nearest import cores, selection, ties
from retrieval.nearest.selection import TopK
from retrieval.stored import precision

# Bytes that one similarity of a tile can need at worst, when every one of them survives: itself,
# its mask, and its flat index, row, column, slot, position and key, with their temporaries.
_BYTES_PER_SIMILARITY = 80
# A product of fewer rows reads the vectors too often, one of more leaves cores idle sooner.
_TILE_QUERIES = 512
# float32 similarities of a tile that stay in the second-level cache and its share of the third.
_TILE_SIMILARITIES = 1 << 20
_CHECKED_ROWS = 16384
_CONVERTED_ROWS = 256  # some hundred kB, which stay in the cache


class ExactSearcher:
    """Exhaustive search over the rows of one matrix.

    The similarities are computed tile by tile, one matrix product each, the tiles side by side on
    all cores. A tile's similarities are compared with the k-th best one known so far of each query,
    and only the few above it are sorted in: a full selection of every tile would cost as much as
    the products.

    The similarity is the inner product. For rows of equal norm, which the weighted concatenation of
    L2-normalised members has as well (sqrt(sum of squared weights)), it ranks like the Euclidean
    distance: |q - x|^2 = |q|^2 + |x|^2 - 2 q.x, and only the last term depends on x's direction.

    Args:
        vectors: (N, D) finite, float32, float16 or bfloat16, or a `precision.Rows`. What is not
            float32 becomes so block by block. A memory map is read once per search, and leaves no
            pages in memory.
        memory_mb: upper bound of the working memory in MiB, with the blocks of vectors that are
            read or converted, besides the queries and the answers. At least one query and one
            vector at a time are compared.
        ids: N texts: equal similarities are ordered by id, ascending, so that the answers do not
            depend on the order of the rows. Without it they are ordered by position.
        threads: how many; one for each core if absent.

    Raises:
        ValueError: if `vectors` is not a finite matrix of these dtypes, or another argument does
            not fit.
    """

    def __init__(
        self,
        vectors: np.ndarray | precision.Rows,
        *,
        memory_mb: int = 256,
        ids: Sequence[str] | None = None,
        threads: int | None = None,
    ) -> None:
        if memory_mb < 1:
            raise ValueError(f"expected memory_mb of at least 1. Received: {memory_mb}")
        if threads is not None and threads < 1:
            raise ValueError(f"expected threads of at least 1. Received: {threads}")
        if ids is not None and len(ids) != len(vectors):
            raise ValueError(f"expected {len(vectors)} ids. Received: {len(ids)}")
        dtypes = ("float32", "float16", "bfloat16")
        self._largest_norm = check_matrix("vectors", vectors, dtypes=dtypes)
        self.vectors = vectors
        self.memory_mb = memory_mb
        self.threads = threads or cores.count()
        self._by_rank = None if ids is None else _order_of(ids)
        self._ranks = None if self._by_rank is None else _inverse(self._by_rank)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the k most similar vectors of every query.

        Args:
            queries: (Q, D) float32, finite.
            k: how many; more than N gives N.

        Returns:
            positions (Q, min(k, N)) int64 and similarities (Q, min(k, N)) float32, the most similar
            first; equal similarities by id if there are ids, else by position, ascending.

        Raises:
            ValueError: if `queries` does not fit the vectors, or k is not positive.
        """
        check_queries(queries, self.vectors, k)
        queries = np.ascontiguousarray(queries)
        tolerance = ties.tolerances(queries, self._largest_norm)
        k, spare = min(k, len(self.vectors)), 8 + k // 8
        positions = np.empty((len(queries), k), np.int64)
        similarities = np.empty((len(queries), k), np.float32)
        open_rows = np.arange(len(queries))  # whose k-th answer may have unseen equals
        while open_rows.size:
            asked, close = queries[open_rows], tolerance[open_rows]
            # Answers beyond k must not outgrow the working memory.
            most = max(k, self.memory_mb * 2**20 // (_BYTES_PER_SIMILARITY * len(asked)))
            wanted = min(k + spare, most, len(self.vectors))
            found, values = self._unpack(self._best_keys(asked, wanted))
            is_last = wanted in (most, len(self.vectors))
            settled = is_last | (values[:, k - 1] - values[:, -1] > close)
            ties.settle(asked, self.vectors, found, values, close)
            order = np.lexsort((self._ranks_of(found), -values))[:, :k]  # by row
            done = open_rows[settled]
            positions[done] = np.take_along_axis(found, order, axis=1)[settled]
            similarities[done] = np.take_along_axis(values, order, axis=1)[settled]
            open_rows, spare = open_rows[~settled], 8 * spare
        return positions, similarities

    def _best_keys(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Returns the keys (Q, k) of the best answers, ascending, as the tiles compute them."""
        parts, rows = self._split(len(queries), k)
        columns, block = self._tile_shape(rows, k)
        starts = range(0, len(queries), rows)
        best = {
            (part, start): TopK(len(queries[start : start + rows]), k)
            for start in starts
            for part in range(parts)
        }
        with cores.pool(self.threads) as pool:
            for first in range(0, len(self.vectors), block):
                vectors = self._read(pool, first, block)  # (C, D)
                width = math.ceil(len(vectors) / parts)

                def search_tile(task, vectors=vectors, width=width, first=first):
                    part, start = task
                    piece = slice(part * width, (part + 1) * width)
                    tile, first = slice(start, start + rows), first + piece.start
                    self._add_piece(queries[tile], vectors[piece], first, columns, best[task])

                for _ in pool.map(search_tile, best):
                    pass
                precision.release(self.vectors)
        merged = [
            np.concatenate([best.pop((part, start)).best() for part in range(parts)], axis=1)
            for start in starts
        ]
        return np.sort(np.concatenate(merged), axis=1)[:, :k]

    def _read(self, pool: Executor, first: int, count: int) -> np.ndarray:
        """Returns some vectors as float32 (C, D); what has to be converted is so by all threads."""
        if isinstance(self.vectors, np.ndarray) and self.vectors.dtype == np.float32:
            return np.ascontiguousarray(self.vectors[first : first + count])
        count = min(count, len(self.vectors) - first)
        converted = np.empty((count, self.vectors.shape[1]), np.float32)

        def convert(start: int) -> None:
            stop = min(start + _CONVERTED_ROWS, count)
            converted[start:stop] = as_float32(self.vectors[first + start : first + stop])

        for _ in pool.map(convert, range(0, count, _CONVERTED_ROWS)):
            pass
        return converted

    def _add_piece(
        self, queries: np.ndarray, vectors: np.ndarray, first: int, columns: int, best: TopK
    ) -> None:
        """Merges queries (B, D) times vectors (C, D), some columns at a time, into best."""
        memory = np.empty(len(queries) * min(columns, len(vectors)), np.float32)  # reused
        for start in range(0, len(vectors), columns):
            tile = vectors[start : start + columns]
            products = memory[: len(queries) * len(tile)].reshape(len(queries), len(tile))
            np.matmul(queries, tile.T, out=products)
            position = first + start
            ranks = None
            if self._ranks is not None:
                ranks = self._ranks[position : position + len(tile)]
            best.add(products, position, ranks)

    def _split(self, queries: int, k: int) -> tuple[int, int]:
        """Returns (parts that a block of vectors is cut into, queries per tile).

        Every thread has its own tiles of queries; where these are few, its own part of the vectors.
        """
        fitting = max(1, self._share() // (2 * k))
        tiles = math.ceil(queries / min(_TILE_QUERIES, fitting))
        if 2 * tiles <= self.threads:
            return self.threads // tiles, math.ceil(queries / tiles)
        tiles = min(queries, self.threads * math.ceil(tiles / self.threads))
        return 1, math.ceil(queries / tiles)

    def _share(self) -> int:
        """Returns how many similarities fit a thread's share of three quarters of the memory."""
        return self.memory_mb * 3 * 2**18 // (_BYTES_PER_SIMILARITY * self.threads)

    def _tile_shape(self, rows: int, k: int) -> tuple[int, int]:
        """Returns vectors per tile, and per block, which takes a quarter of the memory."""
        columns = max(1, min(self._share(), _TILE_SIMILARITIES) // rows - k)
        # The rows as they are read and as float32.
        block = max(1, self.memory_mb * 2**18 // (8 * self.vectors.shape[1]))
        return columns, block

    def _unpack(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the positions and similarities in keys (Q, k)."""
        positions = (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
        if self._by_rank is not None:
            positions = self._by_rank[positions]
        return positions, selection.similarities_of(keys)

    def _ranks_of(self, positions: np.ndarray) -> np.ndarray:
        return positions if self._ranks is None else self._ranks[positions]


def as_float32(block: np.ndarray) -> np.ndarray:
    """Returns a contiguous float32 block (C, D) of finite float32, float16 or bfloat16."""
    if block.dtype == np.float32:
        return np.ascontiguousarray(block)
    stored = np.ascontiguousarray(block)
    if block.dtype.name == "bfloat16":
        stored = stored.view(np.uint16)
    return precision.decode(stored, block.dtype.name)


def check_matrix(
    name: str, matrix: np.ndarray | precision.Rows, *, dtypes: Sequence[str] = ("float32",)
) -> float:
    """Checks that `matrix` is (N >= 1, D >= 1) of one of the dtypes, and finite.

    Returns:
        The largest norm of a row.

    Raises:
        ValueError: if it is not.
    """
    if matrix.ndim != 2 or matrix.dtype.name not in dtypes or 0 in matrix.shape:
        raise ValueError(
            f"expected {name} to be a {' or '.join(dtypes)} matrix with at least one row and "
            f"column. Received: shape {matrix.shape}, {matrix.dtype}"
        )
    largest = 0.0
    for first in range(0, len(matrix), _CHECKED_ROWS):
        block = np.asarray(matrix[first : first + _CHECKED_ROWS], np.float32)
        squares = np.einsum("nd,nd->n", block, block)  # NaN and infinity stay what they are
        if not np.isfinite(squares).all() and not (finite := np.isfinite(block).all(axis=1)).all():
            row = first + int(np.argmin(finite))
            raise ValueError(f"expected finite {name}. Received: NaN or infinity in row {row}")
        largest = max(largest, math.sqrt(squares.max()))
        precision.release(matrix)
    return largest


def check_queries(queries: np.ndarray, vectors: np.ndarray | precision.Rows, k: int) -> None:
    """Raises ValueError unless `queries` (Q, D) can be searched in `vectors` (N, D) for k >= 1."""
    check_matrix("queries", queries)
    if queries.shape[1] != vectors.shape[1]:
        raise ValueError(
            f"expected queries of the index' dimension {vectors.shape[1]}. "
            f"Received: {queries.shape[1]}"
        )
    if k < 1:
        raise ValueError(f"expected k of at least 1. Received: {k}")


def _order_of(ids: Sequence[str]) -> np.ndarray | None:
    """Returns the rows (N,) int64 in the order of their ids; None if that is their own."""
    if all(a <= b for a, b in itertools.pairwise(ids)):
        return None
    return np.array(sorted(range(len(ids)), key=ids.__getitem__), np.int64)


def _inverse(order: np.ndarray) -> np.ndarray:
    ranks = np.empty_like(order)
    ranks[order] = np.arange(len(order))
    return ranks
