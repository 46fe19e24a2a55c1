"""Recognition with a penalty for what looks like no landmark at all.

Reference: the first place of Google Landmark Recognition 2020 (GAP 0.6598). A_ij is the similarity
of test image i and training image j, cut to 0 … 1; B_j the mean of training image j's 5 largest
similarities to images that show no landmark; C_i the mean of test image i's 10 largest ones. For
every member the 3 training images with the largest A_ij - B_j vote with that score; the scores are
summed by label over the members, the largest sum wins, and its score is that sum minus C_i.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from retrieval.nearest import exact, searchers
from retrieval.reranking import voting
from retrieval.stored import precision

_PIECE, _BLOCK = 64, 65_536  # queries and training images that are compared at a time


@dataclasses.dataclass(frozen=True)
class Member:
    """The embeddings of one model, rows L2-normalised.

    Attributes:
        queries: (Q, D) float32, the test images.
        train: (M, D) float32, the labelled images.
        non_landmarks: (L, D) float32, images known to show no landmark; None marks nothing down.
    """

    queries: np.ndarray | precision.Rows
    train: np.ndarray | precision.Rows
    non_landmarks: np.ndarray | precision.Rows | None = None


def recognise(
    members: Sequence[Member],
    classes: np.ndarray,
    *,
    top: int = 3,
    train_neighbours: int = 5,
    query_neighbours: int = 10,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the class and the score of every test image.

    Args:
        members: the models, with the same images in the same order.
        classes: (M,) int64 class numbers from 0 of the training images.
        top: training images that vote, per member.
        train_neighbours: non-landmarks that make B.
        query_neighbours: non-landmarks that make C, a mean over the members.

    Returns:
        classes (Q,) int64 and scores (Q,) float64, which may be negative.

    Raises:
        ValueError: without members, or if the matrices do not fit.
    """
    if not members:
        raise ValueError("expected at least one member. Received: none")
    positions, scores, penalties = [], [], []
    for member in members:
        blocked = _penalties(member.train, member.non_landmarks, train_neighbours)  # B, (M,)
        found = penalised_search(member.queries, member.train, blocked, top)
        positions.append(found[0])
        scores.append(found[1])
        penalties.append(_penalties(member.queries, member.non_landmarks, query_neighbours))
    winners, sums = voting.vote(classes, np.hstack(positions), np.hstack(scores))
    return winners, sums - np.mean(penalties, axis=0, dtype=np.float64)


def _penalties(vectors: np.ndarray, others: np.ndarray | None, count: int) -> np.ndarray:
    if others is None:
        return np.zeros(len(vectors), np.float32)
    return similarity_to(vectors, others, count)


def similarity_to(vectors: np.ndarray, others: np.ndarray, count: int) -> np.ndarray:
    """Returns the mean of each vector's `count` largest similarities, cut to 0 … 1, (N,) float32.

    Args:
        vectors: (N, D) float32.
        others: (L, D) float32; fewer than `count` give the mean of all.
        count: how many.
    """
    similarities = searchers.search_in_pieces(exact.ExactSearcher(others).search, vectors, count)[1]
    return np.clip(similarities, 0, 1).mean(axis=1)


def penalised_search(
    queries: np.ndarray | precision.Rows,
    train: np.ndarray | precision.Rows,
    penalties: np.ndarray,
    top: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the training images with the largest A_ij - B_j.

    With one more dimension, 1 in the queries and -B in the training set, this is a search by inner
    product. Cutting A at 0 can only bring images forward whose score is below 0, so that queries
    whose last score is not above 0 are compared with all images once more.

    Args:
        queries: (Q, D) float32.
        train: (M, D) float32.
        penalties: (M,) float32, B, at least 0.
        top: how many.

    Returns:
        positions (Q, min(top, M)) int64 and scores float32, the largest first; equal ones by
        position.
    """
    ones = np.ones(len(queries), np.float32)
    searcher = exact.ExactSearcher(_WithColumn(train, -penalties))
    found = searchers.search_in_pieces(searcher.search, _WithColumn(queries, ones), top)
    doubtful = np.flatnonzero(found[1][:, -1] <= 0)
    for first in range(0, len(doubtful), _PIECE):
        rows = doubtful[first : first + _PIECE]
        pieces = _all_scores(queries[rows], train, penalties)
        order = np.argsort(-pieces, axis=1, kind="stable")[:, :top]
        found[0][rows] = order
        found[1][rows] = np.take_along_axis(pieces, order, axis=1)
    return found


class _WithColumn(precision.Rows):
    """Rows with one more column."""

    def __init__(self, vectors: np.ndarray | precision.Rows, column: np.ndarray) -> None:
        super().__init__((len(vectors), vectors.shape[1] + 1))
        self._vectors, self._column = vectors, column.astype(np.float32)

    def read(self, rows: slice | np.ndarray) -> np.ndarray:
        """Returns float32 (n, D + 1): the rows of a slice or of row numbers."""
        return np.hstack([self._vectors[rows], self._column[rows, None]])


def _all_scores(queries: np.ndarray, train, penalties: np.ndarray) -> np.ndarray:
    scores = np.empty((len(queries), len(train)), np.float32)
    for first in range(0, len(train), _BLOCK):
        part = slice(first, first + _BLOCK)
        scores[:, part] = np.clip(queries @ np.asarray(train[part]).T, 0, 1) - penalties[part]
    return scores
