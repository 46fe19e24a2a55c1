"""Which ranks of which query are right: rankings judged by a retrieval solution.

`judge` takes ids as text. `judge_codes` takes the arrays that `eval.coded` reads at the size of
Google Landmarks v2.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from retrieval.stored.unique_ids import few

# Queries judged at a time, and entries per query of their table: together 1 MB, for the cache.
_BLOCK = 256
_TABLE = 4096


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
    answers: np.ndarray,
    rows: np.ndarray,
    offsets: np.ndarray,
    images: np.ndarray,
    vocabulary: int,
) -> np.ndarray:
    """Marks the right ranks of predictions whose images are numbers; see `judge` for the rule.

    Args:
        answers: (P, depth) integers, the predicted images' numbers, best first; -1 for an image
            that is relevant to no query, and beyond the end of a query's predictions.
        rows: (Q,) int64, which of `answers` is the query's; -1 for a query without.
        offsets: (Q + 1,) int64; the relevant images of query q are
            `images[offsets[q] : offsets[q + 1]]`, each once, ascending.
        images: numbers from 0 to `vocabulary` - 1.
        vocabulary: how many images there are.

    Returns:
        (Q, depth) bool.
    """
    relevant = np.zeros((len(rows), answers.shape[1]), bool)
    for first in range(0, len(rows), _BLOCK):
        block = slice(first, min(first + _BLOCK, len(rows)))
        own = images[offsets[block.start] : offsets[block.stop]]
        sizes = np.diff(offsets[block.start : block.stop + 1])
        owners = np.repeat(np.arange(len(sizes)), sizes)
        found = np.where(rows[block, None] < 0, -1, answers[rows[block]])  # (B, depth)
        relevant[block].ravel()[_hits(found, owners, own, vocabulary)] = True
    return relevant


def _hits(found: np.ndarray, owners: np.ndarray, own: np.ndarray, vocabulary: int) -> np.ndarray:
    """Returns where in `found` (B, depth) images stand that belong to their row, each row's once.

    A small table that stays in the cache sorts out nearly all others by the last bits of their
    numbers; what is left is searched among the sorted pairs of row and image.

    Args:
        found: (B, depth) numbers, -1 for none.
        owners: the row of each image in `own`, ascending.
        own: the images that belong to these rows, ascending in each.
        vocabulary: how many numbers there are.
    """
    base = np.arange(len(found))[:, None] * _TABLE
    table = np.zeros(found.shape[0] * _TABLE, bool)
    table[base[owners, 0] + (own & (_TABLE - 1))] = True
    places = np.flatnonzero(table.take(base + (found & (_TABLE - 1))))
    width = vocabulary + 1  # 0 is for none
    pairs = owners * width + own + 1  # ascending
    keys = places // found.shape[1] * width + found.ravel().take(places) + 1
    slots = np.searchsorted(pairs, keys)
    slots[slots == len(pairs)] = 0
    right = pairs[slots] == keys if len(pairs) else np.zeros(len(keys), bool)
    places, slots = places[right], slots[right]
    first = np.zeros(len(pairs), np.int64)
    first[slots[::-1]] = places[::-1]  # of equal slots the last assignment, the first rank, stays
    return places[first[slots] == places]


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


def _first_hits(images: Sequence[str], truth: Collection[str]) -> bytes:
    seen: set[str] = set()
    hits = bytearray()
    for image in images:
        hits.append(image in truth and image not in seen)
        seen.add(image)
    return bytes(hits)
