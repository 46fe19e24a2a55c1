"""What a page is about: an index ranked for every query, judged, with its similarities."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from eval import coded, command, ranking_metrics
from eval.page.inputs import Inputs
from eval.relevance import Relevance
from retrieval import search, searched
from retrieval.stored import precision
from retrieval.stored.unique_ids import few

DEPTH = 100  # ranks that are judged
TOP = 10  # ranks whose similarities and classes are looked at
_PAIRS = 8192  # pairs of vectors multiplied at a time

Vectors = np.ndarray | precision.Rows


@dataclasses.dataclass(frozen=True)
class Run:
    """An index ranked for every query.

    Attributes:
        query_ids: P ids of the queries that have a ranking.
        index_ids: N ids; `positions` point into them.
        queries: (P', D) float32, the embeddings of all queries.
        query_rows: (P,) int64, the rows of `queries` that belong to `query_ids`.
        vectors: (N, D) float32, the embeddings of the index.
        positions: (P, depth) int64, best first; -1 beyond the end of a ranking.
        similarities: (P, TOP) float32, the scores of the first answers, greater is better; NaN for
            none. They are inner products, unless a step of post-processing made others.
        relevance: the judged rankings of the Q queries that count.
        answers: (Q,) int64, their rows in `query_ids`; -1 for a query without a ranking.
        search: "exact", "scann" or "predictions".
    """

    query_ids: tuple[str, ...]
    index_ids: tuple[str, ...]
    queries: Vectors
    query_rows: np.ndarray
    vectors: Vectors
    positions: np.ndarray
    similarities: np.ndarray
    relevance: Relevance
    answers: np.ndarray
    search: str

    @functools.cached_property
    def average_precision(self) -> np.ndarray:
        """AP of the Q judged queries to the depth of the rankings, (Q,) float64."""
        depth = self.relevance.relevant.shape[1]
        return ranking_metrics.average_precisions(self.relevance, depth)

    def first_answers(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns for every query with an answer its row (n,) and the first position (n,)."""
        rows = np.flatnonzero(self.positions[:, 0] >= 0)
        return rows, self.positions[rows, 0]

    def judged_rows(self) -> np.ndarray:
        """Returns (P,) int64: the rows in `relevance` of the queries, -1 for an ignored one."""
        rows = np.full(len(self.query_ids), -1)
        answered = np.flatnonzero(self.answers >= 0)
        rows[self.answers[answered]] = answered
        return rows


def load(inputs: Inputs) -> Run:
    """Searches an index, or reads the rankings of a prediction file, and judges them.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if files do not fit each other or their formats.
    """
    truths = coded.read_truths(inputs.solution)
    if inputs.predictions is not None:
        return _read(inputs, truths)
    found = command.answer(
        inputs.index,
        inputs.query,
        weights=inputs.weights,
        kind=inputs.search,
        k=DEPTH,
        settings=inputs.settings,
    )
    rankings = coded.rankings_of_answers(found, truths, DEPTH)
    pair = _open(inputs)
    similarities = np.full((len(found.query_ids), TOP), np.nan, np.float32)
    width = min(TOP, found.similarities.shape[1])
    similarities[:, :width] = found.similarities[:, :width]
    return _judged(
        truths,
        rankings,
        query_ids=found.query_ids,
        index_ids=found.index_ids,
        queries=pair.queries,
        query_rows=np.arange(len(found.query_ids)),
        vectors=pair.vectors,
        positions=found.positions,
        similarities=similarities,
        search=found.search,
    )


def similarities_of(
    queries: Vectors, vectors: Vectors, rows: np.ndarray, positions: np.ndarray
) -> np.ndarray:
    """Returns the inner products of queries with some images of the index.

    Pairs are read in the order of the index, which is on the disk.

    Args:
        queries: (P', D).
        vectors: (N, D).
        rows: (P,) of `queries`.
        positions: (P, k) in `vectors`, -1 for none.

    Returns:
        (P, k) float32, NaN where there is no position.
    """
    values = np.full(positions.shape, np.nan, np.float32)
    flat = positions.ravel()
    pairs = np.flatnonzero(flat >= 0)
    pairs = pairs[np.argsort(flat[pairs], kind="stable")]
    for first in range(0, len(pairs), _PAIRS):
        block = pairs[first : first + _PAIRS]
        left = np.asarray(queries[rows[block // positions.shape[1]]])
        right = np.asarray(vectors[flat[block]])
        values.ravel()[block] = np.einsum("nd,nd->n", left, right)
        precision.release(vectors)
    return values


def _read(inputs: Inputs, truths: coded.Truths) -> Run:
    """Reads the rankings of a prediction file; the embeddings tell how similar the images are."""
    predictions, pair = inputs.predictions, _open(inputs)
    by_index = dataclasses.replace(
        truths,
        offsets=np.zeros_like(truths.offsets),
        images=truths.images[:0],
        vocabulary=coded.Vocabulary(pair.index_ids),
    )
    found = coded.read_rankings(predictions, by_index, DEPTH)
    positions = found.images.astype(np.int64)
    if coded.not_in_index(pair.index_ids, truths):
        _check_answers(predictions, truths, positions)
    numbers = truths.vocabulary.numbers(pair.index_ids)  # (N,)
    rankings = dataclasses.replace(found, images=np.where(positions < 0, -1, numbers[positions]))
    ids = tuple(truths.queries[row] for row in found.rows.tolist())
    rows = _rows_of(ids, pair.query_ids, predictions)
    return _judged(
        truths,
        rankings,
        query_ids=ids,
        index_ids=pair.index_ids,
        queries=pair.queries,
        query_rows=rows,
        vectors=pair.vectors,
        positions=positions,
        similarities=similarities_of(pair.queries, pair.vectors, rows, positions[:, :TOP]),
        search="predictions",
    )


def _check_answers(path: str, truths: coded.Truths, positions: np.ndarray) -> None:
    """Raises ValueError if a right answer is not in the index, where it would count as wrong."""
    right = coded.read_rankings(path, truths, DEPTH).images >= 0
    if (right & (positions < 0)).any():
        raise ValueError(
            f"expected images of the index in {path}. Received: right answers whose embeddings "
            "the index lacks"
        )


def _judged(truths: coded.Truths, rankings: coded.Rankings, **parts) -> Run:
    relevance = coded.judge(truths, rankings)
    if not relevance.queries:
        raise ValueError("expected a solution with relevant images. Received: none for any query")
    row_of = {query: row for row, query in enumerate(parts["query_ids"])}
    answers = np.array([row_of.get(query, -1) for query in relevance.queries], np.int64)
    return Run(relevance=relevance, answers=answers, **parts)


def _open(inputs: Inputs) -> searched.Pair:
    return search.open_pair(inputs.index, inputs.query, inputs.weights, inputs.settings)


def _rows_of(ids: Sequence[str], known: Sequence[str], path: str) -> np.ndarray:
    row_of: Mapping[str, int] = {image: row for row, image in enumerate(known)}
    if missing := [image for image in ids if image not in row_of]:
        raise ValueError(
            f"expected embeddings of every query in {path}. Received: none of {few(missing)}"
        )
    return np.array([row_of[image] for image in ids], np.int64)
