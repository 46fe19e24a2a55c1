"""The tuner against exact search and slow counting."""

import json
import sys

import numpy as np
import pytest
from test_approximate import clusters

from retrieval.indexing import measuring, questions, recall_curve, tuning
from retrieval.indexing.recall_curve import Curve, Point
from retrieval.nearest.approximate import ScannSearcher
from retrieval.nearest.exact import ExactSearcher
from retrieval.nearest.scann_parameters import Parameters


def test_recall_counts_common_answers():
    found = np.array([[1, 2, 3, 4], [9, 8, 7, 6]])
    answers = np.array([[4, 5, 1], [1, 2, 3]])
    assert questions.recall(found, answers).tolist() == [2 / 3, 0]


def test_a_sampled_row_is_not_its_own_answer():
    # Row 2 has four equals before it: it is not among its own first three answers.
    vectors = np.float32([[1, 0], [1, 0], [1, 0], [1, 0], [0, 1], [0.6, 0.8]])
    asked = questions.prepare(vectors, 2)
    assert asked.own_rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert asked.answers.tolist() == [[1, 2], [0, 2], [0, 1], [0, 1], [5, 0], [4, 0]]
    assert asked.measure(ExactSearcher(vectors), None).recall == 1


def test_questions_of_a_part_of_the_rows():
    vectors, queries = clusters(400, 8)
    rows = np.arange(1, 400, 3)
    expected = rows[ExactSearcher(vectors[rows]).search(queries, 5)[0]]
    np.testing.assert_array_equal(
        questions.prepare(vectors, 5, queries, rows=rows).answers, expected
    )
    own = questions.prepare(vectors, 5, rows=rows, sampled=50)
    assert len(own.queries) == 50
    assert np.isin(own.own_rows, rows).all()
    assert np.isin(own.answers, rows).all()
    np.testing.assert_array_equal(own.queries, vectors[own.own_rows])
    with pytest.raises(ValueError, match="Received: 1"):
        questions.prepare(vectors, 5, rows=rows[:1])


@pytest.fixture(scope="module")
def tuned():
    vectors, _ = clusters(8000, 32)
    return tuning.tune(vectors, k=10, recall=0.95, builds=2, exactly=False, sampled=200)


def test_the_chosen_setting_reaches_the_recall_on_other_queries(tuned):
    vectors, queries = clusters(8000, 32)
    expected = ExactSearcher(vectors).search(queries, 10)[0]
    found = tuned.searcher.search(queries, 10)[0]
    assert tuned.searcher.parameters == tuned.curve.chosen.parameters
    chosen = tuned.curve.chosen
    assert chosen.recall - chosen.error >= 0.95
    # Ten queries: 0.95 less two standard errors of their recalls.
    assert questions.recall(found, expected).mean() > 0.88
    # It does not look at everything.
    assert chosen.parameters.leaves_to_search < chosen.parameters.leaves


def test_the_curve_rises(tuned):
    front = tuned.curve.front()
    assert len(front) > 3
    recalls, seconds = zip(*((point.recall, point.seconds) for point in front), strict=True)
    assert list(recalls) == sorted(set(recalls))
    assert list(seconds) == sorted(seconds)
    assert front[-1].recall == 1  # exact search
    builds = {p.parameters.leaves for p in tuned.curve.points if p.parameters}
    assert builds == {179, 89}  # 2 sqrt(8000), half of it


def test_tuning_prints_a_table(capsys):
    vectors, queries = clusters(1200, 8)
    tuned = tuning.tune(
        vectors, k=5, recall=0.9, queries=queries, builds=1, exactly=False, stream=sys.stderr
    )
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].split() == ["leaves", "searched", "candidates", "recall", "queries/CPU", "s"]
    assert lines[1].startswith("exact ")
    assert "build 1 of 1: 69 leaves" in lines[2]
    assert lines[-1] == f"{tuned.curve.chosen.row()}  chosen"
    assert tuned.curve.queries == 10


