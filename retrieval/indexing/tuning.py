"""Finds the fastest approximate search that reaches a wanted recall, by measuring it on the data.

The recall is measured against exact search, with queries that are given or with sampled rows that
are left out of their own answers. What a query asks (leaves to search, candidates) is measured
along a grid on every build; of what is built, one choice after the other is changed and kept where
that is faster at the wanted recall.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

import numpy as np

from retrieval.indexing import recall_curve
from retrieval.indexing.questions import SAMPLED_ROWS, Questions, prepare
from retrieval.indexing.recall_curve import Curve, Point
from retrieval.nearest import exact
from retrieval.nearest.approximate import ScannSearcher
from retrieval.nearest.scann_parameters import WORTH_FROM, Parameters, suggest

# Vectors rescored per answer.
CANDIDATES = (
    1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 2.0, 2.25, 2.5, 3.0, 4.0, 6.0, 10.0, 20.0, 50.0,
)  # fmt: skip
# More candidates are not tried once they raise the recall by less than this, nor more leaves once
# so many rungs, each a fifth more, have not.
_LEAST_GAIN, _RUNGS = 5e-4, 3
_FINALISTS, _PASSES = 6, 5
# A second build beside the first takes their vectors' bytes again.
_MANY_BYTES = 2 << 30


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What tuning ends with.

    Attributes:
        searcher: a `ScannSearcher` with the chosen parameters, or an `exact.ExactSearcher` where
            that is as fast, or nothing else reaches the recall.
        curve: everything that was measured.
    """

    searcher: ScannSearcher | exact.ExactSearcher
    curve: Curve


def tune(
    vectors: np.ndarray,
    *,
    k: int = 100,
    recall: float = 0.99,
    queries: np.ndarray | None = None,
    start: Parameters | None = None,
    builds: int | None = None,
    threads: int | None = None,
    exactly: bool = True,
    sampled: int = SAMPLED_ROWS,
    stream: TextIO | None = None,
) -> Tuned:
    """Builds approximate indexes and keeps the fastest that reaches the recall.

    A setting reaches it if its measured recall does, less one standard error. The speed is that of
    many queries at once, in processor time, so that other work on the machine matters little.

    Args:
        vectors: (N, D) float32, finite; a memory map stays one, ScaNN copies.
        k: answers per query.
        recall: the wanted recall@k, below 1.
        queries: (Q, D) float32 like those that will come; sampled rows if None.
        start: what is built first; `scann_parameters.suggest` says if None.
        builds: how many indexes may be built; 4 if absent, or 1 for more than 2 GiB of vectors,
            as the best one stays in memory beside the next.
        threads: how many; one for each core if absent.
        exactly: whether the result may be exact search; if not, it is the most accurate
            approximate one where none reaches the recall.
        sampled: how many rows are sampled.
        stream: where the table goes, line by line; None shows nothing.

    Raises:
        ValueError: if an argument does not fit.
    """
    if builds is None:
        builds = 1 if vectors.size * 4 > _MANY_BYTES else 4
    if builds < 1:
        raise ValueError(f"expected at least one build. Received: {builds}")
    first = start or suggest(*vectors.shape, k, recall)
    questions = prepare(vectors, k, queries, sampled=sampled, threads=threads)
    table = _Table(stream)
    points = [questions.exact_point()]
    table.show(points[0])
    best = None
    for number in range(builds):
        parameters = first if best is None else _change(best, number, recall)
        table.say(f"build {number + 1} of {builds}: {recall_curve.label_of(parameters)}")
        searcher = ScannSearcher(vectors, parameters=parameters, threads=threads)
        points += measure(searcher, questions, recall, table.show)
        tried = settle(searcher, points, questions, recall)
        best = tried if best is None else _better(tried, best, questions, recall)
    return _finish(best, points, questions, recall, exactly, table.say)


def retune(
    searcher: ScannSearcher,
    questions: Questions,
    recall: float,
    stream: TextIO | None = None,
) -> Curve:
    """Finds the fastest leaves and candidates that reach the recall on one build.

    Raises:
        ValueError: if none does, with the highest recall.
    """
    table = _Table(stream)
    points = [questions.exact_point(), *measure(searcher, questions, recall, table.show)]
    chosen = settle(searcher, points, questions, recall).point
    if not reaches(chosen, recall):
        raise ValueError(
            f"expected a build that reaches recall {recall} (build again for it). "
            f"Received: {chosen.recall:.4f} at most"
        )
    return _curve(chosen, points, questions, recall, searcher.vectors, table.say)


@dataclasses.dataclass(frozen=True)
class Setting:
    """A searcher and what was measured of it."""

    searcher: ScannSearcher
    point: Point


def measure(
    searcher: ScannSearcher, questions: Questions, wanted: float, show: Callable[[Point], None]
) -> list[Point]:
    """Measures one build with more and more leaves and candidates.

    It ends where more leaves gain nothing, cost three times as much as the fastest setting that
    reaches the recall, or as much as exact search.
    """
    points: list[Point] = []
    # Of few vectors ScaNN is only searched where that is asked for, and all settings are quick.
    most = questions.seconds if len(searcher.vectors) >= WORTH_FROM else math.inf
    highest = [0.0]
    for leaves in _ladder(searcher, questions.k):
        row = list(_measure_candidates(searcher, questions, leaves, most))
        for point in row:
            points.append(point)
            show(point)
            if reaches(point, wanted):
                most = min(most, 3 * point.seconds)
        highest.append(max(highest[-1], *(point.recall for point in row)))
        gained = highest[-1] - highest[max(0, len(highest) - 1 - _RUNGS)]
        if gained < _LEAST_GAIN or min(p.seconds for p in row) > most:
            break
    return points


