"""The embeddings directory: written in pieces, read as a memory map.

A directory holds `embeddings.npy` (N, D) with L2-normalised rows in float32, float16, bfloat16 (the
bits as uint16) or int8 (with `scales.npy`), `ids.txt` (UTF-8, one id per line, in the order of the
rows) and `manifest.json`. The manifest is written last and removed first: a directory with a
manifest is complete.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator
from typing import IO

import numpy as np

import files
from retrieval.stored import directory as layout
from retrieval.stored import precision
from retrieval.stored.directory import (
    FORMAT,
    IDS_NAME,
    MANIFEST_NAME,
    SCALES_NAME,
    VECTORS_NAME,
    VERSION,
)
from retrieval.stored.unique_ids import check_unique, few
from retrieval.stored.writer import NORM_TOLERANCE, EmbeddingsWriter

__all__ = [
    "FORMAT",
    "IDS_NAME",
    "MANIFEST_NAME",
    "NORM_TOLERANCE",
    "SCALES_NAME",
    "VECTORS_NAME",
    "VERSION",
    "Embeddings",
    "EmbeddingsWriter",
    "atomic_file",
    "few",
    "load",
    "open_rows",
    "read_ids",
    "write_json",
]


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """An embeddings directory, opened.

    Attributes:
        ids: N image ids, unique, in the order of the rows.
        vectors: (N, D), rows L2-normalised: a read-only memory map of float32, or for the other
            dtypes a `precision.StoredRows`, which gives float32 rows when they are read.
        manifest: what `manifest.json` says.
    """

    ids: tuple[str, ...]
    vectors: np.ndarray | precision.StoredRows
    manifest: dict

    @property
    def rows(self) -> precision.StoredRows:
        """The rows as they are stored, of every dtype."""
        if isinstance(self.vectors, precision.StoredRows):
            return self.vectors
        return precision.StoredRows(self.vectors, "float32")


def load(directory: str) -> Embeddings:
    """Opens an embeddings directory; the vectors stay on the disk.

    Raises:
        FileNotFoundError: if the directory is missing or was not finished.
        ValueError: if its parts do not fit each other or this version.
    """
    manifest = layout.read_manifest(directory)
    ids = read_ids(directory)
    rows = open_rows(directory, manifest)
    if len(ids) != len(rows):
        raise ValueError(f"expected {len(rows)} ids in {directory}. Received: {len(ids)} ids")
    check_unique(ids)
    vectors = rows.stored if rows.stored_dtype == "float32" else rows
    return Embeddings(ids, vectors, manifest)


def read_ids(directory: str) -> tuple[str, ...]:
    """Reads the ids in the order of the rows, unchecked.

    Raises:
        OSError: if there are none.
        ValueError: if they are not UTF-8.
    """
    text = files.read(os.path.join(directory, IDS_NAME)).decode()
    return tuple(text.split("\n")[:-1])


def open_rows(directory: str, manifest: dict) -> precision.StoredRows:
    """Opens the rows of a directory as they are stored.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the files are not what the manifest says.
    """
    dtype = manifest.get("dtype")
    if dtype not in (precision.DTYPES if manifest["version"] > 1 else ("float32",)):
        raise ValueError(f"expected a dtype of this version in {directory}. Received: {dtype!r}")
    stored = _open_array(directory, VECTORS_NAME)
    scales = _open_array(directory, SCALES_NAME) if dtype == "int8" else None
    shape = (manifest["count"], manifest["dimension"])
    if stored.shape != shape or stored.dtype != np.dtype(precision.STORED[dtype]):
        raise ValueError(
            f"expected {precision.STORED[dtype]} {shape} for {dtype} in {directory}. "
            f"Received: {stored.dtype.str} {stored.shape}"
        )
    return precision.StoredRows(stored, dtype, scales)


def _open_array(directory: str, name: str) -> np.ndarray:
    path = os.path.join(directory, name)
    try:
        return np.load(path, mmap_mode="r" if name == VECTORS_NAME else None, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"expected a whole .npy file. Received: {path}, {error}") from error


@contextlib.contextmanager
def atomic_file(path: pathlib.Path) -> Iterator[IO[bytes]]:
    """Opens a binary file that gets its name only when the block ends without an error.

    Args:
        path: the final name; the temporary one is beside it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, value: dict) -> None:
    """Writes a JSON file, whole or not at all; the folder is made if missing."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())
