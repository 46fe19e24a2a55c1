"""The directory of an index: which vectors it searches, of which models, and how.

    INDEX/manifest.json            written last: what it names counts, other files do not
    INDEX/1/vectors.f32            (N, D) float32, row after row
    INDEX/1/ids.txt                UTF-8, one id per line, in the order of the rows
    INDEX/1/removed-3.npy          int64 rows that are no answers any more
    INDEX/1/scann/                 ScaNN's files, of the first `built` rows
    INDEX/1/curve.json, curve.svg  what tuning has measured

The folder's number changes with every build. Added rows are appended to vectors.f32 and ids.txt,
behind what the manifest counts, so that a reader or a killed writer sees the state before or after.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence

import numpy as np

import files
from retrieval.nearest.scann_parameters import Parameters
from retrieval.stored import precision
from retrieval.stored.unique_ids import check_unique

FORMAT, VERSION = "waymark-index", 1
MANIFEST_NAME, VECTORS_NAME, IDS_NAME = "manifest.json", "vectors.f32", "ids.txt"
SCANN_NAME, CURVE_NAME, PICTURE_NAME = "scann", "curve.json", "curve.svg"
_LOCK_NAME = ".lock"
_ROWS_PER_PIECE = 16384


@dataclasses.dataclass(frozen=True)
class Source:
    """What rows were made of.

    Attributes:
        embeddings: one directory per member of the ensemble.
        rows: how many rows, behind those of the sources before.
        ids_sha256: of the lines of ids.txt, hexadecimal.
        vectors_sha256: of the float32 rows, hexadecimal.
    """

    embeddings: tuple[str, ...]
    rows: int
    ids_sha256: str
    vectors_sha256: str


@dataclasses.dataclass(frozen=True)
class Measured:
    """What the search reached when it was measured last.

    Attributes:
        k: answers per query.
        recall: recall@k against exact search.
        error: standard error of it.
        queries: how many queries.
        sampled: whether these were rows of the index.
        rows: rows of the index then.
        seconds: processor time per query.
    """

    k: int
    recall: float
    error: float
    queries: int
    sampled: bool
    rows: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The contents of manifest.json, besides format and version.

    Attributes:
        generation: the name of the folder that counts.
        count: N rows, removed ones among them.
        dimension: D.
        built: how many rows the search was built of.
        ids_bytes: length of ids.txt.
        models: sha256 digest of each member's model.
        weights: of the members.
        combine: how they are joined, see `ensemble.join`.
        sources: of the rows, in their order.
        removed: how many rows are no answers any more.
        search: what was asked for: "auto", "exact" or "scann".
        k: answers per query that the search is tuned for.
        wanted: the recall@k that was asked for.
        parameters: of ScaNN; None for exact search.
        measured: see `Measured`; None for exact search.
    """

    generation: int
    count: int
    dimension: int
    built: int
    ids_bytes: int
    models: tuple[str, ...]
    weights: tuple[float, ...]
    combine: str
    sources: tuple[Source, ...]
    removed: int
    search: str
    k: int
    wanted: float
    parameters: Parameters | None
    measured: Measured | None

    @property
    def folder(self) -> str:
        """The name of the folder that counts."""
        return str(self.generation)


def read_manifest(directory: str) -> Manifest:
    """Reads the manifest of an index.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is not one of this format, or of a later version.
    """
    path = os.path.join(directory, MANIFEST_NAME)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"expected an index with {MANIFEST_NAME}. Received: {directory}")
    try:
        text = json.loads(files.read(path))
        if not isinstance(text, dict) or text.pop("format", None) != FORMAT:
            raise ValueError(f"expected the format {FORMAT!r} in {path}. Received: another")
        version = text.pop("version", None)
        if not isinstance(version, int) or version > VERSION:
            raise ValueError(
                f"expected an index of version {VERSION} at most in {path}; a newer Waymark has "
                f"made it. Received: {version!r}"
            )
        return _parse(text)
    except (json.JSONDecodeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"expected a whole {path}. Received: {error!r}") from error


def _parse(text: dict) -> Manifest:
    for key in ("models", "weights"):
        text[key] = tuple(text[key])
    text["sources"] = tuple(
        Source(**{**source, "embeddings": tuple(source["embeddings"])})
        for source in text["sources"]
    )
    for key, kind in (("parameters", Parameters), ("measured", Measured)):
        text[key] = None if text[key] is None else kind(**text[key])
    return Manifest(**text)


def write_manifest(directory: str, manifest: Manifest) -> None:
    """Makes the files that a manifest names count, and removes all others of the index."""
    text = {"format": FORMAT, "version": VERSION, **dataclasses.asdict(manifest)}
    path = os.path.join(directory, MANIFEST_NAME)
    with files.replacing(path) as file:
        file.write(json.dumps(text, indent=2, ensure_ascii=False) + "\n")
        _sync(file)
    discard(directory, manifest)


def discard(directory: str, manifest: Manifest | None) -> None:
    """Removes the folders and lists of removed rows that do not count."""
    for name in os.listdir(directory):
        if name.isdecimal() and (manifest is None or name != manifest.folder):
            shutil.rmtree(os.path.join(directory, name))
    if manifest is None:
        return
    folder = os.path.join(directory, manifest.folder)
    for name in os.listdir(folder):
        if name.startswith("removed-") and name != _removed_name(manifest.removed):
            os.remove(os.path.join(folder, name))


