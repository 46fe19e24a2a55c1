"""Makes and changes an index in a directory: build, add, delete, tune.

What is added goes into ScaNN's partition when the index is opened (0.03 to 0.1 ms a row), deleted
rows are left out of the answers; when both together are a fifth of the rows the index was built
of, it is built again. Measured on 50,000 clustered vectors of 512 dimensions with settings for
recall 0.994: 10 % added rows 0.994, 20 % 0.993, 50 % 0.982; where the added ones lie in directions
of their own, 0.991, 0.991 and 0.902.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import TextIO

import numpy as np

import files
from retrieval import embeddings, ensemble
from retrieval.indexing import index_files, recall_curve, tuning
from retrieval.indexing.index_files import Manifest, Measured
from retrieval.indexing.questions import prepare
from retrieval.indexing.recall_curve import Curve
from retrieval.indexing.stored_index import Index
from retrieval.nearest.scann_parameters import SMALLEST_TREE, WORTH_FROM, Parameters
from retrieval.stored import precision
from retrieval.stored.unique_ids import few

SEARCHES = ("auto", "exact", "scann")
_MOST_CHANGED = 0.2  # of the rows an index was built of


def build(
    directory: str,
    members: Sequence[str],
    *,
    weights: Sequence[float] | None = None,
    combine: str = "concatenate",
    search: str = "auto",
    k: int = 100,
    recall: float = 0.99,
    queries: Sequence[str] | None = None,
    builds: int | None = None,
    seconds: float = tuning.SECONDS,
    stream: TextIO | None = None,
) -> Index:
    """Makes an index, in place of one that the directory may hold.

    Args:
        directory: where; created if missing.
        members: embeddings directories, one for each member of the ensemble.
        weights: one per member, all 1 if absent; queries are joined with the same.
        combine: see `ensemble.join`.
        search: "exact", "scann" (from 1,000 vectors on), or "auto": exact below 20,000.
        k: answers per query that will be asked for.
        recall: of these answers, against exact search.
        queries: embeddings of queries to tune with; sampled rows if None.
        builds: see `tuning.tune`.
        seconds: see `tuning.tune`.
        stream: see `tuning.tune`.

    Raises:
        FileNotFoundError: if embeddings are missing or unfinished.
        ValueError: if an argument does not fit, or the directory holds something else.
    """
    if search not in SEARCHES:
        raise ValueError(f"expected a search among {', '.join(SEARCHES)}. Received: {search!r}")
    loaded = [embeddings.load(member) for member in members]
    ids, vectors = ensemble.join(loaded, weights, combine=combine)
    if not len(ids):
        raise ValueError(f"expected embeddings of at least one image. Received: none in {members}")
    draft = Manifest(
        generation=0, count=0, dimension=vectors.shape[1], built=0, ids_bytes=0,
        models=tuple(member.manifest["model_digest"] for member in loaded),
        weights=tuple(ensemble.check_weights(len(loaded), weights)), combine=combine, sources=(),
        removed=0, search=search, k=k, wanted=recall, parameters=None, measured=None,
    )  # fmt: skip
    asked = None
    if queries is not None:
        query_members = [embeddings.load(query) for query in queries]
        ensemble.check_models(draft.models, query_members, queries)
        asked = np.asarray(ensemble.join(query_members, weights, combine=combine)[1])
    with index_files.writing(directory):
        _write(directory, draft, (ids, vectors, members), asked, builds, seconds, stream)
    return Index(directory)


def add(directory: str, members: Sequence[str], *, stream: TextIO | None = None) -> Index:
    """Adds the images of embeddings directories, by the same models as the index.

    Raises:
        ValueError: if another model made them, or an id is there already.
    """
    with index_files.writing(directory):
        index = Index(directory)
        manifest = index.manifest
        ids, vectors = index.read_queries(members)
        there = set(index.ids) - {index.ids[row] for row in index.removed}
        if repeated := [image for image in ids if image in there]:
            raise ValueError(
                f"expected ids that are not in the index (delete them first). "
                f"Received: {few(repeated)}"
            )
        source, ids_bytes = index_files.append(
            os.path.join(directory, manifest.folder), ids, vectors, members,
            count=manifest.count, ids_bytes=manifest.ids_bytes,
        )  # fmt: skip
        manifest = dataclasses.replace(
            manifest,
            count=manifest.count + len(ids),
            ids_bytes=ids_bytes,
            sources=(*manifest.sources, source),
        )
        index_files.write_manifest(directory, manifest)
        _rebuild_if_due(directory, stream)
    return Index(directory)


def delete(directory: str, ids: Sequence[str], *, stream: TextIO | None = None) -> Index:
    """Takes images out of the answers, by id.

    Raises:
        ValueError: if an id is not in the index.
    """
    with index_files.writing(directory):
        index = Index(directory)
        kept = range(len(index.ids)) if index.rows is None else index.rows.tolist()
        row_of = {index.ids[row]: row for row in kept}
        if unknown := [image for image in dict.fromkeys(ids) if image not in row_of]:
            raise ValueError(f"expected ids of the index. Received: {few(unknown)}")
        rows = np.union1d(index.removed, np.array([row_of[image] for image in ids], np.int64))
        if rows.size == index.manifest.removed:
            return index
        index_files.write_removed(directory, index.manifest, rows)
        manifest = dataclasses.replace(index.manifest, removed=int(rows.size))
        index_files.write_manifest(directory, manifest)
        _rebuild_if_due(directory, stream)
    return Index(directory)


def tune(
    directory: str,
    *,
    k: int | None = None,
    recall: float | None = None,
    queries: Sequence[str] | None = None,
    seconds: float = tuning.SECONDS,
    stream: TextIO | None = None,
) -> Index:
    """Chooses leaves and candidates anew for the index as it stands, without building it again.

    Args:
        directory: of the index.
        k: answers per query; as before if absent.
        recall: of these answers; as before if absent.
        queries: embeddings of queries like those that will come; sampled rows if None.
        seconds: see `tuning.retune`.
        stream: see `tuning.tune`.

    Raises:
        ValueError: if the index is searched exactly, or this build does not reach the recall.
    """
    with index_files.writing(directory):
        index = Index(directory)
        if index.scann is None:
            raise ValueError("expected an index that ScaNN searches. Received: exact search")
        k, recall = k or index.manifest.k, recall or index.manifest.wanted
        asked = None if queries is None else np.asarray(index.read_queries(queries)[1])
        questions = prepare(index.vectors, k, asked, rows=index.rows)
        curve = tuning.retune(index.scann, questions, recall, stream, seconds=seconds)
        manifest = dataclasses.replace(
            index.manifest, k=k, wanted=recall, parameters=curve.chosen.parameters,
            measured=_measured(curve, sampled=queries is None, rows=len(index)),
        )  # fmt: skip
        _write_curve(os.path.join(directory, manifest.folder), curve)
        index_files.write_manifest(directory, manifest)
    return Index(directory)


def _write(
    directory: str,
    draft: Manifest,
    contents: tuple[Sequence[str], np.ndarray | precision.Rows, Sequence[str]],
    queries: np.ndarray | None,
    builds: int | None,
    seconds: float,
    stream: TextIO | None,
) -> None:
    """Writes a new generation of (ids, vectors, embeddings) and makes it count."""
    before = None
    if os.path.exists(os.path.join(directory, index_files.MANIFEST_NAME)):
        before = index_files.read_manifest(directory)
    index_files.discard(directory, before)
    start = draft.parameters and _scaled(draft.parameters, draft.built, len(contents[0]))
    generation = 1 if before is None else before.generation + 1
    folder = os.path.join(directory, str(generation))
    source, ids_bytes = index_files.append(folder, *contents)
    manifest = dataclasses.replace(
        draft, generation=generation, count=source.rows, built=source.rows, ids_bytes=ids_bytes,
        sources=(source,), removed=0, parameters=None, measured=None,
    )  # fmt: skip
    if _uses_scann(manifest.search, manifest.count):
        vectors = index_files.open_vectors(directory, manifest)
        tuned = tuning.tune(
            vectors, k=draft.k, recall=draft.wanted, queries=queries, start=start,
            builds=builds, seconds=seconds,
            exactly=manifest.search == "auto", stream=stream,
        )  # fmt: skip
        _write_curve(folder, tuned.curve)
        parameters = tuned.curve.chosen.parameters
        if parameters is not None:
            tuned.searcher.save(os.path.join(folder, index_files.SCANN_NAME))
            measured = _measured(tuned.curve, sampled=queries is None, rows=manifest.count)
            manifest = dataclasses.replace(manifest, parameters=parameters, measured=measured)
    index_files.write_manifest(directory, manifest)


def _rebuild_if_due(directory: str, stream: TextIO | None) -> None:
    index = Index(directory)
    manifest = index.manifest
    changed = manifest.removed
    if manifest.parameters is not None:
        changed += manifest.count - manifest.built
    grown = manifest.built < WORTH_FROM <= len(index) and manifest.search == "auto"
    if not len(index) or (changed <= _MOST_CHANGED * manifest.built and not grown):
        return
    if stream is not None:
        print(f"{changed:,} rows of {manifest.built:,} changed: built again", file=stream)
    ids = index.ids if index.rows is None else [index.ids[row] for row in index.rows]
    names = dict.fromkeys(name for source in manifest.sources for name in source.embeddings)
    contents = ids, index.kept_vectors(), list(names)
    _write(directory, manifest, contents, None, 1, tuning.SECONDS, stream)


def _uses_scann(search: str, count: int) -> bool:
    return count >= {"auto": WORTH_FROM, "scann": SMALLEST_TREE}.get(search, count + 1)


def _scaled(parameters: Parameters, before: int, count: int) -> Parameters:
    """Returns what was built of some rows for another number of them."""
    leaves = max(1, round(parameters.leaves * math.sqrt(count / before)))
    return dataclasses.replace(parameters, leaves=leaves, training=min(count, 250_000))


def _measured(curve: Curve, *, sampled: bool, rows: int) -> Measured:
    point = curve.chosen
    return Measured(curve.k, point.recall, point.error, curve.queries, sampled, rows, point.seconds)


def _write_curve(folder: str, curve: Curve) -> None:
    files.write_text(os.path.join(folder, index_files.CURVE_NAME), curve.as_json())
    recall_curve.draw(curve, os.path.join(folder, index_files.PICTURE_NAME))
