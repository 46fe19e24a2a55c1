"""Rows of images, and the readers of tables and of trees with one folder per class.

A reader yields the rows one by one, usable ones and rejected ones with a reason, and opens no
image. Ids are never used as paths, and a table cannot point outside the folders the user named.
"""

import collections
import dataclasses
import os
import re
from collections.abc import Iterable, Iterator

import files
from columns import column_names, read_columns

NO_ID = "no id"
NO_LABEL = "no label"
NO_PATH = "no path"
DUPLICATE_ID = "duplicate id"
WHITE_SPACE = "white space in the id"
BAD_CLEAN = "is_clean is neither 0 nor 1"
OUTSIDE = "path outside the images folder"
MISSING = "missing"
CONTROL = "control character in the id"
NOT_UNICODE = "text that is not Unicode"
TOO_LONG = "id, label or path too long"
NUL_IN_PATH = "NUL in the path"

ID_COLUMN = "id"  # the name a table's column of ids has, unless another is given
_LABEL_COLUMN = "label"
_CLEAN_COLUMN = "is_clean"
_LONGEST_TEXT = 4096  # characters; as long as paths may be
_CONTROL = re.compile(r"[\0-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_CLEAN = {"1": True, "true": True, "0": False, "false": False}


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One image and the place of its encoded bytes.

    Attributes:
        id: not empty, without white space.
        label: any text; "" for none.
        path: of the file that holds the image, absolute.
        is_clean: whether it belongs to the clean set.
        offset: the image's first byte in the file: of a member of a tar, of a record's field.
        size: its bytes; None is the whole file.
    """

    id: str
    label: str
    path: str
    is_clean: bool = True
    offset: int = 0
    size: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Reject:
    """One row that is left out, and why."""

    id: str
    path: str
    reason: str


Rows = Iterator[Row | Reject]


def read_table(
    table: str,
    *,
    images: str | None = None,
    id_column: str = ID_COLUMN,
    label_column: str | None = None,
    path_column: str = "path",
    clean_column: str | None = None,
    needs_label: bool = True,
) -> Rows:
    """Yields the rows of a table with named columns: CSV, Parquet or JSON-lines.

    Args:
        table: path of the file.
        images: folder that the paths start from. Default: the table's own folder.
        id_column: name of the column of ids.
        label_column: name of the column of labels, any text. Default: `label`, which may be absent
            if no label is needed.
        path_column: name of the column of paths.
        clean_column: name of the column of 1 and 0. Default: `is_clean` if there is one,
            otherwise all images are clean.
        needs_label: whether a row without label is rejected.

    Raises FileNotFoundError without the table, ValueError if a column is missing or the file is
    not what its name says.
    """
    folder = os.path.dirname(files.absolute(table))
    images = folder if images is None else files.absolute(images)
    names = column_names(table)
    if label_column is None and (needs_label or _LABEL_COLUMN in names):
        label_column = _LABEL_COLUMN
    if clean_column is None and _CLEAN_COLUMN in names:
        clean_column = _CLEAN_COLUMN
    columns = [id_column, label_column, path_column, clean_column]
    # JSON-lines give missing columns and empty cells alike as "".
    for cells in read_columns(table, columns):
        if any(cells):
            yield _check(*cells, images, (images, folder), needs_label)


def read_folder(folder: str, *, needs_label: bool = True) -> Rows:
    """Yields the files of a tree with one folder per class: the label is the first folder.

    The id is the file's path below `folder`, without its extension where no other file has that
    id, and with "_" for white space. Names that start with "." are skipped.
    Raises FileNotFoundError if there is no such folder.
    """
    if not files.is_folder(folder):
        raise FileNotFoundError(f"expected a folder with one folder per class. Received: {folder}")
    folder = files.absolute(folder)
    for parent, names in files.walk(folder):
        relative = parent[len(folder) :].strip("/")
        if any(part.startswith(".") for part in relative.split("/")):
            continue
        stems = [os.path.splitext(name)[0] for name in names]
        counts = collections.Counter(stems)
        for name, stem in zip(names, stems, strict=True):
            if name.startswith("."):
                continue
            path = f"{relative}/{name}" if relative else name
            unique = name if counts[stem] > 1 else stem
            image_id = f"{relative}/{unique}" if relative else unique
            label = path.split("/")[0] if "/" in path else ""
            image_id = re.sub(r"\s+", "_", image_id)
            yield _check(image_id, label, path, "", folder, (folder,), needs_label)


def locate(folder: str, path: str) -> str:
    """Returns the absolute form of `path` as seen from `folder`, with no ".." left in it."""
    is_absolute = path.startswith("/") or files.is_remote(path)
    return files.absolute(path if is_absolute else f"{folder}/{path}")


def _check(
    image_id: str,
    label: str,
    path: str,
    clean: str,
    images: str,
    folders: Iterable[str],
    needs_label: bool,
) -> Row | Reject:
    reason = _text_problem(image_id, label, path)
    if not reason and clean and clean.lower() not in _CLEAN:
        reason = BAD_CLEAN
    if not reason and needs_label and not label:
        reason = NO_LABEL
    if reason:
        return _reject(image_id, path, reason)
    full = locate(images, path)
    if not any(full.startswith(folder.rstrip("/") + "/") for folder in folders):
        return Reject(image_id, path, OUTSIDE)
    return Row(image_id, label, full, _CLEAN.get(clean.lower(), True))


def checked(row: Row | Reject) -> Row | Reject:
    """Returns a row of a foreign set, or its rejection for what no id, label or path may hold."""
    reason = _text_problem(row.id, row.label, row.path) if isinstance(row, Row) else row.reason
    return _reject(row.id, row.path, reason) if reason else row


def _text_problem(image_id: str, label: str, path: str) -> str:
    if not image_id:
        return NO_ID
    # GLDv2's prediction and solution files separate ids by spaces; ids.txt has one per line.
    if len(image_id.split()) != 1:
        return WHITE_SPACE
    if _CONTROL.search(image_id):
        return CONTROL
    if not path:
        return NO_PATH
    if "\0" in path:
        return NUL_IN_PATH
    if max(map(len, (image_id, label, path))) > _LONGEST_TEXT:
        return TOO_LONG
    return NOT_UNICODE if _SURROGATE.search(image_id + label + path) else ""


def _reject(image_id: str, path: str, reason: str) -> Reject:
    """Returns a rejection that can be stored: in UTF-8, and cut where a text is too long."""
    texts = (text[:_LONGEST_TEXT].encode(errors="replace").decode() for text in (image_id, path))
    return Reject(*texts, reason)
