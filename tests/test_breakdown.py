"""Tables per query and per class, by hand."""

import csv
import json

import numpy as np
import pytest

from eval import breakdown, metrics
from eval.metrics import Prediction

RELEVANCE = metrics.judge(
    {"q1": ["a", "z", "b"], "q2": ["z", "a"], "q3": []},
    {"q1": {"a", "b"}, "q2": {"a"}, "q3": {"b"}, "q4": set()},
    depth=3,
)


def test_rankings_per_query():
    table = breakdown.rankings_per_query(RELEVANCE, 3)
    assert table["query"] == ("q1", "q2", "q3")
    assert table["positives"] == [2, 1, 1]
    assert table["found"] == [2, 1, 0]
    assert table["first_position"] == [1, 2, 4]
    assert table["map_at_3"] == pytest.approx([(1 + 2 / 3) / 2, 0.5, 0])
    assert table["recall_at_1"] == [1, 0, 0]
    assert {len(column) for column in table.values()} == {3}


def test_rankings_per_class_are_means_over_its_queries():
    table = breakdown.rankings_per_class(RELEVANCE, {"q1": "x", "q2": "y", "q3": "x"}, 3)
    assert table["class"] == ["x", "y"]
    assert table["queries"] == [2, 1]
    assert table["map_at_3"] == pytest.approx([(1 + 2 / 3) / 4, 0.5])
    assert table["mean_position"] == [2.5, 2]
    total = np.average(table["map_at_3"], weights=table["queries"])
    assert total == pytest.approx(metrics.mean_average_precision(RELEVANCE, 3))
    with pytest.raises(ValueError, match="none for 2, first 'q2'"):
        breakdown.rankings_per_class(RELEVANCE, {"q1": "x"}, 3)


SOLUTION = {"q1": {"a"}, "q2": {"a", "b"}, "q3": {"b"}, "q4": set(), "q5": {"a"}}
ANSWERS = {
    "q1": Prediction("c", 0.9),
    "q2": Prediction("b", 0.8),
    "q3": Prediction("b", 0.2),
    "q4": Prediction("a", 0.5),
}


def test_recognition_per_query_adds_up_to_the_gap():
    judged = metrics.judge_recognition(ANSWERS, SOLUTION)
    table = breakdown.recognition_per_query(judged, ANSWERS, SOLUTION)
    assert table["query"] == ("q1", "q2", "q3", "q4", "q5")
    assert table["labels"] == ["a", "a b", "b", "", "a"]
    assert table["predicted"] == ["c", "b", "b", "a", ""]
    assert table["rank"] == [1, 2, 4, 3, None]
    assert table["right"] == [0, 1, 1, 0, 0]
    assert table["gap_share"] == pytest.approx([0, (1 / 2) / 4, (2 / 4) / 4, 0, 0])
    assert sum(table["gap_share"]) == pytest.approx(judged.gap())


def test_recognition_per_class_by_hand():
    table = breakdown.recognition_per_class(ANSWERS, SOLUTION)
    rows = list(zip(*table.values(), strict=True))
    assert list(table) == [
        "class", "queries", "right", "recall", "predicted", "precision", "confused_with",
    ]  # fmt: skip
    assert rows == [
        ("a", 3, 0, 0.0, 1, 0.0, "c"),
        ("b", 2, 2, 1.0, 2, 1.0, ""),
        ("c", 0, 0, None, 1, 0.0, ""),
    ]


def test_tables_are_written_as_csv_and_json(tmp_path):
    table = {"query": ("a,b", "c"), "score": [0.5, None], "map": [float("nan"), 1.0]}
    breakdown.write_table(str(tmp_path / "t.csv"), table)
    rows = list(csv.reader((tmp_path / "t.csv").read_text().splitlines()))
    assert rows == [["query", "score", "map"], ["a,b", "0.5", ""], ["c", "", "1.0"]]
    breakdown.write_table(str(tmp_path / "t.json"), table)
    assert json.loads((tmp_path / "t.json").read_text()) == [
        {"query": "a,b", "score": 0.5, "map": None},
        {"query": "c", "score": None, "map": 1.0},
    ]
    assert not list(tmp_path.glob("*.partial"))
