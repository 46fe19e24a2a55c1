"""The options of a conversion: everything on which the contents of the shards depend."""

import dataclasses
import os
from typing import Any

from input_pipeline import schema
from tfrecords_tools import tables
from tfrecords_tools.split import ONE_OF_FOUR, TRAIN_SPLITS, VALIDATION_RULES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `write`; either `table` or `folder` is needed.

    Attributes:
        table: path of a CSV table with a header line.
        folder: a tree with one folder per class.
        images: folder that the table's paths start from. Default: the table's own folder.
        id_column: the table's column of ids.
        label_column: the table's column of labels. Default: `label`.
        path_column: the table's column of paths.
        clean_column: the table's column of 1 and 0. Default: `is_clean`, if there is one.
        split: the one split that takes all rows, with or without label, as an index or a query set
            needs it. Default: the splits train_clean, train_noisy and validation.
        max_side: the longer side, in pixels, to which larger images are shrunk. Default: none is.
        quality: JPEG quality of shrunk images.
        images_per_shard: the largest number of images in a shard.
        seed: of the shuffle and of the choice of validation images.
        validation: "one-of-four" (one image of every class with at least 4 clean images) or "none".

    Raises ValueError for a value out of range.
    """

    table: str | None = None
    folder: str | None = None
    images: str | None = None
    id_column: str = "id"
    label_column: str | None = None
    path_column: str = "path"
    clean_column: str | None = None
    split: str | None = None
    max_side: int | None = None
    quality: int = 92
    images_per_shard: int = 1000
    seed: int = 0
    validation: str = ONE_OF_FOUR

    def __post_init__(self) -> None:
        if (self.table is None) == (self.folder is None):
            raise ValueError(
                f"expected either a table or a folder. Received: table={self.table!r}, "
                f"folder={self.folder!r}"
            )
        if self.folder is not None and self.images is not None:
            raise ValueError(f"images belongs to a table. Received: images={self.images!r}")
        if self.split is not None:
            schema.check_split_name(self.split)
        if self.split in TRAIN_SPLITS:
            raise ValueError(
                f"expected a split other than {TRAIN_SPLITS}, which are made without this option. "
                f"Received: {self.split!r}"
            )
        if self.validation not in VALIDATION_RULES:
            raise ValueError(
                f"expected validation in {VALIDATION_RULES}. Received: {self.validation!r}"
            )
        if not 1 <= self.quality <= 100:
            raise ValueError(f"expected a quality from 1 to 100. Received: {self.quality}")
        for name in ("max_side", "images_per_shard"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"expected {name} >= 1. Received: {value}")

    def read(self) -> tables.Table:
        """Reads the table or the tree, its rows in the order of their ids."""
        needs_label = self.split is None
        if self.folder is not None:
            table = tables.read_folder(self.folder, needs_label=needs_label)
        else:
            table = tables.read_table(
                self.table,
                images=self.images,
                id_column=self.id_column,
                label_column=self.label_column,
                path_column=self.path_column,
                clean_column=self.clean_column,
                needs_label=needs_label,
            )
        rows = sorted(table.rows, key=lambda row: row.id)
        return dataclasses.replace(table, rows=rows)

    def as_dict(self) -> dict[str, Any]:
        """Returns the options for the manifest and for the digest of the request."""
        return {
            name: os.fspath(value) if isinstance(value, os.PathLike) else value
            for name, value in dataclasses.asdict(self).items()
        }
