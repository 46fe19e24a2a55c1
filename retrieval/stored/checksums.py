"""CRC-32C of the parts of an embeddings directory, by blocks of rows: a damaged one is found."""

from __future__ import annotations

import shutil

import google_crc32c
import numpy as np

ROWS_PER_BLOCK = 65536


class RowChecksums:
    """Checksums of rows that come in pieces, one for every block of 65,536.

    Args:
        rows_per_block: another size of blocks.
    """

    def __init__(self, rows_per_block: int = ROWS_PER_BLOCK) -> None:
        self.rows_per_block = rows_per_block
        self._finished: list[int] = []
        self._current = 0
        self._rows = 0  # of the current block

    def add(self, rows: np.ndarray) -> None:
        """Adds rows (n, D) or (n,) as they are stored."""
        start = 0
        while start < len(rows):
            piece = rows[start : start + self.rows_per_block - self._rows]
            self._current = google_crc32c.extend(self._current, piece.tobytes())
            self._rows += len(piece)
            start += len(piece)
            if self._rows == self.rows_per_block:
                self._finished.append(self._current)
                self._current = self._rows = 0

    def values(self) -> list[str]:
        """Returns the checksum of every block, eight hexadecimal digits each."""
        blocks = [*self._finished, self._current] if self._rows else self._finished
        return [f"{value:08x}" for value in blocks]


class Checksum:
    """The checksum of what is written to it."""

    def __init__(self) -> None:
        self._value = 0

    def write(self, data: bytes) -> None:
        """Adds bytes."""
        self._value = google_crc32c.extend(self._value, data)

    def value(self) -> str:
        """Returns eight hexadecimal digits."""
        return f"{self._value:08x}"


def of_file(path: str) -> str:
    """Returns the checksum of a file."""
    checksum = Checksum()
    with open(path, "rb") as file:
        shutil.copyfileobj(file, checksum)
    return checksum.value()
