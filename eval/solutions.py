"""Readers of ground truth, predictions and label tables in the GLDv2 formats (CSV, UTF-8)."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from eval import metrics

# A landmark photographed some thousand times fills more than csv's 131,072 characters.
_LONGEST_FIELD = 2**26


def read_retrieval_solution(path: str) -> dict[str, frozenset[str]]:
    """Reads `id,images[,Usage]`: the relevant index images of every query.

    `images` holds ids separated by spaces; `None`, an empty field or the Usage `Ignored` mean a
    query that no metric counts, with an empty set here.

    Raises:
        ValueError: if a column is missing or a query repeated.
    """
    solution = {}
    for query, images, usage in _rows(path, ("id", "images"), optional="Usage"):
        ignored = usage == "Ignored" or images.strip() == "None"
        solution[query] = frozenset() if ignored else frozenset(images.split())
    return solution


def read_recognition_solution(path: str) -> dict[str, frozenset[str]]:
    """Reads `id,landmarks[,Usage]`: the right labels of every query, none for a distractor.

    `landmarks` holds labels separated by spaces, or nothing; the Usage `Ignored` means nothing.

    Raises:
        ValueError: if a column is missing or a query repeated.
    """
    return {
        query: frozenset() if usage == "Ignored" else frozenset(labels.split())
        for query, labels, usage in _rows(path, ("id", "landmarks"), optional="Usage")
    }


def read_retrieval_predictions(path: str) -> dict[str, list[str]]:
    """Reads `id,images`: index ids separated by spaces, best first.

    Raises:
        ValueError: if a column is missing or a query repeated.
    """
    return {query: images.split() for query, images, _ in _rows(path, ("id", "images"))}


def read_recognition_predictions(path: str) -> dict[str, metrics.Prediction]:
    """Reads `id,landmarks`: one "label score" per query; an empty field is no prediction.

    Raises:
        ValueError: if a column is missing, a query repeated or a field something else.
    """
    predictions = {}
    for query, answer, _ in _rows(path, ("id", "landmarks")):
        if not answer.strip():
            continue
        try:
            label, score = answer.split()
            predictions[query] = metrics.Prediction(label, float(score))
        except ValueError:
            raise ValueError(
                f'expected one "label score" per query in {path}. Received: {answer!r} for '
                f"{query!r}"
            ) from None
    return predictions


def read_labels(path: str, *, id_column: str = "id", label_column: str = "label") -> dict[str, str]:
    """Reads the label of every image from a table with at least these two columns.

    Raises:
        ValueError: if a column is missing, an image repeated or a label empty or with white space.
    """
    labels = {image: label for image, label, _ in _rows(path, (id_column, label_column))}
    for image, label in labels.items():
        if label.split() != [label]:
            raise ValueError(
                f"expected one label per image, without white space, in {path}. "
                f"Received: {label!r} for {image!r}"
            )
    return labels


def _rows(
    path: str, columns: tuple[str, str], optional: str | None = None
) -> Iterator[tuple[str, str, str]]:
    """Yields the key, the value and the optional column ("" if the table lacks it) of every row."""
    earlier_limit = csv.field_size_limit(_LONGEST_FIELD)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            table = csv.reader(file)
            header = next(table, [])
            missing = [column for column in columns if column not in header]
            if missing:
                raise ValueError(
                    f"expected the columns {', '.join(columns)} in {path}. "
                    f"Received: {', '.join(header)}"
                )
            key, value = map(header.index, columns)
            extra = header.index(optional) if optional in header else None
            seen: set[str] = set()
            for row in filter(None, table):
                if len(row) != len(header) or not row[key] or row[key] in seen:
                    _refuse(path, table.line_num, row, header, key)
                seen.add(row[key])
                yield row[key], row[value], "" if extra is None else row[extra]
    finally:
        csv.field_size_limit(earlier_limit)


def _refuse(path: str, line: int, row: list[str], header: list[str], key: int) -> None:
    """Raises the ValueError that says what is wrong with a row."""
    where = f"in line {line} of {path}"
    if len(row) != len(header):
        raise ValueError(f"expected {len(header)} fields {where}. Received: {len(row)}")
    raise ValueError(f"expected a {header[key]} of its own {where}. Received: {row[key]!r}")
