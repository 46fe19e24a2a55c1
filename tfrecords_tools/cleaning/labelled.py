"""A table of labels beside an embeddings directory: which row has which vector and which label."""

from __future__ import annotations

import array
import dataclasses
from collections.abc import Sequence

import numpy as np

from columns import read_columns
from retrieval.embeddings import Embeddings, few
from tfrecords_tools.cleaning.neighbors import NO_LABEL
from tfrecords_tools.readers import tables

NO_EMBEDDING = "no embedding"
REASONS = (tables.NO_ID, tables.NO_LABEL, tables.DUPLICATE_ID, NO_EMBEDDING)
_BLOCK = 16384
_NORM_TOLERANCE = 0.02  # as in retrieval/embeddings.py


@dataclasses.dataclass(frozen=True)
class Labelled:
    """The labels of a table, by the rows of the embeddings.

    Attributes:
        positions: (T,) int64, for each row of the table the embedding's row, or -1 - i if it has
            none for the reason REASONS[i].
        labels: (N,) int32, for each embedding the number of its label, or NO_LABEL.
        classes: names of the labels by their numbers.
        moved: (N,) int8, 1 where the label differs from the true one, 0 where it is the same, -1
            where that is not known.
        row_of: the embedding's row of each id.
        missing: ids of the table without embedding.
    """

    positions: np.ndarray
    labels: np.ndarray
    classes: Sequence[str]
    moved: np.ndarray
    row_of: dict[str, int]
    missing: Sequence[str]

    @property
    def images(self) -> int:
        """Number of images with a label and an embedding."""
        return int(np.count_nonzero(self.labels != NO_LABEL))

    def count(self, reason: str) -> int:
        """Returns the number of rows that are left out for this reason."""
        return int(np.count_nonzero(self.positions == _code(reason)))


def read(
    embeddings: Embeddings,
    table: str,
    *,
    id_column: str = "id",
    label_column: str = "label",
    truth_column: str | None = None,
) -> Labelled:
    """Reads the labels of a table (CSV, Parquet or JSON-lines).

    Raises:
        FileNotFoundError: without the table.
        ValueError: a column is missing, no row has an embedding, or all have the same label.
    """
    row_of = {image_id: row for row, image_id in enumerate(embeddings.ids)}
    labels = np.full(len(row_of), NO_LABEL, np.int32)
    moved = np.full(len(row_of), -1, np.int8)
    numbers: dict[str, int] = {}
    positions, missing = array.array("q"), []
    for image_id, label, truth in read_columns(table, [id_column, label_column, truth_column]):
        row = row_of.get(image_id)
        if reason := _reason(image_id, label, row, labels):
            positions.append(_code(reason))
            if reason == NO_EMBEDDING:
                missing.append(image_id)
            continue
        positions.append(row)
        labels[row] = numbers.setdefault(label, len(numbers))
        if truth:
            moved[row] = truth != label
    if len(numbers) < 2:
        reason = f"; no embedding for {few(missing)}" if missing else ""
        raise ValueError(
            f"expected images of at least two classes in {table} that have an embedding. "
            f"Received: {len(numbers)}{reason}"
        )
    return Labelled(
        np.array(positions, np.int64), labels, tuple(numbers), moved, row_of, tuple(missing)
    )


def check_vectors(embeddings: Embeddings) -> None:
    """Raises ValueError, with the ids, unless all vectors are finite and have the norm 1."""
    for first in range(0, len(embeddings.ids), _BLOCK):
        norms = np.linalg.norm(embeddings.vectors[first : first + _BLOCK], axis=1)
        wrong = np.flatnonzero(~(np.abs(norms - 1) <= _NORM_TOLERANCE))
        if wrong.size:
            ids = [embeddings.ids[first + row] for row in wrong.tolist()]
            raise ValueError(
                "expected L2-normalised vectors without NaN. Received: norm "
                f"{norms[wrong[0]]:.4g} for {few(ids)}"
            )


def _reason(image_id: str, label: str, row: int | None, labels: np.ndarray) -> str:
    if not image_id:
        return tables.NO_ID
    if row is None:
        return NO_EMBEDDING
    if not label:
        return tables.NO_LABEL
    return tables.DUPLICATE_ID if labels[row] != NO_LABEL else ""


def _code(reason: str) -> int:
    return -1 - REASONS.index(reason)
