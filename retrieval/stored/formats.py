"""Embeddings files of other tools, read in pieces: .npy, .npz, Parquet and HDF5.

Vectors are a matrix (N, D) of numbers, one row per image, or in Parquet a column of lists. The ids
stand beside them in the same file or in one of their own: text with one id per line, a table (CSV,
Parquet, JSON-lines) with a column of them, or a .npy of strings. Nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import dataclasses
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

import columns
import files

_PIECE = 1 << 24  # numbers read at a time
_ID_NAMES = ("ids", "id", "image_ids", "image_id", "names", "filenames", "paths")
_TABLES = (".csv", ".csv.gz", ".parquet", ".jsonl", ".ndjson", ".json")
_HDF5 = (".h5", ".hdf5", ".hdf")

Pieces = Iterator[tuple[list[str], np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Source:
    """A file of embeddings.

    Attributes:
        path: of the file.
        count: N.
        dimension: D.
        pieces: yields (n ids, (n, D) float32) in order; the values are as they are in the file.
    """

    path: str
    count: int
    dimension: int
    pieces: Callable[[], Pieces]


def open_source(
    path: str, *, ids: str | None = None, vectors_name: str | None = None, id_name: str = "id"
) -> Source:
    """Opens a file by its ending: .npy, .npz, .parquet, .h5 or .hdf5.

    Args:
        path: of the file.
        ids: a file with the ids; needed for .npy, and where the file holds none.
        vectors_name: array, dataset or column of the vectors; the only one that can be if absent.
        id_name: array, dataset or column of the ids, and the column of the ids' own table. Arrays
            called ids, image_ids, names, filenames or paths are found without it.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is not what its name says, or its parts do not fit or are not clear.
    """
    for name in (path, ids):
        if name is not None and not files.exists(name):
            raise FileNotFoundError(f"expected a file of embeddings or ids. Received: {name}")
    ending = path.lower()
    given = None if ids is None else read_ids(ids, id_name)
    with _as_value_error(path):
        if ending.endswith(".parquet"):
            return _open_parquet(path, given, vectors_name, id_name)
        if ending.endswith(".npy"):
            arrays = {path: np.load(path, mmap_mode="r", allow_pickle=False)}
            return _open_arrays(path, arrays, given, None, id_name)
        if ending.endswith(".npz"):
            return _open_arrays(path, _npz_arrays(path), given, vectors_name, id_name)
        if ending.endswith(_HDF5):
            return _open_arrays(path, _hdf5_arrays(path), given, vectors_name, id_name)
    raise ValueError(f"expected .npy, .npz, .parquet, .h5 or .hdf5. Received: {path}")


def read_ids(path: str, column: str = "id") -> list[str]:
    """Reads ids from a table, a .npy of strings or a text file with one per line.

    Raises:
        ValueError: if the file holds something else.
    """
    if path.lower().endswith(_TABLES):
        return [cells[0] for cells in columns.read_columns(path, [column])]
    with _as_value_error(path):
        if path.lower().endswith(".npy"):
            return _texts(np.load(path, allow_pickle=False))
        return files.read(path).decode("utf-8-sig").splitlines()


@contextlib.contextmanager
def _as_value_error(path: str) -> Iterator[None]:
    """Names the file in the errors of the libraries that read it."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (ValueError, EOFError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: {error}") from error


class _NpzArray:
    """An array of an .npz, read forwards and in pieces; unpacking all of it may take too much."""

    def __init__(self, path: str, name: str) -> None:
        self._path, self._name = path, name
        with self._open() as file:
            self.shape, self._fortran_order, self.dtype = self._header(file)
        self.ndim = len(self.shape)

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        """Yields all of it, up to `rows` rows at a time."""
        if self._fortran_order and self.ndim > 1:
            raise ValueError(f"expected rows one after another in {self._name}. Received: columns")
        if self.dtype.hasobject:
            raise ValueError(f"expected text or numbers in {self._name}. Received: pickled objects")
        row_size = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        with self._open() as file:
            self._header(file)
            for first in range(0, self.shape[0], rows):
                count = min(rows, self.shape[0] - first)
                data = file.read(count * row_size)
                if len(data) != count * row_size:
                    raise ValueError(f"expected {self.shape} in {self._name}. Received: less")
                yield np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])

    @contextlib.contextmanager
    def _open(self) -> Iterator[Any]:
        with zipfile.ZipFile(self._path) as archive, archive.open(self._name) as file:
            yield file

    def _header(self, file: Any) -> tuple:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise ValueError(f"expected .npy of version 1 or 2 in {self._name}. Received {version}")
        return read(file)


def _npz_arrays(path: str) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".npy")]
    return {name.removesuffix(".npy"): _NpzArray(path, name) for name in names}


