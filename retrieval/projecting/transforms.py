"""Fits transforms: PCA, PCA-whitening, learned whitening; and power normalisation.

Each returns a `Transform` that ends in L2 normalisation, for queries and index alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np

from retrieval.projecting import covariance
from retrieval.projecting.projections import Normalisation, Power, Projection, Transform

__all__ = ["Transform", "fit_learned_whitening", "fit_pca", "power"]

# An axis whose spread is a millionth of the largest holds float32 rounding and nothing else.
_SMALLEST_VARIANCE = 1e-12


def power(dimension: int, exponent: float = 0.5) -> Transform:
    """Signed power normalisation and L2 (Perronnin et al., ECCV 2010: exponent 0.5).

    Args:
        dimension: D.
        exponent: above 0.
    """
    if not 0 < exponent < np.inf:
        raise ValueError(f"expected a positive exponent. Received: {exponent}")
    fit = {"kind": "power", "exponent": float(exponent)}
    return Transform(dimension, (Power(float(exponent)), Normalisation()), (fit,))


def fit_pca(
    vectors: np.ndarray,
    dimension: int | None,
    *,
    whiten: bool | float = False,
    shrinkage: float = 0.0,
    after: Transform | None = None,
    fitted_on: Mapping | None = None,
) -> Transform:
    """Fits the projection to the axes of largest variance, then L2.

    Whitening divides every axis by its standard deviation (Jegou and Chum, "Negative evidences and
    co-occurrences in image retrieval", ECCV 2012). The covariance is taken in one pass in blocks;
    axes have their largest component positive, so that equal vectors give an equal transform.

    Args:
        vectors: (N, D), finite; a memory map is read block by block.
        dimension: d, the number of axes kept; as many as the set spans if None.
        whiten: True or False, or the power of the standard deviation to divide by, between.
        shrinkage: share s of the mean variance v in the covariance, (1 - s) cov + s v I, which
            keeps axes of little variance from being blown up; only with whitening.
        after: a transform that is applied first; the result holds both.
        fitted_on: what the manifest shall say of the set besides its size and digest.

    Raises:
        ValueError: if an argument does not fit, or the set spans fewer than d axes.
    """
    from scipy import linalg

    _check_fit(vectors, shrinkage)
    exponent = float(whiten)
    if not 0 <= exponent <= 1 or (shrinkage and not exponent):
        raise ValueError(
            "expected whiten between 0 and 1, and above 0 with shrinkage. "
            f"Received: whiten {whiten}, shrinkage {shrinkage}"
        )
    stream = _Stream(vectors, after)
    found = covariance.moments(stream)
    spread = _shrunk(found.scatter / found.count, shrinkage)
    variances, axes = (part[..., ::-1] for part in linalg.eigh(spread))
    dimension = _within_rank(dimension, variances, found.count)
    matrix = axes[:, :dimension] / variances[:dimension] ** (exponent / 2)
    return stream.result(
        found.mean,
        matrix,
        kind="pca_whitening" if exponent else "pca",
        dimension=dimension,
        whiten=exponent,
        shrinkage=shrinkage,
        variance_kept=float(variances[:dimension].sum() / variances.sum()),
        fitted_on=fitted_on,
    )


def fit_learned_whitening(
    vectors: np.ndarray,
    query_rows: np.ndarray,
    positive_rows: np.ndarray,
    dimension: int | None,
    *,
    shrinkage: float = 0.0,
    after: Transform | None = None,
    fitted_on: Mapping | None = None,
) -> Transform:
    """Fits a whitening from matching pairs, then L2.

    With S the covariance of the pairs' differences and C the scatter of all vectors about the mean
    of the pairs' first vectors, the axes are the solutions of C v = l S v with the largest l and
    v^T S v = 1: differences within pairs become white, and the axes that spread all vectors most
    against them are kept. Mikolajczyk and Matas, "Improving descriptors for fast tree matching by
    optimal linear projection", ICCV 2007, in the form of Radenovic et al., "Fine-tuning CNN image
    retrieval with no human annotation", TPAMI 2019, section 3.3.

    Args:
        vectors: (N, D), finite; a memory map is read block by block.
        query_rows: (P,) rows of the pairs' first vectors; `covariance.within_class_pairs` makes
            pairs of labels.
        positive_rows: (P,) rows of the pairs' second vectors.
        dimension: d, the number of axes kept; as many as the set spans if None.
        shrinkage: share s of the mean variance v in S, (1 - s) S + s v I; needed where there are
            fewer pairs than dimensions.
        after: a transform that is applied first; the result holds both.
        fitted_on: what the manifest shall say of the set besides its size and digest.

    Raises:
        ValueError: if an argument does not fit, or the pairs or the set span too few axes.
    """
    from scipy import linalg

    _check_fit(vectors, shrinkage)
    pairs = np.stack([np.asarray(query_rows), np.asarray(positive_rows)])  # (2, P)
    _check_pairs(pairs, len(vectors))
    stream = _Stream(vectors, after)
    found = covariance.moments(stream)
    centre, within = covariance.difference_covariance(vectors, *pairs, stream.transform)
    within = _shrunk(within, shrinkage)
    _check_spanned(linalg.eigvalsh(within), pairs.shape[1])
    variances, axes = (
        part[..., ::-1] for part in linalg.eigh(found.about(centre) / found.count, within)
    )
    dimension = _within_rank(dimension, variances, found.count)
    return stream.result(
        centre,
        axes[:, :dimension],
        kind="learned_whitening",
        dimension=dimension,
        shrinkage=shrinkage,
        pairs=pairs.shape[1],
        pairs_sha256=hashlib.sha256(pairs.astype("<i8").tobytes()).hexdigest(),
        fitted_on=fitted_on,
    )


class _Stream:
    """The blocks that a fit reads: rows after the earlier transform, digested on the way."""

    def __init__(self, vectors: np.ndarray, after: Transform | None) -> None:
        self._vectors, self._after = vectors, after
        self._digest = hashlib.sha256()

    def __iter__(self) -> Iterator[np.ndarray]:
        blocks = self._digested()
        return blocks if self._after is None else self._after.map_blocks(blocks)

    def _digested(self) -> Iterator[np.ndarray]:
        for block in covariance.row_blocks(self._vectors):
            self._digest.update(block.astype("<f4", copy=False))
            yield block

    def transform(self, block: np.ndarray) -> np.ndarray:
        """Applies the earlier transform to rows (n, D)."""
        return block if self._after is None else self._after.apply(block)

    def result(
        self, mean: np.ndarray, matrix: np.ndarray, *, fitted_on: Mapping | None, **fit: object
    ) -> Transform:
        """Returns the earlier transform followed by the fitted projection and L2."""
        about = {
            **fit,
            "fitted_on": {
                **(fitted_on or {}),
                "count": len(self._vectors),
                "vectors_sha256": self._digest.hexdigest(),
            },
        }
        step = Projection(mean.astype(np.float32), _signed(matrix).astype(np.float32))
        fitted = Transform(len(mean), (step, Normalisation()), (about,))
        return fitted if self._after is None else self._after.then(fitted)


def _signed(matrix: np.ndarray) -> np.ndarray:
    """Turns every column so that its component of largest size is positive, the first of equals."""
    largest = np.abs(matrix).argmax(axis=0)
    signs = np.sign(matrix[largest, np.arange(matrix.shape[1])])
    return np.ascontiguousarray(matrix * signs)


def _shrunk(spread: np.ndarray, shrinkage: float) -> np.ndarray:
    """Returns (1 - s) spread + s v I with the mean variance v."""
    mean_variance = np.trace(spread) / len(spread)
    return (1 - shrinkage) * spread + shrinkage * mean_variance * np.eye(len(spread))


def _check_fit(vectors: np.ndarray, shrinkage: float) -> None:
    if vectors.ndim != 2 or len(vectors) < 2 or vectors.shape[1] < 1:
        raise ValueError(
            f"expected two vectors or more to fit on, (N, D). Received: shape {vectors.shape}"
        )
    if not 0 <= shrinkage <= 1:
        raise ValueError(f"expected a shrinkage between 0 and 1. Received: {shrinkage}")


def _check_pairs(pairs: np.ndarray, count: int) -> None:
    """Raises ValueError unless `pairs` (2, P) are different rows among `count`."""
    if pairs.ndim != 2 or not pairs.size or pairs.dtype.kind not in "iu":
        raise ValueError(
            "expected the rows of pairs, two equally long lists of integers. "
            f"Received: shape {pairs.shape[1:]}, {pairs.dtype}"
        )
    wrong = ((pairs < 0) | (pairs >= count)).any(axis=0) | (pairs[0] == pairs[1])
    if wrong.any():
        first = pairs[:, int(np.argmax(wrong))].tolist()
        raise ValueError(f"expected pairs of two different rows below {count}. Received: {first}")


def _within_rank(dimension: int | None, variances: np.ndarray, count: int) -> int:
    """Returns the dimension, or how many of `variances` (D,), falling, are any spread, if None."""
    rank = int(np.count_nonzero(variances > _SMALLEST_VARIANCE * variances[0]))
    dimension = rank if dimension is None else dimension
    if not 1 <= dimension <= rank:
        raise ValueError(
            f"expected a dimension between 1 and {rank}, as many as {count:,} vectors of "
            f"{len(variances)} dimensions span. Received: {dimension}"
        )
    return dimension


def _check_spanned(variances: np.ndarray, pairs: int) -> None:
    """Raises ValueError unless the differences of pairs have spread along every axis."""
    rank = int(np.count_nonzero(variances > _SMALLEST_VARIANCE * variances[-1]))
    if rank < len(variances):
        raise ValueError(
            f"expected pairs that differ along all {len(variances)} dimensions: more pairs, a "
            f"shrinkage such as 0.01, or a PCA to fewer dimensions first. Received: {pairs:,} "
            f"pairs that differ along {rank}"
        )