def test_exact_search_where_it_is_as_fast_or_nothing_else_reaches_the_recall():
    vectors, _ = clusters(300, 8)
    tuned = tuning.tune(vectors, k=250, recall=0.99999, builds=1)
    if tuned.curve.chosen.parameters is None:
        assert isinstance(tuned.searcher, ExactSearcher)
    scattered = np.random.default_rng(0).standard_normal((2000, 64), dtype=np.float32)
    searcher = ScannSearcher(scattered, parameters=Parameters(leaves=40))
    asked = questions.prepare(scattered, 100)
    few = Point(Parameters(leaves=40), 0.5, 0.01, asked.seconds / 2)
    chosen = tuning._finish(tuning.Setting(searcher, few), [few], asked, 0.9, True, print)
    assert isinstance(chosen.searcher, ExactSearcher)
    assert chosen.curve.chosen.recall == 1
    slow = Point(Parameters(leaves=40), 0.95, 0.01, asked.seconds * 2)
    chosen = tuning._finish(tuning.Setting(searcher, slow), [slow], asked, 0.9, True, print)
    assert isinstance(chosen.searcher, ExactSearcher)
    kept = tuning._finish(tuning.Setting(searcher, few), [few], asked, 0.9, False, print)
    assert kept.searcher is searcher


def test_a_second_choice_is_float32_where_rounding_is_in_the_way():
    searcher = ScannSearcher(clusters(1100, 8)[0], parameters=Parameters(leaves=40))
    poor = tuning.Setting(searcher, Point(searcher.parameters, 0.997, 0.0001, 1e-5))
    assert tuning._change(poor, 1, 0.999).rescoring == "float32"
    assert tuning._change(poor, 1, 0.99).leaves == 20


def test_retuning_refuses_a_build_that_cannot():
    vectors, _ = clusters(1100, 8)
    asked = questions.prepare(vectors, 10, sampled=100)
    searcher = ScannSearcher(vectors, parameters=Parameters(leaves=40))
    curve = tuning.retune(searcher, asked, 0.9)
    assert curve.chosen.parameters.leaves == 40
    assert measuring.reaches(curve.chosen, 0.9)
    with pytest.raises(ValueError, match="build again"):
        tuning.retune(searcher, asked, 1.1)


def test_wrong_numbers():
    vectors, _ = clusters(30, 4)
    with pytest.raises(ValueError, match="at least one build"):
        tuning.tune(vectors, builds=0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        tuning.tune(vectors, recall=99)


def some_curve():
    parameters = Parameters(leaves=40, leaves_to_search=3, candidates=1.4, soar=True)
    points = (
        Point(None, 1.0, 0.0, 1e-3),
        Point(parameters, 0.9, 0.01, 1e-4),
        Point(parameters, 0.8, 0.01, 2e-4),
    )
    return Curve(10, 0.9, 1000, 500, 8, points, points[1])


def test_the_curve_as_table_and_json():
    curve = some_curve()
    assert [point.recall for point in curve.front()] == [0.9, 1.0]
    assert curve.chosen.row().split() == ["3", "of", "40", "1.4", "0.9000", "±0.0100", "10,000"]
    assert len(curve.chosen.row()) == len(recall_curve.HEAD) == len(curve.points[0].row())
    read = json.loads(curve.as_json())
    assert read["points"][1]["parameters"]["soar"] is True
    assert read["chosen"] == read["points"][1]
    words = recall_curve.label_of(Parameters(leaves=1000, anisotropic=0.2, soar=True))
    assert words == "1,000 leaves, 2 dimensions per code, anisotropic 0.2, SOAR, bfloat16"


def test_pictures(tmp_path):
    for name in ("a.svg", "b.svg", "c.png"):
        recall_curve.draw(some_curve(), str(tmp_path / name))
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match=r"\.svg or \.png"):
        recall_curve.draw(some_curve(), "curve.bmp")
