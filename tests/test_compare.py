"""Paired comparison: against scipy, by hand, against slow versions, and the command."""

import csv
import itertools
import json

import numpy as np
import pytest
from scipy import stats

from eval import compare, metrics, significance
from eval.metrics import Prediction
from retrieval.embeddings import EmbeddingsWriter


def mean_difference(x, y, axis=-1):
    return np.mean(x - y, axis=axis)


@pytest.mark.parametrize("shift", [0.0, 0.15, 0.5])
def test_exact_permutation_equals_scipy(shift):
    rng = np.random.default_rng(1)
    a, b = rng.random(9) + shift, rng.random(9)
    ours = significance.compare_means(a, b)
    theirs = stats.permutation_test(
        (a, b), mean_difference, permutation_type="samples", n_resamples=np.inf, vectorized=True
    )
    assert ours.p_value == pytest.approx(theirs.pvalue)
    assert ours.test == "permutation, exact"


def test_exact_permutation_by_hand():
    # Of the 8 assignments of signs to 1, 2 and 4, only +++ and --- reach 7 from 0.
    ours = significance.compare_means(np.array([1.0, 2, 4, 5]), np.array([0.0, 0, 0, 5]))
    assert ours.p_value == 2 / 8
    assert (ours.wins, ours.ties, ours.losses) == (3, 1, 0)
    assert ours.difference == 7 / 4


def test_ties_of_floating_point_sums_count():
    # 0.1 + 0.2 - 0.3 is 5.6e-17 in one order and 0 in another: all 8 are at least as far.
    ours = significance.compare_means(np.array([0.1, 0.2, 0.0]), np.array([0.0, 0.0, 0.3]))
    expected = [
        abs(sum(s * d for s, d in zip(signs, (1, 2, -3), strict=True))) >= 0
        for signs in itertools.product((1, -1), repeat=3)
    ]
    assert ours.p_value == np.mean(expected)


def test_sampled_permutation_agrees_with_scipy_and_the_t_test():
    rng = np.random.default_rng(2)
    a = rng.random(300)
    b = a - 0.01 + 0.1 * rng.standard_normal(300)
    ours = significance.compare_means(a, b, resamplings=20_000, seed=5)
    theirs = stats.permutation_test(
        (a, b), mean_difference, permutation_type="samples", n_resamples=5_000, vectorized=True,
        rng=rng,
    )  # fmt: skip
    # The draws differ by less than 4 standard errors of sqrt(p (1 - p) (1 / 20,000 + 1 / 5,000)).
    assert ours.p_value == pytest.approx(theirs.pvalue, abs=4 * (0.25 / 4_000) ** 0.5)
    test = stats.ttest_rel(a, b)
    assert ours.p_value == pytest.approx(test.pvalue, abs=0.02)
    low, high = test.confidence_interval(0.95)
    assert ours.interval == pytest.approx((low, high), abs=0.1 * (high - low))
    assert ours.test == "permutation"
    again = significance.compare_means(a, b, resamplings=20_000, seed=5)
    assert again == ours


def test_false_alarms_are_as_rare_as_promised():
    # Runs that differ by noise alone: p < 0.1 in a tenth of 300 comparisons, +- 3 standard errors.
    rng = np.random.default_rng(3)
    alarms = [
        significance.compare_means(rng.random(40), rng.random(40), resamplings=300).p_value <= 0.1
        for _ in range(300)
    ]
    assert np.mean(alarms) == pytest.approx(0.1, abs=3 * (0.09 / 300) ** 0.5)


def test_equal_runs_do_not_differ():
    values = np.array([0.5, 0.25, np.nan])
    ours = significance.compare_means(values, values)
    assert (ours.difference, ours.interval, ours.p_value) == (0, (0, 0), 1)
    assert (ours.wins, ours.ties, ours.losses) == (0, 2, 0)


def test_arguments_are_checked():
    one = np.ones(3)
    for a, b in ((one, np.ones(4)), (one, np.array([1, 1, np.nan])), (np.ones((2, 2)),) * 2):
        with pytest.raises(ValueError, match="values of the same queries"):
            significance.compare_means(a, b)
    with pytest.raises(ValueError, match="at least one query"):
        significance.compare_means(np.full(2, np.nan), np.full(2, np.nan))
    with pytest.raises(ValueError, match="Received: 0"):
        significance.compare_means(one, one, resamplings=0)


def recognized(rng, quality, count=120):
    solution = {f"q{n:03d}": {"a"} if n % 3 else set() for n in range(count)}
    predictions = {
        query: Prediction("a" if rng.random() < quality else "b", float(rng.random()))
        for query in solution
    }
    return predictions, solution, metrics.judge_recognition(predictions, solution)


def test_gaps_are_resampled_together():
    rng = np.random.default_rng(4)
    (first, solution, a), (second, _, b) = recognized(rng, 0.8), recognized(rng, 0.5)
    ours = significance.compare_gaps(a, b, resamplings=30, seed=6)
    drawing, names, values = np.random.default_rng(6), list(solution), []
    for _ in range(30):
        drawn = [names[row] for row in drawing.integers(len(names), size=len(names))]
        copies = {f"{name} {n}": name for n, name in enumerate(drawn)}
        truths = {copy: solution[name] for copy, name in copies.items()}
        gaps = [
            metrics.global_average_precision({c: run[name] for c, name in copies.items()}, truths)
            for run in (first, second)
        ]
        values.append(gaps[0] - gaps[1])
    assert ours.interval == pytest.approx(np.quantile(values, [0.025, 0.975]))
    below = sum(value <= 0 for value in values)
    assert ours.p_value == pytest.approx(min(1, 2 * (1 + min(below, 30 - below)) / 31))
    assert ours.difference == pytest.approx(a.gap() - b.gap())
    same = significance.compare_gaps(a, a, resamplings=30)
    assert (same.difference, same.interval, same.p_value) == (0, (0, 0), 1)


