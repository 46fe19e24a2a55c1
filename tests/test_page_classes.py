"""Results per class and confusions, by hand and against a count of pairs."""

import collections

import numpy as np
import pytest
from pages import make_run

from eval.page import classes
from eval.recognition import Prediction

INDEX = ["a1", "a2", "b1", "b2", "c1", "x"]
LABELS = {"a1": "2", "a2": "2", "b1": "10", "b2": "10", "c1": "c"}
TRUTHS = {
    "qa": {"a1", "a2"}, "ra": {"a1", "a2"}, "sa": {"a1", "a2"}, "qb": {"b1", "b2"}, "qc": {"c1"},
    "none": set(),
}  # fmt: skip
QUERIES = {"qa": "2", "ra": "2", "sa": "2", "qb": "10", "qc": "c", "none": "2"}


@pytest.fixture
def run():
    rankings = {
        "none": ["b1"],
        "qa": ["a1", "a2"],
        "ra": ["b1", "a1"],
        "sa": ["b2", "a1"],
        "qb": ["a1", "b1"],
        "qc": ["x", "c1"],
    }
    return make_run(rankings, TRUTHS, INDEX, similarities=[0.9, 0.9, 0.5, 0.6, 0.7, 0.8])


def test_numbers_come_first_in_their_order(run):
    found = classes.number(run.query_ids, run.index_ids, QUERIES, LABELS)
    assert found.names == ("2", "10", "c")
    assert found.query.tolist() == [0, 0, 0, 0, 1, 2]
    assert found.index.tolist() == [0, 0, 1, 1, 2, -1]
    assert [found.name(code) for code in (-1, 1)] == ["", "10"]
    many = classes.number(["q"], ["i"], {"q": "007"}, {"i": "7"})
    assert many.names == ("007", "7")
    assert classes.labels_of_solution({"q": {"10", "9", "a"}, "r": set()}) == {"q": "9"}


def test_confusions_by_hand(run):
    found = classes.number(run.query_ids, run.index_ids, QUERIES, LABELS)
    # ra and sa get class 10 (sa is more similar), qb gets class 2, qc an image without a class.
    # The ignored query of class 2 does not count.
    assert classes.confusions(run, found) == [
        classes.Confusion(of=0, by=1, count=2, share=2 / 3, back=1, row=3),
        classes.Confusion(of=1, by=0, count=1, share=1.0, back=2, row=4),
    ]
    without = classes.number(run.query_ids, run.index_ids, {}, LABELS)
    assert classes.confusions(run, without) == []
    assert not without.known


def test_confusions_against_a_count():
    rng = np.random.default_rng(0)
    index = [f"i{n}" for n in range(60)]
    labels = {image: str(n % 7) for n, image in enumerate(index)}
    of = {f"q{n}": str(rng.integers(7)) for n in range(300)}
    rankings = {query: [index[rng.integers(60)]] for query in of}
    truths = {query: {i for i in index if labels[i] == label} for query, label in of.items()}
    run = make_run(rankings, truths, index, similarities=rng.random(300))
    found = classes.confusions(run, classes.number(run.query_ids, index, of, labels))
    expected = collections.Counter(
        (of[query], labels[images[0]])
        for query, images in rankings.items()
        if of[query] != labels[images[0]]
    )
    assert {(str(pair.of), str(pair.by)): pair.count for pair in found} == dict(expected)
    assert [pair.count for pair in found] == sorted((p.count for p in found), reverse=True)
    for pair in found:
        assert pair.back == expected[str(pair.by), str(pair.of)]


def test_table_by_hand(run):
    found = classes.number(run.query_ids, run.index_ids, QUERIES, LABELS)
    solution = {query: {label} for query, label in QUERIES.items()}
    predictions = {"qa": Prediction("2", 1.0), "ra": Prediction("10", 1.0)}
    table = classes.results(run, found, QUERIES, predictions, solution)
    # AP: qa 1, ra and sa (1/2) / 2 each, qb (1/2) / 2, qc 1/2
    assert table["class"] == ["10", "2", "c"]
    assert table["map_at_100"] == pytest.approx([1 / 4, (1 + 1 / 4 + 1 / 4) / 3, 1 / 2])
    assert table["queries"] == [1, 3, 1]
    assert table["images"] == [2, 2, 1]
    assert table["recall_at_1"] == pytest.approx([0, 1 / 3, 0])
    assert table["confused_with"] == ["2", "10", ""]
    assert table["confused"] == [1, 2, 0]
    assert table["precision"] == [0.0, 1.0, None]
    some = {query: label for query, label in QUERIES.items() if query != "qc"}
    table = classes.results(run, found, some, {}, {})
    assert set(table["class"]) == {"2", "10", classes.NO_CLASS}
    assert "precision" not in table
