"""k-reciprocal re-ranking on neighbour lists, in memory of O((Q + N) k).

Reference: Zhong, Zheng, Cao, Li, "Re-ranking Person Re-identification with k-reciprocal Encoding",
CVPR 2017, arXiv:1701.08398. The distances are those of the authors' public Python code in float64.

With queries and vectors as one set of M = Q + N rows, d(i, j) the squared Euclidean distance over
the largest one of row i (0 where that is 0), and L(i, n) the n nearest rows of i, i included:

1. R(i, n) = the j in L(i, n + 1) that have i in L(j, n + 1).
2. R*(i) = R(i, k1), with R(j, round(k1 / 2)) added for every j in R(i, k1) that shares more than
   two thirds of it with R(i, k1); round takes halves to the even number.
3. V(i, j) = exp(-d(i, j)) for j in R*(i), else 0, divided by its sum over j.
4. V is averaged over L(i, k2), unless k2 = 1.
5. J(q, g) = 1 - s / (2 - s), where s sums min(V(q, j), V(g, j)) over j.
6. The final distance is (1 - lambda) J(q, g) + lambda d(q, g).

J is 1 for all pairs without a common j, so that the M x M array is never needed.
"""

from __future__ import annotations

import numpy as np

from retrieval.nearest import neighbors, tiled_lists
from retrieval.nearest.neighbors import Neighbors