@contextlib.contextmanager
def writing(directory: str) -> Iterator[None]:
    """Waits until nobody else changes the index, and keeps others waiting.

    Raises:
        ValueError: if the directory holds something else than an index.
    """
    os.makedirs(directory, exist_ok=True)
    others = [
        name
        for name in os.listdir(directory)
        if name not in (MANIFEST_NAME, MANIFEST_NAME + files.PARTIAL, _LOCK_NAME)
        and not name.isdecimal()
    ]
    if others:
        raise ValueError(f"expected an index or an empty folder. Received: {directory}/{others[0]}")
    with open(os.path.join(directory, _LOCK_NAME), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def append(
    folder: str,
    ids: Sequence[str],
    vectors: np.ndarray | precision.Rows,
    embeddings: Sequence[str],
    *,
    count: int = 0,
    ids_bytes: int = 0,
) -> tuple[Source, int]:
    """Writes rows behind those that count.

    Args:
        folder: of the vectors and ids; made if missing.
        ids: n ids.
        vectors: (n, D), read in pieces.
        embeddings: the directories they are from.
        count: rows that count so far.
        ids_bytes: bytes of ids that count so far.

    Returns:
        what was written, and the bytes of all ids.

    Raises:
        ValueError: if a row is not finite.
    """
    os.makedirs(folder, exist_ok=True)
    lines = "".join(f"{image}\n" for image in ids).encode()
    with _opened_behind(os.path.join(folder, IDS_NAME), ids_bytes) as file:
        file.write(lines)
    digest = hashlib.sha256()
    offset = count * vectors.shape[1] * 4
    with _opened_behind(os.path.join(folder, VECTORS_NAME), offset) as file:
        for first in range(0, len(vectors), _ROWS_PER_PIECE):
            piece = np.ascontiguousarray(vectors[first : first + _ROWS_PER_PIECE], "<f4")
            if not np.isfinite(piece).all():
                row = first + int(np.argmin(np.isfinite(piece).all(axis=1)))
                raise ValueError(f"expected finite vectors. Received: NaN or infinity, {ids[row]}")
            digest.update(piece)
            file.write(piece)
            precision.release(vectors)
    names = tuple(map(os.fspath, embeddings))
    source = Source(names, len(ids), hashlib.sha256(lines).hexdigest(), digest.hexdigest())
    return source, ids_bytes + len(lines)


@contextlib.contextmanager
def _opened_behind(path: str, size: int) -> Iterator:
    """Opens a file for writing behind its first `size` bytes; what else there was goes."""
    with open(path, "r+b" if size else "wb") as file:
        file.truncate(size)
        file.seek(size)
        yield file
        _sync(file)


def _sync(file) -> None:
    file.flush()
    os.fsync(file.fileno())


def read_ids(directory: str, manifest: Manifest) -> list[str]:
    """Reads the ids of all rows, of removed ones too.

    Raises:
        ValueError: if they are not as many as the manifest says.
    """
    path = os.path.join(directory, manifest.folder, IDS_NAME)
    ids = files.read(path, 0, manifest.ids_bytes).decode().split("\n")[:-1]
    if len(ids) != manifest.count:
        raise ValueError(f"expected {manifest.count} ids in {path}. Received: {len(ids)}")
    return ids


def open_vectors(directory: str, manifest: Manifest, rows: int | None = None) -> np.ndarray:
    """Maps the first rows, all if None: (rows, D) float32, read-only.

    Raises:
        ValueError: if the file is shorter.
    """
    path = os.path.join(directory, manifest.folder, VECTORS_NAME)
    shape = (manifest.count if rows is None else rows, manifest.dimension)
    size = os.path.getsize(path)
    if size < manifest.count * manifest.dimension * 4:
        raise ValueError(f"expected float32 of shape {shape} in {path}. Received: {size} bytes")
    return np.memmap(path, "<f4", "r", shape=shape)


def _removed_name(count: int) -> str:
    return f"removed-{count}.npy"


def write_removed(directory: str, manifest: Manifest, rows: np.ndarray) -> None:
    """Writes the rows (int64, ascending) that will be no answers; the manifest makes them count."""
    path = os.path.join(directory, manifest.folder, _removed_name(len(rows)))
    with files.replacing(path, "wb") as file:
        np.save(file, np.asarray(rows, np.int64))
        _sync(file)


def read_removed(directory: str, manifest: Manifest) -> np.ndarray:
    """Returns the rows that are no answers any more, int64, ascending.

    Raises:
        ValueError: if these are not what the manifest says.
    """
    if not manifest.removed:
        return np.empty(0, np.int64)
    path = os.path.join(directory, manifest.folder, _removed_name(manifest.removed))
    rows = np.load(path, allow_pickle=False)
    fits = rows.shape == (manifest.removed,) and rows.dtype == np.int64
    if not fits or rows[0] < 0 or rows[-1] >= manifest.count or (np.diff(rows) <= 0).any():
        raise ValueError(f"expected {manifest.removed} rows in {path}. Received: others")
    return rows


def verify(directory: str, manifest: Manifest) -> None:
    """Compares ids and vectors with the digests in the manifest.

    Raises:
        ValueError: if a file was damaged, with the source of the rows.
    """
    ids = read_ids(directory, manifest)
    vectors = open_vectors(directory, manifest)
    first = 0
    for source in manifest.sources:
        last = first + source.rows
        lines = "".join(f"{image}\n" for image in ids[first:last]).encode()
        digest = hashlib.sha256()
        for start in range(first, last, _ROWS_PER_PIECE):
            digest.update(vectors[start : min(start + _ROWS_PER_PIECE, last)])
            precision.release(vectors)
        received = hashlib.sha256(lines).hexdigest(), digest.hexdigest()
        if received != (source.ids_sha256, source.vectors_sha256):
            raise ValueError(
                f"expected {directory} as it was written. Received: other bytes in the rows of "
                f"{', '.join(source.embeddings)}"
            )
        first = last
    removed = set(read_removed(directory, manifest).tolist())
    check_unique([image for row, image in enumerate(ids) if row not in removed])
