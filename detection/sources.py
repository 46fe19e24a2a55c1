"""Images to detect in, and the names that their crops get: of tables, of a folder, of videos."""

import dataclasses
import hashlib
import os
import re
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

import columns
import files
from detection import videos
from export.images import Folder, Tables
from input_pipeline import ops, schema

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
_DIGITS = 12  # of the digest that keeps apart what a changed name would not


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image, or why there is none.

    Attributes:
        source: id of the image, or name of the video.
        frame: index in the video; None for an image.
        name: safe as the beginning of a file's name; no other picture has it.
        kept: cells of the columns that are kept.
        pixels: uint8 RGB `(H, W, 3)`; None if it cannot be read.
        reason: why not.
    """

    source: str
    frame: int | None
    name: str
    kept: tuple[str, ...] = ()
    pixels: np.ndarray | None = None
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class TablePictures:
    """The images of tables with the columns id and path, see `export.images.Tables`."""

    paths: Sequence[str]
    kept: Sequence[str] = ()

    def count(self) -> int:
        """Checks ids and paths; returns the number of images. Raises ValueError as `Tables`."""
        return Tables(self.paths).survey().images

    def __iter__(self) -> Iterator[Picture]:
        cells = (row for path in self.paths for row in columns.read_columns(path, self.kept))
        for (image_id, path), kept in zip(
            Tables(self.paths).rows(), cells if self.kept else _nothing(), strict=bool(self.kept)
        ):
            yield _read(image_id, path, kept)


@dataclasses.dataclass(frozen=True)
class FolderPictures:
    """The JPEG and PNG files below a folder, see `export.images.Folder`."""

    folder: str
    kept: tuple[str, ...] = ()

    def count(self) -> int:
        """Returns the number of images."""
        return Folder(self.folder).survey().images

    def __iter__(self) -> Iterator[Picture]:
        for image_id, path in Folder(self.folder).rows():
            yield _read(image_id, path, ())


@dataclasses.dataclass(frozen=True)
class VideoPictures:
    """Frames of videos by index; a video's name is that of its file without the ending."""

    paths: Sequence[str]
    frames: range
    kept: tuple[str, ...] = ()

    def count(self) -> int:
        """Returns the number of frames asked for; ValueError if two videos have one name."""
        names = [_stem(path) for path in self.paths]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"expected videos of different names. Received: {repeated}")
        missing = [path for path in self.paths if not files.exists(path)]
        if missing:
            raise FileNotFoundError(f"expected videos. Received: {missing}, which do not exist")
        return len(self.paths) * len(self.frames)

    def __iter__(self) -> Iterator[Picture]:
        for path in self.paths:
            source, seen = _stem(path), set()
            reason = "frame: the video ends before or it does not decode"
            try:
                for index, pixels in videos.read_frames(path, self.frames):
                    seen.add(index)
                    yield Picture(source, index, _frame_name(source, index), pixels=pixels)
            except ValueError as error:
                reason = str(error)
            for index in self.frames:
                if index not in seen:
                    yield Picture(source, index, _frame_name(source, index), reason=reason)


Pictures = TablePictures | FolderPictures | VideoPictures


def safe_name(text: str) -> str:
    """Returns a name for a file that no other text has: the text itself where that is safe.

    >>> safe_name("0a1b"), safe_name("a/b")
    ('0a1b', 'a-b-c14cddc033f6')
    """
    if _SAFE.fullmatch(text) and not text.endswith("."):
        return text
    digest = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:_DIGITS]
    return f"{_UNSAFE.sub('-', text)[:60].strip('-') or 'image'}-{digest}"


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def _frame_name(source: str, index: int) -> str:
    return f"{safe_name(source)}-f{index:06d}"


def _nothing() -> Iterator[tuple[str, ...]]:
    while True:
        yield ()


def _read(image_id: str, path: str, kept: tuple[str, ...]) -> Picture:
    picture = Picture(image_id, None, safe_name(image_id), tuple(kept))
    try:
        if (size := files.size_of(path)) > schema.MAX_BYTES:
            raise ValueError(f"expected at most {schema.MAX_BYTES} bytes. Received: {size}")
        pixels = ops.decode_image(tf.constant(files.read(path))).numpy()
    except (OSError, ValueError, tf.errors.OpError) as error:
        text = getattr(error, "strerror", None) or "not an image"
        return dataclasses.replace(picture, reason=text)
    return dataclasses.replace(picture, pixels=pixels)
