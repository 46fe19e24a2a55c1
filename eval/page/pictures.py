"""Thumbnails of the page: from tables of paths, of bounded size, any of them may be missing."""

from __future__ import annotations

import base64
import dataclasses
import functools
import io
import math
import os
from collections.abc import Sequence

from PIL import Image, ImageOps

import columns
from progress import ordered_map

_QUALITIES = (78, 60, 40, 20)  # of JPEG, until it is small enough
_BYTES_PER_PIXEL = 0.35  # photographs need 0.2 at the first quality
_WORKERS = 4


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture of the page.

    Attributes:
        id: of the image.
        label: its class, "" if not known.
        data: base64 of a JPEG thumbnail, "" if the picture is missing or broken.
    """

    id: str
    label: str
    data: str


@dataclasses.dataclass(frozen=True)
class Sheet:
    """Many small pictures in one.

    Attributes:
        data: base64 of a JPEG, "" if there is none.
        cell: side of a picture in pixels.
        columns: pictures side by side.
        cells: for every image that was asked for the number of its cell, -1 if it has none.
    """

    data: str
    cell: int
    columns: int
    cells: tuple[int, ...]


class Album:
    """The images of some tables, found by id.

    Args:
        tables: paths of tables with the column id and, where there are any, label and path
            (relative to the table's folder). An id of several tables is that of the first.
        label_column: the name of the column of labels.

    Raises:
        FileNotFoundError: if there is no such table.
        ValueError: if one lacks the column of ids, or is no table.
    """

    def __init__(self, tables: Sequence[str], label_column: str = "label"):
        self._rows: dict[str, tuple[str, str, str]] = {}  # id → label, folder, path
        for table in tables:
            known = columns.column_names(table)
            names = ("id", *(name if name in known else None for name in (label_column, "path")))
            folder = os.path.dirname(os.path.abspath(table))
            for image, label, path in columns.read_columns(table, names):
                self._rows.setdefault(image, (label, folder, path))

    def __len__(self) -> int:
        return len(self._rows)

    def labels(self) -> dict[str, str]:
        """Returns the label of every image that has one."""
        return {image: label for image, (label, _, _) in self._rows.items() if label}

    def picture(self, image: str, side: int, label: str = "") -> Picture:
        """Returns the thumbnail of an image, or a picture without data if it cannot be shown."""
        small = self.thumbnail(image, side)
        return Picture(image, label, "" if small is None else _base64(small))

    def thumbnail(self, image: str, side: int) -> Image.Image | None:
        """Returns an RGB image that fits into side x side, None if there is none to make."""
        _, folder, path = self._rows.get(image, ("", "", ""))
        full = os.path.normpath(os.path.join(folder, path))
        if not path or not full.startswith(os.path.join(folder, "")):
            return None  # a table cannot make the page show files from elsewhere
        try:
            with Image.open(full) as opened:
                opened.draft("RGB", (side, side))
                small = ImageOps.exif_transpose(opened).convert("RGB")
                small.thumbnail((side, side), Image.Resampling.LANCZOS)
        except Exception:
            return None  # Pillow has many kinds of errors for broken files; any means the same
        return small


def sheet(images: Sequence[tuple[Album, str]], cell: int) -> Sheet:
    """Returns the thumbnails of images side by side, each the middle square of its picture."""
    square = functools.partial(_square, cell=cell)
    made = list(ordered_map(square, images, workers=_WORKERS))
    there = [number for number, small in enumerate(made) if small is not None]
    cells = dict(zip(there, range(len(there)), strict=True))
    numbers = tuple(cells.get(number, -1) for number in range(len(made)))
    if not there:
        return Sheet("", cell, 1, numbers)
    across = math.ceil(math.sqrt(len(there)))
    whole = Image.new("RGB", (across * cell, math.ceil(len(there) / across) * cell))
    for number in there:
        row, column = divmod(cells[number], across)
        whole.paste(made[number], (column * cell, row * cell))
    return Sheet(_base64(whole), cell, across, numbers)


def _square(image: tuple[Album, str], cell: int) -> Image.Image | None:
    album, name = image
    small = album.thumbnail(name, 2 * cell)
    return None if small is None else ImageOps.fit(small, (cell, cell), Image.Resampling.LANCZOS)


def _base64(image: Image.Image) -> str:
    """Returns base64 of a JPEG: of the best quality that keeps its size in bounds."""
    for quality in _QUALITIES:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= _BYTES_PER_PIXEL * image.width * image.height + 2000:
            break
    return base64.b64encode(buffer.getvalue()).decode("ascii")