def _measure_candidates(
    searcher: ScannSearcher, questions: Questions, leaves: int, most: float
) -> Iterator[Point]:
    """Yields the measurements of a number of leaves with more and more candidates."""
    before = -1.0
    for candidates in CANDIDATES:
        parameters = dataclasses.replace(
            searcher.parameters, leaves_to_search=leaves, candidates=candidates
        )
        point = questions.measure(searcher.with_parameters(parameters), parameters)
        yield point
        if point.recall < before + _LEAST_GAIN or point.seconds > most:
            return
        before = point.recall


def _ladder(searcher: ScannSearcher, k: int) -> list[int]:
    """Returns numbers of leaves, each about a fifth more than the one before.

    The first holds twice what is asked of ScaNN on average, as queries whose leaves hold less cost
    an exact search; where rows are removed, about 1.5 k + 16 are asked for.
    """
    leaves = searcher.parameters.leaves
    first = min(leaves, math.ceil((3 * k + 32) * leaves / len(searcher.vectors)))
    steps = range(math.ceil(math.log(leaves / first, 1.2)) + 1)
    return sorted({min(leaves, round(first * 1.2**step)) for step in steps})


def reaches(point: Point, wanted: float) -> bool:
    """Whether a measured recall, less its standard error, is the wanted one."""
    return point.recall - point.error >= wanted


def settle(
    searcher: ScannSearcher, points: Sequence[Point], questions: Questions, wanted: float
) -> Setting:
    """Returns the fastest setting of a build that reaches the recall, else the most accurate.

    The fastest few by one measurement each are measured again, in turn.
    """
    built = dataclasses.replace(searcher.parameters, leaves_to_search=1, candidates=1)
    own = [
        point
        for point in points
        if point.parameters is not None
        and dataclasses.replace(point.parameters, leaves_to_search=1, candidates=1) == built
    ]
    fit = sorted((p for p in own if reaches(p, wanted)), key=lambda point: point.seconds)
    if not fit:
        point = max(own, key=lambda point: point.recall)
        return Setting(searcher.with_parameters(point.parameters), point)
    finalists = [Setting(searcher.with_parameters(p.parameters), p) for p in fit[:_FINALISTS]]
    return min(_again(finalists, questions), key=lambda setting: setting.point.seconds)


def _again(settings: Sequence[Setting], questions: Questions) -> list[Setting]:
    """Measures the time of some settings again, in turn; returns them with the medians."""
    passes = [[questions.ask(s.searcher)[1] for s in settings] for _ in range(_PASSES)]
    medians = np.median(passes, axis=0).tolist()
    return [
        dataclasses.replace(s, point=dataclasses.replace(s.point, seconds=seconds))
        for s, seconds in zip(settings, medians, strict=True)
    ]


def _better(tried: Setting, best: Setting, questions: Questions, wanted: float) -> Setting:
    if reaches(tried.point, wanted) != reaches(best.point, wanted):
        return tried if reaches(tried.point, wanted) else best
    if not reaches(best.point, wanted):
        return tried if tried.point.recall > best.point.recall else best
    tried, best = _again([tried, best], questions)
    return tried if tried.point.seconds < best.point.seconds else best


def _change(best: Setting, number: int, wanted: float) -> Parameters:
    """Returns what to build next: one thing other than in the best build so far."""
    now = best.searcher.parameters
    if not reaches(best.point, wanted) and now.rescoring == "bfloat16":
        return dataclasses.replace(now, rescoring="float32")  # rounding alone loses 0.003
    changes = (
        {"leaves": max(1, now.leaves // 2)},
        {"soar": not now.soar},
        {"anisotropic": 0.2 if now.anisotropic is None else None},
        {"leaves": 2 * now.leaves},
    )
    return dataclasses.replace(now, **changes[(number - 1) % len(changes)])


def _finish(
    best: Setting,
    points: Sequence[Point],
    questions: Questions,
    wanted: float,
    exactly: bool,
    say: Callable[[str], None],
) -> Tuned:
    """Returns the best setting, or exact search where that is no slower."""
    chosen, searcher = best.point, best.searcher
    if not reaches(chosen, wanted):
        say(f"no approximate search reaches {wanted}, the best {chosen.recall:.4f}")
    if exactly and (not reaches(chosen, wanted) or chosen.seconds >= questions.seconds):
        chosen, searcher = questions.exact_point(), exact.ExactSearcher(searcher.vectors)
    return Tuned(searcher, _curve(chosen, points, questions, wanted, searcher.vectors, say))


def _curve(
    chosen: Point,
    points: Sequence[Point],
    questions: Questions,
    wanted: float,
    vectors: np.ndarray,
    say: Callable[[str], None],
) -> Curve:
    say(f"{recall_curve.HEAD}\n{chosen.row()}  chosen")
    size = len(questions.queries)
    return Curve(questions.k, wanted, size, *vectors.shape, (*points, chosen), chosen)


class _Table:
    """Prints measurements as they come: those that are the best so far in speed or recall."""

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream
        self._seen: list[Point] = []
        self.say(recall_curve.HEAD)

    def say(self, line: str) -> None:
        """Prints a line."""
        if self.stream is not None:
            print(line, file=self.stream, flush=True)

    def show(self, point: Point) -> None:
        """Prints a measurement, unless another was faster and more accurate."""
        if all(p.recall < point.recall or p.seconds > point.seconds for p in self._seen):
            self.say(point.row())
        self._seen.append(point)
