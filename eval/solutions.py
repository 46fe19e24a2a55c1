"""Readers of ground truth, predictions and label tables in the GLDv2 formats (CSV, UTF-8).

What does not fit is an error that names file and line.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterator

from eval.recognition import Prediction
from retrieval import recognise

# A landmark photographed some thousand times fills more than csv's 131,072 characters.
_LONGEST_FIELD = 2**26

_Row = tuple[int, str, str, str]  # line, key, value, the optional column


def read_retrieval_solution(path: str) -> dict[str, frozenset[str]]:
    """Reads `id,images[,Usage]`: the relevant index images of every query.

    `images` holds ids separated by spaces; `None`, an empty field or the Usage `Ignored` mean a
    query that no metric counts, with an empty set here.

    Raises:
        ValueError: if a column is missing or a query repeated.
    """
    solution = {}
    for _, query, images, usage in _rows(path, ("id", "images"), optional="Usage"):
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
        for _, query, labels, usage in _rows(path, ("id", "landmarks"), optional="Usage")
    }


def read_retrieval_predictions(
    path: str,
    *,
    queries: Collection[str] | None = None,
    images: Collection[str] | None = None,
) -> dict[str, list[str]]:
    """Reads `id,images`: index ids separated by spaces, best first.

    Args:
        path: of the table.
        queries: the ids that are known; others are an error. None knows all.
        images: the same for the index ids.

    Raises:
        ValueError: if a column is missing, a query repeated or an id not known.
    """
    predictions, lines = {}, {}
    for line, query, answer, _ in _rows(path, ("id", "images")):
        predictions[query] = answer.split()
        lines[query] = line
    _check_known(path, lines, queries, "queries of the solution")
    if images is not None:
        unknown = {
            image: lines[query]
            for query, answer in predictions.items()
            for image in answer
            if image not in images
        }
        _check_known(path, unknown, (), "images of the index")
    return predictions


def read_recognition_predictions(
    path: str, *, queries: Collection[str] | None = None
) -> dict[str, Prediction]:
    """Reads `id,landmarks`: one "label score" per query; an empty field is no prediction.

    Args:
        path: of the table.
        queries: the ids that are known; others are an error. None knows all.

    Raises:
        ValueError: if a column is missing, a query repeated or not known, or a field something
            else.
    """
    predictions, lines = {}, {}
    for line, query, answer, _ in _rows(path, ("id", "landmarks")):
        lines[query] = line
        if not answer.strip():
            continue
        try:
            label, score = answer.split()
            predictions[query] = Prediction(label, float(score))
        except ValueError:
            predictions[query] = Prediction("", math.nan)
        if not math.isfinite(predictions[query].score):
            raise ValueError(
                f'expected one "label score" with a finite score per query in line {line} of '
                f"{path}. Received: {answer!r} for {query!r}"
            )
    _check_known(path, lines, queries, "queries of the solution")
    return predictions


def read_labels(path: str, *, id_column: str = "id", label_column: str = "label") -> dict[str, str]:
    """Reads the label of every image from a table with at least these two columns.

    Raises:
        ValueError: if a column is missing, an image repeated or a label empty or with white space.
    """
    labels = {}
    for line, image, label, _ in _rows(path, (id_column, label_column)):
        if label.split() != [label]:
            raise ValueError(
                f"expected one label per image, without white space, in line {line} of {path}. "
                f"Received: {label!r} for {image!r}"
            )
        labels[image] = label
    return labels


def read_ids(path: str) -> frozenset[str]:
    """Reads the column `id` of a table such as GLDv2's index.csv.

    Raises:
        ValueError: if the column is missing or an id repeated.
    """
    return frozenset(key for _, key, _, _ in _rows(path, ("id", "id")))


def read_usages(path: str) -> dict[str, str]:
    """Reads the column `Usage` of a solution, such as Public, by query; {} if there is none.

    Raises:
        ValueError: if the column `id` is missing or a query repeated.
    """
    if "Usage" not in column_names(path):
        return {}
    return {query: usage for _, query, usage, _ in _rows(path, ("id", "Usage"))}


def column_names(path: str) -> list[str]:
    """Returns the names of the columns of a table, [] if it is empty."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        return next(csv.reader(file), [])


def write_recognition_predictions(path: str, predictions: dict[str, Prediction]) -> None:
    """Writes the submission file `id,landmarks` with one "label score" per query.

    Scores are written so that they are read back the same.
    """
    rows = ((query, label, score) for query, (label, score) in predictions.items())
    recognise.write_predictions(path, rows)


def _rows(path: str, columns: tuple[str, str], optional: str | None = None) -> Iterator[_Row]:
    """Yields line, key, value and the optional column ("" if the table lacks it) of every row."""
    earlier_limit = csv.field_size_limit(_LONGEST_FIELD)
    table = None
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            table = csv.reader(file, strict=True)
            header = next(table, [])
            key, value, extra = _positions(path, header, columns, optional)
            seen: set[str] = set()
            for row in filter(None, table):
                if len(row) != len(header) or not row[key] or row[key] in seen:
                    _refuse(path, table.line_num, row, header, key)
                seen.add(row[key])
                yield table.line_num, row[key], row[value], "" if extra is None else row[extra]
            if not seen:
                raise ValueError(f"expected at least one row in {path}. Received: a header alone")
    except (csv.Error, UnicodeDecodeError) as error:
        line = table.line_num if table else 0
        raise ValueError(
            f"expected CSV in UTF-8 after line {line} of {path}. Received: {error}"
        ) from None
    finally:
        csv.field_size_limit(earlier_limit)


def _positions(
    path: str, header: list[str], columns: tuple[str, str], optional: str | None
) -> tuple[int, int, int | None]:
    """Returns where the columns are; the optional one may be missing."""
    if any(column not in header for column in columns):
        raise ValueError(
            f"expected the columns {', '.join(columns)} in {path}. "
            f"Received: {', '.join(header)[:200] or 'nothing'}"
        )
    for column in (*columns, optional):
        if header.count(column) > 1:
            raise ValueError(
                f"expected one column {column!r} in {path}. Received: {header.count(column)}"
            )
    key, value = map(header.index, columns)
    return key, value, header.index(optional) if optional in header else None


def _check_known(
    path: str, lines: dict[str, int], known: Collection[str] | None, what: str
) -> None:
    """Raises ValueError for ids, whose lines are given, that are not among the known ones."""
    if known is None:
        return
    unknown = [name for name in lines if name not in known]
    if unknown:
        raise ValueError(
            f"expected {what} in {path}. Received: {len(unknown):,} others, first {unknown[0]!r} "
            f"in line {lines[unknown[0]]}"
        )


def _refuse(path: str, line: int, row: list[str], header: list[str], key: int) -> None:
    """Raises the ValueError that says what is wrong with a row."""
    where = f"in line {line} of {path}"
    if len(row) != len(header):
        raise ValueError(f"expected {len(header)} fields {where}. Received: {len(row)}")
    name = repr(header[key])
    what = f"a value of {name} that no earlier row has" if row[key] else f"a value of {name}"
    raise ValueError(f"expected {what} {where}. Received: {row[key]!r}")
