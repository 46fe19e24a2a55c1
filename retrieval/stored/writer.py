"""Writes an embeddings directory in pieces."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from typing import IO

import numpy as np

import files
from retrieval.stored import checksums, precision
from retrieval.stored import directory as layout
from retrieval.stored.unique_ids import UniqueIds

# bfloat16 arithmetic leaves norms within about 1 % of 1; more means that nothing normalised.
NORM_TOLERANCE = 0.02


class EmbeddingsWriter:
    """Writes an embeddings directory in pieces; memory is that of one piece and 12 bytes per id.

    Use it as a context manager. The files appear under their names when the block ends without an
    error; after an error the directory is as it was.

    Args:
        directory: created if missing; an earlier result in it is replaced. It may be in a bucket.
        dimension: D.
        model_digest: sha256 of the model, hexadecimal. Queries and index must agree on it.
        source: what was embedded, in words or as a path.
        count: N, if it is known; in a bucket it has to be, as a file is written once there.
        request: digest of what was asked for, for the manifest; left out if None.
        dtype: how the rows are stored: float32, float16, bfloat16 or int8. What that loses is
            measured, and stands in the manifest.

    Attributes:
        loss: of the rows so far, a `precision.Loss`.

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
        dtype: str = "float32",
    ) -> None:
        if dimension < 1:
            raise ValueError(f"expected a dimension of at least 1. Received: {dimension}")
        if count is None and files.is_remote(os.fspath(directory)):
            raise ValueError(f"expected the count for a bucket. Received: none for {directory}")
        precision.check_dtype(dtype)
        self.directory = os.fspath(directory)
        self.dimension = dimension
        self.dtype = dtype
        self._about = {"model_digest": model_digest, "source": source}
        self._request = {} if request is None else {"request": request}
        self._expected = count
        self._rejected = 0
        self._ids = UniqueIds()
        self._scales: list[np.ndarray] = []
        self.loss = precision.Loss()
        self._checksums = checksums.RowChecksums()
        self._stack = contextlib.ExitStack()
        self._is_complete = False
        self._file: IO[bytes] | None = None

    def __enter__(self) -> EmbeddingsWriter:
        files.make_folder(self.directory)
        layout.complete(self.directory)
        layout.discard(self.directory)
        self._stack.callback(self._clean)
        self._file = self._stack.enter_context(
            files.open_file(self._partial(layout.VECTORS_NAME), "wb")
        )
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
        vectors = np.asarray(vectors, np.float32)
        self._check(ids, vectors)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)  # (n, 1)
        wrong = np.flatnonzero(~(np.abs(norms[:, 0] - 1) <= NORM_TOLERANCE))
        if wrong.size:
            raise ValueError(
                f"expected L2-normalised rows. Received: norm {norms[wrong[0], 0]:.4g} for "
                f"{ids[wrong[0]]!r} and {wrong.size - 1} more"
            )
        vectors = vectors / norms
        stored, scales = precision.encode(vectors, self.dtype)
        loss = precision.Loss(len(ids))
        if self.dtype != "float32":
            loss = precision.Loss.of(vectors, precision.decode(stored, self.dtype, scales))
        self._write(ids, stored, scales)
        self.loss.add(loss)

    def copy(self, ids: Sequence[str], rows: precision.StoredRows) -> None:
        """Adds rows of another directory of the same dtype, bit by bit.

        What they have lost is to be added to `loss`.

        Args:
            ids: n unique ids.
            rows: (n, D) as they are stored.

        Raises:
            ValueError: on a wrong shape or dtype, or a repeated id.
        """
        if rows.stored_dtype != self.dtype:
            raise ValueError(f"expected rows of {self.dtype}. Received: {rows.stored_dtype}")
        self._check(ids, rows)
        self._write(ids, rows.stored, rows.scales)

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

    def _check(self, ids: Sequence[str], vectors: np.ndarray | precision.StoredRows) -> None:
        if self._file is None:
            raise ValueError("expected rows inside the `with` block. Received: a closed writer")
        if vectors.shape != (len(ids), self.dimension):
            raise ValueError(
                f"expected vectors of shape {(len(ids), self.dimension)}. Received: {vectors.shape}"
            )
        self._ids.check(ids)

    def _write(self, ids: Sequence[str], stored: np.ndarray, scales: np.ndarray | None) -> None:
        self._file.write(stored.tobytes())
        self._checksums.add(stored)
        if scales is not None:
            self._scales.append(np.array(scales))
        self._ids.add(ids)

    def _finish(self) -> None:
        if self._expected is None:
            self._file.seek(0)
            self._write_header(self._ids.count)
        elif self._ids.count != self._expected:
            raise ValueError(f"expected {self._expected} rows. Received: {self._ids.count}")
        _sync(self._file)
        self._file.close()
        with files.open_file(self._partial(layout.IDS_NAME), "wb") as file:
            self._ids.write(file)
            _sync(file)
        if self.dtype == "int8":
            with files.open_file(self._partial(layout.SCALES_NAME), "wb") as file:
                np.save(file, self._all_scales(), allow_pickle=False)
                _sync(file)
        manifest = self._manifest()
        self._is_complete = True
        layout.commit(self.directory, manifest)

    def _clean(self) -> None:
        # Complete files count, even if their renaming was interrupted.
        if not self._is_complete:
            layout.discard(self.directory)

    def _partial(self, name: str) -> str:
        return layout.partial(self.directory, name)

    def _all_scales(self) -> np.ndarray:
        return np.concatenate([np.zeros(0, np.float32), *self._scales])

    def _write_header(self, count: int) -> None:
        # NumPy pads the header so that the first dimension can grow in place.
        shape = (count, self.dimension)
        header = {"descr": precision.STORED[self.dtype], "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)

    def _manifest(self) -> dict:
        ids = checksums.Checksum()
        self._ids.write(ids)
        sums = {
            "algorithm": "crc32c",
            "rows_per_block": self._checksums.rows_per_block,
            "rows": self._checksums.values(),
            "ids": ids.value(),
        }
        if self.dtype == "int8":
            scales = checksums.RowChecksums()
            scales.add(self._all_scales())
            sums["scales"] = scales.values()
        return {
            "format": layout.FORMAT,
            "version": layout.VERSION,
            "count": self._ids.count,
            "dimension": self.dimension,
            "dtype": self.dtype,
            "normalized": True,
            "loss": self.loss.to_manifest(),
            **self._about,
            "rejected": self._rejected,
            **self._request,
            "checksums": sums,
        }


def _sync(file: IO[bytes]) -> None:
    """Leaves nothing of a local file in the system's memory."""
    file.flush()
    if isinstance(file, io.IOBase):
        os.fsync(file.fileno())
