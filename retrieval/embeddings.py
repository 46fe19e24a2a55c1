"""The embeddings directory: written in pieces, read as a memory map, joined to ensembles.

A directory holds `embeddings.npy` (N, D) float32 with L2-normalised rows, `ids.txt` (UTF-8, one id
per line, in the order of the rows) and `manifest.json`. The manifest is written last and removed
first: a directory with a manifest is complete.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import IO

import numpy as np

import files
from retrieval.unique_ids import UniqueIds, check_unique, few

FORMAT = "waymark-embeddings"
VERSION = 1
VECTORS_NAME, IDS_NAME, MANIFEST_NAME = "embeddings.npy", "ids.txt", "manifest.json"
# bfloat16 arithmetic leaves norms within about 1 % of 1; more means that nothing normalised.
NORM_TOLERANCE = 0.02


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """An embeddings directory, opened.

    Attributes:
        ids: N image ids, unique, in the order of the rows.
        vectors: (N, D) float32, rows L2-normalised; a read-only memory map.
        manifest: what `manifest.json` says.
    """

    ids: tuple[str, ...]
    vectors: np.ndarray
    manifest: dict


def load(directory: str) -> Embeddings:
    """Opens an embeddings directory; the vectors stay on the disk.

    Raises:
        FileNotFoundError: if the directory is missing or was not finished.
        ValueError: if its parts do not fit each other or this version.
    """
    folder = pathlib.Path(directory)
    if not (folder / MANIFEST_NAME).is_file():
        raise FileNotFoundError(
            f"expected a finished embeddings directory with {MANIFEST_NAME}. Received: {directory}"
        )
    manifest = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
    expected = {"format": FORMAT, "version": VERSION, "dtype": "float32", "normalized": True}
    received = {key: manifest.get(key) for key in expected}
    if received != expected:
        raise ValueError(f"expected {expected} in {folder / MANIFEST_NAME}. Received: {received}")
    ids = tuple((folder / IDS_NAME).read_text(encoding="utf-8").split("\n")[:-1])
    vectors = np.load(folder / VECTORS_NAME, mmap_mode="r", allow_pickle=False)
    shape = (manifest["count"], manifest["dimension"])
    if vectors.shape != shape or vectors.dtype != np.float32 or len(ids) != shape[0]:
        raise ValueError(
            f"expected {shape[0]} ids and float32 {shape} in {directory}. "
            f"Received: {len(ids)} ids, {vectors.dtype} {vectors.shape}"
        )
    check_unique(ids)
    return Embeddings(ids, vectors, manifest)


class EmbeddingsWriter:
    """Writes an embeddings directory in pieces; memory is that of one piece and 8 bytes per id.

    Use it as a context manager. The files appear under their names when the block ends without an
    error; after an error the directory is as it was.

    Args:
        directory: created if missing; an earlier result in it is replaced. It may be in a bucket.
        dimension: D.
        model_digest: sha256 of the model, hexadecimal. Queries and index must agree on it.
        source: what was embedded, in words or as a path.
        count: N, if it is known; in a bucket it has to be, as a file is written once there.
        request: digest of what was asked for, for the manifest; left out if None.

    Example:
        >>> with EmbeddingsWriter("out", 512, model_digest=digest, source="index.csv") as writer:
        ...     writer.append(ids, vectors)  # as often as needed
    """

    def __init__(
        self,
        directory: str,
        dimension: int,
        *,
        model_digest: str,
        source: str,
        count: int | None = None,
        request: str | None = None,
    ) -> None:
        if dimension < 1:
            raise ValueError(f"expected a dimension of at least 1. Received: {dimension}")
        if count is None and files.is_remote(os.fspath(directory)):
            raise ValueError(f"expected the count for a bucket. Received: none for {directory}")
        self.directory = os.fspath(directory)
        self.dimension = dimension
        self._about = {"model_digest": model_digest, "source": source}
        self._request = {} if request is None else {"request": request}
        self._expected = count
        self._rejected = 0
        self._ids = UniqueIds()
        self._stack = contextlib.ExitStack()
        self._file: IO[bytes] | None = None

    def __enter__(self) -> EmbeddingsWriter:
        files.make_folder(self.directory)
        for name in (VECTORS_NAME, IDS_NAME):
            self._stack.callback(files.remove, self._partial(name))
        self._file = self._stack.enter_context(files.open_file(self._partial(VECTORS_NAME), "wb"))
        self._stack.enter_context(self._ids)
        self._write_header(self._expected or 0)
        return self

    def append(self, ids: Sequence[str], vectors: np.ndarray) -> None:
        """Adds rows.

        Args:
            ids: n unique ids without white space (prediction files separate ids by spaces).
            vectors: (n, D) L2-normalised; rounding is evened out by normalising once more.

        Raises:
            ValueError: on a wrong shape, a repeated or unusable id, or a row whose norm is not 1.
        """
        if self._file is None:
            raise ValueError("expected append inside the `with` block. Received: a closed writer")
        vectors = np.asarray(vectors, np.float32)
        if vectors.shape != (len(ids), self.dimension):
            raise ValueError(
                f"expected vectors of shape {(len(ids), self.dimension)}. Received: {vectors.shape}"
            )
        self._ids.check(ids)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)  # (n, 1)
        wrong = np.flatnonzero(~(np.abs(norms[:, 0] - 1) <= NORM_TOLERANCE))
        if wrong.size:
            raise ValueError(
                f"expected L2-normalised rows. Received: norm {norms[wrong[0], 0]:.4g} for "
                f"{ids[wrong[0]]!r} and {wrong.size - 1} more"
            )
        self._file.write(np.ascontiguousarray(vectors / norms).tobytes())
        self._ids.add(ids)

    def reject(self, count: int = 1) -> None:
        """Counts images of the source that could not be embedded."""
        self._rejected += count

    def close(self) -> None:
        """Finishes the files and gives them their names; the `with` block calls it."""
        self.__exit__(None, None, None)

    def __exit__(self, *error) -> None:
        if self._file is None:
            return
        with self._stack:
            try:
                if error[0] is None:
                    self._finish()
            finally:
                self._file = None

    def _finish(self) -> None:
        if self._expected is None:
            self._file.seek(0)
            self._write_header(self._ids.count)
        elif self._ids.count != self._expected:
            raise ValueError(f"expected {self._expected} rows. Received: {self._ids.count}")
        _sync(self._file)
        self._file.close()
        with files.open_file(self._partial(IDS_NAME), "wb") as file:
            self._ids.write(file)
            _sync(file)
        files.remove(self._path(MANIFEST_NAME))
        for name in (VECTORS_NAME, IDS_NAME):
            files.rename(self._partial(name), self._path(name))
        manifest = json.dumps(self._manifest(), indent=2, ensure_ascii=False)
        files.write_text(self._path(MANIFEST_NAME), manifest + "\n")

    def _path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def _partial(self, name: str) -> str:
        return self._path(name) + files.PARTIAL

    def _write_header(self, count: int) -> None:
        # NumPy pads the header so that the first dimension can grow in place.
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, self.dimension)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def _manifest(self) -> dict:
        return {
            "format": FORMAT,
            "version": VERSION,
            "count": self._ids.count,
            "dimension": self.dimension,
            "dtype": "float32",
            "normalized": True,
            **self._about,
            "rejected": self._rejected,
            **self._request,
        }


def _sync(file: IO[bytes]) -> None:
    """Leaves nothing of a local file in the system's memory."""
    file.flush()
    if isinstance(file, io.IOBase):
        os.fsync(file.fileno())


