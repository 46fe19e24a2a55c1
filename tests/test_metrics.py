"""Metrics against DELF's official values, numbers derived by hand, and slow obvious versions."""

import json

import numpy as np
import pytest

from eval import metrics
from eval.metrics import Prediction, judge

# The fixtures of DELF's google_landmarks_dataset/metrics_test.py, ids shortened.
RECOGNITION = {"1": {"0", "12"}, "2": {"100", "200", "300"}, "3": {"1"}, "4": set(), "5": set()}
RECOGNIZED = {
    "2": Prediction("0", 0.01),
    "3": Prediction("1", 10.0),
    "4": Prediction("150", 15.0),
}
RETRIEVAL = {"1": {"a", "b"}, "2": {"a"}, "3": {"c", "d", "e"}, "4": {"c"}}
RETRIEVED = {"2": ["z", "a"], "3": ["d"], "4": ["c", "d"]}


def slow_average_precision(images, truth, k):
    """GLDv2's definition, rank by rank."""
    right, total, seen = 0, 0.0, set()
    for rank, image in enumerate(images[:k], 1):
        if image in truth and image not in seen:
            right += 1
            total += right / rank
        seen.add(image)
    return total / min(len(truth), k)


def slow_gap(predictions, solution, ignore_unlabelled=False):
    """DELF's definition, prediction by prediction."""
    ranking = sorted(predictions.items(), key=lambda item: (-item[1].score, item[0]))
    right, total, rank = 0, 0.0, 0
    for image, prediction in ranking:
        if ignore_unlabelled and not solution[image]:
            continue
        rank += 1
        if prediction.label in solution[image]:
            right += 1
            total += right / rank
    return total / sum(bool(labels) for labels in solution.values())


def test_official_values_of_recognition():
    gap = metrics.global_average_precision
    assert gap(RECOGNIZED, RECOGNITION) == pytest.approx(1 / 6)
    assert gap(RECOGNIZED, RECOGNITION, ignore_unlabelled=True) == pytest.approx(1 / 3)
    assert metrics.top_1_accuracy(RECOGNIZED, RECOGNITION) == pytest.approx(1 / 3)


def test_official_values_of_retrieval():
    relevance = judge(RETRIEVED, RETRIEVAL)
    assert metrics.mean_average_precision(relevance) == pytest.approx(11 / 24)  # 0.458333
    assert metrics.mean_average_precision(relevance, 1) == 0.5
    assert [metrics.precision_at_k(relevance, k) for k in (1, 2)] == [0.5, 0.375]
    assert metrics.first_positions(relevance).tolist() == [101, 2, 1, 1]
    assert relevance.unanswered == 1


def test_official_positions_and_error():
    relevance = judge(RETRIEVED, RETRIEVAL)
    assert (metrics.mean_position(relevance), metrics.median_position(relevance)) == (26.25, 1.5)
    assert metrics.mean_position(relevance, 1) == metrics.median_position(relevance, 1) == 1.5
    assert metrics.top_1_error(RECOGNIZED, RECOGNITION) == pytest.approx(2 / 3)


def test_official_values_as_published(shared):
    facts = json.loads((shared / "golden" / "metric_refs" / "delf_vectors.json").read_text())
    recognition, retrieval = facts["recognition"], facts["retrieval"]
    truth = {q: set(map(str, labels)) for q, labels in recognition["solution"].items()}
    predicted = {
        q: Prediction(str(p["class"]), p["score"]) for q, p in recognition["predictions"].items()
    }
    gap = metrics.global_average_precision
    assert gap(predicted, truth) == pytest.approx(recognition["GAP"], abs=1e-6)
    assert gap(predicted, truth, ignore_unlabelled=True) == pytest.approx(
        recognition["GAP_ignore_non_landmark"], abs=1e-6
    )
    assert metrics.top_1_accuracy(predicted, truth) == pytest.approx(
        recognition["top1_accuracy"], abs=1e-6
    )
    relevance = judge(retrieval["predictions"], retrieval["solution"])
    for k in (1, 100):
        value = metrics.mean_average_precision(relevance, k)
        assert value == pytest.approx(retrieval[f"mAP@{k}"], abs=1e-6)
    precisions = [metrics.precision_at_k(relevance, k) for k in (1, 2)]
    assert precisions == pytest.approx(retrieval["mean_precision@1,2"])
    for k, suffix in ((100, ""), (1, "_max1")):
        positions = metrics.first_positions(relevance, k)
        assert positions.mean() == retrieval[f"mean_position{suffix}"]
        assert np.median(positions) == retrieval[f"median_position{suffix}"]


