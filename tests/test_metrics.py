"""Metrics against DELF's official values, numbers derived by hand, and slow obvious versions."""

import csv
import json

import numpy as np
import pytest

from eval import metrics, solutions
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
def test_gap_equals_the_slow_version(ignore_unlabelled, levels):
    rng = np.random.default_rng(levels)
    solution = {f"q{n}": set(rng.choice(list("abc"), rng.integers(0, 3))) for n in range(200)}
    predictions = {
        query: Prediction(str(rng.choice(list("abc"))), int(rng.integers(levels)) / levels)
        for query in rng.permutation(list(solution)).tolist()[:150]
    }
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


def test_readers_of_retrieval_files(tmp_path):
    path = tmp_path / "solution.csv"
    path.write_text("\ufeffid,images,Usage\nq1,a b,Public\nq2,None,Ignored\nq3,,Private\n\n")
    read = solutions.read_retrieval_solution(str(path))
    assert read == {"q1": {"a", "b"}, "q2": set(), "q3": set()}
    path.write_text("id,images\nq1,b a b\nq2,\n")
    assert solutions.read_retrieval_predictions(str(path)) == {"q1": ["b", "a", "b"], "q2": []}


def test_readers_of_recognition_files(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("id,landmarks,Usage\nq1,7 12,Public\nq2,,Private\nq3,5,Ignored\n")
    read = solutions.read_recognition_solution(str(path))
    assert read == {"q1": {"7", "12"}, "q2": set(), "q3": set()}
    path.write_text("id,landmarks\nq1,7 0.5\nq2,\n")
    assert solutions.read_recognition_predictions(str(path)) == {"q1": Prediction("7", 0.5)}
    path.write_text("name,path,landmark_id\nx,a.jpg,7\n")
    read = solutions.read_labels(str(path), id_column="name", label_column="landmark_id")
    assert read == {"x": "7"}


def test_a_very_long_row_is_read_and_the_limit_restored(tmp_path):
    before = csv.field_size_limit()
    path = tmp_path / "solution.csv"
    path.write_text("id,images,Usage\nq," + " ".join(f"{n:016x}" for n in range(20_000)) + ",P\n")
    assert len(solutions.read_retrieval_solution(str(path))["q"]) == 20_000
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "columns id, images"),
        ("id,landmarks\n", "Received: id, landmarks"),
        ("id,images\nq,a\nq,b\n", "line 3 .*Received: 'q'"),
        ("id,images\n,a\n", "line 2 .*Received: ''"),
        ("id,images\nq,a,b\n", "expected 2 fields in line 2 .*Received: 3"),
    ],
)
def test_readers_refuse_bad_tables(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        solutions.read_retrieval_predictions(str(tmp_path / "t.csv"))


@pytest.mark.parametrize("answer", ["7", "7 high", "7 0.5 8"])
def test_readers_refuse_bad_answers(tmp_path, answer):
    (tmp_path / "t.csv").write_text(f"id,landmarks\nq,{answer}\n")
    with pytest.raises(ValueError, match=f"Received: '{answer}' for 'q'"):
        solutions.read_recognition_predictions(str(tmp_path / "t.csv"))


def test_labels_without_white_space(tmp_path):
    (tmp_path / "t.csv").write_text("id,label\nx,Big Ben\n")
    with pytest.raises(ValueError, match="Received: 'Big Ben' for 'x'"):
        solutions.read_labels(str(tmp_path / "t.csv"))
