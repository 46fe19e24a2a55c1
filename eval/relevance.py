"""Which ranks of which query are right: rankings judged by a retrieval solution.

`judge` takes ids as text. `judge_codes` takes the arrays that `eval.coded` reads at the size of
Google Landmarks v2.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from retrieval.unique_ids import few

# Bytes of the table in which a block of queries marks its relevant images: it stays in the cache.
_TABLE_BYTES = 2**24


@dataclasses.dataclass(frozen=True)
class Relevance:
    """Which ranks of which query are right.

    Attributes:
        queries: the Q ids of the queries that have at least one relevant image.
        relevant: (Q, depth) bool; False beyond the end of a query's predictions.
        positives: (Q,) int64, the number of relevant images m_q.
        ignored: the number of queries without relevant images, which no metric counts.
        unanswered: the number of queries among Q without any prediction; they score 0.
    """

    queries: tuple[str, ...]
    relevant: np.ndarray
    positives: np.ndarray
    ignored: int
    unanswered: int


def judge(
    predictions: Mapping[str, Sequence[str]],
    solution: Mapping[str, Collection[str]],
    *,
    depth: int = 100,
) -> Relevance:
    """Marks the right ranks of retrieval predictions.

    Args:
        predictions: image ids per query id, best first. What follows rank `depth` is not read. A
            repeated image counts at its first rank only, the later ones are wrong: it consumes its
            rank.
        solution: the relevant image ids per query id; empty for an ignored query.
        depth: the number of ranks that are looked at.

    Raises:
        ValueError: if a prediction's query is not in the solution, or `depth` is not positive.
    """
    check_known(predictions, solution)
    check_k(depth)
    truths = {
        query: images if isinstance(images, (set, frozenset)) else frozenset(images)
        for query, images in solution.items()
        if images
    }
    marks = bytearray(len(truths) * depth)
    unanswered = 0
    for start, (query, truth) in zip(itertools.count(0, depth), truths.items(), strict=False):
        images = predictions.get(query, ())
        if len(images) > depth:
            images = images[:depth]
        unanswered += not len(images)
        hits = bytes(map(truth.__contains__, images))
        right = set(itertools.compress(images, hits))
        if len(right) < hits.count(1):
            hits = _first_hits(images, truth)
        marks[start : start + len(hits)] = hits
    relevant = np.frombuffer(marks, bool).reshape(len(truths), depth)
    positives = np.array([len(truth) for truth in truths.values()], np.int64)
    return Relevance(tuple(truths), relevant, positives, len(solution) - len(truths), unanswered)


def judge_codes(
    answers: np.ndarray, offsets: np.ndarray, images: np.ndarray, vocabulary: int
) -> np.ndarray:
    """Marks the right ranks of predictions whose images are numbers; see `judge` for the rule.

    Args:
        answers: (Q, depth) integers, the predicted images' numbers, best first; -1 for an image
            that is relevant to no query, and beyond the end of a query's predictions.
        offsets: (Q + 1,) int64; the relevant images of query q are
            `images[offsets[q] : offsets[q + 1]]`, each once.
        images: numbers from 0 to `vocabulary` - 1.
        vocabulary: how many images there are.

    Returns:
        (Q, depth) bool.
    """
    count, depth = answers.shape
    relevant = np.zeros((count, depth), bool)
    width = vocabulary + 1  # one column more, never marked: a row's -1 is the column before its 0
    rows = max(1, _TABLE_BYTES // width)
    table = np.zeros(rows * width, bool)
    starts = np.arange(rows) * width
    sizes = np.diff(offsets)
    for first in range(0, count, rows):
        block = slice(first, min(first + rows, count))
        own = images[offsets[block.start] : offsets[block.stop]]
        start = starts[: block.stop - block.start]
        marked = np.repeat(start, sizes[block]) + own
        table[marked] = True
        keys = start[:, None] + answers[block]  # (B, depth)
        hits = table[keys]
        _drop_repeated(keys, hits)
        relevant[block] = hits
        table[marked] = False
    return relevant


def check_k(k: int) -> None:
    """Raises ValueError unless k is a positive number of ranks."""
    if k < 1:
        raise ValueError(f"expected a positive number of ranks. Received: {k}")


def check_known(predictions: Mapping[str, object], solution: Mapping[str, object]) -> None:
    """Raises ValueError if there are predictions for queries that the solution lacks."""
    if not predictions.keys() <= solution.keys():
        refuse_unknown([query for query in predictions if query not in solution])


def refuse_unknown(queries: Sequence[str]) -> None:
    """Raises ValueError for queries that the solution lacks."""
    raise ValueError(
        "expected predictions for queries of the solution. "
        f"Received: {len(queries):,} others ({few(queries)})"
    )


def _drop_repeated(keys: np.ndarray, hits: np.ndarray) -> None:
    """Clears in `hits` (B, depth) all but the first of equal keys, in place."""
    places = np.flatnonzero(hits)
    found = keys.ravel()[places]
    in_order = np.sort(found)
    if (in_order[1:] == in_order[:-1]).any():
        first = np.unique(found, return_index=True)[1]
        hits.ravel()[np.delete(places, first)] = False


def _first_hits(images: Sequence[str], truth: Collection[str]) -> bytes:
    seen: set[str] = set()
    hits = bytearray()
    for image in images:
        hits.append(image in truth and image not in seen)
        seen.add(image)
    return bytes(hits)