def random_retrieval(rng, queries=60):
    """Rankings with repeated images, of any length, some queries ignored or unanswered."""
    images = [f"i{n}" for n in range(40)]
    solution = {f"q{n}": set(rng.choice(images, rng.integers(0, 9))) for n in range(queries)}
    predictions = {
        query: rng.choice(images, rng.integers(0, 30)).tolist()
        for query in solution
        if rng.random() < 0.9
    }
    return predictions, solution


@pytest.mark.parametrize("k", [1, 3, 20])
def test_map_equals_the_slow_version(k):
    predictions, solution = random_retrieval(np.random.default_rng(k))
    scored = {query: truth for query, truth in solution.items() if truth}
    expected = [slow_average_precision(predictions.get(q, []), t, k) for q, t in scored.items()]
    relevance = judge(predictions, solution, depth=20)
    value = metrics.mean_average_precision(relevance, k)
    assert value == pytest.approx(np.mean(expected), rel=1e-12)
    hit = [bool(set(predictions.get(q, [])[:k]) & t) for q, t in scored.items()]
    assert metrics.recall_at_k(relevance, k) == pytest.approx(np.mean(hit))
    found = [len(set(predictions.get(q, [])[:k]) & t) / k for q, t in scored.items()]
    assert metrics.precision_at_k(relevance, k) == pytest.approx(np.mean(found))
    assert relevance.ignored == len(solution) - len(scored)


def slow_values(images, truth, k):
    """Every other metric of one ranking by its definition, rank by rank."""
    seen, rel = set(), []
    for image in images:
        rel.append(image in truth and image not in seen)
        seen.add(image)
    rel += [False] * (100 - len(rel))
    count = len(truth)
    ranks = [rank for rank, right in enumerate(rel[:k], 1) if right]
    at_r = [sum(rel[: r + 1]) / (r + 1) for r in range(count) if rel[r]]
    ten = slow_average_precision(images, truth, 10)
    return {
        "share_of_relevant": sum(rel[:k]) / count,
        "r_precision": sum(rel[:count]) / count,
        "map_at_r": sum(at_r) / count,
        "mean_position": ranks[0] if ranks else k + 1,
        "digix": 0.5 * rel[0] + 0.5 * ten,
        **{f"rank_{rank}": any(rel[:rank]) for rank in (1, 3, 5, 10)},
    }


def test_the_other_metrics_equal_the_slow_version():
    predictions, solution = random_retrieval(np.random.default_rng(11))
    rows = [slow_values(predictions.get(q, []), t, 15) for q, t in solution.items() if t]
    expected = {name: np.mean([row[name] for row in rows]) for name in rows[0]}
    relevance = judge(predictions, solution, depth=20)
    found = {
        "share_of_relevant": metrics.share_of_relevant_at_k(relevance, 15),
        "r_precision": metrics.r_precision(relevance),
        "map_at_r": metrics.map_at_r(relevance),
        "mean_position": metrics.mean_position(relevance, 15),
        "digix": metrics.digix_score(relevance),
    }
    found |= {f"rank_{rank}": v for rank, v in metrics.cumulated_matches(relevance).items()}
    assert found == pytest.approx(expected, rel=1e-12)
    median = np.median([row["mean_position"] for row in rows])
    assert metrics.median_position(relevance, 15) == median


def test_names_are_distinct_by_hand():
    # 3 of 4 relevant images are found at ranks 1, 3 and 6.
    relevance = judge({"q": list("azbyxcw")}, {"q": set("abcd")}, depth=10)
    assert metrics.mean_average_precision(relevance, 10) == pytest.approx((1 + 2 / 3 + 3 / 6) / 4)
    assert metrics.mean_average_precision(relevance, 3) == pytest.approx((1 + 2 / 3) / 3)
    assert metrics.map_at_r(relevance) == pytest.approx((1 + 2 / 3) / 4)
    assert metrics.r_precision(relevance) == 0.5
    assert metrics.recall_at_k(relevance, 3) == 1
    assert metrics.share_of_relevant_at_k(relevance, 3) == 0.5
    assert metrics.digix_score(relevance) == pytest.approx(0.5 + 0.5 * (1 + 2 / 3 + 3 / 6) / 4)


