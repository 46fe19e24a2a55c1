"""Measures one build of an index: which leaves and candidates reach which recall, and how fast.

More leaves and more candidates both raise recall and time. A first pass doubles the leaves, with
many candidates, until the wanted recall is reached. Around there every number of leaves is measured
with as many candidates as it may take; some, and all farther away, with fewer too, for the curve.
With 100,000 vectors of 256 dimensions that is a third of the settings and of the time that all
would take, and ends with the same choice. A bound in seconds is kept besides.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator

from progress import format_seconds
from retrieval.indexing.questions import Questions
from retrieval.indexing.recall_curve import Point
from retrieval.nearest.approximate import ScannSearcher
from retrieval.nearest.scann_parameters import WORTH_FROM

# Vectors rescored per answer, and how many of them the first pass takes.
CANDIDATES = (
    1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 2.0, 2.25, 2.5, 3.0, 4.0, 6.0, 10.0, 20.0, 50.0,
)  # fmt: skip
_MANY_CANDIDATES = 10.0
# More candidates or leaves are not tried once they raise the recall by less than this.
_LEAST_GAIN = 5e-4
# Each rung of the ladder has a fifth more leaves, so that four double them.
_RUNG, _STRIDE = 1.2, 4
_SHOWN_EVERY = 10.0  # seconds


def reaches(point: Point, wanted: float) -> bool:
    """Whether a measured recall, less its standard error, is the wanted one."""
    return point.recall - point.error >= wanted


def measure(
    searcher: ScannSearcher,
    questions: Questions,
    wanted: float,
    seconds: float,
    show: Callable[[Point], None],
    say: Callable[[str], None],
) -> list[Point]:
    """Measures one build.

    Args:
        searcher: of the build.
        questions: what it is asked.
        wanted: the recall to be reached.
        seconds: when to stop; the first pass and the candidates of the leaves where it has ended
            are measured in any case.
        show: called with every measurement.
        say: called with a line on the time left, every 10 seconds.

    Raises:
        ValueError: if `seconds` is negative.
    """
    if not seconds >= 0:
        raise ValueError(f"expected seconds of at least 0. Received: {seconds}")
    return _Sweep(searcher, questions, wanted, seconds, show, say).run()


class _Sweep:
    """The measurements of one build; see `measure`."""

    def __init__(self, searcher, questions, wanted, seconds, show, say) -> None:
        self.searcher, self.questions, self.wanted = searcher, questions, wanted
        self.show, self.say = show, say
        self.points: list[Point] = []
        # Of few vectors ScaNN is only searched where that is asked for, and all settings are quick.
        self.most = questions.seconds if len(searcher.vectors) >= WORTH_FROM else math.inf
        self.most_leaves = math.inf
        self.too_few: dict[float, int] = {}  # candidates -> leaves from which others are better
        self.failed: dict[float, int] = {}  # candidates -> most leaves that did not reach it
        self.seconds, self.started = seconds, time.monotonic()
        self.shown = self.started

    def run(self) -> list[Point]:
        """Measures until nothing is left to be found, or the time is over."""
        rungs = ladder(self.searcher, self.questions.k)
        goal = self._first_pass(rungs)
        for number in order(len(rungs), goal):
            if number != goal and self._left() <= 0:
                break
            if rungs[number] <= self.most_leaves:
                fit = self._fit(rungs[number], for_curve=(number - goal) % _STRIDE == 0)
                self._row(rungs[number], fit, whole=number == goal)
        return self.points

    def _first_pass(self, rungs: list[int]) -> int:
        """Returns the first rung, of every fourth, that reaches the recall, or gains no more."""
        highest = 0.0
        *most, last = range(0, len(rungs) + _STRIDE - 1, _STRIDE)
        for number in (*most, min(last, len(rungs) - 1)):
            point = self._ask(rungs[number], _MANY_CANDIDATES)
            is_last = point.recall < highest + _LEAST_GAIN or point.seconds > self.most
            if is_last or reaches(point, self.wanted):
                break
            highest = point.recall
        return number

    def _fit(self, leaves: int, *, for_curve: bool) -> list[float]:
        """Returns the candidates that may be worth their time, or reach the recall."""
        found = [c for c in CANDIDATES if self.too_few.get(c, leaves) >= leaves]
        return found if for_curve else [c for c in found if self.failed.get(c, leaves) <= leaves]

    def _row(self, leaves: int, fit: list[float], *, whole: bool) -> None:
        """Measures a number of leaves with more and more candidates."""
        row: list[Point] = []
        for candidates in fit:
            if not whole and self._left() <= 0:
                return
            point = self._ask(leaves, candidates)
            if reaches(point, self.wanted):
                self.most = min(self.most, 3 * point.seconds)
            else:
                self.failed[candidates] = max(leaves, self.failed.get(candidates, leaves))
            ended = bool(row) and point.recall < row[-1].recall + _LEAST_GAIN
            row.append(point)
            if ended or point.seconds > self.most:
                break
        self._learn(leaves, row)

    def _learn(self, leaves: int, row: list[Point]) -> None:
        """Notes where more leaves, or so few candidates with more leaves, are not worth a try."""
        fewer = [point for point in self.points if point.parameters.leaves_to_search < leaves]
        for point in row:
            if any(p.recall >= point.recall and p.seconds <= point.seconds for p in fewer):
                candidates = point.parameters.candidates
                self.too_few[candidates] = min(leaves, self.too_few.get(candidates, leaves))
        best = max((point.recall for point in row), default=0.0)
        gained = best - max((point.recall for point in fewer), default=-1.0)
        if gained < _LEAST_GAIN or all(point.seconds > self.most for point in row):
            self.most_leaves = min(self.most_leaves, leaves)

    def _ask(self, leaves: int, candidates: float) -> Point:
        parameters = dataclasses.replace(
            self.searcher.parameters, leaves_to_search=leaves, candidates=candidates
        )
        point = self.questions.measure(self.searcher.with_parameters(parameters), parameters)
        self.points.append(point)
        self.show(point)
        if time.monotonic() - self.shown >= _SHOWN_EVERY:
            self.shown = time.monotonic()
            left = format_seconds(max(0.0, self._left()))
            self.say(f"{len(self.points)} settings measured, at most {left} left")
        return point

    def _left(self) -> float:
        return self.seconds - (time.monotonic() - self.started)


def ladder(searcher: ScannSearcher, k: int) -> list[int]:
    """Returns numbers of leaves, each about a fifth more than the one before.

    The first holds twice what is asked of ScaNN on average, as queries whose leaves hold less cost
    an exact search; where rows are removed, about 1.5 k + 16 are asked for.
    """
    leaves = searcher.parameters.leaves
    first = min(leaves, math.ceil((3 * k + 32) * leaves / len(searcher.vectors)))
    steps = range(math.ceil(math.log(leaves / first, _RUNG)) + 1)
    return sorted({min(leaves, round(first * _RUNG**step)) for step in steps})


def order(count: int, goal: int) -> Iterator[int]:
    """Yields the rungs to be measured: the goal, all around it, then every fourth of the others."""
    near = range(max(0, goal - _STRIDE), min(count, goal + _STRIDE + 1))
    yield from sorted(near, key=lambda number: (abs(number - goal), number))
    far = (number for number in range(goal % _STRIDE, count, _STRIDE) if number not in near)
    yield from sorted(far, key=lambda number: (abs(number - goal), number))
