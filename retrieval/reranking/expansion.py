"""Query expansion and database augmentation: a vector plus a weighted sum of its neighbours.

One operation, `expand`; the published methods are weights of it, made by the constructors of
`Weights`. The neighbours come from any search.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from progress import ordered_map

# Of the results that a thread works on, and of the neighbours that it copies side by side: small
# enough for a core's cache.
_BLOCK_BYTES = 2**20
_GATHER_BYTES = 2**20


@dataclasses.dataclass(frozen=True)
class Weights:
    """How much a vector itself and its neighbours count.

    The expanded vector is L2(sum_r ranks[r] max(q . x_r, 0)^alpha x_r), where x_0 = q is the vector
    itself and x_r its neighbour of rank r. With alpha = 0 similarities do not matter.

    Attributes:
        ranks: of the vector itself, then of rank 1, 2, ...; at least 0.
        alpha: the power of the similarity.
    """

    ranks: tuple[float, ...]
    alpha: float = 0.0

    def __post_init__(self) -> None:
        finite = all(0 <= weight < np.inf for weight in self.ranks)
        if len(self.ranks) < 2 or not finite or not any(self.ranks):
            raise ValueError(
                "expected weights of at least 0 for the vector itself and one neighbour or more, "
                f"not all 0. Received: {self.ranks}"
            )
        if not 0 <= self.alpha < np.inf:
            raise ValueError(f"expected an alpha of at least 0. Received: {self.alpha}")

    @property
    def top(self) -> int:
        """The number of neighbours that count."""
        return len(self.ranks) - 1

    @classmethod
    def average(cls, top: int = 10) -> Weights:
        """Average query expansion (AQE): 1 for the query and each of the first `top`.

        Chum et al., "Total recall", ICCV 2007. The top-1 expansions of queries and gallery in
        DIGIX's pipeline are those of top = 1.
        """
        return cls((1.0,) * (_checked(top) + 1))

    @classmethod
    def decaying(cls, top: int = 10) -> Weights:
        """Weights that fall evenly with the rank r, (top + 1 - r) / (top + 1); 1 for the vector.

        The database augmentation of Gordo et al., "End-to-end learning of deep visual
        representations for image retrieval", IJCV 2017, section 5.2: (k - r) / k for the r-th of k
        vectors, the vector itself being number 0; here k = top + 1.
        """
        return cls(tuple(((top + 1 - r) / (top + 1)) for r in range(_checked(top) + 1)))

    @classmethod
    def alpha_weighted(cls, top: int = 50, alpha: float = 3.0) -> Weights:
        """Alpha-QE: the similarity to the power of alpha; 1 for a query of length 1.

        Radenovic et al., "Fine-tuning CNN image retrieval with no human annotation", TPAMI 2019,
        section 3.4, with its choice of 50 neighbours and alpha = 3. Negative similarities count 0.
        """
        return cls((1.0,) * (_checked(top) + 1), alpha)

    @classmethod
    def logarithmic(cls, top: int = 10, decades: float = 2.0) -> Weights:
        """Weights from 1 for the vector itself down to 10^-decades for rank `top`, by equal ratios.

        The query-side augmentation of the Huawei DIGIX 2020 solution, logspace(0, -2, 11) over the
        query and its first 10.
        """
        return cls(tuple(np.logspace(0, -decades, _checked(top) + 1).tolist()))


def expand(
    queries: np.ndarray,
    vectors: np.ndarray,
    positions: np.ndarray,
    similarities: np.ndarray | None = None,
    *,
    weights: Weights | Sequence[float] | None = None,
    alpha: float | None = None,
    top: int | None = None,
    own: np.ndarray | None = None,
    out: np.ndarray | None = None,
    workers: int | None = None,
) -> np.ndarray:
    """Adds to every query a weighted sum of its neighbours, then L2.

    From a list of neighbours are taken out: missing ones (position -1), the query's own position if
    `own` says which, and repeats behind their first place. Those behind them move up, and the first
    `top` count; a list that is shorter counts as it is. Where nothing is left of a sum, the query
    stays as it is. Memory is that of the results and of some MB per thread; the rows of neighbours
    are read in any order, so that a memory map should fit the machine's memory.

    Args:
        queries: (Q, D) float32; a memory map or `precision.Rows` is read block by block.
        vectors: (N, D) float32, what was searched; rows of the queries' length.
        positions: (Q, K) integers, the neighbours' rows in `vectors`, best first; K is at least
            `top`, or as many neighbours as there are.
        similarities: (Q, K) inner products; needed with alpha only.
        weights: a rule, or numbers for the query itself and for rank 1, 2, ...
        alpha: in place of weights: alpha-QE over the first `top`.
        top: with alpha; alone, the average of the query and the first `top`.
        own: (Q,) rows of the queries in `vectors` where they are part of it.
        out: (Q, D) float32 for the results, a memory map for more than fits the memory; a new array
            if None. It must not share memory with `queries` or `vectors`.
        workers: threads; one per core if None.

    Returns:
        (Q, D) float32, rows L2-normalised: `out`.

    Raises:
        ValueError: if the arrays or weights do not fit each other, or a result is not finite.
    """
    rule = _rule(weights, alpha, top)
    _check(queries, vectors, positions, similarities, rule, own)
    result = np.empty(queries.shape, np.float32) if out is None else out
    _check_output(result, queries, vectors)
    rows = max(1, _BLOCK_BYTES // (4 * queries.shape[1]))

    def expand_block(first: int) -> None:
        block = slice(first, first + rows)
        lists = [
            None if array is None else np.asarray(array[block])
            for array in (queries, positions, similarities, own)
        ]
        result[block] = _expand_block(vectors, *lists, rule, first)

    threads = workers or os.cpu_count() or 1
    for _ in ordered_map(expand_block, range(0, len(queries), rows), workers=threads):
        pass
    return result


def augment_database(
    vectors: np.ndarray,
    positions: np.ndarray,
    similarities: np.ndarray | None = None,
    *,
    weights: Weights | Sequence[float] | None = None,
    alpha: float | None = None,
    top: int | None = None,
    out: np.ndarray | None = None,
    workers: int | None = None,
) -> np.ndarray:
    """Database augmentation (DBA): every vector of a set is expanded by its neighbours in the set.

    Turcot and Lowe, "Better matching with fewer features", ICCV workshop 2009; with rank weights
    Gordo et al. 2017 (`Weights.decaying`). A vector's own position is taken out of its list,
    wherever it stands: lists with and without it give the same, the vector itself counts by the
    rule's first weight, and rank 1 is the nearest other vector.

    Args:
        vectors: (N, D) float32; a memory map is read block by block.
        positions: (N, K) neighbours in the set; search for top + 1 where lists hold the vector.
        similarities: see `expand`, as the rest.
        weights: see `expand`.
        alpha: see `expand`.
        top: see `expand`.
        out: see `expand`.
        workers: see `expand`.
    """
    return expand(
        vectors,
        vectors,
        positions,
        similarities,
        weights=weights,
        alpha=alpha,
        top=top,
        own=np.arange(len(vectors)),
        out=out,
        workers=workers,
    )


def _rule(
    weights: Weights | Sequence[float] | None, alpha: float | None, top: int | None
) -> Weights:
    if (weights is not None) == (top is not None) or (alpha is not None and top is None):
        raise ValueError(
            "expected weights, or alpha and top, or top. "
            f"Received: weights={weights}, alpha={alpha}, top={top}"
        )
    if weights is None:
        return Weights.average(top) if alpha is None else Weights.alpha_weighted(top, alpha)
    return weights if isinstance(weights, Weights) else Weights(tuple(map(float, weights)))


def _expand_block(
    vectors: np.ndarray,
    queries: np.ndarray,
    positions: np.ndarray,
    similarities: np.ndarray | None,
    own: np.ndarray | None,
    rule: Weights,
    first: int,
) -> np.ndarray:
    """Returns the expanded queries (B, D) of one block, which begins at row `first` of all."""
    columns, present = _chosen(positions, own, rule.top)
    ranks = np.asarray(rule.ranks, np.float32)
    weights = np.where(present, ranks[1 : columns.shape[1] + 1], np.float32(0))  # (B, n)
    if rule.alpha:
        chosen = np.take_along_axis(similarities, columns, axis=1)
        weights *= np.where(present, np.maximum(chosen, 0), 0).astype(np.float32) ** rule.alpha
    lengths = np.einsum("bd,bd->b", queries, queries)[:, None]  # (B, 1), squared
    chosen = np.where(present, np.take_along_axis(positions, columns, axis=1), 0)
    with np.errstate(invalid="ignore", over="ignore"):  # told below
        sums = _weighted_sums(vectors, chosen, weights)
        sums += queries * (ranks[0] * lengths**rule.alpha)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)  # (B, 1)
    empty = norms[:, 0] == 0
    sums[empty], norms[empty] = queries[empty], np.sqrt(lengths[empty])
    wrong = ~(np.isfinite(norms[:, 0]) & (norms[:, 0] > 0))
    if wrong.any():
        raise ValueError(
            "expected finite queries other than 0, neighbours and similarities. "
            f"Received: a sum of length {norms[wrong][0, 0]:.4g} for query {first + wrong.argmax()}"
        )
    sums /= norms
    return sums


def _weighted_sums(vectors: np.ndarray, positions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns (B, D), the sum over n of weights (B, n) times the rows at positions (B, n).

    Rows are gathered for some queries at a time, as many as the cache holds. A missing neighbour
    has weight 0 and any position; only infinite rows of that position would matter.
    """
    count, n = positions.shape
    dimension = vectors.shape[1]
    step = max(1, _GATHER_BYTES // (4 * n * dimension))
    gathered = np.empty((min(step, count) * n, dimension), np.float32)  # reused
    sums = np.zeros((count, dimension), np.float32)
    for start in range(0, count, step):
        piece = positions[start : start + step]
        rows = gathered[: piece.size]
        if isinstance(vectors, np.ndarray):
            # The mode "raise" would copy twice; the positions have been checked.
            np.take(vectors, piece.ravel(), axis=0, out=rows, mode="clip")
        else:
            rows[:] = vectors[piece.ravel()]
        rows = rows.reshape(*piece.shape, dimension)
        stop = start + len(piece)
        np.matmul(weights[start:stop, None, :], rows, out=sums[start:stop, None, :])
    return sums


def _chosen(
    positions: np.ndarray, own: np.ndarray | None, top: int
) -> tuple[np.ndarray, np.ndarray]:
    """Says which entries of lists (B, K) count.

    Returns:
        columns (B, <= top) of the entries that count, in their order, and present (B, <= top)
        bool, False where a list has no more.
    """
    for width in (top + 1, positions.shape[1]):  # the first places are mostly enough
        usable = _usable(positions[:, :width], own)
        columns = np.argsort(~usable, axis=1, kind="stable")[:, :top]
        present = np.take_along_axis(usable, columns, axis=1)
        if present.shape[1] == top and present.all():
            break
    return columns, present


def _usable(positions: np.ndarray, own: np.ndarray | None) -> np.ndarray:
    """Returns (B, K) bool: neither missing, nor the query itself, nor a repeat."""
    order = np.argsort(positions, axis=1, kind="stable")
    ordered = np.take_along_axis(positions, order, axis=1)
    fresh = np.ones(positions.shape, bool)
    fresh[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    usable = np.empty(positions.shape, bool)
    np.put_along_axis(usable, order, fresh, axis=1)
    usable &= positions >= 0
    return usable if own is None else usable & (positions != own[:, None])


def _checked(top: int) -> int:
    if top < 1:
        raise ValueError(f"expected at least one neighbour. Received: top={top}")
    return top


def _check(
    queries: np.ndarray,
    vectors: np.ndarray,
    positions: np.ndarray,
    similarities: np.ndarray | None,
    rule: Weights,
    own: np.ndarray | None,
) -> None:
    for name, matrix in (("queries", queries), ("vectors", vectors)):
        if matrix.ndim != 2 or matrix.dtype != np.float32 or 0 in matrix.shape:
            raise ValueError(
                f"expected {name} as a float32 matrix. Received: {matrix.shape}, {matrix.dtype}"
            )
    if queries.shape[1] != vectors.shape[1]:
        raise ValueError(
            f"expected queries of {vectors.shape[1]} dimensions. Received: {queries.shape[1]}"
        )
    least = min(rule.top, len(vectors) - (own is not None))
    shape = positions.shape
    if positions.ndim != 2 or len(positions) != len(queries) or shape[1] < least:
        raise ValueError(
            f"expected positions of {len(queries)} queries, {least} or more. Received: {shape}"
        )
    if positions.dtype.kind != "i" or positions.size == 0:
        raise ValueError(f"expected positions, integers. Received: {positions.dtype}, {shape}")
    low, high = positions.min(), positions.max()
    if low < -1 or high >= len(vectors):
        raise ValueError(
            f"expected positions from -1 to {len(vectors) - 1}. Received: {low} to {high}"
        )
    if rule.alpha and (similarities is None or similarities.shape != shape):
        received = None if similarities is None else similarities.shape
        raise ValueError(f"expected similarities {shape} for alpha. Received: {received}")
    if own is not None and own.shape != (len(queries),):
        raise ValueError(f"expected {len(queries)} own positions. Received: {own.shape}")


def _check_output(out: np.ndarray, queries: np.ndarray, vectors: np.ndarray) -> None:
    if out.shape != queries.shape or out.dtype != np.float32:
        raise ValueError(
            f"expected out as float32 {queries.shape}. Received: {out.dtype} {out.shape}"
        )
    arrays = [array for array in (queries, vectors) if isinstance(array, np.ndarray)]
    if any(np.may_share_memory(out, array) for array in arrays):
        raise ValueError("expected out apart from queries and vectors. Received: one of them")