def test_map_at_r_needs_all_its_ranks():
    relevance = judge({"q": ["a"]}, {"q": {"a", "b", "c"}}, depth=2)
    for metric in (metrics.map_at_r, metrics.r_precision):
        with pytest.raises(ValueError, match=r"at least 3.*Received: 2"):
            metric(relevance)
    assert "map_at_r" not in metrics.summary(relevance, 2)
    assert "map_at_r" in metrics.summary(judge({"q": ["a"]}, {"q": {"a"}}, depth=2), 2)


def test_summary_equals_the_single_metrics():
    predictions, solution = random_retrieval(np.random.default_rng(12))
    relevance = judge(predictions, solution, depth=20)
    found = metrics.summary(relevance, 20, bootstrap=30, seed=3)
    same = {"bootstrap": 30, "seed": 3}
    expected = {
        "map_at_20": metrics.mean_average_precision(relevance, 20, **same),
        "recall_at_3": metrics.recall_at_k(relevance, 3, **same),
        "precision_at_10": metrics.precision_at_k(relevance, 10, **same),
        "share_of_relevant_at_20": metrics.share_of_relevant_at_k(relevance, 20, **same),
        "r_precision": metrics.r_precision(relevance, **same),
        "map_at_r": metrics.map_at_r(relevance, **same),
        "digix_score": metrics.digix_score(relevance, **same),
        "mean_position": metrics.mean_position(relevance, 20, **same),
        "median_position": metrics.median_position(relevance, 20, **same),
    }
    for name, score in expected.items():
        assert found[name] == pytest.approx(score), name
        assert found[name].interval == pytest.approx(score.interval), name


@pytest.mark.parametrize("count", [7, 8])
def test_bootstrap_of_the_median_equals_copies(count):
    rng = np.random.default_rng(count)
    predictions = {f"q{n}": ["z"] * int(rng.integers(0, 6)) + ["a"] for n in range(count)}
    relevance = judge(predictions, {query: {"a"} for query in predictions}, depth=9)
    positions = metrics.first_positions(relevance, 9)
    drawing = np.random.default_rng(2)
    medians = [np.median(positions[drawing.integers(count, size=count)]) for _ in range(50)]
    score = metrics.median_position(relevance, 9, bootstrap=50, seed=2)
    assert score.interval == tuple(np.quantile(medians, [0.025, 0.975]))


def test_intervals_leave_out_what_has_no_value():
    solution = {"q1": {"a"}, "q2": set(), "q3": {"a"}}
    predictions = {"q1": Prediction("a", 1.0), "q2": Prediction("a", 1.0)}
    score = metrics.top_1_accuracy(predictions, solution, bootstrap=200)
    assert (score, score.interval) == (0.5, (0, 1))
    error = metrics.top_1_error(predictions, solution, bootstrap=200)
    assert (error, error.interval) == (0.5, (0, 1))
    lonely = metrics.top_1_accuracy({}, {"q": set()}, bootstrap=5)
    assert np.isnan(lonely.interval).all()


def test_a_repeated_image_counts_once_and_consumes_its_rank():
    relevance = judge({"q": ["a", "a", "b"]}, {"q": {"a", "b"}})
    assert relevance.relevant[0, :3].tolist() == [True, False, True]
    assert metrics.mean_average_precision(relevance) == pytest.approx((1 + 2 / 3) / 2)


def test_a_wrong_repeated_image_consumes_its_rank():
    relevance = judge({"q": ["z", "z", "a"]}, {"q": {"a"}})
    assert metrics.mean_average_precision(relevance) == pytest.approx(1 / 3)


def test_ap_is_divided_by_k_where_more_is_relevant():
    relevance = judge({"q": ["a", "z"]}, {"q": {"a", "b", "c"}})
    assert metrics.mean_average_precision(relevance, 2) == 0.5
    assert metrics.mean_average_precision(relevance, 100) == pytest.approx(1 / 3)


def test_ignored_queries_do_not_count():
    predictions = {"q": ["a"], "ignored": ["b"]}
    relevance = judge(predictions, {"q": {"a"}, "ignored": set(), "unanswered": {"c"}})
    assert relevance.queries == ("q", "unanswered")
    assert (relevance.ignored, relevance.unanswered) == (1, 1)
    assert metrics.mean_average_precision(relevance) == 0.5
    assert metrics.recall_at_k(relevance, 1) == 0.5


def test_no_query_gives_nan():
    empty = judge({}, {"q": set()})
    assert np.isnan(metrics.mean_average_precision(empty))
    assert np.isnan(metrics.global_average_precision({}, {"q": set()}))
    assert np.isnan(metrics.top_1_accuracy({}, {"q": set()}))


