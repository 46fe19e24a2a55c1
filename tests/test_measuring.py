"""What is measured of a build, in which order, and when it ends."""

import math

import pytest
from test_approximate import clusters

from retrieval.indexing import measuring, questions, tuning
from retrieval.nearest.approximate import ScannSearcher
from retrieval.nearest.scann_parameters import Parameters


@pytest.fixture(scope="module")
def build():
    """A build of 100 leaves, and what it is asked: 10 answers."""
    vectors, _ = clusters(3000, 24)
    searcher = ScannSearcher(vectors, parameters=Parameters(leaves=100))
    return searcher, questions.prepare(vectors, 10, sampled=100)


def measured(build, wanted, seconds, say=lambda line: None):
    """Returns the measurements, and the leaves of the first pass."""
    points = measuring.measure(*build, wanted, seconds, lambda point: None, say)
    leaves = [point.parameters.leaves_to_search for point in points]
    passed = next(n for n, point in enumerate(points) if point.parameters.candidates != 10)
    return points, leaves[:passed]


def test_the_ladder_begins_with_twice_what_is_asked(build):
    # 62 vectors, 30 in a leaf.
    assert measuring.ladder(build[0], 10)[:6] == [3, 4, 5, 6, 7, 9]
    assert measuring.ladder(build[0], 10)[-1] == 100
    assert measuring.ladder(build[0], 1000) == [100]


@pytest.mark.parametrize(
    ("count", "goal", "expected"),
    [
        (1, 0, [0]),
        (6, 0, [0, 1, 2, 3, 4]),
        (20, 8, [8, 7, 9, 6, 10, 5, 11, 4, 12, 0, 16]),
        (16, 15, [15, 14, 13, 12, 11, 7, 3]),
    ],
)
def test_the_order_begins_at_the_goal(count, goal, expected):
    assert list(measuring.order(count, goal)) == expected


def test_without_time_the_first_pass_and_its_end_are_measured(build):
    points, first = measured(build, 0.9, seconds=0)
    assert first == measuring.ladder(build[0], 10)[:: measuring._STRIDE][: len(first)]
    rest = points[len(first) :]
    assert {point.parameters.leaves_to_search for point in rest} == {first[-1]}
    candidates = [point.parameters.candidates for point in rest]
    assert candidates == list(measuring.CANDIDATES[: len(rest)])
    # The goal is the first of the first pass that reaches the recall.
    reached = [measuring.reaches(point, 0.9) for point in points[: len(first)]]
    assert reached == [False] * (len(first) - 1) + [True]


def test_with_time_all_around_the_goal_is_measured(build):
    points, first = measured(build, 0.9, seconds=math.inf)
    rungs = measuring.ladder(build[0], 10)
    goal = rungs.index(first[-1])
    leaves = {point.parameters.leaves_to_search for point in points}
    assert set(rungs[max(0, goal - 3) : goal]) & leaves
    assert leaves > set(first)
    settings = [point.parameters for point in points[len(first) :]]
    assert len(set(settings)) == len(settings)
    assert len(settings) < len(rungs) * len(measuring.CANDIDATES) / 2


def test_a_recall_that_is_not_reached_ends_where_more_leaves_gain_nothing(build):
    points, first = measured(build, 1.5, seconds=0)
    recalls = [point.recall for point in points[: len(first)]]
    assert first[-1] == 100 or recalls[-1] < recalls[-2] + 5e-4
    with pytest.raises(ValueError, match="build again"):
        tuning.retune(*build, 1.5, seconds=0)


def test_without_time_the_choice_reaches_the_recall(build):
    curve = tuning.retune(*build, 0.9, seconds=0)
    assert measuring.reaches(curve.chosen, 0.9)


def test_the_time_left_is_shown(build, monkeypatch):
    monkeypatch.setattr(measuring, "_SHOWN_EVERY", 0)
    lines = []
    points, _ = measured(build, 0.9, 90, lines.append)
    assert lines[0] == "1 settings measured, at most 1 min 30 s left"
    assert len(lines) == len(points)


def test_no_negative_time(build):
    with pytest.raises(ValueError, match=r"at least 0\. Received: -1"):
        measured(build, 0.9, -1)
