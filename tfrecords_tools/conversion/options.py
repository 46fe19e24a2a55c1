"""The options of a conversion: everything on which the contents of the shards depend."""

import dataclasses
from typing import Any

from input_pipeline import schema
from tfrecords_tools.conversion.split import ONE_OF_FOUR, TRAIN_SPLITS, VALIDATION_RULES
from tfrecords_tools.readers import sources
from tfrecords_tools.readers.tables import Rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `write`.

    Attributes:
        sources: where the rows come from, such as "table:train.csv"; see `sources`.
        images: folder that a table's paths start from. Default: the table's own folder.
        id_column: a table's column of ids.
        label_column: a table's column of labels. Default: `label`.
        path_column: a table's column of paths.
        clean_column: a table's column of 1 and 0. Default: `is_clean`, if there is one.
        split: the one split that takes all rows, with or without label, as an index or a query set
            needs it. Default: the splits train_clean, train_noisy and validation.
        decode: every image is decoded once before the work begins. Default: head and end of plain
            JPEG files are looked at, which finds what was cut off, and others are decoded.
        max_side: the longer side, in pixels, to which larger images are shrunk. Default: none is.
        quality: JPEG quality of shrunk images.
        images_per_shard: the largest number of images in a shard.
        seed: of the shuffle and of the choice of validation images.
        validation: "one-of-four" (one image of every class with at least 4 clean images) or "none".

    Raises ValueError for a value out of range.
    """

    sources: tuple[str, ...]
    images: str | None = None
    id_column: str = "id"
    label_column: str | None = None
    path_column: str = "path"
    clean_column: str | None = None
    split: str | None = None
    decode: bool = False
    max_side: int | None = None
    quality: int = 92
    images_per_shard: int = 1000
    seed: int = 0
    validation: str = ONE_OF_FOUR

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", tuple(self.sources))
        if not self.sources:
            raise ValueError("expected a table, a folder or another source. Received: none")
        for source in self.sources:
            sources.check(source)
        if self.images is not None and not any("table:" in source for source in self.sources):
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

    def rows(self) -> Rows:
        """Yields the rows of all sources, one source after the other."""
        for source in self.sources:
            yield from sources.read_source(
                source,
                needs_label=self.split is None,
                images=self.images,
                id_column=self.id_column,
                label_column=self.label_column,
                path_column=self.path_column,
                clean_column=self.clean_column,
            )

    def as_dict(self) -> dict[str, Any]:
        """Returns the options as JSON values, for the manifest and the digest of the request."""
        return {**dataclasses.asdict(self), "sources": list(self.sources)}
