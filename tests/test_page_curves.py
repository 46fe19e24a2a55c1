"""Curves and threshold of the results page against slow definitions and the metrics."""

import math

import numpy as np
import pytest

from eval import metrics
from eval.page import charts, curves


def random_relevance(seed, queries=30, depth=100):
    rng = np.random.default_rng(seed)
    positives = rng.integers(1, 130, queries)
    relevant = rng.random((queries, depth)) < rng.random((queries, 1)) ** 2
    found = np.cumsum(relevant, axis=1)
    relevant &= found <= positives[:, None]
    ids = tuple(f"q{number}" for number in range(queries))
    return metrics.Relevance(ids, relevant, positives, 0, 0)


def slow_precision(relevant, positives, level):
    """One query: the best precision from the rank on that has reached the level."""
    depth = len(relevant)
    # Fractions are exact: levels are n / 20.
    needed = max(1, -(-round(20 * level) * min(positives, depth) // 20))
    hits = [k for k in range(1, depth + 1) if sum(relevant[:k]) >= needed]
    return max((sum(relevant[:k]) / k for k in hits), default=0.0)


@pytest.mark.parametrize("seed", [0, 1])
def test_precision_and_recall(seed):
    relevance = random_relevance(seed)
    expected = [
        np.mean([
            slow_precision(row.tolist(), m, level)
            for row, m in zip(relevance.relevant, relevance.positives.tolist(), strict=True)
        ])
        for level in curves.LEVELS
    ]  # fmt: skip
    assert curves.precision_recall(relevance).tolist() == pytest.approx(expected)


def test_precision_and_recall_in_blocks(monkeypatch):
    relevance = random_relevance(2)
    whole = curves.precision_recall(relevance)
    monkeypatch.setattr(curves, "_ROWS", 7)
    assert curves.precision_recall(relevance) == pytest.approx(whole)


def test_recall_at_all_k_is_that_of_the_metrics():
    relevance = random_relevance(3)
    hits, found = curves.recall_at(relevance)
    for k in (1, 2, 10, 57, 100):
        assert hits[k - 1] == pytest.approx(metrics.recall_at_k(relevance, k))
        assert found[k - 1] == pytest.approx(metrics.share_of_relevant_at_k(relevance, k))


def recognised(scores, right, unlabelled=0, unanswered=0):
    """Returns judged predictions of the label "a", right where `right` has "1"."""
    predictions = {f"q{n:02d}": metrics.Prediction("a", s) for n, s in enumerate(scores)}
    solution = {
        image: {"a"} if mark == "1" else {"b"}
        for image, mark in zip(predictions, right, strict=True)
    }
    for number in range(unlabelled):
        solution[f"q{len(scores) - 1 - number:02d}"] = set()
    solution |= {f"r{number}": {"a"} for number in range(unanswered)}
    return metrics.judge_recognition(predictions, solution)


def test_threshold_by_hand():
    # F1 after 1, 2, ...: 2/6, 2/7, 4/8, 6/9, 6/10; five labelled, one of them not answered
    judged = recognised([0.9, 0.8, 0.7, 0.6, 0.5], "10110", unlabelled=1, unanswered=1)
    scored = curves.scored_labels(judged)
    assert scored.total == 5
    found = curves.best_threshold(scored)
    assert found == curves.Threshold(
        score=0.6,
        accepted=4,
        precision=3 / 4,
        recall=3 / 5,
        f1=pytest.approx(6 / 9),
        gap_share=pytest.approx(1.0),
    )


def test_equal_scores_are_accepted_together_and_the_highest_of_equal_f1_wins():
    scored = curves.scored_labels(recognised([0.9, 0.9, 0.9, 0.5], "1001"))
    # after three: 2 x 1 / (3 + 4); after four: 2 x 2 / (4 + 4)
    assert curves.best_threshold(scored).score == 0.5
    scored = curves.scored_labels(recognised([0.9, 0.8, 0.7, 0.6], "1001"))
    # 2/5, ., ., 4/8 -> with an unlabelled last one: 2/(1 + 3) = 2/4 = 4/(4 + 4)
    assert curves.best_threshold(scored).accepted == 4
    scored = curves.Scored(
        np.array([0.9, 0.8, 0.7]), np.array([True, False, False]), np.ones(3, bool), 3
    )
    assert curves.best_threshold(scored).accepted == 1
    equal = curves.Scored(
        np.array([4.0, 3, 2, 1]), np.array([True, False, False, True]), np.ones(4, bool), 2
    )
    # 2/3, 2/4, 2/5, 4/6: the first and the last are equal
    assert curves.best_threshold(equal).accepted == 1


def test_threshold_against_a_search_of_all_scores():
    rng = np.random.default_rng(4)
    scores = np.round(rng.random(200), 2)
    right = rng.random(200) < scores
    judged = recognised(scores.tolist(), "".join("01"[int(r)] for r in right), unlabelled=20)
    scored = curves.scored_labels(judged)
    best = {}
    for threshold in sorted(set(scores.tolist()), reverse=True):
        accepted = scored.scores >= threshold
        tp = int((scored.correct & accepted).sum())
        best[threshold] = 2 * tp / (int(accepted.sum()) + scored.total)
    found = curves.best_threshold(scored)
    assert found.f1 == pytest.approx(max(best.values()))
    assert found.score == max(t for t, f1 in best.items() if math.isclose(f1, found.f1))
    assert found.f1 == pytest.approx(
        2 * found.precision * found.recall / (found.precision + found.recall)
    )


def test_no_right_answer_no_threshold():
    scored = curves.scored_labels(recognised([0.9, 0.8], "00"))
    assert curves.best_threshold(scored) is None
    assert charts.scores(*curves.histogram(scored), None).startswith("<svg")


def test_area_under_the_curve_of_answers_is_the_gap():
    rng = np.random.default_rng(5)
    scores = rng.permutation(40) / 40  # so few that all are points of the curve
    right = rng.random(40) < scores
    judged = recognised(scores.tolist(), "".join("01"[int(r)] for r in right), unlabelled=9)
    recall, precision = curves.answers_curve(curves.scored_labels(judged))
    assert len(recall) == 40
    steps = np.diff(recall, prepend=0)
    assert float((steps * precision).sum()) == pytest.approx(float(judged.gap()))


def test_histogram_counts_every_answer_once():
    judged = recognised([0.9, 0.8, 0.7, 0.6, 0.5], "10110", unlabelled=2)
    edges, counts = curves.histogram(curves.scored_labels(judged))
    assert len(edges) == curves.BINS + 1
    assert {name: int(count.sum()) for name, count in counts.items()} == {
        "right": 2,
        "wrong": 1,
        "none": 2,
    }


def test_first_images_as_answers():
    scored = curves.scored_images(
        np.array([0.2, np.nan, 0.9, 0.5]),
        np.array([True, False, False, True]),
        np.array([True, True, False, True]),
    )
    assert scored.scores.tolist() == [0.9, 0.5, 0.2]
    assert scored.correct.tolist() == [False, True, True]
    assert scored.labelled.tolist() == [False, True, True]
    assert scored.total == 3