def test_gaps_of_two_solutions_are_not_compared():
    rng = np.random.default_rng(5)
    with pytest.raises(ValueError, match="two solutions"):
        significance.compare_gaps(recognized(rng, 0.5)[2], recognized(rng, 0.5, 90)[2])


@pytest.fixture
def files(tmp_path):
    (tmp_path / "solution.csv").write_text(
        "id,images,Usage\nq1,a b,Public\nq2,c,Public\nq3,None,Ignored\nq4,d,Private\n"
    )
    (tmp_path / "a.csv").write_text("id,images\nq1,a b\nq2,z c\nq3,z\nq4,d\n")
    (tmp_path / "b.csv").write_text("id,images\nq1,z a\nq2,c\n")
    return tmp_path


def arguments(files, a="a.csv", b="b.csv", solution="solution.csv"):
    named = {"solution": solution, "a": a, "b": b}
    return [word for key, name in named.items() for word in (f"--{key}", str(files / name))]


def test_command_compares_retrieval(files, capsys):
    more = ["--output", str(files / "out.json"), "--per-query", str(files / "q.csv")]
    assert compare.main([*arguments(files), *more]) == 0
    result = json.loads((files / "out.json").read_text())
    # AP of A: 1, 1/2, 1. Of B: 1/4, 1, 0. Differences 3/4, -1/2, 1: 3 of 4 pairs of signs reach.
    one = result["map_at_100"]
    assert (one["a"], one["b"]) == (pytest.approx(2.5 / 3), pytest.approx(1.25 / 3))
    assert one["p_value"] == 0.5
    assert [one["wins"], one["ties"], one["losses"]] == [2, 0, 1]
    assert set(result) == {
        "map_at_100", "recall_at_1", "recall_at_10", "precision_at_10", "map_at_r",
    }  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:4] == ["map_at_100", "0.8333", "0.4167", "+0.4167"]
    assert lines[1].endswith("2/0/1")
    rows = list(csv.reader((files / "q.csv").read_text().splitlines()))
    assert rows == [
        ["query", "a", "b", "difference"],
        ["q2", "0.5", "1.0", "-0.5"],
        ["q1", "1.0", "0.25", "0.75"],
        ["q4", "1.0", "0.0", "1.0"],
    ]


def test_command_compares_embeddings(files):
    for name, ids, angles in (
        ("index", list("abcd"), [0, 10, 90, 180]),
        ("query", ["q1", "q2", "q4"], [1, 91, 170]),
    ):
        radians = np.radians(angles)
        vectors = np.stack([np.cos(radians), np.sin(radians)], axis=1)
        with EmbeddingsWriter(str(files / name), 2, model_digest="ab", source="x") as writer:
            writer.append(ids, vectors)
    run = [str(files / "index"), str(files / "query")]
    result = compare.compare(
        solution=str(files / "solution.csv"), a=run, b=[str(files / "b.csv")], k=2
    )
    assert result["map_at_2"].a == 1
    assert result["map_at_2"].b == pytest.approx((0.25 + 1 + 0) / 3)
    (files / "labels.csv").write_text("id,label\na,1\nb,1\nc,2\nd,3\n")
    (files / "recognition.csv").write_text("id,landmarks\nq1,1\nq2,3\nq4,\n")
    (files / "r.csv").write_text("id,landmarks\nq2,3 0.5\n")
    result = compare.compare(
        solution=str(files / "recognition.csv"),
        a=run,
        b=[str(files / "r.csv")],
        labels=str(files / "labels.csv"),
        resamplings=100,
    )
    assert (result["top_1"].a, result["top_1"].b) == (0.5, 0.5)
    assert result["gap"].b == 0.5
    with pytest.raises(ValueError, match="index images' labels"):
        compare.compare(solution=str(files / "recognition.csv"), a=run, b=run)


def test_command_compares_revisited(files):
    truth = {
        "imlist": ["a", "b", "c"],
        "qimlist": ["q1", "q2"],
        "gnd": [{"easy": [0], "hard": [1], "junk": []}, {"easy": [], "hard": [2], "junk": []}],
    }
    (files / "gnd.json").write_text(json.dumps(truth))
    (files / "a.csv").write_text("id,images\nq1,a b c\nq2,c a b\n")
    (files / "b.csv").write_text("id,images\nq1,b a c\nq2,a c b\n")
    result = compare.compare(
        solution=str(files / "gnd.json"), a=[str(files / "a.csv")], b=[str(files / "b.csv")]
    )
    assert [result[f"{s}_map"].a for s in ("easy", "medium", "hard")] == [1, 1, 1]
    assert result["easy_map"].b == 1  # b is hard, and junk here
    assert result["hard_map"].b == pytest.approx((1 + 0.25) / 2)


def test_wrong_input_is_named(files, capsys):
    assert compare.main(arguments(files, solution="none.csv")) == 1
    assert "none.csv" in capsys.readouterr().err
    (files / "b.csv").write_text("id,images\nq1,a\nq9,a\n")
    assert compare.main(arguments(files)) == 1
    error = capsys.readouterr().err
    assert "1 others, first 'q9' in line 3" in error
    assert "b.csv" in error
    (files / "solution.csv").write_text("id,answer\nq1,a\n")
    assert compare.main(arguments(files)) == 1
    assert "a column images or landmarks" in capsys.readouterr().err
    assert compare.main([*arguments(files), "--a", "x", "y", "z"]) == 1
    assert "3 paths" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        compare.main([*arguments(files), "--resamplings", "0"])
    assert stopped.value.code == 2
