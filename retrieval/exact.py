"""Exact nearest neighbours by inner product: blocked matrix products and a running threshold."""

from __future__ import annotations

import numpy as np

# Bytes that one similarity of a tile can need at worst, when every one of them survives: itself,
# its mask, and its flat index, row, column, slot, position and key, with their temporaries.
_BYTES_PER_SIMILARITY = 80
_TILE_QUERIES = 1024


class ExactSearcher:
    """Exhaustive search over the rows of one matrix.

    The similarities are computed tile by tile with one matrix product each, on all cores. A tile's
    similarities are compared with the k-th best one known so far of each query, and only the few
    above it are sorted in: a full selection of every tile would cost as much as the products.

    The similarity is the inner product. For rows of equal norm, which the weighted concatenation of
    L2-normalised members has as well (sqrt(sum of squared weights)), it ranks like the Euclidean
    distance: |q - x|^2 = |q|^2 + |x|^2 - 2 q.x, and only the last term depends on x's direction.

    Args:
        vectors: (N, D) float32, finite; a memory map is read block by block, once per search.
        memory_mb: upper bound of the working memory in MiB, besides the vectors, the queries and
            the answers. At least one query and one vector at a time are compared.

    Raises:
        ValueError: if `vectors` is not a finite float32 matrix.
    """

    def __init__(self, vectors: np.ndarray, *, memory_mb: int = 256) -> None:
        check_matrix("vectors", vectors)
        if memory_mb < 1:
            raise ValueError(f"expected memory_mb of at least 1. Received: {memory_mb}")
        self.vectors = vectors
        self.memory_mb = memory_mb

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the k most similar vectors of every query.

        Args:
            queries: (Q, D) float32, finite.
            k: how many; more than N gives N.

        Returns:
            positions (Q, min(k, N)) int64 and similarities (Q, min(k, N)) float32, the most similar
            first; equal similarities are ordered by position, ascending.

        Raises:
            ValueError: if `queries` does not fit the vectors, or k is not positive.
        """
        check_queries(queries, self.vectors, k)
        count = len(self.vectors)
        k = min(k, count)
        rows, columns = self._tile_shape(len(queries), k)
        queries = np.ascontiguousarray(queries)
        nothing = _keys(np.float32([-np.inf]), np.zeros(1, np.int64))
        best = np.full((len(queries), k), nothing)  # (Q, k)
        memory = np.empty(rows * min(columns, count), np.float32)  # reused
        for first in range(0, count, columns):
            block = np.ascontiguousarray(self.vectors[first : first + columns])  # (C, D)
            for start in range(0, len(queries), rows):
                tile = slice(start, start + rows)
                size = len(queries[tile]), len(block)
                products = memory[: size[0] * size[1]].reshape(size)  # (B, C)
                np.matmul(queries[tile], block.T, out=products)
                _sort_in(products, first, best[tile])
        return (best & np.uint64(0xFFFFFFFF)).astype(np.int64), _similarities(best)

    def _tile_shape(self, queries: int, k: int) -> tuple[int, int]:
        """Returns (queries, vectors) per tile; a tile and k answers fit the memory."""
        budget = self.memory_mb * 2**20 // _BYTES_PER_SIMILARITY
        rows = max(1, min(_TILE_QUERIES, queries, budget // (2 * k)))
        return rows, max(1, budget // rows - k)


def check_matrix(name: str, matrix: np.ndarray) -> None:
    """Raises ValueError unless `matrix` is (N >= 1, D >= 1) float32 and finite."""
    if matrix.ndim != 2 or matrix.dtype != np.float32 or 0 in matrix.shape:
        raise ValueError(
            f"expected {name} to be a float32 matrix with at least one row and column. "
            f"Received: shape {matrix.shape}, {matrix.dtype}"
        )
    for first in range(0, len(matrix), 16384):
        finite = np.isfinite(matrix[first : first + 16384]).all(axis=1)
        if not finite.all():
            row = first + int(np.argmin(finite))
            raise ValueError(f"expected finite {name}. Received: NaN or infinity in row {row}")


def check_queries(queries: np.ndarray, vectors: np.ndarray, k: int) -> None:
    """Raises ValueError unless `queries` (Q, D) can be searched in `vectors` (N, D) for k >= 1."""
    check_matrix("queries", queries)
    if queries.shape[1] != vectors.shape[1]:
        raise ValueError(
            f"expected queries of the index' dimension {vectors.shape[1]}. "
            f"Received: {queries.shape[1]}"
        )
    if k < 1:
        raise ValueError(f"expected k of at least 1. Received: {k}")


def _sort_in(products: np.ndarray, first: int, best: np.ndarray) -> None:
    """Merges one tile into the running answers, in place.

    Args:
        products: (B, C) similarities of the vectors first, first + 1, ...
        first: position of the tile's first vector, behind all positions known so far: a vector as
            similar as the k-th best loses by the tie rule, so that the comparison is strict.
        best: (B, k) uint64 keys (see `_keys`) of the best so far, ascending.
    """
    k = best.shape[1]
    survives = products > _similarities(best[:, -1:])  # (B, C)
    found = np.count_nonzero(survives)
    if found == 0:
        return
    if found > 4 * k * len(products):
        # The first tile, or an index in an unlucky order: hardly more than k can be answers.
        survives &= products >= _bound_of_kth(products, k)
    row, column = np.divmod(np.flatnonzero(survives), products.shape[1])
    per_row = np.bincount(row, minlength=len(products))
    slot = k + np.arange(len(row)) - np.repeat(np.cumsum(per_row) - per_row, per_row)
    pool = np.full((len(products), k + int(per_row.max())), np.iinfo(np.uint64).max)
    pool[:, :k] = best
    pool[row, slot] = _keys(products[row, column], first + column)
    pool.sort(axis=1)
    best[:] = pool[:, :k]


def _bound_of_kth(products: np.ndarray, k: int) -> np.ndarray:
    """Returns (B, 1) numbers that are at most the k-th largest of each row of products (B, C).

    The k-th largest of the maxima of disjoint groups is one, since k groups each hold a product as
    large. It is close, and a tenth of the time of selecting among all products.
    """
    groups = 2 * k
    width = products.shape[1] // groups
    if width < 2:
        return np.float32([[-np.inf]])
    grouped = products[:, : width * groups].reshape(len(products), width, groups)
    return np.partition(grouped.max(axis=1), groups - k, axis=1)[:, groups - k, None]


def _keys(similarities: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Returns one uint64 per answer whose ascending order is the order of answers.

    The upper half falls with the float32 similarity, the lower half is the position: no two are
    equal, so that any sort is right and the tie rule is part of the number.
    """
    bits = (similarities + np.float32(0)).view(np.uint32)  # + 0 turns -0.0 into 0.0
    return _reversed_order(bits).astype(np.uint64) << np.uint64(32) | positions.astype(np.uint64)


def _similarities(keys: np.ndarray) -> np.ndarray:
    """Returns the float32 similarities inside `keys`."""
    return _reversed_order((keys >> np.uint64(32)).astype(np.uint32)).view(np.float32)


def _reversed_order(bits: np.ndarray) -> np.ndarray:
    """Maps the bits of float32 to integers in falling order of the floats; its own inverse."""
    negative = bits >> np.uint32(31) == 1
    return np.where(negative, bits, bits ^ np.uint32(0x7FFFFFFF))
