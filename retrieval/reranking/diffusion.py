"""Diffusion on the graph of mutual nearest neighbours.

References: Iscen, Tolias, Avrithis, Furon, Chum, "Efficient Diffusion on Region Manifolds", CVPR
2017, arXiv:1611.05113 (global vectors, `Diffusion`); Yang, Hinami, Matsui, Ly, Satoh, "Efficient
Image Retrieval via Decoupling Diffusion into Online and Offline Processing", AAAI 2019,
arXiv:1811.10907 (`OfflineDiffusion`).

1. A(i, j) = max(<i, j>, 0)^gamma where i and j are among each other's nearest neighbours, else 0;
   A(i, i) = 0.
2. S = D^-1/2 A D^-1/2 with the row sums D of A; a vector without mutual neighbours has a row of 0.
3. y(j) = max(<q, j>, 0)^gamma for the query's nearest vectors j, else 0.
4. The scores f solve (I - alpha S) f = y, by at most 20 steps of conjugate gradients.
"""

from __future__ import annotations

import numpy as np

import files
from retrieval.nearest import neighbors, tiled_lists
from retrieval.nearest.neighbors import Neighbors

FORMAT, VERSION = "waymark-diffusion", 1
_PIECE = 1024


def rerank(
    queries: np.ndarray,
    vectors: np.ndarray,
    *,
    k: int = 100,
    neighbours: int = 50,
    query_neighbours: int = 10,
    gamma: float = 3.0,
    alpha: float = 0.99,
    truncation: int | None = None,
    workers: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Makes the graph of the vectors and ranks them for every query; see `Diffusion`."""
    graph = Diffusion(vectors, neighbours=neighbours, gamma=gamma, alpha=alpha, workers=workers)
    return graph.rerank(queries, k=k, query_neighbours=query_neighbours, truncation=truncation)


class Diffusion:
    """The graph of a set of vectors. Memory: about 12 bytes per edge and 8 per neighbour.

    Args:
        vectors: (N, D) float32 with rows of equal norm, finite; a memory map is fine.
        neighbours: length of the lists, not counting the vector itself.
        gamma: exponent of the similarities.
        alpha: weight of the graph, at least 0 and below 1.
        lists: lists of the vectors in themselves with at least neighbours + 1 entries, if known,
            from `neighbors.of_set` or, approximate, `neighbors.of_searcher`.
        workers: threads; all cores if absent.

    Raises:
        ValueError: if a number is out of range or lists and vectors do not fit.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        *,
        neighbours: int = 50,
        gamma: float = 3.0,
        alpha: float = 0.99,
        lists: Neighbors | None = None,
        workers: int | None = None,
    ) -> None:
        if neighbours < 1 or gamma <= 0 or not 0 <= alpha < 1:
            raise ValueError(
                "expected neighbours of at least 1, gamma above 0 and alpha from 0 to below 1. "
                f"Received: {neighbours}, {gamma}, {alpha}"
            )
        length = min(neighbours + 1, len(vectors))
        lists = lists or neighbors.of_set(vectors, length, workers=workers)
        neighbors.check_lists(lists, len(vectors), length)
        self.vectors, self.gamma, self.alpha, self.workers = vectors, gamma, alpha, workers
        self.affinity = _affinity(lists.positions[:, :length], lists.similarities, gamma)
        degrees = np.asarray(self.affinity.sum(axis=1, dtype=np.float64)).ravel()
        self.scales = np.zeros(len(degrees))
        np.divide(1, np.sqrt(degrees), out=self.scales, where=degrees > 0)

    def rerank(
        self,
        queries: np.ndarray,
        *,
        k: int = 100,
        query_neighbours: int = 10,
        truncation: int | None = None,
        iterations: int = 20,
        tolerance: float = 1e-6,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ranks the vectors for every query.

        Args:
            queries: (Q, D) float32, of the vectors' norm.
            k: answers per query; more than N gives N.
            query_neighbours: vectors that the query's weight starts from.
            truncation: the diffusion stays within so many nearest vectors of the query, whose
                degrees are counted among themselves; None for all vectors, which costs 20 passes
                over the graph per query.
            iterations: of conjugate gradients.
            tolerance: of the residual, relative to the start.

        Returns:
            positions (Q, min(k, N)) int64 and scores float32, the largest first, equal ones by
            position. Vectors that the diffusion does not reach follow with the score 0 in the
            order of their similarity.

        Raises:
            ValueError: if a number is out of range or the queries do not fit.
        """
        if truncation is not None and truncation < query_neighbours:
            raise ValueError(
                f"expected truncation of at least query_neighbours, {query_neighbours}. "
                f"Received: {truncation}"
            )
        nothing = np.empty(0)

        def scores_of(rows, weights):
            start = np.zeros(len(rows))
            start[: len(weights)] = weights
            return rows, self.solve(rows, start, nothing, iterations, tolerance)

        whole = self._transition() if truncation is None else None

        def scores_of_all(rows, weights):
            start = np.zeros(len(self.vectors))
            start[rows[: len(weights)]] = weights
            return everything, _solve(whole, start, self.alpha, iterations, tolerance)

        everything = np.arange(len(self.vectors), dtype=np.int64)
        function = scores_of_all if truncation is None else scores_of
        return self.ranked(queries, k, query_neighbours, truncation or 0, function)

    def ranked(self, queries, k: int, query_neighbours: int, reach: int, scores_of):
        """Ranks by the scores that `scores_of(nearest rows, weights)` gives for a query.

        Args:
            queries: (Q, D).
            k: answers.
            query_neighbours: how many weights there are.
            reach: how many of the nearest rows are passed on, at least.
            scores_of: returns rows and their scores.
        """
        from retrieval.reranking import diffusion_kernels

        if k < 1 or query_neighbours < 1:
            raise ValueError(
                "expected k and query_neighbours of at least 1. "
                f"Received: {k} and {query_neighbours}"
            )
        k = min(k, len(self.vectors))
        length = max(k, query_neighbours, reach)
        positions = np.empty((len(queries), k), np.int64)
        scores = np.zeros((len(queries), k))
        for first in range(0, len(queries), _PIECE):
            piece = queries[first : first + _PIECE]
            nearest, similarities = neighbors.search(piece, self.vectors, length)
            weights = np.maximum(similarities[:, :query_neighbours], 0) ** self.gamma

            def answer(begin: int, end: int, nearest=nearest, weights=weights, first=first):
                for row in range(begin, end):
                    rows, solved = scores_of(nearest[row, : reach or None], weights[row])
                    out = scores[first + row], positions[first + row]
                    found = diffusion_kernels.best_of(solved, rows, *out)
                    others = nearest[row, ~np.isin(nearest[row], out[1][:found])]
                    out[1][found:] = others[: k - found]

            tiled_lists.for_parts(answer, len(piece), self.workers)
        return positions, scores.astype(np.float32)

    def solve(self, rows, start, scales, iterations: int, tolerance: float) -> np.ndarray:
        """Returns the scores (n,) of a subgraph's rows (n,); see `diffusion_kernels.subgraph`."""
        from retrieval.reranking import diffusion_kernels

        slots = np.full(len(self.vectors), -1, np.int32)
        transition = diffusion_kernels.subgraph(_arrays(self.affinity), scales, rows, slots)
        return _solve(transition, start, self.alpha, iterations, tolerance)

    def _transition(self) -> tuple:
        """Returns S, (starts, columns, values)."""
        values = self.affinity.data.astype(np.float64)
        starts, columns, _ = _arrays(self.affinity)
        values *= np.repeat(self.scales, np.diff(starts))
        values *= self.scales[columns]
        return starts, columns, values


class OfflineDiffusion:
    """Diffusion solved for every vector beforehand: a query adds up some sparse rows.

    The inverse of I - alpha S is approximated column by column on the nearest vectors of each
    vector, with the degrees of the whole graph. Memory is 8 N `truncation` bytes: 0.8 GB for
    100,000 vectors and 1,000.

    Args:
        graph: what is solved.
        truncation: nearest vectors of each vector, itself included, that its column is solved on.
        iterations: of conjugate gradients.
        tolerance: of the residual, relative.
        solved: (columns, values) as `save` writes them; they are computed if absent.
    """

    def __init__(
        self,
        graph: Diffusion,
        *,
        truncation: int = 1000,
        iterations: int = 20,
        tolerance: float = 1e-6,
        solved: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        if truncation < 1:
            raise ValueError(f"expected truncation of at least 1. Received: {truncation}")
        self.graph = graph
        if solved is None:
            solved = _solve_all(graph, truncation, iterations, tolerance)
        self.columns, self.values = solved
        if self.columns.shape != self.values.shape or len(self.columns) != len(graph.vectors):
            raise ValueError(
                f"expected one solved column for each of {len(graph.vectors)} vectors. "
                f"Received: {self.columns.shape} and {self.values.shape}"
            )

    def rerank(
        self, queries: np.ndarray, *, k: int = 100, query_neighbours: int = 10
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ranks the vectors for every query; see `Diffusion.rerank`."""
        from retrieval.reranking import diffusion_kernels

        def scores_of(rows, weights):
            sums = np.zeros(len(self.graph.vectors))
            touched = np.empty(len(weights) * self.columns.shape[1], np.int32)
            count = diffusion_kernels.combine(
                weights, rows[: len(weights)], self.columns, self.values, sums, touched
            )
            touched = np.unique(touched[:count])
            return touched.astype(np.int64), sums[touched]

        return self.graph.ranked(queries, k, query_neighbours, 0, scores_of)

    def save(self, path: str) -> None:
        """Writes the solved columns to an .npz file, whole or not at all."""
        with files.replacing(path, "wb") as file:
            kind = {"format": np.array(FORMAT), "version": np.array(VERSION)}
            np.savez(file, **kind, columns=self.columns, values=self.values)

    @classmethod
    def load(cls, path: str, graph: Diffusion) -> OfflineDiffusion:
        """Reads what `save` has written for the same graph.

        Raises:
            ValueError: if the file is of another kind or of another number of vectors.
        """
        with files.open_binary(path) as file, np.load(file, allow_pickle=False) as arrays:
            kind = str(arrays["format"]), int(arrays["version"])
            if kind != (FORMAT, VERSION):
                raise ValueError(f"expected {(FORMAT, VERSION)} in {path}. Received: {kind}")
            return cls(graph, solved=(arrays["columns"], arrays["values"]))


def _affinity(positions: np.ndarray, similarities: np.ndarray, gamma: float):
    """Returns A (N, N) in CSR from lists (N, k), of which only mutual entries count."""
    from scipy import sparse

    count, length = positions.shape
    values = np.maximum(similarities[:, :length], 0) ** gamma
    values[positions == np.arange(count)[:, None]] = 0
    starts = np.arange(0, count * length + 1, length)
    listed = sparse.csr_matrix((values.ravel(), positions.ravel(), starts), shape=(count, count))
    # Both directions have the same similarity; where one is missing the minimum is 0.
    affinity = listed.minimum(listed.T.tocsr())
    affinity.eliminate_zeros()
    return affinity


def _solve_all(
    graph: Diffusion, truncation: int, iterations: int, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns columns (N, n) int32 and values (N, n) float32 of the inverse."""
    count = len(graph.vectors)
    columns = np.empty((count, min(truncation, count)), np.int32)
    values = np.empty(columns.shape, np.float32)
    progress = tiled_lists.progress_of("diffusion", count, count, "vectors")
    for first in range(0, count, _PIECE):
        last = min(first + _PIECE, count)
        rows = np.arange(first, last)
        nearest = neighbors.search(graph.vectors[first:last], graph.vectors, truncation)[0]
        missing = ~(nearest == rows[:, None]).any(axis=1)  # behind many equal vectors
        nearest[missing, -1] = rows[missing]
        columns[first:last] = nearest

        def solve(begin: int, end: int, first=first) -> None:
            for row in range(first + begin, first + end):
                start = (columns[row] == row).astype(np.float64)
                values[row] = graph.solve(
                    columns[row].astype(np.int64), start, graph.scales, iterations, tolerance
                )

        tiled_lists.for_parts(solve, last - first, graph.workers)
        progress.advance(last - first)
    progress.close()
    return columns, values


def _solve(transition: tuple, start, alpha: float, iterations: int, tolerance: float):
    from retrieval.reranking import diffusion_kernels

    return diffusion_kernels.solve(transition, start, float(alpha), iterations, float(tolerance))


def _arrays(matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (starts, columns, values), of one dtype each in graphs of all sizes."""
    return matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32, copy=False), matrix.data
