"""The files that a page is made from."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from retrieval.search import PLAIN, Settings

_PATHS = (
    "index", "query", "solution", "predictions", "recognition_solution", "labels", "index_table",
    "query_tables", "reference", "reference_labels",
)  # fmt: skip
_OF_SETTINGS = ("steps", "reference", "reference_labels")


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What is searched, what is right, and what is known of the images.

    Attributes:
        index: embeddings directories, one per member of the ensemble, or an index built of them.
        query: embeddings directories of the queries, one per member.
        solution: path of the `retrieval_solution` table.
        weights: one per member; all 1 if absent.
        search: "auto", "exact" or "scann".
        settings: how embeddings become answers besides; see `retrieval.search`.
        predictions: path of a prediction file `id,images` that takes the place of the search.
        recognition_solution: path of the table with the right labels, for GAP.
        labels: path of the table with the index images' labels; by default `index_table`.
        id_column: the label table's column of image ids.
        label_column: the column of labels, of all tables.
        index_table: path of a table of the index's images: id and, if there are, label and path.
        query_tables: paths of the same for the queries.
    """

    index: Sequence[str]
    query: Sequence[str]
    solution: str
    weights: Sequence[float] | None = None
    search: str = "auto"
    settings: Settings = PLAIN
    predictions: str | None = None
    recognition_solution: str | None = None
    labels: str | None = None
    id_column: str = "id"
    label_column: str = "label"
    index_table: str | None = None
    query_tables: Sequence[str] = ()


def from_json(values: Mapping[str, Any], folder: str) -> Inputs:
    """Returns the inputs that a results file names, whose paths are relative to its folder.

    Args:
        values: by name; `steps`, `reference` and `reference_labels` in place of `settings`.
        folder: of the results file.

    Raises:
        ValueError: if a name is missing or not known.
    """
    fields = dataclasses.fields(Inputs)
    known = {field.name for field in fields} - {"settings"} | set(_OF_SETTINGS)
    needed = {field.name for field in fields if field.default is dataclasses.MISSING}
    if not needed <= values.keys() <= known:
        raise ValueError(
            f"expected inputs {', '.join(sorted(needed))} and any of {', '.join(sorted(known))}. "
            f"Received: {', '.join(values)}"
        )
    given = {
        name: _within(folder, value) if name in _PATHS else value for name, value in values.items()
    }
    settings = {name: given.pop(name) for name in _OF_SETTINGS if name in given}
    return Inputs(**given, settings=Settings(**settings))


def _within(folder: str, value: str | Sequence[str] | None) -> Any:
    if value is None:
        return None
    if isinstance(value, str):
        return os.path.join(folder, value)
    return [os.path.join(folder, path) for path in value]
