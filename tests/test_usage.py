"""The public and private parts of a solution, with numbers by hand and by two smaller files."""

import json

import numpy as np
import pytest

from eval import gap, mean_ap, metrics, usage

# In falling score: p1 right, s1 wrong, p2 wrong, s2 right, p3 right, i1 (ignored), s4 (no label).
# p4 and s3 are not answered.
PREDICTIONS = "id,landmarks\ns4,9 0.1\np1,7 0.9\ns1,1 0.8\np2,2 0.7\ns2,4 0.6\np3,5 0.5\ni1,6 0.4\n"
SOLUTION = {
    "Public": {"p1": "7", "p2": "8", "p3": "5 6", "p4": "8"},
    "Private": {"s1": "2", "s2": "4", "s3": "4", "s4": ""},
    "Ignored": {"i1": "6"},
}


def write(path, header, rows):
    path.write_text(header + "\n" + "\n".join(rows) + "\n")
    return str(path)


def solution_of(tmp_path, parts):
    rows = [f"{query},{label},{part}" for part in parts for query, label in SOLUTION[part].items()]
    return write(tmp_path / f"{'-'.join(parts)}.csv", "id,landmarks,Usage", rows)


def test_gap_of_each_part_by_hand(tmp_path, capsys):
    (tmp_path / "p.csv").write_text(PREDICTIONS)
    argv = ["--predictions", str(tmp_path / "p.csv"), "--bootstrap", "20"]
    argv += ["--solution", solution_of(tmp_path, SOLUTION), "--output", str(tmp_path / "o.json")]
    assert gap.main(argv) == 0
    found = json.loads((tmp_path / "o.json").read_text())
    # Public: right at 1 and 3 of three, four are labelled. Private: right at 2 of three, three are.
    assert found["public_gap"] == pytest.approx((1 / 1 + 2 / 3) / 4)
    assert found["private_gap"] == pytest.approx((1 / 2) / 3)
    # In total right at 1, 4 and 5 of seven predictions; an ignored query has no label.
    assert found["gap"] == pytest.approx((1 / 1 + 2 / 4 + 3 / 5) / 7)
    assert found["public_gap_interval"][0] <= found["public_gap"]
    assert list(found)[:5:2] == ["gap", "public_gap", "private_gap"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:5:2]] == [
        ["gap", "0.3000"], ["public_gap", "0.4167"], ["private_gap", "0.1667"],
    ]  # fmt: skip


def test_unlabelled_queries_are_left_out_of_the_parts_too(tmp_path):
    (tmp_path / "p.csv").write_text("id,landmarks\ns4,9 1.0\ns2,4 0.6\np1,7 0.5\n")
    known = {
        "predictions": str(tmp_path / "p.csv"),
        "solution": solution_of(tmp_path, ("Public", "Private")),
    }
    assert gap.evaluate(**known)["private_gap"] == pytest.approx((1 / 2) / 3)
    found = gap.evaluate(**known, ignore_unlabelled=True)
    assert found["private_gap"] == pytest.approx((1 / 1) / 3)
    assert found["public_gap"] == pytest.approx((1 / 1) / 4)


def test_a_part_is_judged_as_a_file_of_its_own():
    rng = np.random.default_rng(0)
    solution = {f"q{n}": {str(rng.integers(4))} if n % 3 else set() for n in range(60)}
    predictions = {
        query: metrics.Prediction(str(rng.integers(4)), float(rng.integers(5)))  # many ties
        for query in rng.permutation(list(solution))[:50].tolist()
    }
    judged = metrics.judge_recognition(predictions, solution)
    own = frozenset(list(solution)[::2])
    part = judged.of(own)
    expected = metrics.judge_recognition(
        {query: found for query, found in predictions.items() if query in own},
        {query: labels for query, labels in solution.items() if query in own},
    )
    assert (part.images, part.predicted) == (expected.images, expected.predicted)
    for name in ("labelled", "order", "correct", "scores", "ranked"):
        np.testing.assert_array_equal(getattr(part, name), getattr(expected, name))
    assert part.gap(bootstrap=9).interval == expected.gap(bootstrap=9).interval


def test_mean_precision_of_each_part_by_hand(tmp_path):
    solution = write(
        tmp_path / "s.csv",
        "id,images,Usage",
        ["p1,a b,Public", "p2,c,Public", "s1,a,Private", "n1,None,Ignored", "s2,,Private"],
    )
    predictions = write(tmp_path / "p.csv", "id,images", ["p1,b x a", "s1,x a", "n1,a"])
    found = mean_ap.evaluate(predictions=predictions, solution=solution, bootstrap=20, k=10)
    # p1: (1 + 2/3) / 2, p2 has no answer; s1: 1/2, s2 has nothing to be found.
    assert found["public_map_at_10"] == pytest.approx((5 / 6 + 0) / 2)
    assert found["private_map_at_10"] == pytest.approx(1 / 2)
    assert found["map_at_10"] == pytest.approx((5 / 6 + 0 + 1 / 2) / 3)
    assert found["private_map_at_10_interval"] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("id,images\nq,a\n", {}),
        ("id,images,Usage\nq,a,Public\nr,a,Ignored\n", {}),  # the total says it
        ("id,images,Usage\nq,a,Public\nr,a,Private\n", {"public": {"q"}, "private": {"r"}}),
        ("id,images,Usage\nq,a,public\nr,a,Private\n", {}),
    ],
)
def test_parts_of_a_table(tmp_path, table, expected):
    (tmp_path / "t.csv").write_text(table)
    assert usage.read_parts(str(tmp_path / "t.csv")) == expected


def test_a_part_without_any_right_answer_has_no_score(tmp_path):
    solution = write(
        tmp_path / "s.csv", "id,landmarks,Usage", ["p1,,Public", "s1,4,Private", "s2,4,Private"]
    )
    predictions = write(tmp_path / "p.csv", "id,landmarks", ["p1,4 0.9", "s1,4 0.8"])
    found = gap.evaluate(predictions=predictions, solution=solution)
    assert "public_gap" not in found
    assert (found["private_gap"], found["gap"]) == (0.5, 0.25)
