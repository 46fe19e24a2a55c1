"""Queries with their exact answers, which the recall of an approximate search is measured with."""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np

from retrieval.ensemble import ConcatenatedRows
from retrieval.indexing.recall_curve import Point
from retrieval.nearest import exact
from retrieval.nearest.scann_parameters import Parameters
from retrieval.nearest.searchers import Searcher

SAMPLED_ROWS = 1000


@dataclasses.dataclass(frozen=True)
class Questions:
    """Queries with their exact answers.

    Attributes:
        queries: (Q, D) float32.
        k: answers per query.
        own_rows: (Q,) int64 rows that are the queries themselves and no answers, or None.
        answers: (Q, k) int64 positions, in any order.
        seconds: processor time of the exact search, per query.
    """

    queries: np.ndarray
    k: int
    own_rows: np.ndarray | None
    answers: np.ndarray
    seconds: float

    def ask(self, searcher: Searcher) -> tuple[np.ndarray, float]:
        """Returns positions (Q, k) and the processor time per query in seconds."""
        start = time.process_time()
        found = searcher.search(self.queries, self.k + (self.own_rows is not None))[0]
        seconds = max(time.process_time() - start, 1e-6) / len(self.queries)
        return without(found, self.own_rows), seconds

    def exact_point(self) -> Point:
        """Returns the measurement of exact search."""
        return Point(None, 1.0, 0.0, self.seconds)

    def measure(self, searcher: Searcher, parameters: Parameters) -> Point:
        """Measures one setting."""
        found, seconds = self.ask(searcher)
        recalls = recall(found, self.answers)
        error = float(recalls.std() / math.sqrt(len(recalls)))
        return Point(parameters, float(recalls.mean()), error, seconds)


def recall(found: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Returns for every query the share of `answers` (Q, k) among `found` (Q, any), (Q,) float64.

    Both hold positions, each at most once per query.
    """
    first = np.arange(len(answers))[:, None] * (int(max(found.max(), answers.max())) + 1)
    return np.isin(answers + first, found + first).mean(axis=1)


def without(positions: np.ndarray, own_rows: np.ndarray | None) -> np.ndarray:
    """Takes out of the answers (Q, k + 1) each query's own row, or the last if it is not there."""
    if own_rows is None:
        return positions
    is_own = positions == own_rows[:, None]
    is_own[:, -1] |= ~is_own.any(axis=1)
    return positions[~is_own].reshape(len(positions), -1)


def prepare(
    vectors: np.ndarray,
    k: int,
    queries: np.ndarray | None = None,
    *,
    rows: np.ndarray | None = None,
    sampled: int = SAMPLED_ROWS,
    seed: int = 0,
    threads: int | None = None,
) -> Questions:
    """Answers queries exactly.

    Args:
        vectors: (N, D) float32.
        k: answers per query, fewer if there are not as many.
        queries: (Q, D) float32; sampled rows if None.
        rows: the rows of `vectors` that can be answers, ascending; all if None.
        sampled: how many rows are sampled.
        seed: of the sampling.
        threads: how many; one for each core if absent.

    Raises:
        ValueError: if nothing could be an answer.
    """
    searched = vectors if rows is None else ConcatenatedRows([vectors], [rows], [1.0])
    own = None
    if queries is None:
        sample = np.random.default_rng(seed).choice(
            len(searched), min(sampled, len(searched)), replace=False
        )
        own, queries = np.sort(sample), np.asarray(searched[np.sort(sample)], np.float32)
    k = min(k, len(searched) - (own is not None))
    if k < 1:
        raise ValueError(f"expected vectors that can be answers. Received: {len(searched)}")
    start = time.process_time()
    searcher = exact.ExactSearcher(searched, threads=threads)
    found = without(searcher.search(queries, k + (own is not None))[0], own)
    seconds = max(time.process_time() - start, 1e-6) / len(queries)
    if rows is not None:
        found, own = rows[found], None if own is None else rows[own]
    return Questions(np.ascontiguousarray(queries), k, own, found, seconds)
