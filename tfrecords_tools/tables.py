"""Reads which images there are: from a CSV table or from a tree with one folder per class.

Both give the usable rows and the rejected ones with a reason; neither opens an image. Ids are
never used as paths, and a table cannot point outside the folders the user named.
"""

import csv
import dataclasses
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator

import tensorflow as tf

NO_ID = "no id"
NO_LABEL = "no label"
NO_PATH = "no path"
DUPLICATE_ID = "duplicate id"
WHITE_SPACE = "white space in the id"
BAD_CLEAN = "is_clean is neither 0 nor 1"
OUTSIDE = "path outside the images folder"

_LABEL_COLUMN = "label"
_CLEAN_COLUMN = "is_clean"
_CLEAN = {"1": True, "true": True, "0": False, "false": False}


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One image: its id, its label as text ("" for none), where it lies, whether it is clean."""

    id: str
    label: str
    path: str  # relative to Table.images, or absolute
    is_clean: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Reject:
    """One row that is left out, and why."""

    id: str
    path: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Table:
    """The rows of a table or a tree; `images` is the folder their paths start from."""

    images: str
    rows: list[Row]
    rejects: list[Reject]


def read_table(
    table: str,
    *,
    images: str | None = None,
    id_column: str = "id",
    label_column: str | None = None,
    path_column: str = "path",
    clean_column: str | None = None,
    needs_label: bool = True,
) -> Table:
    """Reads a CSV table with a header line, UTF-8.

    Args:
        table: path of the CSV file.
        images: folder that the paths start from. Default: the table's own folder.
        id_column: name of the column of ids; the first good row of an id counts.
        label_column: name of the column of labels, any text. Default: `label`, which may be absent
            if no label is needed.
        path_column: name of the column of paths.
        clean_column: name of the column of 1 and 0. Default: `is_clean` if there is one,
            otherwise all images are clean.
        needs_label: whether a row without label is rejected.

    Raises FileNotFoundError without the table, ValueError if a column is missing or the file is
    not CSV in UTF-8.
    """
    folder = os.path.dirname(_absolute(table))
    images = folder if images is None else _absolute(images)
    lines = _read_lines(table)
    header = next(lines, [])
    if label_column is None and (needs_label or _LABEL_COLUMN in header):
        label_column = _LABEL_COLUMN
    if clean_column is None and _CLEAN_COLUMN in header:
        clean_column = _CLEAN_COLUMN
    positions = _find_columns(header, [id_column, label_column, path_column, clean_column], table)
    rows = (
        [_cell(line, position) for position in positions]
        for line in lines
        if any(map(str.strip, line))
    )
    return _sort_out(rows, images=images, folders=(images, folder), needs_label=needs_label)


def read_folder(folder: str, *, needs_label: bool = True) -> Table:
    """Reads a tree with one folder per class: the label is the first folder below `folder`.

    The id is the file's name without its extension; files that share it have their relative path
    as id. White space in an id becomes "_". Names that start with "." are skipped.
    Raises FileNotFoundError if there is no such folder.
    """
    if not tf.io.gfile.isdir(folder):
        raise FileNotFoundError(f"expected a folder with one folder per class. Received: {folder}")
    folder = _absolute(folder)
    paths = sorted(_walk(folder))
    stems = [_without_space(os.path.splitext(os.path.basename(path))[0]) for path in paths]
    repeats = Counter(stems)
    rows = (
        [
            stem if repeats[stem] == 1 else _without_space(path),
            path.split("/")[0] if "/" in path else "",
            path,
            "",
        ]
        for path, stem in zip(paths, stems, strict=True)
    )
    return _sort_out(rows, images=folder, folders=(folder,), needs_label=needs_label)


def locate(folder: str, path: str) -> str:
    """Returns the absolute form of `path` as seen from `folder`, with no ".." left in it."""
    full = path if path.startswith("/") or "://" in path else f"{folder}/{path}"
    scheme, separator, rest = full.rpartition("://")
    return scheme + separator + os.path.normpath(rest)


def _absolute(path: str) -> str:
    path = os.fspath(path)
    return path.rstrip("/") if "://" in path else os.path.abspath(path)


def _is_inside(path: str, folders: Iterable[str]) -> bool:
    return any(path.startswith(folder.rstrip("/") + "/") for folder in folders)


def _sort_out(
    rows: Iterable[list[str]], *, images: str, folders: Iterable[str], needs_label: bool
) -> Table:
    """Separates the good rows from the bad ones; a row is [id, label, path, is_clean]."""
    good, rejects, seen = [], [], set()
    for image_id, label, path, clean in rows:
        reason = _reason(image_id, path, clean, seen)
        if not reason and needs_label and not label:
            reason = NO_LABEL
        if not reason and not _is_inside(locate(images, path), folders):
            reason = OUTSIDE
        if reason:
            rejects.append(Reject(image_id, path, reason))
        else:
            good.append(Row(image_id, label, path, _CLEAN.get(clean.lower(), True)))
            seen.add(image_id)
    return Table(images, good, rejects)


def _reason(image_id: str, path: str, clean: str, seen: set[str]) -> str:
    if not image_id:
        return NO_ID
    if image_id in seen:
        return DUPLICATE_ID
    # GLDv2's prediction and solution files separate ids by spaces; ids.txt has one per line.
    if len(image_id.split()) != 1:
        return WHITE_SPACE
    if not path or "\0" in path:
        return NO_PATH
    if clean and clean.lower() not in _CLEAN:
        return BAD_CLEAN
    return ""


def _read_lines(table: str) -> Iterator[list[str]]:
    if not tf.io.gfile.exists(table):
        raise FileNotFoundError(f"expected a CSV table. Received: {table}, which does not exist")
    with tf.io.gfile.GFile(table, "rb") as file:
        data = file.read()
    reader = csv.reader(io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline=""))
    try:
        yield from reader
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(
            f"{table}, after line {reader.line_num}: expected CSV in UTF-8. Received: {error}"
        ) from error


def _find_columns(header: list[str], columns: list[str | None], table: str) -> list[int | None]:
    missing = [name for name in columns if name is not None and name not in header]
    if missing:
        raise ValueError(f"{table}: expected the columns {missing}. Received: {header}")
    return [None if name is None else header.index(name) for name in columns]


def _cell(line: list[str], position: int | None) -> str:
    return "" if position is None or position >= len(line) else line[position].strip()


def _walk(folder: str) -> Iterator[str]:
    """Yields the relative path of every file that is not hidden, nor in a hidden folder."""
    for parent, _, names in tf.io.gfile.walk(folder):
        relative = parent[len(folder) :].strip("/")
        for name in names:
            path = f"{relative}/{name}" if relative else name
            if not any(part.startswith(".") for part in path.split("/")):
                yield path


def _without_space(text: str) -> str:
    return re.sub(r"\s+", "_", text)
