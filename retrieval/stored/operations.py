"""What is done with whole embeddings directories: import, convert, append, merge, join, export.

All of them read and write in pieces. The result appears when it is complete; after an error or an
interruption its place is as it was before, also where a directory is replaced by itself.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import TextIO

import numpy as np

import files
from progress import Progress
from retrieval import embeddings, ensemble
from retrieval.embeddings import Embeddings, EmbeddingsWriter
from retrieval.stored import formats, precision
from retrieval.stored.unique_ids import few

DUPLICATES = ("error", "first")
_PIECE = 1 << 23  # numbers read at a time
_SMALLEST_NORM = 1e-12  # a shorter row has no direction


def import_file(
    source: formats.Source,
    output: str,
    *,
    model: str,
    dtype: str = "float32",
    stream: TextIO | None = None,
) -> dict:
    """Makes an embeddings directory of a file of another tool; rows are L2-normalised.

    Args:
        source: see `formats.open_source`.
        output: the directory.
        model: what says which model made the vectors; queries and index must agree on it.
        dtype: how to store them.
        stream: where the progress is shown.

    Returns:
        The manifest.

    Raises:
        ValueError: naming the id, if a row is zero or not finite, or an id is repeated.
    """
    name = os.path.basename(source.path)
    with EmbeddingsWriter(
        output, source.dimension, model_digest=model, source=name, count=source.count, dtype=dtype
    ) as writer:
        shown = Progress("import", source.count, stream, unit="vectors")
        _add_source(writer, source, shown)
        shown.close()
    return embeddings.load(output).manifest


def convert(directory: str, output: str, dtype: str, *, stream: TextIO | None = None) -> dict:
    """Writes embeddings in another dtype; returns the manifest.

    The loss in it is an upper bound if the embeddings had lost something before.
    """
    return merge([directory], output, dtype=dtype, stream=stream).manifest


@dataclasses.dataclass(frozen=True)
class Merged:
    """What a merge has written.

    Attributes:
        manifest: of the output.
        duplicates: ids that several directories have; the first one's row was taken.
    """

    manifest: dict
    duplicates: tuple[str, ...]


def merge(
    directories: Sequence[str],
    output: str,
    *,
    duplicates: str = "error",
    dtype: str | None = None,
    stream: TextIO | None = None,
) -> Merged:
    """Puts the images of several directories, embedded by one model, into one.

    Args:
        directories: at least one; rows stay in this order.
        output: may be one of them.
        duplicates: what to do with an id that several have: "error", or take the "first".
        dtype: of the output; the first directory's if absent. Rows that have it are copied bit by
            bit.
        stream: where the progress is shown.

    Raises:
        ValueError: if models or dimensions differ, or ids are repeated.
    """
    if duplicates not in DUPLICATES:
        raise ValueError(f"expected duplicates to be one of {DUPLICATES}. Received: {duplicates!r}")
    stores = _load_all(directories)
    kept, repeated = _first_of_each(stores)
    if repeated and duplicates == "error":
        raise ValueError(
            f"expected every id in one directory. Received {len(repeated):,} in several: "
            f"{few(repeated)}"
        )
    total = sum(map(len, kept))
    with _like(stores, output, dtype or stores[0].rows.stored_dtype, total) as writer:
        shown = Progress("copy", total, stream, unit="vectors")
        for store, rows in zip(stores, kept, strict=True):
            _add_store(writer, store, rows, shown)
        shown.close()
    return Merged(embeddings.load(output).manifest, tuple(repeated))


def append(
    directory: str,
    sources: Sequence[str | formats.Source],
    *,
    stream: TextIO | None = None,
) -> dict:
    """Adds images to a directory; the others keep their rows, bit by bit.

    Args:
        directory: is replaced as a whole when the new one is complete, so that it needs twice its
            size for a while.
        sources: embeddings directories by the same model, or files of other tools.
        stream: where the progress is shown.

    Returns:
        The manifest.

    Raises:
        ValueError: if models or dimensions differ, or an id is there already.
    """
    foreign = [source for source in sources if isinstance(source, formats.Source)]
    stores = _load_all([directory, *(s for s in sources if not isinstance(s, formats.Source))])
    for source in foreign:
        if source.dimension != stores[0].vectors.shape[1]:
            raise ValueError(
                f"expected the dimension {stores[0].vectors.shape[1]}. "
                f"Received: {source.dimension} in {source.path}"
            )
    total = sum(len(store.ids) for store in stores) + sum(source.count for source in foreign)
    names = [os.path.basename(source.path) for source in foreign]
    with _like(stores, directory, stores[0].rows.stored_dtype, total, names) as writer:
        shown = Progress("append", total, stream, unit="vectors")
        for store in stores:
            _add_store(writer, store, np.arange(len(store.ids)), shown)
        for source in foreign:
            _add_source(writer, source, shown)
        shown.close()
    return embeddings.load(directory).manifest


def write_joined(
    members: Sequence[Embeddings],
    output: str,
    *,
    weights: Sequence[float] | None = None,
    combine: str = "concatenate",
    missing: str = "error",
    dtype: str = "float32",
    stream: TextIO | None = None,
) -> dict:
    """Writes an ensemble as one directory, whose rows are L2-normalised: rankings are the same.

    Args:
        members: see `ensemble.join`, as for the other arguments.
        output: the directory.
        weights: of the members.
        combine: how.
        missing: what to do about ids that a member lacks.
        dtype: of the output.
        stream: where the progress is shown.

    Returns:
        The manifest; its model digest is that of the members' digests, weights and combination.
    """
    ids, vectors = ensemble.join(members, weights, combine=combine, missing=missing)
    weights = ensemble.check_weights(len(members), weights)
    facts = [[member.manifest["model_digest"] for member in members], weights, combine]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    sources = " + ".join(dict.fromkeys(member.manifest["source"] for member in members))
    shown = Progress("join", len(ids), stream, unit="vectors")
    with EmbeddingsWriter(
        output, vectors.shape[1], model_digest=digest, source=sources, dtype=dtype
    ) as writer:
        for piece in _pieces(len(ids), vectors.shape[1]):
            rows = np.asarray(vectors[piece])
            writer.append(ids[piece], rows / np.linalg.norm(rows, axis=1, keepdims=True))
            shown.advance(len(rows))
    shown.close()
    return embeddings.load(output).manifest


def export_npy(directory: str, output: str, *, stream: TextIO | None = None) -> str:
    """Writes a float32 .npy, and the ids beside it as text with one id per line.

    Returns:
        The path of the ids: `output` with the ending .ids.txt.
    """
    if not output.endswith(".npy"):
        raise ValueError(f"expected a file name with the ending .npy. Received: {output}")
    store = embeddings.load(directory)
    shown = Progress("export", len(store.ids), stream, unit="vectors")
    names = output.removesuffix(".npy") + ".ids.txt"
    with embeddings.atomic_file(pathlib.Path(output)) as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": store.vectors.shape}
        np.lib.format.write_array_header_1_0(file, header)
        for piece in _pieces(*store.vectors.shape):
            file.write(store.vectors[piece].tobytes())
            shown.advance(len(store.ids[piece]))
        # Beside the vectors only when these are complete.
        files.write_text(names, "".join(f"{image}\n" for image in store.ids))
    shown.close()
    return names


def _load_all(directories: Sequence[str]) -> list[Embeddings]:
    """Opens directories; ValueError unless one model made them all."""
    stores = [embeddings.load(directory) for directory in directories]
    if not stores:
        raise ValueError("expected at least one directory. Received: none")
    for key in ("model_digest", "dimension"):
        values = [store.manifest[key] for store in stores]
        if len(set(values)) > 1:
            pairs = ", ".join(f"{v} in {d}" for v, d in zip(values, directories, strict=True))
            raise ValueError(f"expected one {key.replace('_', ' ')}. Received: {pairs}")
    return stores


def _first_of_each(stores: Sequence[Embeddings]) -> tuple[list[np.ndarray], list[str]]:
    """Returns the rows of each store whose ids no earlier one has, and the other ids."""
    seen: set[str] = set()
    kept, repeated = [], []
    for store in stores:
        new = np.array([image not in seen for image in store.ids], bool)
        repeated += [store.ids[row] for row in np.flatnonzero(~new)]
        seen.update(store.ids)
        kept.append(np.flatnonzero(new))
    return kept, list(dict.fromkeys(repeated))


def _like(
    stores: Sequence[Embeddings], output: str, dtype: str, total: int, names: Sequence[str] = ()
) -> EmbeddingsWriter:
    """Returns a writer for the images of all stores together."""
    manifest = stores[0].manifest
    sources = dict.fromkeys([*(store.manifest["source"] for store in stores), *names])
    writer = EmbeddingsWriter(
        output,
        manifest["dimension"],
        model_digest=manifest["model_digest"],
        source=" + ".join(sources),
        count=total,
        dtype=dtype,
    )
    writer.reject(sum(store.manifest.get("rejected", 0) for store in stores))
    return writer


def _add_store(
    writer: EmbeddingsWriter, store: Embeddings, rows: np.ndarray, shown: Progress
) -> None:
    """Adds rows of a store, bit by bit where the dtype allows, and counts what they have lost."""
    known = precision.Loss.from_manifest(store.manifest)
    before, writer.loss = writer.loss, precision.Loss()
    stored = store.rows
    for piece in _pieces(len(rows), stored.shape[1]):
        chosen = rows[piece]
        ids = [store.ids[row] for row in chosen]
        if stored.stored_dtype == writer.dtype:
            writer.copy(ids, stored.take(chosen))
            writer.loss.add(precision.Loss(len(ids)))
        else:
            writer.append(ids, stored[chosen])
        stored.release()
        shown.advance(len(ids))
    before.add(known.of_rows(len(rows)).then(writer.loss))
    writer.loss = before


def _add_source(writer: EmbeddingsWriter, source: formats.Source, shown: Progress) -> None:
    for ids, vectors in source.pieces():
        for piece in _pieces(*vectors.shape):
            rows = vectors[piece]
            norms = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
            wrong = np.flatnonzero(~((norms > _SMALLEST_NORM) & np.isfinite(norms)))
            if wrong.size:
                named = [ids[piece][row] for row in wrong]
                raise ValueError(
                    f"{source.path}: expected vectors with a direction. Received: norm "
                    f"{norms[wrong[0], 0]:.4g} for {few(named)}"
                )
            writer.append(ids[piece], (rows / norms).astype(np.float32))
            shown.advance(len(rows))


def _pieces(count: int, dimension: int) -> list[slice]:
    step = max(1, _PIECE // dimension)
    return [slice(first, min(first + step, count)) for first in range(0, count, step)]