def test_unknown_queries_and_ranks_are_errors():
    with pytest.raises(ValueError, match=r"Received: 1 others \('x'\)"):
        judge({"x": ["a"]}, {"q": {"a"}})
    for metric in (metrics.global_average_precision, metrics.top_1_accuracy):
        with pytest.raises(ValueError, match=r"Received: 1 others \('x'\)"):
            metric({"x": Prediction("a", 1.0)}, {"q": {"a"}})
    relevance = judge({}, {"q": {"a"}}, depth=5)
    with pytest.raises(ValueError, match="depth 5"):
        metrics.recall_at_k(relevance, 6)
    with pytest.raises(ValueError, match="Received: 0"):
        metrics.recall_at_k(relevance, 0)
    with pytest.raises(ValueError, match="Received: 0"):
        judge({}, {}, depth=0)


@pytest.mark.parametrize("ignore_unlabelled", [False, True])
@pytest.mark.parametrize("levels", [3, 10_000])
@pytest.mark.parametrize("count", [150, 200])
@pytest.mark.parametrize("shuffled", [False, True])
def test_gap_equals_the_slow_version(ignore_unlabelled, levels, count, shuffled):
    rng = np.random.default_rng(levels)
    solution = {f"q{n}": set(rng.choice(list("abc"), rng.integers(0, 3))) for n in range(200)}
    predictions = {
        query: Prediction(str(rng.choice(list("abc"))), int(rng.integers(levels)) / levels)
        for query in (rng.permutation(list(solution)).tolist() if shuffled else solution)
    }
    predictions = {query: predictions[query] for query in list(predictions)[:count]}
    value = metrics.global_average_precision(
        predictions, solution, ignore_unlabelled=ignore_unlabelled
    )
    assert value == pytest.approx(slow_gap(predictions, solution, ignore_unlabelled), rel=1e-12)


def test_gap_orders_equal_scores_by_image_id():
    solution = {"a": {"1"}, "b": {"1"}}
    for order in ("ab", "ba"):
        predictions = {image: Prediction("1" if image == "b" else "2", 0.5) for image in order}
        assert metrics.global_average_precision(predictions, solution) == 0.25  # b at rank 2 of 2


def test_gap_refuses_scores_that_cannot_be_ordered():
    with pytest.raises(ValueError, match=r"finite scores\. Received: .*'q'"):
        metrics.global_average_precision({"q": Prediction("a", float("nan"))}, {"q": {"a"}})


def test_a_score_is_a_number():
    score = metrics.mean_average_precision(judge(RETRIEVED, RETRIEVAL))
    assert score.interval is None
    assert json.loads(json.dumps(score)) == float(score)


def test_bootstrap_of_a_mean_covers_what_theory_says():
    # 400 queries, half of them right: the standard error of the mean is 0.025.
    rng = np.random.default_rng(0)
    right = rng.permutation(np.arange(400) % 2)
    relevance = judge(
        {f"q{n}": ["a" if hit else "z"] for n, hit in enumerate(right)},
        {f"q{n}": {"a"} for n in range(400)},
    )
    for metric in (metrics.mean_average_precision, metrics.recall_at_k, metrics.precision_at_k):
        score = metric(relevance, 1, bootstrap=2000, seed=1)
        assert float(score) == 0.5
        assert score.interval == pytest.approx((0.5 - 1.96 * 0.025, 0.5 + 1.96 * 0.025), abs=0.006)
        assert score.interval == metric(relevance, 1, bootstrap=2000, seed=1).interval
        assert score.interval != metric(relevance, 1, bootstrap=2000, seed=2).interval
    with pytest.raises(ValueError, match="Received: -1"):
        metrics.recall_at_k(relevance, 1, bootstrap=-1)


def test_bootstrap_of_gap_equals_copies_of_the_images():
    rng = np.random.default_rng(3)
    solution = {f"q{n}": {"a"} if rng.random() < 0.6 else set() for n in range(25)}
    predictions = {q: Prediction(str(rng.choice(list("ab"))), rng.random()) for q in solution}
    score = metrics.global_average_precision(predictions, solution, bootstrap=40, seed=7)
    drawing, values, names = np.random.default_rng(7), [], list(solution)
    for _ in range(40):
        drawn = [names[row] for row in drawing.integers(25, size=25)]
        copies = {f"{name} {n}": name for n, name in enumerate(drawn)}
        copied = {copy: predictions[name] for copy, name in copies.items()}
        values.append(slow_gap(copied, {copy: solution[name] for copy, name in copies.items()}))
    assert score.interval == pytest.approx(np.quantile(values, [0.025, 0.975]))
