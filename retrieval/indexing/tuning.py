"""Finds the fastest approximate search that reaches a wanted recall, by measuring it on the data.

The recall is measured against exact search, with queries that are given or with sampled rows that
are left out of their own answers. What a query asks (leaves to search, candidates) is measured on
every build, see `retrieval.indexing.measuring`; of what is built, one choice after the other is
changed and kept where that is faster at the wanted recall.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TextIO

import numpy as np

from retrieval.indexing import recall_curve
from retrieval.indexing.measuring import measure, reaches
from retrieval.indexing.questions import SAMPLED_ROWS, Questions, prepare
from retrieval.indexing.recall_curve import Curve, Point
from retrieval.nearest import exact
from retrieval.nearest.approximate import ScannSearcher
from retrieval.nearest.scann_parameters import Parameters, suggest

# How long one build's settings are measured, and the share of that for measuring the best again.
SECONDS = 300.0
_AGAIN = 0.2
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
    seconds: float = SECONDS,
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
        seconds: how long the settings of each build are measured; see `measuring.measure`.
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
        points += measure(searcher, questions, recall, seconds, table.show, table.say)
        tried = settle(searcher, points, questions, recall, seconds)
        best = tried if best is None else _better(tried, best, questions, recall, seconds)
    return _finish(best, points, questions, recall, exactly, table.say)


def retune(
    searcher: ScannSearcher,
    questions: Questions,
    recall: float,
    stream: TextIO | None = None,
    *,
    seconds: float = SECONDS,
) -> Curve:
    """Finds the fastest leaves and candidates that reach the recall on one build.

    Args:
        searcher: of the build.
        questions: what it is asked.
        recall: the wanted recall@k.
        stream: where the table goes, line by line; None shows nothing.
        seconds: how long settings are measured; see `measuring.measure`.

    Raises:
        ValueError: if none does, with the highest recall.
    """
    table = _Table(stream)
    measured = measure(searcher, questions, recall, seconds, table.show, table.say)
    points = [questions.exact_point(), *measured]
    chosen = settle(searcher, points, questions, recall, seconds).point
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


def settle(
    searcher: ScannSearcher,
    points: Sequence[Point],
    questions: Questions,
    wanted: float,
    seconds: float = SECONDS,
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
    return min(_again(finalists, questions, seconds), key=lambda setting: setting.point.seconds)


def _again(settings: Sequence[Setting], questions: Questions, seconds: float) -> list[Setting]:
    """Measures the time of some settings again, in turn; returns them with the medians."""
    one = sum(setting.point.seconds for setting in settings) * len(questions.queries)
    passes = max(1, int(min(_PASSES, _AGAIN * seconds / one)))
    times = [[questions.ask(s.searcher)[1] for s in settings] for _ in range(passes)]
    medians = np.median(times, axis=0).tolist()
    return [
        dataclasses.replace(s, point=dataclasses.replace(s.point, seconds=median))
        for s, median in zip(settings, medians, strict=True)
    ]


def _better(
    tried: Setting, best: Setting, questions: Questions, wanted: float, seconds: float
) -> Setting:
    if reaches(tried.point, wanted) != reaches(best.point, wanted):
        return tried if reaches(tried.point, wanted) else best
    if not reaches(best.point, wanted):
        return tried if tried.point.recall > best.point.recall else best
    tried, best = _again([tried, best], questions, seconds)
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
