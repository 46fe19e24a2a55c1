"""Recognition metrics: one label with a score per image, judged by the labels that are right.

The definitions are those of the Google Landmarks Dataset v2 (Weyand et al., CVPR 2020,
arXiv:2004.01804) and its public evaluation. Ids and labels are text.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Collection, Mapping, Sequence
from operator import contains, eq, itemgetter
from typing import NamedTuple

import numpy as np

from eval import scores
from eval.relevance import check_known
from eval.scores import Score


class Prediction(NamedTuple):
    """The answer to a recognition query: a label and how sure it is."""

    label: str
    score: float


@dataclasses.dataclass(frozen=True)
class Recognized:
    """Recognition predictions, judged and in the order of GAP.

    Attributes:
        images: the Q image ids of the solution.
        labelled: (Q,) bool, which of them have a label.
        predicted: the P image ids that have a prediction.
        order: (P,) int64, the ranking as rows of `predicted`: score descending, then image id
            ascending; an image has one prediction, so that its class never decides.
        correct: (P,) bool, which of the ranked predictions are right.
        scores: (P,) float64, the ranked predictions' scores.
    """

    images: tuple[str, ...]
    labelled: np.ndarray
    predicted: tuple[str, ...]
    order: np.ndarray
    correct: np.ndarray
    scores: np.ndarray

    @functools.cached_property
    def ranked(self) -> np.ndarray:
        """The ranked predictions' images as rows of `images`, (P,) int64."""
        row_of = dict(zip(self.images, range(len(self.images)), strict=True))
        rows = np.fromiter(map(row_of.__getitem__, self.predicted), np.int64, len(self.order))
        return rows[self.order]

    def of(self, images: Collection[str]) -> Recognized:
        """Returns the same of some of the images, whose predictions are a ranking of their own."""
        kept = np.fromiter(map(images.__contains__, self.images), bool, len(self.images))
        ranked = kept[self.ranked]
        rows = np.unique(self.order[ranked])  # of `predicted`, in its order
        return Recognized(
            images=tuple(itertools.compress(self.images, kept.tolist())),
            labelled=self.labelled[kept],
            predicted=tuple(map(self.predicted.__getitem__, rows.tolist())),
            order=np.searchsorted(rows, self.order[ranked]),
            correct=self.correct[ranked],
            scores=self.scores[ranked],
        )

    def gap(self, *, ignore_unlabelled: bool = False, bootstrap: int = 0, seed: int = 0) -> Score:
        """Returns the GAP; see `global_average_precision`."""
        counts = self.labelled[self.ranked] if ignore_unlabelled else slice(None)
        correct = self.correct[counts]
        value = _gap(correct, np.count_nonzero(self.labelled))
        if not bootstrap:
            return Score(value)
        values = draws_of_gap(correct, self.ranked[counts], self.labelled, bootstrap, seed)
        return Score(value, scores.interval(values))

    def right(self) -> np.ndarray:
        """Returns (Q,) float64: 1 where the image's prediction is right, NaN without a label."""
        right = np.zeros(len(self.images))
        right[self.ranked[self.correct]] = 1
        return np.where(self.labelled, right, np.nan)

    def top_1(self, *, bootstrap: int = 0, seed: int = 0) -> Score:
        """Returns the share of labelled images that are right; see `top_1_accuracy`."""
        return scores.mean(self.right(), bootstrap=bootstrap, seed=seed)


