"""Retrieval and recognition metrics, pure NumPy.

The definitions are those of the Google Landmarks Dataset v2 (Weyand et al., CVPR 2020,
arXiv:2004.01804) and its public evaluation. Ids and labels are text. Every metric is a `Score`: a
float that also carries a bootstrap confidence interval over the queries if one was asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from retrieval import embeddings


class Score(float):
    """A metric's value, with the bounds of its 95 % confidence interval or None."""

    interval: tuple[float, float] | None

    def __new__(cls, value: float, interval: tuple[float, float] | None = None) -> Score:
        """Makes the float and hangs the interval on it."""
        score = super().__new__(cls, value)
        score.interval = interval
        return score


class Prediction(NamedTuple):
    """The answer to a recognition query: a label and how sure it is."""

    label: str
    score: float


@dataclasses.dataclass(frozen=True)
class Relevance:
    """Which ranks of which query are right.

    Attributes:
        queries: the Q ids of the queries that have at least one relevant image.
        relevant: (Q, depth) bool; False beyond the end of a query's predictions.
        positives: (Q,) int64, the number of relevant images m_q.
        ignored: the number of queries without relevant images, which no metric counts.
        unanswered: the number of queries among Q without any prediction; they score 0.
    """

    queries: tuple[str, ...]
    relevant: np.ndarray
    positives: np.ndarray
    ignored: int
    unanswered: int


def judge(
    predictions: Mapping[str, Sequence[str]],
    solution: Mapping[str, Collection[str]],
    *,
    depth: int = 100,
) -> Relevance:
    """Marks the right ranks of retrieval predictions.

    Args:
        predictions: image ids per query id, best first. What follows rank `depth` is not read. A
            repeated image counts at its first rank only, the later ones are wrong: it consumes its
            rank.
        solution: the relevant image ids per query id; empty for an ignored query.
        depth: the number of ranks that are looked at.

    Raises:
        ValueError: if a prediction's query is not in the solution, or `depth` is not positive.
    """
    _check_known(predictions, solution)
    _check_k(depth)
    truths = {
        query: images if isinstance(images, (set, frozenset)) else frozenset(images)
        for query, images in solution.items()
        if images
    }
    relevant = np.zeros((len(truths), depth), bool)
    unanswered = 0
    for row, (query, truth) in enumerate(truths.items()):
        images = predictions.get(query, ())[:depth]
        unanswered += not images
        hits = [image in truth for image in images]
        if len(set(images)) < len(images):
            hits = _first_hits(images, truth)
        relevant[row, : len(hits)] = hits
    positives = np.array([len(truth) for truth in truths.values()], np.int64)
    return Relevance(
        tuple(truths), relevant, positives, len(solution) - len(truths), int(unanswered)
    )


def mean_average_precision(
    relevance: Relevance, k: int = 100, *, bootstrap: int = 0, seed: int = 0
) -> Score:
    """Mean average precision of the first k ranks, mAP@k of GLDv2.

    mAP@k = 1/Q sum_q 1/min(m_q, k) sum_{r <= k} P_q(r) rel_q(r), where m_q is the number of
    relevant images, rel_q(r) is 1 if rank r is right, and P_q(r) the share of right ones among the
    first r. Other libraries divide by m_q or by k and give other numbers.

    Queries without relevant images are left out; queries without predictions score 0. Ranks are the
    predictions' own order, so that there are no ties.

    Args:
        relevance: see `judge`; its depth is at least k.
        k: the number of ranks.
        bootstrap: the number of resamplings of the queries for the interval; 0 for none.
        seed: of the resamplings.
    """
    relevant = _first(relevance, k)
    precision = np.cumsum(relevant, axis=1, dtype=np.int32) / np.arange(1, k + 1)  # (Q, k)
    total = np.sum(precision, axis=1, where=relevant)
    return _mean(total / np.minimum(relevance.positives, k), bootstrap, seed)


def recall_at_k(relevance: Relevance, k: int, *, bootstrap: int = 0, seed: int = 0) -> Score:
    """Share of the queries with at least one right answer among the first k (R@k).

    Queries without relevant images are left out; queries without predictions score 0. The other
    quantity of this name, the share of all relevant images that are found, is not this one.
    """
    return _mean(_first(relevance, k).any(axis=1), bootstrap, seed)


def precision_at_k(relevance: Relevance, k: int, *, bootstrap: int = 0, seed: int = 0) -> Score:
    """Mean share of right answers among the first k ranks (P@k).

    The share is divided by k even where fewer were predicted or are relevant. Queries without
    relevant images are left out; queries without predictions score 0.
    """
    return _mean(_first(relevance, k).sum(axis=1) / k, bootstrap, seed)


def first_positions(relevance: Relevance, k: int = 100) -> np.ndarray:
    """Returns the rank of every query's first right answer, (Q,) int64; k + 1 if none up to k.

    GLDv2 reports the mean and the median of these ranks.
    """
    relevant = _first(relevance, k)
    return np.where(relevant.any(axis=1), relevant.argmax(axis=1) + 1, k + 1)


