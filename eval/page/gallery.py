"""The rankings that the page shows as pictures: which queries, and their first answers."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from eval.page.classes import Classes
from eval.page.pictures import Album, Picture
from eval.page.run import TOP, Run

COUNTS = {"best": 3, "typical": 3, "worst": 10}
_QUERY_SIDE, _ANSWER_SIDE = 320, 176  # pixels; about twice the size on the page


@dataclasses.dataclass(frozen=True)
class Ranking:
    """One query and the first images of its ranking.

    Attributes:
        row: of the query in `Relevance.queries`.
        query: the query's picture.
        answers: the first images, best first, each with True where it is right.
        average_precision: AP@100.
        found: right images among the first 100.
        positives: right images in the index.
    """

    row: int
    query: Picture
    answers: tuple[tuple[Picture, bool], ...]
    average_precision: float
    found: int
    positives: int


def choose(
    run: Run, labels: Mapping[str, str], counts: Mapping[str, int] = COUNTS
) -> dict[str, list[int]]:
    """Chooses the best, the typical and the worst rankings.

    Best and worst go by AP@100, and among equals by the number of right images, many first. Typical
    ones are nearest to the median. What is still equal is ordered by id. No query is chosen twice,
    and as far as there are enough labels, no two of a group have the same.

    Args:
        run: the judged rankings.
        labels: per query id; a query without one counts as a label of its own.
        counts: queries per group; at most a third of all queries each, but one at least.

    Returns:
        Rows of `Relevance.queries` for "best", "typical" and "worst".
    """
    ids, positives = run.relevance.queries, run.relevance.positives
    ap = run.average_precision
    distance = np.abs(ap - np.median(ap))
    orders = {
        "best": sorted(range(len(ids)), key=lambda row: (-ap[row], -positives[row], ids[row])),
        "worst": sorted(range(len(ids)), key=lambda row: (ap[row], -positives[row], ids[row])),
        "typical": sorted(range(len(ids)), key=lambda row: (distance[row], ids[row])),
    }
    taken: set[int] = set()
    groups = {}
    for name, order in orders.items():
        rows = [row for row in order if row not in taken]
        count = min(counts[name], max(1, len(ids) // 3))
        chosen = _of_different_labels(rows, [labels.get(ids[row], ids[row]) for row in rows], count)
        taken.update(chosen)
        groups[name] = sorted(chosen, key=order.index)
    return {name: groups[name] for name in ("best", "typical", "worst")}


def show(
    run: Run,
    classes: Classes,
    row: int,
    queries: Album,
    index: Album,
    label: str = "",
    *,
    depth: int = TOP,
) -> Ranking:
    """Returns one query, a row of `Relevance.queries`, with the pictures of its first answers."""
    query = run.relevance.queries[row]
    relevant = run.relevance.relevant[row]  # (100,)
    answer = run.answers[row]
    positions = run.positions[answer, :depth] if answer >= 0 else np.zeros(0, np.int64)
    return Ranking(
        row=row,
        query=queries.picture(query, _QUERY_SIDE, label),
        answers=tuple(
            (_answer(run, classes, position, index), bool(right))
            for position, right in zip(positions.tolist(), relevant, strict=False)
            if position >= 0
        ),
        average_precision=float(run.average_precision[row]),
        found=int(relevant.sum()),
        positives=int(run.relevance.positives[row]),
    )


def pair(
    run: Run, classes: Classes, row: int, queries: Album, index: Album
) -> tuple[Picture, Picture]:
    """Returns a query, a row of `Run.query_ids`, and its first answer."""
    label = classes.name(classes.query[row])
    query = queries.picture(run.query_ids[row], _ANSWER_SIDE, label)
    return query, _answer(run, classes, run.positions[row, 0], index)


def _answer(run: Run, classes: Classes, position: int, index: Album) -> Picture:
    label = classes.name(classes.index[position])
    return index.picture(run.index_ids[position], _ANSWER_SIDE, label)


def _of_different_labels(rows: Sequence[int], labels: Sequence[str], count: int) -> list[int]:
    """Returns the first `count` rows of different labels; where too few differ, others as well."""
    firsts: dict[str, int] = {}
    for row, label in zip(rows, labels, strict=True):
        firsts.setdefault(label, row)
    chosen = list(firsts.values())[:count]
    others = (row for row in rows if row not in chosen)
    return chosen + list(itertools.islice(others, count - len(chosen)))
