"""Many ids in order, each once, in little memory."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from typing import IO

import numpy as np


class UniqueIds:
    """Ids on the disk, one per line, and 8 bytes of each in memory.

    Use it as a context manager, which removes the file.
    """

    def __init__(self) -> None:
        self.count = 0
        # Sorted hashes, in runs that are each at least twice as long as the next.
        self._runs: list[np.ndarray] = []

    def __enter__(self) -> "UniqueIds":
        self._file = tempfile.TemporaryFile("w+b")
        return self

    def __exit__(self, *error) -> None:
        self._file.close()

    def check(self, ids: Sequence[str]) -> None:
        """Raises ValueError for ids with white space, repeated ids, and those added before."""
        unusable = [image for image in ids if image.split() != [image]]
        if unusable:
            raise ValueError(f"expected ids without white space. Received: {few(unusable)}")
        check_unique(ids)
        # Two ids may have one hash: what looks known is compared with the file.
        suspects = {ids[row] for row in np.flatnonzero(self._find(_hashes(ids)))}
        self._file.seek(0)
        lines = (line[:-1].decode() for line in (self._file if suspects else ()))
        if known := [image for image in lines if image in suspects]:
            raise ValueError(f"expected unique ids. Received more than once: {few(known)}")
        self._file.seek(0, 2)

    def add(self, ids: Sequence[str]) -> None:
        """Adds ids that `check` has passed."""
        self._file.write("".join(f"{image}\n" for image in ids).encode())
        run = np.sort(_hashes(ids))
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]), kind="stable")
        if run.size:
            self._runs.append(run)
        self.count += len(ids)

    def write(self, file: IO[bytes]) -> None:
        """Writes all ids to a file, one per line."""
        self._file.seek(0)
        shutil.copyfileobj(self._file, file)

    def _find(self, hashes: np.ndarray) -> np.ndarray:
        """Returns bool (n): which of the hashes are known."""
        found = np.zeros(len(hashes), bool)
        for run in self._runs:
            places = np.minimum(np.searchsorted(run, hashes), len(run) - 1)
            found |= run[places] == hashes
        return found


def check_unique(ids: Sequence[str]) -> None:
    """Raises ValueError, with the first of them, if ids are repeated."""
    if len(set(ids)) != len(ids):
        repeated = [image for image, n in Counter(ids).items() if n > 1]
        raise ValueError(f"expected unique ids. Received more than once: {few(repeated)}")


def few(ids: Sequence[str], most: int = 5) -> str:
    """Returns a short listing for a message: the first ids and how many more there are."""
    listed = ", ".join(map(repr, ids[:most]))
    return listed if len(ids) <= most else f"{listed} and {len(ids) - most:,} more"


def _hashes(ids: Sequence[str]) -> np.ndarray:
    return np.array([hash(image) for image in ids], np.int64)