def _hdf5_arrays(path: str) -> dict[str, Any]:
    import h5py

    found = {}

    def add(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.ndim in (1, 2):
            found[name] = node

    # The datasets keep the file open as long as they are needed.
    h5py.File(path, "r").visititems(add)
    return found


def _open_arrays(
    path: str,
    arrays: dict[str, Any],
    ids: list[str] | None,
    vectors_name: str | None,
    id_name: str,
) -> Source:
    matrices = [n for n, array in arrays.items() if array.ndim == 2 and array.dtype.kind in "fiu"]
    listing = ", ".join(f"{n} {a.shape} {a.dtype}" for n, a in arrays.items()) or "no arrays"
    if vectors_name is None and len(matrices) == 1:
        vectors_name = matrices[0]
    if vectors_name not in matrices:
        wanted = "one matrix of numbers" if vectors_name is None else f"a matrix {vectors_name!r}"
        raise ValueError(f"expected {wanted}. Received: {listing}")
    matrix = arrays[vectors_name]
    if ids is None:
        names = [n for n in (id_name, *_ID_NAMES) if n in arrays and arrays[n].ndim == 1]
        if not names:
            raise ValueError(
                f"expected ids, in a file of their own or as an array {id_name!r}. "
                f"Received: {listing}"
            )
        blocks = _blocks(arrays[names[0]], _PIECE)
        ids = [text for block in blocks for text in _texts(block)]
    if len(ids) != matrix.shape[0]:
        raise ValueError(f"expected {matrix.shape[0]} ids. Received: {len(ids)}")

    def pieces() -> Pieces:
        first = 0
        with _as_value_error(path):
            for block in _blocks(matrix, max(1, _PIECE // max(1, matrix.shape[1]))):
                yield ids[first : first + len(block)], np.asarray(block, np.float32)
                first += len(block)

    return Source(path, matrix.shape[0], matrix.shape[1], pieces)


def _blocks(array: Any, rows: int) -> Iterator[np.ndarray]:
    if isinstance(array, _NpzArray):
        yield from array.blocks(rows)
        return
    for first in range(0, array.shape[0], rows):
        yield array[first : first + rows]


def _texts(values: np.ndarray) -> list[str]:
    """Returns ids as text: strings, UTF-8 bytes or whole numbers."""
    if values.ndim != 1 or values.dtype.kind not in "USOiuT":
        raise ValueError(
            f"expected ids as strings or whole numbers. Received: {values.dtype} {values.shape}"
        )
    listed = values.tolist()
    return [value.decode() if isinstance(value, bytes) else str(value) for value in listed]


def _open_parquet(
    path: str, ids: list[str] | None, vectors_name: str | None, id_name: str
) -> Source:
    from pyarrow import parquet, types

    with parquet.ParquetFile(path) as table:
        schema, count = table.schema_arrow, table.metadata.num_rows
        lists = [f.name for f in schema if types.is_list(f.type) or types.is_large_list(f.type)]
        lists += [f.name for f in schema if types.is_fixed_size_list(f.type)]
        if vectors_name is None and len(lists) == 1:
            vectors_name = lists[0]
        if vectors_name not in lists:
            wanted = "one column of lists" if vectors_name is None else f"lists {vectors_name!r}"
            raise ValueError(f"expected {wanted}. Received: {schema.names}")
        if ids is None and id_name not in schema.names:
            raise ValueError(f"expected ids in the column {id_name!r}. Received: {schema.names}")
        first = next(table.iter_batches(1, columns=[vectors_name]), None)
    dimension = 0 if first is None or not count else len(first.column(0)[0].as_py() or ())
    if dimension < 1 or (ids is not None and len(ids) != count):
        raise ValueError(
            f"expected a vector and an id in each of {count} rows. Received: dimension "
            f"{dimension}, {count if ids is None else len(ids)} ids"
        )
    rows = max(1, _PIECE // dimension)
    wanted = [vectors_name] if ids is not None else [vectors_name, id_name]

    def pieces() -> Pieces:
        first = 0
        with parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(rows, columns=wanted):
                vectors = _matrix(path, batch.column(vectors_name), dimension, first)
                if ids is None:
                    texts = batch.column(id_name).to_pylist()
                    named = _texts(np.array(texts, object))
                else:
                    named = ids[first : first + len(vectors)]
                yield named, vectors
                first += len(vectors)

    return Source(path, count, dimension, pieces)


def _matrix(path: str, lists: Any, dimension: int, first: int) -> np.ndarray:
    """Returns float32 (n, D) of a column of lists that all have D numbers."""
    from pyarrow import compute

    lengths: Sequence[int | None] = compute.list_value_length(lists).to_pylist()
    for row, length in enumerate(lengths, first):
        if length != dimension:
            raise ValueError(f"{path}, row {row}: expected {dimension} numbers. Received: {length}")
    values = lists.flatten()
    if values.null_count:
        raise ValueError(f"{path}: expected numbers behind row {first}. Received: null")
    return np.asarray(values.to_numpy(zero_copy_only=False), np.float32).reshape(-1, dimension)
