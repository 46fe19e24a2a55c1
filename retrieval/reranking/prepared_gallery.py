"""k-reciprocal re-ranking of queries that come one by one, against a gallery prepared once.

The published algorithm counts neighbours in the set of queries and vectors, so that a query changes
the vectors' lists, their features, and with them its own answers. Here every query is answered as
`k_reciprocal.rerank` answers it when it is the only query, its own influence included: the lists
that it enters, the largest distances that it raises, and all features that follow from them are
computed again. What treats the gallery as fixed is that queries do not see each other.

Per query: one product with all vectors, and features of the some hundred or thousand rows that can
share a column with the query. Prepared are the vectors' neighbour lists and, for each vector, the
lists that begin with it: about 200 bytes a vector for k1 = 20 and k2 = 6.
"""

from __future__ import annotations

import hashlib

import numpy as np

import files
from retrieval.nearest import neighbors, tiled_lists
from retrieval.nearest.neighbors import Neighbors
from retrieval.reranking import k_reciprocal

FORMAT, VERSION = "waymark-k-reciprocal", 1
_SAMPLED_ROWS = 1000
_PIECE = 4096  # averaged features that are in memory at a time


class PreparedGallery:
    """The vectors that queries are re-ranked against.

    Args:
        vectors: (N, D) float32 or float64, finite; kept, not copied; a memory map is fine.
        k1: neighbours of the reciprocal sets.
        k2: neighbours of the average; 1 for none.
        neighbours: lists of the vectors in themselves with at least max(k1 + 1, k2) entries; made
            by `neighbors.of_set` if absent. Approximate lists give approximate answers.
        workers: threads of the lists; all cores if absent.

    The loops are compiled here, so that the first query is as fast as the others.

    Raises:
        ValueError: if a number is out of range or lists and vectors do not fit.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        *,
        k1: int = 20,
        k2: int = 6,
        neighbours: Neighbors | None = None,
        workers: int | None = None,
    ) -> None:
        k_reciprocal.check_parameters(k1, k2, 0.0, 1)
        tiled_lists.check_vectors("vectors", vectors)
        length = min(max(k1 + 1, k2), len(vectors))
        if neighbours is None:
            neighbours = neighbors.of_set(vectors, length, workers=workers)
        neighbors.check_lists(neighbours, len(vectors), length)
        self.k1, self.k2 = k1, k2
        self.vectors = tiled_lists.as_kernels_take(vectors)
        self._positions = np.ascontiguousarray(neighbours.positions[:, :length], np.int32)
        self._distances = np.ascontiguousarray(
            neighbours.squared_distances[:, :length], vectors.dtype
        )
        self._farthest = neighbours.farthest.astype(vectors.dtype)
        self._halves = tiled_lists.half_squared_norms(self.vectors)
        self._reverse = _lists_beginning_with(self._positions[:, :k2])
        self.rerank(np.array(self.vectors[:1]), k=1)

    def rerank_one(
        self, query: np.ndarray, *, lambda_value: float = 0.3, k: int = 100
    ) -> tuple[np.ndarray, np.ndarray]:
        """Answers one query (D,); returns positions and distances, (min(k, N),) each."""
        positions, distances = self.rerank(query[None], lambda_value=lambda_value, k=k)
        return positions[0], distances[0]

    def rerank(
        self, queries: np.ndarray, *, lambda_value: float = 0.3, k: int = 100
    ) -> tuple[np.ndarray, np.ndarray]:
        """Answers queries, each as if it were alone; threads may call this at the same time.

        Args:
            queries: (Q, D) of the vectors' dtype; memory is 4 or 8 Q N bytes for the products.
            lambda_value: weight of the original distance, 0 to 1.
            k: answers per query; more than N gives N.

        Returns:
            positions (Q, min(k, N)) int64 and distances (Q, min(k, N)) of the vectors' dtype, the
            smallest first; see `k_reciprocal.rerank`.

        Raises:
            ValueError: if a number is out of range or the queries do not fit the vectors.
        """
        k_reciprocal.check_parameters(self.k1, self.k2, lambda_value, k)
        tiled_lists.check_vectors("queries", queries)
        if queries.shape[1] != self.vectors.shape[1] or queries.dtype != self.vectors.dtype:
            raise ValueError(
                f"expected queries of dimension {self.vectors.shape[1]} and {self.vectors.dtype}. "
                f"Received: shape {queries.shape}, {queries.dtype}"
            )
        queries = np.ascontiguousarray(queries)
        k = min(k, len(self.vectors))
        best = np.empty((len(queries), k))
        positions = np.empty((len(queries), k), np.int64)
        products = queries @ self.vectors.T  # (Q, N)
        listed = min(max(k, self._positions.shape[1]), len(self.vectors))
        near = neighbors.of_products(queries, self.vectors, products, self._halves, listed)
        for row in range(len(queries)):
            self._answer(queries, row, products[row], near, lambda_value, best[row], positions[row])
        return positions, best.astype(self.vectors.dtype)

    def save(self, path: str) -> None:
        """Writes what was prepared, without the vectors, to an .npz file, whole or not at all."""
        with files.replacing(path, "wb") as file:
            np.savez(
                file,
                format=np.array(FORMAT),
                version=np.array(VERSION),
                k1=np.array(self.k1),
                k2=np.array(self.k2),
                digest=np.array(_digest(self.vectors)),
                positions=self._positions,
                squared_distances=self._distances,
                farthest=self._farthest,
            )

    @classmethod
    def load(cls, path: str, vectors: np.ndarray) -> PreparedGallery:
        """Reads what `save` has written.

        Args:
            path: the file.
            vectors: the same vectors; their shape and 1,000 evenly spaced rows are compared.

        Raises:
            ValueError: if the file is no prepared gallery, or one of other vectors.
        """
        with files.open_binary(path) as file, np.load(file, allow_pickle=False) as arrays:
            kind = str(arrays["format"]), int(arrays["version"])
            if kind != (FORMAT, VERSION):
                raise ValueError(f"expected {(FORMAT, VERSION)} in {path}. Received: {kind}")
            digest = _digest(vectors)
            if str(arrays["digest"]) != digest:
                raise ValueError(
                    f"expected the vectors that {path} was made from, {arrays['digest']}. "
                    f"Received: {digest}"
                )
            lists = Neighbors(
                arrays["positions"],
                np.empty((len(vectors), 0)),
                arrays["squared_distances"],
                arrays["farthest"],
            )
            return cls(vectors, k1=int(arrays["k1"]), k2=int(arrays["k2"]), neighbours=lists)

    def _answer(
        self, queries, row: int, products, near: Neighbors, lambda_value: float, best, positions
    ) -> None:
        """Writes the answers to one of the queries, which is row N of the set."""
        from retrieval.reranking import k_reciprocal_kernels

        query, count = tiled_lists.as_kernels_take(queries[row : row + 1]), len(self.vectors)
        own = near.positions[row], near.squared_distances[row]
        half = tiled_lists.half_squared_norms(query)[0]
        affected, lists = self._lists(query, half, products, own)
        farthest = np.empty(count + 1, self._farthest.dtype)
        np.maximum(self._farthest, 2 * (half + self._halves - products), out=farthest[:count])
        farthest[count] = near.farthest[row]
        graph = self.vectors, query, lists, farthest
        shared = np.zeros(count)
        touched, sums = self._overlaps(graph, affected)
        shared[touched] = sums
        k_reciprocal_kernels.rank(
            query[0],
            self.vectors,
            float(farthest[count]),
            float(lambda_value),
            own,
            shared,
            touched.astype(np.int32),
            best,
            positions,
        )

    def _overlaps(self, graph: tuple, affected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the vectors whose averaged feature may share a column with the query's.

        Args:
            graph: (vectors, query (1, D), lists, farthest (N + 1,)).
            affected: the vectors that have the query in their lists.

        Returns:
            positions (n,) int64 and the sums of minima (n,) float64.
        """
        from retrieval.reranking import k_reciprocal_kernels

        lists, count = graph[2], len(self.vectors)
        sizes, average = k_reciprocal.list_sizes(self.k1, count + 1), min(self.k2, count + 1)
        first = lists[3][0, :average].astype(np.int64) if average > 1 else np.array([count])
        columns, values = k_reciprocal.encode(graph, sizes, first)[1:]
        columns, slots = np.unique(columns.astype(np.int64), return_inverse=True)
        feature = np.bincount(slots, values, len(columns)) / average  # (F,)
        marks = np.zeros(count + 1, bool)
        k_reciprocal_kernels.reach(lists, sizes, columns, marks)
        rows = np.flatnonzero(marks)
        vectors = self._averaging(rows[rows < count], affected)
        entries = self._entries(k_reciprocal.encode(graph, sizes, rows), rows, columns)
        return vectors, self._sums_of_minima(vectors, lists, average, rows, entries, feature)

    def _averaging(self, rows: np.ndarray, affected: np.ndarray) -> np.ndarray:
        """Returns the vectors that average some rows' features or, it may be, the query's."""
        if self.k2 == 1:
            return rows
        starts, owners = self._reverse
        found = owners[_ranges(starts[rows], starts[rows + 1])]
        # The query may be among the first k2 of those affected.
        return np.union1d(found, affected).astype(np.int64)

    def _entries(self, encoded: tuple, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Returns the rows' features at some columns, (R + 1, F), the last of nothing."""
        counts, found, values = encoded
        places = np.searchsorted(columns, found)
        places[places == len(columns)] = 0
        known = columns[places] == found
        entries = np.zeros((len(rows) + 1, len(columns)))
        entries[np.repeat(np.arange(len(rows)), counts)[known], places[known]] = values[known]
        return entries

    def _sums_of_minima(self, vectors, lists, average: int, rows, entries, feature) -> np.ndarray:
        """Returns the sum of minima of the query's feature and each vector's averaged one."""
        sums = np.empty(len(vectors))
        place = np.full(len(self.vectors) + 1, len(rows))  # of a row's entries
        place[rows] = np.arange(len(rows))
        for first in range(0, len(vectors), _PIECE):
            piece = vectors[first : first + _PIECE]
            near = _first_of(lists, piece, average) if average > 1 else piece[:, None]
            total = sum(entries[place[near[:, j]]] for j in range(near.shape[1]))  # (B, F)
            sums[first : first + _PIECE] = np.minimum(total / average, feature).sum(axis=1)
        return sums

    def _lists(self, query, half, products, near) -> tuple[np.ndarray, tuple]:
        """Returns the vectors that list the query, and all lists with the query's influence."""
        count = len(self.vectors)
        rows, own = self._affected(query, half, products)
        length = min(max(self.k1 + 1, self.k2), count + 1)
        positions = np.empty((len(rows) + 1, length), np.int32)
        distances = np.empty(positions.shape, self._distances.dtype)
        positions[0, 0], positions[0, 1:] = count, near[0][: length - 1]
        distances[0, 0], distances[0, 1:] = 0, near[1][: length - 1]
        # Among equally near rows the query comes first, as in the batch, where it precedes vectors.
        places = (self._distances[rows] < own[:, None]).sum(axis=1)[:, None]  # (A, 1)
        sources = np.arange(length) - (np.arange(length) > places)  # (A, L)
        sources = np.minimum(sources, self._positions.shape[1] - 1)  # it is replaced there
        positions[1:] = np.take_along_axis(self._positions[rows], sources, axis=1)
        distances[1:] = np.take_along_axis(self._distances[rows], sources, axis=1)
        np.put_along_axis(positions[1:], places, count, axis=1)
        np.put_along_axis(distances[1:], places, own[:, None], axis=1)
        slot = np.full(count + 1, -1, np.int32)
        slot[count] = 0
        slot[rows] = np.arange(1, len(rows) + 1)
        return rows, (self._positions, self._distances, slot, positions, distances)

    def _affected(self, query, half, products) -> tuple[np.ndarray, np.ndarray]:
        """Returns the vectors whose lists have the query, and their squared distances to it."""
        reach = self._distances[:, -1]
        if self._positions.shape[1] < max(self.k1 + 1, self.k2):  # they take in every query
            reach = np.full(len(self.vectors), np.inf, self._distances.dtype)
        # Products of D terms are off by about sqrt(D) roundings.
        rounding = 4 * np.sqrt(query.shape[1]) * np.finfo(products.dtype).eps
        slack = rounding * (half + self._halves.max())
        rows = np.flatnonzero(2 * (half + self._halves - products) <= reach + slack)
        difference = self.vectors[rows].astype(np.float64) - query.astype(np.float64)
        distances = np.einsum("nd,nd->n", difference, difference).astype(self._distances.dtype)
        near = distances <= reach[rows]
        return rows[near], distances[near]


def _first_of(lists: tuple, rows: np.ndarray, count: int) -> np.ndarray:
    """Returns the first neighbours of some rows, (B, count); see `k_reciprocal_kernels`."""
    slots = lists[2][rows]
    near = lists[3][slots, :count]  # of others where a row's own list counts
    own = slots < 0
    if own.any():
        near[own] = lists[0][rows[own], :count]
    return near


def _ranges(firsts: np.ndarray, lasts: np.ndarray) -> np.ndarray:
    """Returns the numbers of several ranges, one behind the other."""
    sizes = lasts - firsts
    starts = np.cumsum(sizes) - sizes
    return np.arange(sizes.sum()) + np.repeat(firsts - starts, sizes)


def _lists_beginning_with(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (starts (N + 1,), rows): the lists among positions (N, k2) that hold each vector."""
    count, length = positions.shape
    order = np.argsort(positions.ravel(), kind="stable")
    sizes = np.bincount(positions.ravel(), minlength=count)
    return np.concatenate([[0], np.cumsum(sizes)]), (order // length).astype(np.int32)


def _digest(vectors: np.ndarray) -> str:
    rows = np.linspace(0, len(vectors) - 1, min(len(vectors), _SAMPLED_ROWS)).astype(np.int64)
    digest = hashlib.sha256(f"{vectors.shape} {vectors.dtype}".encode())
    digest.update(np.ascontiguousarray(vectors[rows]).tobytes())
    return digest.hexdigest()