def global_average_precision(
    predictions: Mapping[str, Prediction],
    solution: Mapping[str, Collection[str]],
    *,
    ignore_unlabelled: bool = False,
    bootstrap: int = 0,
    seed: int = 0,
) -> Score:
    """Global average precision of recognition (GAP, micro-AP).

    GAP = 1/M sum_i P(i) rel(i) over all predictions in falling order of score, where rel(i) is 1 if
    prediction i's label is one of its image's, P(i) the share of right ones among the first i, and
    M the number of images with at least one label (Perronnin et al., CVPR 2009). Equal scores are
    ordered by image id, ascending; an image has one prediction, so that its class never decides.

    An image without a prediction adds nothing but counts in M if it has a label. A prediction for
    an image without a label is wrong.

    Args:
        predictions: label and score per image id.
        solution: the right labels per image id; empty where there is none.
        ignore_unlabelled: leave predictions for images without a label out instead.
        bootstrap: the number of resamplings of the images for a confidence interval; 0 for none.
        seed: of the resamplings.

    Returns:
        The score; NaN if no image has a label.

    Raises:
        ValueError: if a prediction's image is not in the solution, or a score is not finite.
    """
    ranked, correct, labelled = _rank(predictions, solution, ignore_unlabelled)
    value = _gap(correct, int(labelled.sum()))
    if not bootstrap:
        return Score(value)

    def resampled(drawn: np.ndarray) -> float:
        times = np.bincount(drawn, minlength=len(labelled))  # how often each image was drawn
        return _gap(np.repeat(correct, times[ranked]), int(times[labelled].sum()))

    return Score(value, _interval(resampled, len(labelled), bootstrap, seed))


def top_1_accuracy(
    predictions: Mapping[str, Prediction],
    solution: Mapping[str, Collection[str]],
    *,
    bootstrap: int = 0,
    seed: int = 0,
) -> Score:
    """Share of the images with a label whose prediction is right, whatever its score.

    Images without a label are left out; images without a prediction are wrong.

    Raises:
        ValueError: if a prediction's image is not in the solution.
    """
    _check_known(predictions, solution)
    right = [
        image in predictions and predictions[image].label in labels
        for image, labels in solution.items()
        if labels
    ]
    return _mean(np.array(right, bool), bootstrap, seed)


def _rank(
    predictions: Mapping[str, Prediction],
    solution: Mapping[str, Collection[str]],
    ignore_unlabelled: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the images' rows in the order of the ranking, what is right in it, who has a label.

    Returns:
        ranked (P,) int64 rows of the solution, correct (P,) bool, labelled (len(solution),) bool.
    """
    _check_known(predictions, solution)
    row_of = {image: row for row, image in enumerate(solution)}
    images = [image for image in predictions if solution[image] or not ignore_unlabelled]
    scores = np.array([predictions[image].score for image in images], np.float64)
    if not np.isfinite(scores).all():
        wrong = images[int(np.argmin(np.isfinite(scores)))]
        raise ValueError(f"expected finite scores. Received: {predictions[wrong]} for {wrong!r}")
    order = np.lexsort((np.array(images, str), -scores))
    correct = np.array([predictions[image].label in solution[image] for image in images], bool)
    ranked = np.array([row_of[image] for image in images], np.int64)
    labelled = np.array([bool(labels) for labels in solution.values()], bool)
    return ranked[order], correct[order], labelled


def _gap(correct: np.ndarray, labelled: int) -> float:
    """Returns the GAP of a ranking (P,) bool with `labelled` images that have a label."""
    if not labelled:
        return float("nan")
    ranks = np.flatnonzero(correct) + 1
    return float(np.sum(np.arange(1, len(ranks) + 1) / ranks)) / labelled


def _mean(values: np.ndarray, bootstrap: int, seed: int) -> Score:
    """Returns the mean of (Q,) values per query; NaN without queries."""
    if not len(values):
        return Score(float("nan"))
    values = values.astype(np.float64)
    if not bootstrap:
        return Score(values.mean())
    interval = _interval(lambda drawn: values[drawn].mean(), len(values), bootstrap, seed)
    return Score(values.mean(), interval)


def _interval(
    metric: Callable[[np.ndarray], float], count: int, bootstrap: int, seed: int
) -> tuple[float, float]:
    """Returns the 95 % percentile bootstrap interval (Efron, 1979) of a metric over the queries.

    Args:
        metric: from the rows drawn, with replacement, (count,) int64 to the value. A drawing
            without any labelled query, which has no value, is passed over.
        count: the number of queries.
        bootstrap: the number of drawings.
        seed: of the drawings.
    """
    if bootstrap < 1:
        raise ValueError(f"expected a positive number of resamplings. Received: {bootstrap}")
    rng = np.random.default_rng(seed)
    values = np.array([metric(rng.integers(count, size=count)) for _ in range(bootstrap)])
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _first(relevance: Relevance, k: int) -> np.ndarray:
    _check_k(k)
    depth = relevance.relevant.shape[1]
    if k > depth:
        raise ValueError(f"expected k up to the depth {depth} of `judge`. Received: {k}")
    return relevance.relevant[:, :k]


def _first_hits(images: Sequence[str], truth: Collection[str]) -> list[bool]:
    seen: set[str] = set()
    hits = []
    for image in images:
        hits.append(image in truth and image not in seen)
        seen.add(image)
    return hits


def _check_k(k: int) -> None:
    if k < 1:
        raise ValueError(f"expected a positive number of ranks. Received: {k}")


def _check_known(predictions: Mapping[str, object], solution: Mapping[str, object]) -> None:
    unknown = [query for query in predictions if query not in solution]
    if unknown:
        raise ValueError(
            "expected predictions for queries of the solution. "
            f"Received: {len(unknown):,} others ({embeddings.few(unknown)})"
        )
