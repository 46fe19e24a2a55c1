"""Vectors in fewer bytes: float16, bfloat16 and int8, with what they lose.

All rows are L2-normalised. An int8 row is q = round(127 x / max|x|), and its scale is 1/|q|: what
is read has the norm 1 again, so that the ranking by inner product stays that of the cosine.
"""

from __future__ import annotations

import dataclasses
import math
import mmap

import numpy as np

DTYPES = ("float32", "float16", "bfloat16", "int8")
# What the .npy file holds: its format knows no bfloat16.
STORED = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "int8": "|i1"}
# Rows decoded at a time where the whole is asked for.
_BLOCK = 16384


def check_dtype(dtype: str) -> None:
    """Raises ValueError unless embeddings can be stored as `dtype`."""
    if dtype not in DTYPES:
        raise ValueError(f"expected a dtype among {', '.join(DTYPES)}. Received: {dtype!r}")


def encode(vectors: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns what is stored of vectors, and the scales of int8.

    Args:
        vectors: (N, D) float32, rows L2-normalised.
        dtype: one of `DTYPES`.

    Returns:
        (N, D) of the dtype `STORED[dtype]`, and (N,) float32 for int8, else None.
    """
    if dtype == "float32":
        return np.ascontiguousarray(vectors, np.float32), None
    if dtype == "float16":
        return vectors.astype(np.float16), None
    if dtype == "bfloat16":
        import ml_dtypes

        return vectors.astype(ml_dtypes.bfloat16).view(np.uint16), None
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0)  # (N, 1)
    quantized = np.rint(vectors * (np.float32(127) / largest)).astype(np.int8)
    return quantized, (1 / np.linalg.norm(quantized.astype(np.float32), axis=1)).astype(np.float32)


def decode(stored: np.ndarray, dtype: str, scales: np.ndarray | None = None) -> np.ndarray:
    """Returns the float32 rows (N, D) of what `encode` has returned; float16 has to be finite."""
    if dtype == "bfloat16":
        # A bfloat16 is the upper half of a float32.
        return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if dtype == "float16":
        # NumPy's own conversion takes 2.5 times as long. The exponents' biases differ by 112.
        bits = stored.view(np.int16).astype(np.int32) << np.int32(13)
        bits &= np.int32(~0x70000000)  # copies of the sign
        decoded = bits.view(np.float32)
        decoded *= np.float32(2.0**112)
        return decoded
    decoded = np.asarray(stored, np.float32)
    return decoded * scales[:, None] if dtype == "int8" else decoded


class Rows:
    """An array-like (N, D) whose rows are made as float32 when they are read.

    It has `shape`, `dtype`, `ndim` and `len`, gives arrays for a slice, a row number, row numbers
    and a mask, and becomes an array of everything by `numpy.asarray`.
    """

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.shape[0] * self.shape[1]

    def read(self, rows: slice | np.ndarray) -> np.ndarray:
        """Returns float32 (n, D): the rows of a slice or of row numbers."""
        raise NotImplementedError

    def release(self) -> None:
        """Takes what was read of memory maps out of this process's memory."""

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows) -> np.ndarray:
        if isinstance(rows, (int, np.integer)):
            return self.read(np.array([rows]))[0]
        if isinstance(rows, tuple):
            raise TypeError(f"expected rows without columns. Received: {rows}")
        rows = rows if isinstance(rows, slice) else np.asarray(rows)
        if isinstance(rows, np.ndarray) and rows.dtype == bool:
            rows = np.flatnonzero(rows)
        return self.read(rows)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        if copy is False:
            raise ValueError("expected that a copy may be made: the rows are not in memory")
        whole = np.empty(self.shape, dtype or np.float32)
        for first in range(0, len(self), _BLOCK):
            whole[first : first + _BLOCK] = self.read(slice(first, first + _BLOCK))
        return whole