def rerank(
    queries: np.ndarray,
    vectors: np.ndarray,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    k: int = 100,
    neighbours: Neighbors | None = None,
    workers: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the k vectors of the smallest re-ranked distance for every query.

    The queries belong to the set in which neighbours are counted, as published: an answer depends
    on the other queries. `prepared_gallery.PreparedGallery` answers each query as if alone.

    Args:
        queries: (Q, D) float32 or float64, finite, of any norms.
        vectors: (N, D) of the same dtype; a memory map is fine.
        k1: neighbours of the reciprocal sets. Lists longer than the set are cut, as published.
        k2: neighbours of the average; 1 for none.
        lambda_value: weight of the original distance, 0 to 1.
        k: answers per query; more than N gives N.
        neighbours: lists of the vectors in themselves with at least max(k1 + 1, k2) entries, from
            `neighbors.of_set` (the answers are the same, and only the queries are compared) or,
            approximate, from `neighbors.of_searcher`.
        workers: threads; all cores if absent.

    Returns:
        positions (Q, min(k, N)) int64 and distances of the vectors' dtype, the smallest first,
        equal ones by position. With lambda_value = 0 nothing orders the vectors at distance 1: the
        nearest of them are taken.

    Raises:
        ValueError: if a number is out of range or the matrices do not fit.
    """
    check_parameters(k1, k2, lambda_value, k)
    if len(queries) == 0:
        raise ValueError("expected at least one query. Received: none")
    k = min(k, len(vectors))
    lists, own = neighbors.of_union(
        queries, vectors, max(k1 + 1, k2), answers=k, gallery=neighbours, workers=workers
    )
    features, inverted = _features(queries, vectors, lists, k1, k2, workers)
    return _answers(queries, vectors, lists, own, features, inverted, lambda_value, workers)


def distances(
    queries: np.ndarray,
    vectors: np.ndarray,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    workers: int | None = None,
) -> np.ndarray:
    """Returns all final distances (Q, N) of a small set, in the order of the rows; see `rerank`."""
    positions, found = rerank(
        queries,
        vectors,
        k1=k1,
        k2=k2,
        lambda_value=lambda_value,
        k=len(vectors),
        workers=workers,
    )
    result = np.empty_like(found)
    np.put_along_axis(result, positions, found, axis=1)
    return result


def check_parameters(k1: int, k2: int, lambda_value: float, k: int) -> None:
    """Raises ValueError for numbers without a meaning."""
    for name, value in (("k1", k1), ("k2", k2), ("k", k)):
        if value < 1 or value != int(value):
            raise ValueError(f"expected {name} to be an integer of at least 1. Received: {value}")
    if not 0 <= lambda_value <= 1:
        raise ValueError(f"expected lambda_value between 0 and 1. Received: {lambda_value}")


def list_sizes(k1: int, count: int) -> tuple[int, int]:
    """Returns the lengths of the lists of steps 1 and 2 in a set of `count` rows."""
    return min(k1 + 1, count), min(round(k1 / 2) + 1, count)


def as_lists(lists: Neighbors) -> tuple:
    """Returns the form of neighbour lists that the kernels take, with none replaced."""
    none = np.empty((0, lists.positions.shape[1]))
    return (
        lists.positions,
        lists.squared_distances,
        np.empty(0, np.int32),
        none.astype(np.int32),
        none.astype(lists.squared_distances.dtype),
    )


def _features(queries, vectors, lists: Neighbors, k1: int, k2: int, workers: int | None):
    """Returns the averaged features: of the queries (Q, M) in CSR, of the vectors (N, M) in CSC."""
    from scipy import sparse

    features = _reciprocal_features(queries, vectors, lists, k1, workers)
    count = len(queries)
    if k2 == 1:
        return features[:count], features[count:].tocsc()
    k2 = min(k2, lists.positions.shape[1])
    starts = np.arange(0, len(lists.positions) * k2 + 1, k2)
    average = sparse.csr_matrix(
        (
            np.full(starts[-1], 1 / k2, lists.squared_distances.dtype),
            lists.positions[:, :k2].ravel(),
            starts,
        ),
        shape=features.shape,
    )
    return average[:count] @ features, (average[count:] @ features).tocsc()


def _reciprocal_features(queries, vectors, lists: Neighbors, k1: int, workers: int | None):
    """Returns V of steps 1 to 3, (M, M) in CSR, with about 20 entries a row for k1 = 20."""
    from scipy import sparse

    count, sizes = len(lists.positions), list_sizes(k1, len(lists.positions))
    graph = (
        tiled_lists.as_kernels_take(queries),
        tiled_lists.as_kernels_take(vectors),
        as_lists(lists),
        lists.farthest,
    )
    parts = {}

    def encode_part(first: int, last: int) -> None:
        parts[first] = encode(graph, sizes, np.arange(first, last))

    tiled_lists.for_parts(encode_part, count, workers)
    ordered = (parts[first] for first in sorted(parts))
    counts, columns, values = map(np.concatenate, zip(*ordered, strict=True))
    starts = np.concatenate([[0], np.cumsum(counts)])
    return sparse.csr_matrix((values, columns, starts), shape=(count, count))


def encode(
    graph: tuple, sizes: tuple[int, int], rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the features of rows (B,) int64, one behind the other: lengths, columns, values.

    Args:
        graph: (heads, tails, lists, farthest) of `k_reciprocal_kernels`.
        sizes: of `list_sizes`.
        rows: which ones.
    """
    from retrieval.reranking import k_reciprocal_kernels

    room = len(rows) * sizes[0] * (1 + sizes[1])  # memory that is not written costs none
    columns, values = np.empty(room, np.int32), np.empty(room, graph[3].dtype)
    counts = np.empty(len(rows), np.int64)
    end = k_reciprocal_kernels.encode(*graph, sizes, rows, counts, columns, values)
    return counts, columns[:end].copy(), values[:end].copy()


def _answers(
    queries,
    vectors,
    lists: Neighbors,
    own: Neighbors,
    features,
    inverted,
    lambda_value: float,
    workers: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Does steps 5 and 6 for as many answers as `own` lists."""
    from retrieval.reranking import k_reciprocal_kernels

    best = np.empty(own.positions.shape, np.float64)
    positions = np.empty(own.positions.shape, np.int64)
    queries, vectors = tiled_lists.as_kernels_take(queries), tiled_lists.as_kernels_take(vectors)
    inverted = inverted.indptr, inverted.indices, inverted.data

    def answer(first: int, last: int) -> None:
        shared = np.zeros(len(vectors))
        touched = np.empty(len(vectors), np.int32)
        for query in range(first, last):
            entries = slice(features.indptr[query], features.indptr[query + 1])
            feature = features.indices[entries], features.data[entries]
            count = k_reciprocal_kernels.add_minima(feature, inverted, shared, touched)
            k_reciprocal_kernels.rank(
                queries[query],
                vectors,
                float(lists.farthest[query]),
                float(lambda_value),
                (own.positions[query], own.squared_distances[query]),
                shared,
                touched[:count],
                best[query],
                positions[query],
            )

    tiled_lists.for_parts(answer, len(queries), workers)
    return positions, best.astype(vectors.dtype)
