"""Retrieval metrics on judged rankings.

The definitions are those of the Google Landmarks Dataset v2 (Weyand et al., CVPR 2020,
arXiv:2004.01804) and its public evaluation, where nothing else is said. Each metric is the mean of
one value per query. Common to all: queries without relevant images are left out; queries without
predictions, and ranks beyond the end of the predictions, are wrong; a repeated image is right at
its first rank only; ranks are the predictions' own order, so that there are no ties. Without any
query the value is NaN.

R or m_q is the number of a query's relevant images, rel_q(r) is 1 if rank r is right, and P_q(r)
the share of right ones among the first r.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from eval import scores
from eval.relevance import Relevance, check_k
from eval.scores import Score


def mean_average_precision(
    relevance: Relevance, k: int = 100, *, bootstrap: int = 0, seed: int = 0
) -> Score:
    """Mean average precision of the first k ranks, mAP@k of GLDv2.

    mAP@k = 1/Q sum_q 1/min(m_q, k) sum_{r <= k} P_q(r) rel_q(r). Other libraries divide by m_q or
    by k and give other numbers.

    Queries without relevant images are left out; queries without predictions score 0. Ranks are the
    predictions' own order, so that there are no ties.

    Args:
        relevance: see `judge`; its depth is at least k.
        k: the number of ranks.
        bootstrap: the number of resamplings of the queries for the interval; 0 for none.
        seed: of the resamplings.
    """
    return scores.mean(average_precisions(relevance, k), bootstrap=bootstrap, seed=seed)


def recall_at_k(relevance: Relevance, k: int, *, bootstrap: int = 0, seed: int = 0) -> Score:
    """Share of the queries with at least one right answer among the first k ranks (R@k, any hit).

    This is the recall of image retrieval and metric learning (Jegou et al., 2011; Song et al.,
    2016), and equals the cumulated matching characteristic at rank k. The share of the relevant
    images that is found is `share_of_relevant_at_k`.

    Queries without relevant images are left out; queries without predictions score 0.
    """
    return scores.mean(first(relevance, k).any(axis=1), bootstrap=bootstrap, seed=seed)


def cumulated_matches(
    relevance: Relevance,
    ranks: Sequence[int] = (1, 3, 5, 10),
    *,
    bootstrap: int = 0,
    seed: int = 0,
) -> dict[int, Score]:
    """Cumulated matching characteristic (CMC): Rank-1, Rank-3, Rank-5 and Rank-10 of re-id.

    CMC(r) = share of the queries whose first right answer is at rank r or before (Gray et al.,
    2007), with all relevant images in the index at once; it equals `recall_at_k`.

    Queries without relevant images are left out; queries without predictions are matched nowhere.

    Returns:
        The value by rank.
    """
    found = {rank: first(relevance, rank).any(axis=1) for rank in ranks}
    return scores.means(found, bootstrap=bootstrap, seed=seed)


def precision_at_k(relevance: Relevance, k: int, *, bootstrap: int = 0, seed: int = 0) -> Score:
    """Mean share of right answers among the first k ranks (P@k).

    The share is divided by k even where fewer were predicted or are relevant. Queries without
    relevant images are left out; queries without predictions score 0.
    """
    return scores.mean(found_at(relevance, k) / k, bootstrap=bootstrap, seed=seed)


def share_of_relevant_at_k(
    relevance: Relevance, k: int, *, bootstrap: int = 0, seed: int = 0
) -> Score:
    """Mean share of the relevant images that are among the first k ranks: found_q / m_q.

    This is recall as information retrieval has it. It cannot reach 1 where m_q > k. Queries without
    relevant images are left out; queries without predictions score 0.
    """
    share = found_at(relevance, k) / relevance.positives
    return scores.mean(share, bootstrap=bootstrap, seed=seed)


def r_precision(relevance: Relevance, *, bootstrap: int = 0, seed: int = 0) -> Score:
    """Mean share of right answers among the first R ranks, R the number of relevant images.

    Queries without relevant images are left out; queries without predictions score 0.

    Raises:
        ValueError: if the ranking was judged to less than the largest R.
    """
    return scores.mean(r_precisions(relevance), bootstrap=bootstrap, seed=seed)


def map_at_r(relevance: Relevance, *, bootstrap: int = 0, seed: int = 0) -> Score:
    """MAP@R of metric learning (Musgrave et al., ECCV 2020, arXiv:2003.08505).

    MAP@R = 1/Q sum_q 1/R sum_{r <= R} P_q(r) rel_q(r): a right answer after rank R counts nothing,
    which tells it from mAP@k. Queries without relevant images are left out; queries without
    predictions score 0.

    Raises:
        ValueError: if the ranking was judged to less than the largest R.
    """
    return scores.mean(average_precisions_at_r(relevance), bootstrap=bootstrap, seed=seed)


def mean_position(
    relevance: Relevance, k: int = 100, *, bootstrap: int = 0, seed: int = 0
) -> Score:
    """Mean rank of the first right answer; k + 1 for a query with none among the first k.

    Queries without relevant images are left out; queries without predictions count k + 1.
    """
    return scores.mean(first_positions(relevance, k), bootstrap=bootstrap, seed=seed)


def median_position(
    relevance: Relevance, k: int = 100, *, bootstrap: int = 0, seed: int = 0
) -> Score:
    """Median rank of the first right answer; k + 1 for a query with none among the first k.

    The middle of the two middle ranks where the number of queries is even. Queries without relevant
    images are left out; queries without predictions count k + 1.
    """
    positions = first_positions(relevance, k)
    if not len(positions):
        return Score(float("nan"))
    value = float(np.median(positions))
    if not bootstrap:
        return Score(value)
    medians = [
        _median(np.bincount(positions, weights=times))
        for times in scores.draws(len(positions), bootstrap, seed)
    ]
    return Score(value, scores.interval(np.array(medians)))


def digix_score(relevance: Relevance, *, bootstrap: int = 0, seed: int = 0) -> Score:
    """Score of Huawei's DIGIX retrieval challenge (2020): 0.5 top-1 + 0.5 mAP@10.

    Top-1 is the share of the queries whose first answer is right, mAP@10 that of
    `mean_average_precision`. Queries without relevant images are left out; queries without
    predictions score 0.
    """
    values = 0.5 * first(relevance, 1)[:, 0] + 0.5 * average_precisions(relevance, 10)
    return scores.mean(values, bootstrap=bootstrap, seed=seed)


def average_precisions(relevance: Relevance, k: int = 100) -> np.ndarray:
    """Returns AP@k of every query, (Q,) float64; see `mean_average_precision`."""
    rows, numbers, ranks = _hits(first(relevance, k))
    total = np.bincount(rows, weights=numbers / ranks, minlength=len(relevance.positives))
    return total / np.minimum(relevance.positives, k)


def average_precisions_at_r(relevance: Relevance) -> np.ndarray:
    """Returns AP@R of every query, (Q,) float64; see `map_at_r`."""
    rows, numbers, ranks = _hits(_first_r(relevance))
    total = np.bincount(rows, weights=numbers / ranks, minlength=len(relevance.positives))
    return total / relevance.positives


def r_precisions(relevance: Relevance) -> np.ndarray:
    """Returns the R-precision of every query, (Q,) float64; see `r_precision`."""
    return _first_r(relevance).sum(axis=1) / relevance.positives


def first_positions(relevance: Relevance, k: int = 100) -> np.ndarray:
    """Returns the rank of every query's first right answer, (Q,) int64; k + 1 if none up to k.

    GLDv2 reports the mean and the median of these ranks.
    """
    relevant = first(relevance, k)
    return np.where(relevant.any(axis=1), relevant.argmax(axis=1) + 1, k + 1)


def found_at(relevance: Relevance, k: int) -> np.ndarray:
    """Returns how many of the first k answers are right, (Q,) int64."""
    return np.count_nonzero(first(relevance, k), axis=1)


def first(relevance: Relevance, k: int) -> np.ndarray:
    """Returns the first k ranks, (Q, k) bool.

    Raises:
        ValueError: if k is not positive or more than was judged.
    """
    check_k(k)
    depth = relevance.relevant.shape[1]
    if k > depth:
        raise ValueError(f"expected k up to the depth {depth} of `judge`. Received: {k}")
    return relevance.relevant[:, :k]


def reaches_r(relevance: Relevance) -> bool:
    """Whether the rankings were judged deep enough for `r_precision` and `map_at_r`."""
    return int(relevance.positives.max(initial=0)) <= relevance.relevant.shape[1]


def summary(
    relevance: Relevance,
    k: int = 100,
    *,
    depths: Sequence[int] = (1, 3, 5, 10),
    bootstrap: int = 0,
    seed: int = 0,
) -> dict[str, Score]:
    """Returns all metrics of one ranking by name, their intervals from the same resamplings.

    r_precision and map_at_r are there if the ranking was judged deep enough, digix_score if k >= 10
    and recall_at_<d> and precision_at_<d> for those of `depths` that are at most k.
    """
    columns = per_query(relevance, k, depths=depths)
    values = scores.means(columns, bootstrap=bootstrap, seed=seed)
    values["median_position"] = median_position(relevance, k, bootstrap=bootstrap, seed=seed)
    return values


def per_query(
    relevance: Relevance, k: int = 100, *, depths: Sequence[int] = (1, 3, 5, 10)
) -> Mapping[str, np.ndarray]:
    """Returns one value per query, (Q,) each, by the metric's name; their means are the metrics.

    map_at_<k> is the query's AP@k here, mean_position the rank of its first right answer.
    """
    columns = {f"map_at_{k}": average_precisions(relevance, k)}
    depths = [depth for depth in depths if depth <= k]
    for depth in depths:
        columns[f"recall_at_{depth}"] = first(relevance, depth).any(axis=1)
    for depth in depths:
        columns[f"precision_at_{depth}"] = found_at(relevance, depth) / depth
    columns[f"share_of_relevant_at_{k}"] = found_at(relevance, k) / relevance.positives
    if reaches_r(relevance):
        columns["r_precision"] = r_precisions(relevance)
        columns["map_at_r"] = average_precisions_at_r(relevance)
    if k >= 10:
        top_1 = first(relevance, 1)[:, 0]
        columns["digix_score"] = 0.5 * top_1 + 0.5 * average_precisions(relevance, 10)
    columns["mean_position"] = first_positions(relevance, k)
    return columns


def _hits(relevant: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns for every right answer its query's row, its number among these, and its rank."""
    rows, columns = np.nonzero(relevant)
    counts = np.bincount(rows, minlength=len(relevant))
    numbers = np.arange(1, len(rows) + 1) - np.repeat(np.cumsum(counts) - counts, counts)
    return rows, numbers, columns + 1


def _first_r(relevance: Relevance) -> np.ndarray:
    """Returns the ranks of every query up to its R, (Q, depth) bool; later ones are False."""
    if not reaches_r(relevance):
        raise ValueError(
            f"expected rankings judged to at least {int(relevance.positives.max())}, the most "
            f"relevant images of a query. Received: {relevance.relevant.shape[1]}"
        )
    ranks = np.arange(relevance.relevant.shape[1])
    return relevance.relevant & (ranks < relevance.positives[:, None])


def _median(counts: np.ndarray) -> float:
    """Returns the median of the numbers 0, 1, ..., each there as often as `counts` says."""
    cumulated = np.cumsum(counts)
    total = int(cumulated[-1])
    middle = np.searchsorted(cumulated, [(total - 1) // 2, total // 2], side="right")
    return float(middle.mean())