def judge_recognition(
    predictions: Mapping[str, Prediction], solution: Mapping[str, Collection[str]]
) -> Recognized:
    """Judges predictions once, for all recognition metrics.

    Args:
        predictions: label and score per image id.
        solution: the right labels per image id; empty where there is none.

    Raises:
        ValueError: if a prediction's image is not in the solution, or a score is not finite.
    """
    count = len(predictions)
    answers = predictions.values()
    try:
        # Files mostly have one order, in which no image has to be looked up.
        aligned = count == len(solution) and all(map(eq, predictions, solution))
        truths = solution.values() if aligned else map(solution.__getitem__, predictions)
        correct = np.fromiter(map(contains, truths, map(itemgetter(0), answers)), bool, count)
    except KeyError:
        check_known(predictions, solution)
        raise
    values = np.fromiter(map(itemgetter(1), answers), np.float64, count)
    if not np.isfinite(values).all():
        wrong = list(predictions)[int(np.argmin(np.isfinite(values)))]
        raise ValueError(f"expected finite scores. Received: {predictions[wrong]} for {wrong!r}")
    labelled = np.fromiter(map(bool, solution.values()), bool, len(solution))
    predicted = tuple(predictions)
    order = _falling(values, predicted)
    return Recognized(tuple(solution), labelled, predicted, order, correct[order], values[order])


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
    ordered by image id, ascending, then by class; an image has one prediction here, so that its
    class never decides.

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
    return judge_recognition(predictions, solution).gap(
        ignore_unlabelled=ignore_unlabelled, bootstrap=bootstrap, seed=seed
    )


def top_1_accuracy(
    predictions: Mapping[str, Prediction],
    solution: Mapping[str, Collection[str]],
    *,
    bootstrap: int = 0,
    seed: int = 0,
) -> Score:
    """Share of the images with a label whose prediction is right: 1/M sum_q right(q).

    Images without a label are left out; images without a prediction are wrong. Scores do not
    matter, and there are no ties.

    Raises:
        ValueError: if a prediction's image is not in the solution, or a score is not finite.
    """
    judged = judge_recognition(predictions, solution)
    return judged.top_1(bootstrap=bootstrap, seed=seed)


def top_1_error(
    predictions: Mapping[str, Prediction],
    solution: Mapping[str, Collection[str]],
    *,
    bootstrap: int = 0,
    seed: int = 0,
) -> Score:
    """Share of the images with a label whose prediction is wrong or missing: 1 - top-1 accuracy.

    Missing labels and ties are treated as `top_1_accuracy` does.
    """
    top_1 = top_1_accuracy(predictions, solution, bootstrap=bootstrap, seed=seed)
    return scores.complement(top_1)


def draws_of_gap(
    correct: np.ndarray, ranked: np.ndarray, labelled: np.ndarray, bootstrap: int, seed: int
) -> np.ndarray:
    """Returns the GAP of every resampling of the images, (bootstrap,) float64.

    An image that is drawn n times is there n times, with its prediction.

    Args:
        correct: (P,) bool, the ranking.
        ranked: (P,) int64, its images as rows.
        labelled: (Q,) bool, which rows have a label.
        bootstrap: the number of resamplings.
        seed: of the resamplings.
    """
    values = np.empty(bootstrap)
    for number, times in enumerate(scores.draws(len(labelled), bootstrap, seed)):
        copies = times[ranked].astype(np.int64)
        values[number] = _gap(np.repeat(correct, copies), int(times[labelled].sum()))
    return values


def _gap(correct: np.ndarray, labelled: int) -> float:
    """Returns the GAP of a ranking (P,) bool with `labelled` images that have a label."""
    if not labelled:
        return float("nan")
    ranks = np.flatnonzero(correct) + 1
    return float(np.sum(np.arange(1, len(ranks) + 1) / ranks)) / labelled


def _falling(values: np.ndarray, images: Sequence[str]) -> np.ndarray:
    """Returns the order of falling values; equal values by image, ascending."""
    order = np.argsort(-values)
    ranked = values[order]
    same = ranked[1:] == ranked[:-1]
    if not same.any():
        return order
    tied = np.zeros(len(values), bool)
    tied[1:] = same
    tied[:-1] |= same
    rows = np.array(sorted(order[tied].tolist(), key=images.__getitem__))
    order[tied] = rows[np.argsort(-values[rows], kind="stable")]
    return order
