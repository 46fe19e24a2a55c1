"""A transform of embeddings: steps that are applied, chained, saved and loaded.

It is applied to queries and index alike. Saved, it is a folder with `arrays.npz` and
`manifest.json`, which says what it was fitted on. `transforms` fits it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

import files
from retrieval.projecting import covariance

FORMAT = "waymark-transform"
VERSION = 1
ARRAYS_NAME, MANIFEST_NAME = "arrays.npz", "manifest.json"


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """x / |x| for every row."""

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Maps (n, D) float32 to (n, D) float32."""
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class Power:
    """sign(x) |x|^exponent for every number (Perronnin et al., ECCV 2010)."""

    exponent: float

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Maps (n, D) float32 to (n, D) float32."""
        return np.sign(vectors) * np.abs(vectors) ** np.float32(self.exponent)


@dataclasses.dataclass(frozen=True)
class Projection:
    """(x - mean) matrix for every row; mean (D,) and matrix (D, d) float32."""

    mean: np.ndarray
    matrix: np.ndarray

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Maps (n, D) float32 to (n, d) float32."""
        return (vectors - self.mean) @ self.matrix


Step = Normalisation | Power | Projection


@dataclasses.dataclass(frozen=True)
class Transform:
    """Steps that map vectors (N, D) to L2-normalised vectors (N, d), one after another.

    Attributes:
        input_dimension: D.
        steps: the last is a Normalisation.
        fits: what each fitted part was fitted with and on, for the manifest.
    """

    input_dimension: int
    steps: tuple[Step, ...]
    fits: tuple[Mapping, ...] = ()

    def __post_init__(self) -> None:
        if not self.steps or not isinstance(self.steps[-1], Normalisation):
            raise ValueError(f"expected a Normalisation as the last step. Received: {self.steps}")
        dimension = self.input_dimension
        for step in self.steps:
            if not isinstance(step, Projection):
                continue
            shape = step.matrix.shape
            if len(shape) != 2 or step.mean.shape != shape[:1] or shape[0] != dimension:
                raise ValueError(
                    f"expected a projection of {dimension} dimensions. Received: matrix {shape}, "
                    f"mean {step.mean.shape}"
                )
            dimension = shape[1]

    @property
    def dimension(self) -> int:
        """The dimension d of the results."""
        widths = [step.matrix.shape[1] for step in self.steps if isinstance(step, Projection)]
        return widths[-1] if widths else self.input_dimension

    @property
    def digest(self) -> str:
        """sha256 of all numbers, hexadecimal: equal for transforms that do the same."""
        listing, arrays = _listing(self)
        digest = hashlib.sha256(json.dumps(listing).encode())
        for array in arrays.values():
            digest.update(np.ascontiguousarray(array, "<f4").tobytes())
        return digest.hexdigest()

    def combined_digest(self, model_digest: str) -> str:
        """Returns the digest of a model followed by this transform, for embeddings of both."""
        return hashlib.sha256(f"{model_digest} {self.digest}".encode()).hexdigest()

    def then(self, other: Transform) -> Transform:
        """Returns the transform that applies this one and then `other`."""
        if other.input_dimension != self.dimension:
            raise ValueError(
                f"expected a second transform of {self.dimension} dimensions. "
                f"Received: {other.input_dimension}"
            )
        return Transform(self.input_dimension, self.steps + other.steps, (*self.fits, *other.fits))

    def truncated(self, dimension: int) -> Transform:
        """Returns the transform to the first axes of the last projection: as if fitted to fewer."""
        last = max((i for i, s in enumerate(self.steps) if isinstance(s, Projection)), default=-1)
        if last != len(self.steps) - 2 or not 1 <= dimension <= self.dimension:
            raise ValueError(
                f"expected a transform that ends in a projection to at least {dimension} "
                f"dimensions, at least 1. Received: {[type(s).__name__ for s in self.steps]} to "
                f"{self.dimension}"
            )
        step = self.steps[last]
        cut = Projection(step.mean, np.ascontiguousarray(step.matrix[:, :dimension]))
        steps = (*self.steps[:last], cut, *self.steps[last + 1 :])
        fits = (*self.fits[:-1], {**self.fits[-1], "dimension": dimension}) if self.fits else ()
        return Transform(self.input_dimension, steps, fits)

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """Transforms vectors, queries and index alike.

        Args:
            vectors: (N, D), finite; a memory map is read block by block.

        Returns:
            (N, d) float32, rows L2-normalised.

        Raises:
            ValueError: if D does not fit, a row is not finite, or nothing of a row is left.
        """
        result = np.empty((len(vectors), self.dimension), np.float32)
        first = 0
        for block in self.blocks(vectors):
            result[first : first + len(block)] = block
            first += len(block)
        return result

    def blocks(self, vectors: np.ndarray) -> Iterator[np.ndarray]:
        """Yields what `apply` returns, in blocks of rows."""
        if vectors.ndim != 2 or vectors.shape[1] != self.input_dimension:
            raise ValueError(
                f"expected vectors of {self.input_dimension} dimensions. Received: {vectors.shape}"
            )
        return self.map_blocks(covariance.row_blocks(vectors))

    def map_blocks(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yields what becomes of blocks of rows, (n, D) float32 each."""
        first = 0
        for block in blocks:
            with np.errstate(invalid="ignore", divide="ignore", over="ignore"):  # told below
                result = functools.reduce(lambda rows, step: step(rows), self.steps, block)
            usable = np.isfinite(result).all(axis=1)
            if not usable.all():
                raise ValueError(
                    "expected rows that keep a direction. Received: nothing but 0, or too large "
                    f"numbers, after the transform of row {first + int(np.argmin(usable))}"
                )
            first += len(block)
            yield result

    def save(self, path: str) -> None:
        """Writes the transform as a folder; it may be in a bucket. An earlier one is replaced.

        The manifest is removed first and written last: a folder with a manifest is complete.
        """
        path = os.fspath(path)
        listing, arrays = _listing(self)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            **listing,
            "dimension": self.dimension,
            "digest": self.digest,
            "fits": [dict(fit) for fit in self.fits],
        }
        files.make_folder(path)
        files.remove(os.path.join(path, MANIFEST_NAME))
        files.write_bytes(os.path.join(path, ARRAYS_NAME), buffer.getvalue())
        text = json.dumps(manifest, indent=2, ensure_ascii=False)
        files.write_text(os.path.join(path, MANIFEST_NAME), text + "\n")

    @classmethod
    def load(cls, path: str) -> Transform:
        """Reads a transform that `save` has written.

        Raises:
            FileNotFoundError: if the folder is missing or was not finished.
            ValueError: if its parts do not fit each other or this version.
        """
        path = os.fspath(path)
        if not files.exists(os.path.join(path, MANIFEST_NAME)):
            raise FileNotFoundError(
                f"expected a finished transform with {MANIFEST_NAME}. Received: {path}"
            )
        manifest = json.loads(files.read(os.path.join(path, MANIFEST_NAME)))
        received = manifest.get("format"), manifest.get("version")
        if received != (FORMAT, VERSION):
            raise ValueError(f"expected {FORMAT}, {VERSION} in {path}. Received: {received}")
        data = io.BytesIO(files.read(os.path.join(path, ARRAYS_NAME)))
        entries = enumerate(manifest["steps"])
        try:
            with np.load(data, allow_pickle=False) as arrays:
                steps = tuple(_step(entry, number, arrays) for number, entry in entries)
        except (KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{path}: expected the arrays of the steps. Received: {error}"
            ) from error
        transform = cls(manifest["input_dimension"], steps, tuple(manifest["fits"]))
        if transform.digest != manifest["digest"]:
            raise ValueError(
                f"expected numbers of the digest {manifest['digest']} in {path}. "
                f"Received: {transform.digest}"
            )
        return transform


def _listing(transform: Transform) -> tuple[dict, dict[str, np.ndarray]]:
    """Returns what the manifest says of the steps, and their arrays by name."""
    entries, arrays = [], {}
    for number, step in enumerate(transform.steps):
        if isinstance(step, Projection):
            entries.append({"kind": "projection", "shape": list(step.matrix.shape)})
            arrays[f"mean_{number}"], arrays[f"matrix_{number}"] = step.mean, step.matrix
        elif isinstance(step, Power):
            entries.append({"kind": "power", "exponent": step.exponent})
        else:
            entries.append({"kind": "normalisation"})
    return {"input_dimension": transform.input_dimension, "steps": entries}, arrays


def _step(entry: Mapping, number: int, arrays: Mapping[str, np.ndarray]) -> Step:
    """Returns the step that an entry of the manifest describes."""
    if entry["kind"] == "projection":
        return Projection(arrays[f"mean_{number}"], arrays[f"matrix_{number}"])
    if entry["kind"] == "power":
        return Power(entry["exponent"])
    if entry["kind"] == "normalisation":
        return Normalisation()
    raise ValueError(f"expected a known step. Received: {entry['kind']!r}")
