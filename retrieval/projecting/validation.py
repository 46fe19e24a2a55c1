"""How good embeddings are on a labelled validation set: what settings are chosen by.

`eval/` scores answers against a solution; here every image of a labelled set queries the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import columns
from retrieval.nearest import exact
from retrieval.stored.unique_ids import few

_QUERIES = 8192  # searched at a time


def read_labels(
    path: str, ids: Sequence[str], *, id_column: str = "id", label_column: str = "label"
) -> np.ndarray:
    """Reads the classes of images from a table (CSV, Parquet or JSON-lines) with other rows, too.

    Args:
        path: of the table.
        ids: N image ids.
        id_column: of the table.
        label_column: of the table; the label is any text.

    Returns:
        (N,) int64, equal for equal labels: numbers from 0 in the order of the first appearance.

    Raises:
        FileNotFoundError: without the table.
        ValueError: if an id has no label, or two, or the table is not readable.
    """
    row_of = {image: row for row, image in enumerate(ids)}
    texts: list[str] = [""] * len(ids)
    for image, label in columns.read_columns(path, [id_column, label_column]):
        row = row_of.get(image)
        if row is None:
            continue
        if not label or texts[row]:
            received = f"{texts[row]!r} and {label!r}" if label else "an empty label"
            raise ValueError(f"{path}: expected one label per id. Received: {received} for {image}")
        texts[row] = label
    missing = [image for image, text in zip(ids, texts, strict=True) if not text]
    if missing:
        raise ValueError(
            f"{path}: expected a label for every one of {len(ids):,} ids. "
            f"Received: none for {len(missing):,} ({few(missing)})"
        )
    return as_classes(texts)


def as_classes(labels: Sequence | np.ndarray) -> np.ndarray:
    """Returns (N,) int64 class numbers of N labels: from 0 in the order of first appearance."""
    numbers: dict = {}
    listed = labels.tolist() if isinstance(labels, np.ndarray) else labels
    return np.array([numbers.setdefault(label, len(numbers)) for label in listed], np.int64)


def leave_one_out_map(
    vectors: np.ndarray,
    labels: Sequence | np.ndarray,
    k: int = 100,
    *,
    queries: np.ndarray | None = None,
    memory_mb: int = 256,
) -> float:
    """Mean of `leave_one_out` over the queries: mAP@k of GLDv2 within a labelled set."""
    scores = leave_one_out(vectors, labels, k, queries=queries, memory_mb=memory_mb)
    return float(scores.mean())


def leave_one_out(
    vectors: np.ndarray,
    labels: Sequence | np.ndarray,
    k: int = 100,
    *,
    queries: np.ndarray | None = None,
    memory_mb: int = 256,
) -> np.ndarray:
    """Average precision at k of every vector as a query among all others, as in GLDv2.

    AP@k = 1/min(m, k) sum_{r <= k} P(r) rel(r), where m is the number of other vectors of the
    query's class, rel(r) is 1 if rank r is one of them, and P(r) their share among the first r
    (Weyand et al., arXiv:2004.01804). The search is exact, by inner product; equal similarities are
    ordered by position. A vector is never its own answer. Queries alone in their class are left
    out.

    Args:
        vectors: (N, D) float32, finite; a memory map is read block by block.
        labels: N classes, equal for images of one class: numbers or text.
        k: the number of ranks.
        queries: rows of `vectors` that query, (Q,) integers; all if None.
        memory_mb: working memory of the search in MiB, see `exact.ExactSearcher`.

    Returns:
        (Q',) float64, in the order of the queries.

    Raises:
        ValueError: if `labels` does not fit `vectors`, or no query has another of its class.
    """
    classes = as_classes(labels)
    if classes.shape != (len(vectors),):
        raise ValueError(f"expected {len(vectors)} labels. Received: {len(classes)}")
    rows = np.arange(len(vectors)) if queries is None else np.asarray(queries, np.int64)
    rows = rows[np.bincount(classes)[classes[rows]] > 1]
    if not rows.size:
        raise ValueError("expected classes of two images or more. Received: none among the queries")
    searcher = exact.ExactSearcher(vectors, memory_mb=memory_mb)
    scores = []
    for first in range(0, len(rows), _QUERIES):
        piece = rows[first : first + _QUERIES]
        positions, _ = searcher.search(vectors[piece], k + 1)
        scores.append(average_precisions(without_self(positions, piece), classes, piece, k))
    return np.concatenate(scores)


def without_self(positions: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Takes every query out of its own neighbours.

    Args:
        positions: (Q, k) neighbours in the set that the queries belong to.
        rows: (Q,) the queries' own positions.

    Returns:
        (Q, k - 1); a row without the query, which its copies can crowd out, loses its last.
    """
    own = positions == rows[:, None]  # (Q, k)
    own[~own.any(axis=1), -1] = True
    return positions[~own].reshape(len(positions), -1)


def average_precisions(
    positions: np.ndarray, classes: np.ndarray, rows: np.ndarray, k: int
) -> np.ndarray:
    """Returns the average precision at k of each query, (Q,) float64; see `leave_one_out`.

    Args:
        positions: (Q, at least min(k, N - 1)) neighbours, best first, without the query itself.
        classes: (N,) class numbers from 0.
        rows: (Q,) the queries' own positions; each has another of its class.
        k: the number of ranks.
    """
    relevant = classes[positions[:, :k]] == classes[rows, None]  # (Q, k)
    ranks = np.arange(1, relevant.shape[1] + 1)
    precision = np.cumsum(relevant, axis=1, dtype=np.int32) / ranks
    positives = np.bincount(classes)[classes[rows]] - 1
    return np.sum(precision, axis=1, where=relevant) / np.minimum(positives, k)
