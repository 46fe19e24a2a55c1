"""Where rows come from: `[NAME=]KIND:PLACE`, several of them merged.

    table:train.csv            CSV, Parquet or JSON-lines with named columns
    folder:photos              a tree with one folder per class
    gldv2:DIR[:index|:test]    Google Landmarks v2, as download.py leaves it; its train part alone
    tfds:cars196[:SPLIT]       a set of TensorFlow Datasets
    shards:DIR[:SPLIT]         TFRecords: ours, DELF's, TFDS' or the GLR2020 winner's

NAME puts "NAME:" before the ids and the labels of one source, so that those of two do not mix.
"""

import dataclasses
import re
from collections.abc import Iterable

from tfrecords_tools.readers import catalog_sets, foreign, gldv2, tables
from tfrecords_tools.readers.tables import Reject, Row, Rows

KINDS = ("table", "folder", "gldv2", "tfds", "shards")

_SPECIFICATION = re.compile(rf"(?:([\w.-]+)=)?({'|'.join(KINDS)}):(.+)")
# A split of TFDS may be train[:10%]+test; what follows "name:" may be a version or "//".
_PART = re.compile(r"(.+):([a-z_]\w*(?:\[[^\]]*\])?(?:\+.+)?)")


def check(specification: str) -> None:
    """Raises ValueError unless the text has the form `[NAME=]KIND:PLACE`."""
    if not _SPECIFICATION.fullmatch(specification):
        raise ValueError(
            f"expected a source of the form [NAME=]KIND:PLACE, with KIND one of {KINDS}. "
            f"Received: {specification!r}"
        )


def folders(specifications: Iterable[str]) -> list[str]:
    """Returns the trees among the sources, in which every file is taken for an image."""
    parts = (_SPECIFICATION.fullmatch(text).groups() for text in specifications)
    return [place for _, kind, place in parts if kind == "folder"]


def read_source(specification: str, *, needs_label: bool, **columns: str | None) -> Rows:
    """Yields the rows of one source.

    Args:
        specification: see above.
        needs_label: whether a row without label is rejected.
        **columns: `images` and the names of columns, see `tables.read_table`; a
            TFDS set takes its features for columns.
    """
    check(specification)
    name, kind, place = _SPECIFICATION.fullmatch(specification).groups()
    if kind == "table":
        rows = tables.read_table(place, needs_label=needs_label, **columns)
    elif kind == "folder":
        rows = tables.read_folder(place, needs_label=needs_label)
    else:
        rows = map(tables.checked, _read_set(kind, place, **columns))
    for row in rows:
        yield _finished(row, name, needs_label)


def _read_set(
    kind: str, place: str, *, id_column: str, label_column: str | None, **_: str | None
) -> Rows:
    match = _PART.fullmatch(place)
    place, part = match.groups() if match else (place, None)
    if kind == "shards":
        return foreign.rows(place, split=part)
    if kind == "gldv2":
        return gldv2.rows(place, part or "train")
    id_feature = None if id_column == tables.ID_COLUMN else id_column
    return catalog_sets.rows(place, part, label=label_column, id_feature=id_feature)


def _finished(row: Row | Reject, name: str | None, needs_label: bool) -> Row | Reject:
    if needs_label and isinstance(row, Row) and not row.label:
        row = Reject(row.id, row.path, tables.NO_LABEL)
    if name is None:
        return row
    row = dataclasses.replace(row, id=f"{name}:{row.id}")
    if isinstance(row, Row) and row.label:
        row = dataclasses.replace(row, label=f"{name}:{row.label}")
    return row
