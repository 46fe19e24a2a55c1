"""Two runs on the same queries: the difference, its interval and whether it is chance.

The permutation test is that of Fisher for paired values, recommended for retrieval by Smucker,
Allan and Carterette (CIKM 2007); the bootstrap is Efron's, of queries.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from eval import scores
from eval.recognition import Recognized, draws_of_gap

# Up to here all 2^n assignments of signs are looked at.
_EXACT = 14
_BLOCK_BYTES = 2**25


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How run A differs from run B in one metric.

    Attributes:
        a, b: the metric's values.
        difference: a - b.
        interval: 95 % percentile bootstrap interval of the difference, over the queries.
        p_value: of the hypothesis that the runs do not differ, two-sided.
        test: how it was found: "permutation", "permutation, exact" or "bootstrap".
        wins, ties, losses: queries where A is better, equal or worse; None for a metric that has no
            value per query.
    """

    a: float
    b: float
    difference: float
    interval: tuple[float, float]
    p_value: float
    test: str
    wins: int | None = None
    ties: int | None = None
    losses: int | None = None


def compare_means(
    a: np.ndarray, b: np.ndarray, *, resamplings: int = 10_000, seed: int = 0
) -> Comparison:
    """Compares the means of a metric with one value per query, such as average precision.

    The p-value is that of the paired permutation test: if the runs do not differ, each query's
    difference could as well have the other sign, and p is the share of the assignments of signs
    whose mean is at least as far from 0 as the one found. All of them are counted where at most 14
    queries differ; else `resamplings` are drawn, and the one found is counted among them:
    p = (1 + as far) / (1 + resamplings), which is never 0.

    Args:
        a, b: (Q,) float64, the same queries in the same order; NaN in both where a query has no
            value, which leaves it out.
        resamplings: of the signs, and at most 2,000 of the queries for the interval.
        seed: of both.

    Raises:
        ValueError: if the shapes or the missing values differ, there is no query, or no resampling.
    """
    differences = _differences(a, b, resamplings)
    bounds = scores.mean(differences, bootstrap=min(resamplings, 2_000), seed=seed).interval
    moved = differences[differences != 0]
    if len(moved) <= _EXACT:
        p_value, test = _exact_p(moved), "permutation, exact"
    else:
        p_value, test = _sampled_p(moved, resamplings, seed), "permutation"
    return Comparison(
        a=float(np.nanmean(a)),
        b=float(np.nanmean(b)),
        difference=float(differences.mean()),
        interval=bounds,
        p_value=p_value,
        test=test,
        wins=int(np.count_nonzero(differences > 0)),
        ties=int(np.count_nonzero(differences == 0)),
        losses=int(np.count_nonzero(differences < 0)),
    )


def compare_gaps(
    a: Recognized, b: Recognized, *, resamplings: int = 1_000, seed: int = 0
) -> Comparison:
    """Compares the global average precision of two runs by a paired bootstrap of the images.

    GAP has no value per image, and the scores of two runs have scales of their own, so that answers
    cannot change places between runs. Both are resampled with the same images instead. The p-value
    is two-sided: twice the smaller share of the resampled differences on one side of 0, the sample
    itself counted with them, and at most 1.

    Args:
        a, b: judged by the same solution.
        resamplings: of the images.
        seed: of the resamplings.

    Raises:
        ValueError: if the images or their labels differ, or there is no resampling.
    """
    if a.images != b.images or not np.array_equal(a.labelled, b.labelled):
        raise ValueError("expected runs judged by the same solution. Received: two solutions")
    values = [
        draws_of_gap(run.correct, run.ranked, run.labelled, resamplings, seed) for run in (a, b)
    ]
    drawn = values[0] - values[1]
    drawn = drawn[~np.isnan(drawn)]
    above, below = (1 + np.count_nonzero(side) for side in (drawn >= 0, drawn <= 0))
    first, second = float(a.gap()), float(b.gap())
    return Comparison(
        a=first,
        b=second,
        difference=first - second,
        interval=scores.interval(drawn),
        p_value=float(min(1.0, 2 * min(above, below) / (1 + len(drawn)))),
        test="bootstrap",
    )


def _differences(a: np.ndarray, b: np.ndarray, resamplings: int) -> np.ndarray:
    """Returns a - b of the queries that have a value, checked."""
    a, b = (np.asarray(values, np.float64) for values in (a, b))
    if a.ndim != 1 or a.shape != b.shape or not np.array_equal(np.isnan(a), np.isnan(b)):
        raise ValueError(
            "expected values of the same queries, missing for the same. "
            f"Received: shapes {a.shape} and {b.shape}, {np.isnan(a).sum()} and "
            f"{np.isnan(b).sum()} missing"
        )
    if resamplings < 1:
        raise ValueError(f"expected a positive number of resamplings. Received: {resamplings}")
    known = ~np.isnan(a)
    if not known.any():
        raise ValueError("expected at least one query with a value. Received: none")
    return a[known] - b[known]


def _exact_p(moved: np.ndarray) -> float:
    """Returns the share of all assignments of signs that are at least as far from 0."""
    signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(moved))))  # (2^n, n)
    return float(_as_far(signs @ moved, moved).mean())


def _sampled_p(moved: np.ndarray, resamplings: int, seed: int) -> float:
    """Returns p from random signs, one random bit each."""
    rng = np.random.default_rng(seed)
    width = -(-len(moved) // 8)
    rows = max(1, _BLOCK_BYTES // (8 * len(moved)))
    total, far = float(moved.sum()), 0
    for first in range(0, resamplings, rows):
        count = min(rows, resamplings - first)
        random = np.frombuffer(rng.bytes(count * width), np.uint8).reshape(count, width)
        bits = np.unpackbits(random, axis=1, count=len(moved))  # (count, n)
        # The sum with the signs 2 bit - 1.
        far += np.count_nonzero(_as_far(2 * (bits.astype(np.float64) @ moved) - total, moved))
    return (1 + far) / (1 + resamplings)


def _as_far(sums: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Returns bool: which sums are at least as far from 0 as that of `moved`, up to rounding."""
    rounding = 1e-12 * np.abs(moved).sum()
    return np.abs(sums) >= abs(float(moved.sum())) - rounding
