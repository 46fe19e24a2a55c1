"""The embeddings directory: written in pieces, read as a memory map, joined to ensembles.

A directory holds `embeddings.npy` (N, D) float32 with L2-normalised rows, `ids.txt` (UTF-8, one id
per line, in the order of the rows) and `manifest.json`. The manifest is written last and removed
first: a directory with a manifest is complete.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import IO

import numpy as np

FORMAT = "waymark-embeddings"
VERSION = 1
_VECTORS, _IDS, _MANIFEST = "embeddings.npy", "ids.txt", "manifest.json"
# bfloat16 arithmetic leaves norms within about 1 % of 1; more means that nothing normalised.
_NORM_TOLERANCE = 0.02


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
    if not (folder / _MANIFEST).is_file():
        raise FileNotFoundError(
            f"expected a finished embeddings directory with {_MANIFEST}. Received: {directory}"
        )
    manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    expected = {"format": FORMAT, "version": VERSION, "dtype": "float32", "normalized": True}
    received = {key: manifest.get(key) for key in expected}
    if received != expected:
        raise ValueError(f"expected {expected} in {folder / _MANIFEST}. Received: {received}")
    ids = tuple((folder / _IDS).read_text(encoding="utf-8").split("\n")[:-1])
    vectors = np.load(folder / _VECTORS, mmap_mode="r", allow_pickle=False)
    shape = (manifest["count"], manifest["dimension"])
    if vectors.shape != shape or vectors.dtype != np.float32 or len(ids) != shape[0]:
        raise ValueError(
            f"expected {shape[0]} ids and float32 {shape} in {directory}. "
            f"Received: {len(ids)} ids, {vectors.dtype} {vectors.shape}"
        )
    _check_unique(ids)
    return Embeddings(ids, vectors, manifest)


class EmbeddingsWriter:
    """Writes an embeddings directory in pieces; memory stays that of one piece and the ids.

    Use it as a context manager. The files appear under their names when the block ends without an
    error; after an error the directory is as it was.

    Args:
        directory: created if missing; an earlier result in it is replaced.
        dimension: D.
        model_digest: sha256 of the model, hexadecimal. Queries and index must agree on it.
        source: what was embedded, in words or as a path.

    Example:
        >>> with EmbeddingsWriter("out", 512, model_digest=digest, source="index.csv") as writer:
        ...     writer.append(ids, vectors)  # as often as needed
    """

    def __init__(self, directory: str, dimension: int, *, model_digest: str, source: str) -> None:
        if dimension < 1:
            raise ValueError(f"expected a dimension of at least 1. Received: {dimension}")
        self.directory = pathlib.Path(directory)
        self.dimension = dimension
        self.model_digest = model_digest
        self.source = source
        self._ids: dict[str, None] = {}
        self._rejected = 0
        self._stack = contextlib.ExitStack()
        self._file: IO[bytes] | None = None

    def __enter__(self) -> EmbeddingsWriter:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._file = self._stack.enter_context(
            atomic_file(self.directory / _VECTORS, finish=self._before_vectors)
        )
        self._write_header()
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
        self._check_ids(ids)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)  # (n, 1)
        wrong = np.flatnonzero(~(np.abs(norms[:, 0] - 1) <= _NORM_TOLERANCE))
        if wrong.size:
            raise ValueError(
                f"expected L2-normalised rows. Received: norm {norms[wrong[0], 0]:.4g} for "
                f"{ids[wrong[0]]!r} and {wrong.size - 1} more"
            )
        self._file.write(np.ascontiguousarray(vectors / norms).tobytes())
        self._ids.update(dict.fromkeys(ids))

    def reject(self, count: int = 1) -> None:
        """Counts images of the source that could not be embedded."""
        self._rejected += count

    def close(self) -> None:
        """Finishes the files and gives them their names; the `with` block calls it."""
        self.__exit__(None, None, None)

    def __exit__(self, *error) -> None:
        if self._file is None:
            return
        if error[0] is None:
            self._file.seek(0)
            self._write_header()
        self._file = None
        self._stack.__exit__(*error)
        if error[0] is None:
            with atomic_file(self.directory / _IDS) as file:
                file.write("".join(f"{image}\n" for image in self._ids).encode())
            write_json(self.directory / _MANIFEST, self._manifest())

    def _before_vectors(self) -> None:
        (self.directory / _MANIFEST).unlink(missing_ok=True)

    def _write_header(self) -> None:
        # NumPy pads the header so that the first dimension can grow in place.
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(self._ids), self.dimension)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def _check_ids(self, ids: Sequence[str]) -> None:
        unusable = [image for image in ids if image.split() != [image]]
        if unusable:
            raise ValueError(f"expected ids without white space. Received: {few(unusable)}")
        _check_unique(ids)
        known = [image for image in ids if image in self._ids]
        if known:
            raise ValueError(f"expected unique ids. Received more than once: {few(known)}")

    def _manifest(self) -> dict:
        return {
            "format": FORMAT,
            "version": VERSION,
            "count": len(self._ids),
            "dimension": self.dimension,
            "dtype": "float32",
            "normalized": True,
            "model_digest": self.model_digest,
            "source": self.source,
            "rejected": self._rejected,
        }


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


def few(ids: Sequence[str], most: int = 5) -> str:
    """Returns a short listing for a message: the first ids and how many more there are."""
    listed = ", ".join(map(repr, ids[:most]))
    return listed if len(ids) <= most else f"{listed} and {len(ids) - most:,} more"


@contextlib.contextmanager
def atomic_file(path: pathlib.Path, finish=lambda: None) -> Iterator[IO[bytes]]:
    """Opens a binary file that gets its name only when the block ends without an error.

    Args:
        path: the final name; the temporary one is beside it.
        finish: called between the last byte and the renaming.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        finish()
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, value: dict) -> None:
    """Writes a JSON file, whole or not at all; the folder is made if missing."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def _check_unique(ids: Sequence[str]) -> None:
    if len(set(ids)) != len(ids):
        repeated = [image for image, n in collections.Counter(ids).items() if n > 1]
        raise ValueError(f"expected unique ids. Received more than once: {few(repeated)}")


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
