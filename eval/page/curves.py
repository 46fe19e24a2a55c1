"""The numbers behind the curves of a page: precision and recall, and scores with a threshold."""

from __future__ import annotations

import dataclasses

import numpy as np

from eval import ranking_metrics
from eval.recognition import Recognized
from eval.relevance import Relevance

LEVELS = np.linspace(0, 1, 21)  # of recall
BINS = 40
_ROWS = 8192  # queries at a time
_POINTS = 240  # of a curve; a page is some hundred pixels wide


@dataclasses.dataclass(frozen=True)
class Scored:
    """One answer per query with its score, in falling order of score.

    Attributes:
        scores: (P,) float64.
        correct: (P,) bool.
        labelled: (P,) bool, whether the query has a right answer at all.
        total: the number of queries with a right answer, those without a prediction too.
    """

    scores: np.ndarray
    correct: np.ndarray
    labelled: np.ndarray
    total: int


@dataclasses.dataclass(frozen=True)
class Threshold:
    """A score from which on answers are accepted.

    Attributes:
        score: answers with at least this score are accepted.
        accepted: their number.
        precision: the share of right ones among them.
        recall: the right ones among them over the queries that have a right answer.
        f1: the harmonic mean of the two.
        gap_share: the share of the GAP that they make up.
    """

    score: float
    accepted: int
    precision: float
    recall: float
    f1: float
    gap_share: float


def precision_recall(relevance: Relevance) -> np.ndarray:
    """Returns the mean precision over the queries at `LEVELS` of recall, (21,) float64.

    A query's precision at recall r is interpolated (Manning et al., 2008, 8.4): the largest share
    of right answers among the first k, over all k with at least ceil(r min(m, depth)) right ones
    (at least one), where m is the number of relevant images; 0 if there are never so many.
    """
    depth = relevance.relevant.shape[1]
    total = np.zeros(len(LEVELS))
    for first in range(0, len(relevance.relevant), _ROWS):
        relevant = relevance.relevant[first : first + _ROWS]
        positives = np.minimum(relevance.positives[first : first + _ROWS], depth)
        found = np.cumsum(relevant, axis=1)  # (B, depth)
        precision = found / np.arange(1, depth + 1)
        highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        for column, level in enumerate(LEVELS):
            # 0.15 * 20 is 3.0000000000000004 in float64
            needed = np.maximum(1, np.ceil(level * positives - 1e-9))
            reached = found >= needed[:, None]
            start = reached.argmax(axis=1)
            values = np.take_along_axis(highest, start[:, None], axis=1)[:, 0]
            total[column] += values[reached.any(axis=1)].sum()
    return total / len(relevance.relevant)


def recall_at(relevance: Relevance) -> tuple[np.ndarray, np.ndarray]:
    """Returns recall@k (any hit) and the share of relevant images found, (depth,) each, for all k.

    They are `ranking_metrics.recall_at_k` and `share_of_relevant_at_k` at k = 1, 2, ..., depth.
    """
    depth = relevance.relevant.shape[1]
    count = len(relevance.relevant)
    first = ranking_metrics.first_positions(relevance, depth)
    hits = np.bincount(first, minlength=depth + 2)[1 : depth + 1]
    weights = relevance.relevant / relevance.positives[:, None]
    return np.cumsum(hits) / count, np.cumsum(weights.sum(axis=0)) / count


def scored_labels(judged: Recognized) -> Scored:
    """Returns recognition predictions as scored answers."""
    total = int(np.count_nonzero(judged.labelled))
    return Scored(judged.scores, judged.correct, judged.labelled[judged.ranked], total)


def scored_images(scores: np.ndarray, correct: np.ndarray, labelled: np.ndarray) -> Scored:
    """Returns the first image of every ranking as a scored answer.

    Args:
        scores: (P,) similarities of the first images; NaN where a query has no answer.
        correct: (P,) bool, whether the first image is relevant.
        labelled: (P,) bool, whether the query has relevant images.
    """
    order = np.argsort(-scores, kind="stable")
    order = order[~np.isnan(scores[order])]
    total = int(np.count_nonzero(labelled))
    return Scored(scores[order].astype(np.float64), correct[order], labelled[order], total)


def best_threshold(scored: Scored) -> Threshold | None:
    """Returns the score at which accepting answers has the best F1; None if no answer is right.

    F1 = 2 right / (accepted + queries with a right answer). Equal scores are accepted together; of
    equal F1 the highest score wins.
    """
    if not scored.correct.any():
        return None
    right = np.cumsum(scored.correct)
    accepted = np.arange(1, len(right) + 1)
    last = np.append(scored.scores[1:] != scored.scores[:-1], True)  # of equal scores
    f1 = np.where(last, 2 * right / (accepted + scored.total), -1)
    best = int(f1.argmax())
    gains = right / accepted * scored.correct
    return Threshold(
        score=float(scored.scores[best]),
        accepted=best + 1,
        precision=float(right[best] / (best + 1)),
        recall=float(right[best] / scored.total),
        f1=float(f1[best]),
        gap_share=float(gains[: best + 1].sum() / gains.sum()),
    )


def answers_curve(scored: Scored) -> tuple[np.ndarray, np.ndarray]:
    """Returns recall and precision of the first n answers by score, for about 240 values of n.

    The area under it, in steps at every right answer, is the GAP.
    """
    count = len(scored.correct)
    right = np.cumsum(scored.correct)
    rows = np.unique(np.geomspace(1, count, _POINTS).astype(int)) - 1
    return right[rows] / max(1, scored.total), right[rows] / (rows + 1)


def histogram(scored: Scored) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns the edges of the bins, (41,), and the numbers of answers in them, (40,) each.

    "right", "wrong": of queries that have a right answer; "none": of queries without.
    """
    kinds = {
        "right": scored.correct,
        "wrong": ~scored.correct & scored.labelled,
        "none": ~scored.correct & ~scored.labelled,
    }
    edges = np.histogram_bin_edges(scored.scores, BINS)
    return edges, {name: np.histogram(scored.scores[k], edges)[0] for name, k in kinds.items()}