class StoredRows(Rows):
    """The rows of a file of `encode`'s results.

    Args:
        stored: (N, D) of the dtype `STORED[dtype]`; a memory map stays on the disk.
        dtype: one of `DTYPES`.
        scales: (N,) float32 for int8.
    """

    def __init__(self, stored: np.ndarray, dtype: str, scales: np.ndarray | None = None) -> None:
        check_dtype(dtype)
        if stored.ndim != 2 or stored.dtype != np.dtype(STORED[dtype]):
            raise ValueError(
                f"expected a matrix of {STORED[dtype]} for {dtype}. "
                f"Received: shape {stored.shape}, {stored.dtype}"
            )
        if dtype == "int8" and (scales is None or scales.shape != stored.shape[:1]):
            raise ValueError(f"expected {len(stored)} scales. Received: {np.shape(scales)}")
        super().__init__(stored.shape)
        self.stored = stored
        self.stored_dtype = dtype
        self.scales = scales

    def read(self, rows: slice | np.ndarray) -> np.ndarray:
        """Returns float32 (n, D): the rows of a slice or of row numbers."""
        scales = None if self.scales is None else self.scales[rows]
        return decode(self.stored[rows], self.stored_dtype, scales)

    def take(self, rows: np.ndarray) -> StoredRows:
        """Returns some rows (n,) as they are stored, in memory."""
        scales = None if self.scales is None else self.scales[rows]
        return StoredRows(self.stored[rows], self.stored_dtype, scales)

    def release(self) -> None:
        """Takes what was read of memory maps out of this process's memory."""
        release(self.stored)


def release(vectors: np.ndarray | Rows) -> None:
    """Takes the pages of a read-only memory map out of this process's resident memory.

    The system keeps them as long as nobody else needs the room, but a container counts what is
    mapped. Does nothing for other arrays: private maps would lose what was written to them.
    """
    if isinstance(vectors, Rows):
        vectors.release()
        return
    mapped = vectors
    while isinstance(mapped, np.ndarray):
        if isinstance(mapped, np.memmap) and mapped.mode != "r":
            return
        mapped = mapped.base
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


@dataclasses.dataclass
class Loss:
    """What storing loses, as cosine errors 1 - cos(stored, original), over all rows.

    Attributes:
        count: the rows.
        largest: the largest error.
        total: the sum of the errors.
    """

    count: int = 0
    largest: float = 0.0
    total: float = 0.0

    @classmethod
    def of(cls, vectors: np.ndarray, stored: np.ndarray) -> Loss:
        """Measures rows (N, D) against what is read back of them, (N, D), in float64."""
        if not len(vectors):
            return cls()
        pair = [array.astype(np.float64) for array in (vectors, stored)]
        pair = [array / np.linalg.norm(array, axis=1, keepdims=True) for array in pair]
        # Half the squared chord: 1 - cos itself would lose the digits that matter.
        errors = np.square(pair[0] - pair[1]).sum(axis=1) / 2
        return cls(len(errors), float(errors.max()), float(errors.sum()))

    @classmethod
    def from_manifest(cls, manifest: dict) -> Loss:
        """Reads what a manifest says; version 1 had float32 only."""
        loss = manifest.get("loss", {"max_cosine_error": 0.0, "mean_cosine_error": 0.0})
        count = manifest["count"]
        return cls(count, loss["max_cosine_error"], loss["mean_cosine_error"] * count)

    def add(self, other: Loss) -> None:
        """Adds the loss of other rows."""
        self.count += other.count
        self.largest = max(self.largest, other.largest)
        self.total += other.total

    def of_rows(self, count: int) -> Loss:
        """Returns the loss of some of the rows, as if all had the mean error."""
        mean = self.total / self.count if self.count else 0.0
        return Loss(count, self.largest if count else 0.0, mean * count)

    def then(self, later: Loss) -> Loss:
        """Returns an upper bound after a second loss of the same rows: chords add up."""
        largest = (math.sqrt(self.largest) + math.sqrt(later.largest)) ** 2
        return Loss(later.count, largest, (math.sqrt(self.total) + math.sqrt(later.total)) ** 2)

    def to_manifest(self) -> dict[str, float]:
        """Returns the largest and the mean error."""
        mean = self.total / self.count if self.count else 0.0
        return {"max_cosine_error": self.largest, "mean_cosine_error": mean}