def join(
    members: Sequence[Embeddings], weights: Sequence[float] | None = None
) -> tuple[tuple[str, ...], np.ndarray]:
    """Joins the members of an ensemble to one descriptor per image.

    Every member's L2-normalised row is multiplied by the member's weight and the rows are
    concatenated by id; the result is not normalised again (Jeon, "1st Place Solution to Google
    Landmark Retrieval 2020", arXiv:2009.05132).

    Args:
        members: at least one; all hold the same ids, in any order.
        weights: one positive number per member; all 1 if absent.

    Returns:
        ids (N) in the first member's order and vectors (N, sum of D) float32. A single member of
        weight 1 is returned as it is, on the disk.

    Raises:
        ValueError: if ids are missing in a member, or the weights do not fit.
    """
    weights = _check_weights(len(members), weights)
    ids = members[0].ids
    if len(members) == 1 and weights == [1.0]:
        return ids, members[0].vectors
    vectors = np.empty((len(ids), sum(m.vectors.shape[1] for m in members)), np.float32)
    start = 0
    for number, (member, weight) in enumerate(zip(members, weights, strict=True), 1):
        columns = slice(start, start + member.vectors.shape[1])
        rows = _rows_of(ids, member.ids, number)
        for first in range(0, len(ids), 16384):
            piece = slice(first, first + 16384)
            vectors[piece, columns] = member.vectors[rows[piece]] * np.float32(weight)
        start = columns.stop
    return ids, vectors


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


def _check_weights(members: int, weights: Sequence[float] | None) -> list[float]:
    if members == 0:
        raise ValueError("expected at least one member. Received: none")
    weights = [1.0] * members if weights is None else [float(weight) for weight in weights]
    if len(weights) != members:
        raise ValueError(f"expected {members} weights, one per member. Received: {len(weights)}")
    if not all(0 < weight < float("inf") for weight in weights):
        raise ValueError(f"expected positive weights. Received: {weights}")
    return weights


def _rows_of(ids: tuple[str, ...], member_ids: tuple[str, ...], number: int) -> np.ndarray:
    """Returns the member's row of every id of the first member, (N,) int64."""
    if ids == member_ids:
        return np.arange(len(ids))
    row_of = {image: row for row, image in enumerate(member_ids)}
    known = set(ids)
    missing = [image for image in ids if image not in row_of]
    extra = [image for image in member_ids if image not in known]
    if missing or extra:
        raise ValueError(
            f"expected the same ids in every member. Received: member {number} lacks "
            f"{len(missing):,} ids of member 1 ({few(missing)}) and has {len(extra):,} others "
            f"({few(extra)})"
        )
    return np.array([row_of[image] for image in ids], np.int64)
