"""The parts of a Kaggle solution, each scored by itself as the two leaderboards are.

The column Usage says Public, Private or Ignored for every query. A leaderboard sees the queries of
its part alone: GAP ranks their predictions and divides by their labelled images, mAP is the mean
over them. The total is of all queries and is no mean of the two.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from eval import scores, solutions
from eval.recognition import Recognized
from eval.scores import Score

PARTS = ("Public", "Private")
Parts = Mapping[str, frozenset[str]]


def read_parts(path: str) -> Parts:
    """Returns the queries of the parts "public" and "private"; none unless a table has both."""
    usages = solutions.read_usages(path)
    found = {
        part.lower(): frozenset(query for query, usage in usages.items() if usage == part)
        for part in PARTS
    }
    return found if all(found.values()) else {}


def gaps(parts: Parts, judged: Recognized, **options: bool | int) -> dict[str, Score]:
    """Returns public_gap and private_gap; without one that has no labelled image.

    Args:
        parts: of `read_parts`.
        judged: of all queries.
        **options: of `Recognized.gap`.
    """
    own = {part: judged.of(queries) for part, queries in parts.items()}
    return {f"{part}_gap": one.gap(**options) for part, one in own.items() if one.labelled.any()}


def means(
    parts: Parts, name: str, queries: tuple[str, ...], values: np.ndarray, *, bootstrap: int = 0
) -> dict[str, Score]:
    """Returns the means public_NAME and private_NAME; without one that has no query.

    Args:
        parts: of `read_parts`.
        name: of the metric.
        queries: the Q ids that have a value.
        values: (Q,).
        bootstrap: the number of resamplings of the queries for the interval; 0 for none.
    """
    result = {}
    for part, own in parts.items():
        rows = [row for row, query in enumerate(queries) if query in own]
        if rows:
            result[f"{part}_{name}"] = scores.mean(values[rows], bootstrap=bootstrap)
    return result
