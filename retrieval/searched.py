"""Queries and what they are searched in: embeddings directories, or an index built of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from retrieval import embeddings, ensemble
from retrieval.indexing import stored_index
from retrieval.nearest.searchers import Searcher, make_searcher, resolve
from retrieval.stored import precision

Vectors = np.ndarray | precision.Rows


@dataclasses.dataclass(frozen=True)
class Pair:
    """Queries and what they are searched in, joined to one descriptor per image.

    Attributes:
        query_ids: Q ids.
        queries: (Q, D) float32, read when needed.
        index_ids: N ids of what can be an answer.
        vectors: (N, D) float32, read when needed.
        models: the digest of each member's model.
        weights: one per member, or None for all 1.
        combine: how members are joined; see `ensemble.join`.
        missing: what is done with ids that a member lacks.
        index: the index that is searched; None for embeddings.
    """

    query_ids: tuple[str, ...]
    queries: Vectors
    index_ids: tuple[str, ...]
    vectors: Vectors
    models: tuple[str, ...]
    weights: Sequence[float] | None
    combine: str
    missing: str
    index: stored_index.Index | None = None

    def resolve(self, search: str) -> str:
        """Returns the search that is made, "exact" or "scann"; see `searcher`.

        Raises:
            ValueError: if ScaNN is asked for and the index is one of exact search.
        """
        if self.index is None or search not in ("auto", "scann"):
            return resolve(search, len(self.index_ids))
        if self.index.manifest.parameters is not None:
            return "scann"
        if search == "scann":
            raise ValueError(
                "expected an index that was built with --search scann. "
                f"Received: {self.index.directory}, which is searched exactly"
            )
        return "exact"

    def searcher(self, search: str, k: int, *, memory_mb: int = 256) -> Searcher:
        """Returns what finds the answers.

        Args:
            search: "exact", "scann" or "auto". Of embeddings "auto" is exact below 20,000 vectors
                and ScaNN from there on, which is built now; of an index it is what was built.
            k: the number of neighbours that will be asked for.
            memory_mb: working memory of exact search in MiB.
        """
        found = self.approximate(search)
        if found is not None:
            return found
        kind = self.resolve(search)
        return make_searcher(kind, self.vectors, k, ids=self.index_ids, memory_mb=memory_mb)

    def approximate(self, search: str) -> Searcher | None:
        """Returns the index' own ScaNN; None if there is none or exact search is asked for."""
        if self.index is None or self.resolve(search) == "exact":
            return None
        return _BuiltSearcher(self.index)

    def join(self, directories: Sequence[str]) -> tuple[tuple[str, ...], Vectors]:
        """Reads other embeddings by the same models, joined like these.

        Raises:
            ValueError: if another model, or not as many, made them.
        """
        members = [embeddings.load(directory) for directory in directories]
        ensemble.check_models(self.models, members, directories)
        return ensemble.join(members, self.weights, combine=self.combine, missing=self.missing)


class _BuiltSearcher:
    """The ScaNN of an index, whose answers are numbered without the removed rows.

    At least as many answers are looked for as the index is tuned for, so that its recall holds for
    fewer of them.

    Args:
        index: one that has ScaNN's files, which are read with the first search.
    """

    def __init__(self, index: stored_index.Index) -> None:
        self._index = index

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """See `approximate.ScannSearcher.search`."""
        found = self._index.search(queries, max(k, self._index.manifest.k))
        rows, similarities = (part[:, :k] for part in found)
        if self._index.rows is not None:
            rows = np.searchsorted(self._index.rows, rows)
        return rows, similarities


def open_pair(
    index: Sequence[str],
    query: Sequence[str],
    *,
    weights: Sequence[float] | None = None,
    combine: str = "concatenate",
    missing: str = "error",
) -> Pair:
    """Opens queries and what they are searched in.

    Args:
        index: embeddings directories, one per member, or an index of `retrieval/index.py`.
        query: embeddings directories, one per member in the same order.
        weights: one per member; all 1 if absent. An index has its own.
        combine: see `ensemble.join`; of an index as it was built.
        missing: what to do with ids that a member lacks.

    Raises:
        FileNotFoundError: if a directory is missing or unfinished.
        ValueError: if directories, models or weights do not fit each other.
    """
    if any(map(stored_index.is_index, index)):
        return _open_index(index, query, weights, combine, missing)
    if len(index) != len(query) or not index:
        raise ValueError(
            "expected the same members as index and as query. "
            f"Received: {len(index)} index and {len(query)} query directories"
        )
    members = [embeddings.load(directory) for directory in index]
    models = tuple(member.manifest["model_digest"] for member in members)
    asked = [embeddings.load(directory) for directory in query]
    ensemble.check_models(models, asked, query)
    how = {"combine": combine, "missing": missing}
    joined = ensemble.join(members, weights, **how)
    return Pair(*ensemble.join(asked, weights, **how), *joined, models, weights, combine, missing)


def _open_index(
    directories: Sequence[str],
    query: Sequence[str],
    weights: Sequence[float] | None,
    combine: str,
    missing: str,
) -> Pair:
    if len(directories) > 1:
        raise ValueError(
            "expected one index, or embeddings of every member (an index holds its ensemble). "
            f"Received: {', '.join(directories)}"
        )
    index = stored_index.Index(directories[0])
    manifest = index.manifest
    if weights is not None or combine not in ("concatenate", manifest.combine):
        raise ValueError(
            f"expected no weights and no other combination than those of the index, "
            f"{list(manifest.weights)} and {manifest.combine!r}. "
            f"Received: {weights} and {combine!r}"
        )
    if not len(index):
        raise ValueError(f"expected images in the index {directories[0]}. Received: none")
    members = [embeddings.load(directory) for directory in query]
    ensemble.check_models(manifest.models, members, query)
    own = {"combine": manifest.combine, "missing": missing}
    kept = index.ids if index.rows is None else [index.ids[row] for row in index.rows.tolist()]
    return Pair(
        *ensemble.join(members, manifest.weights, **own),
        tuple(kept), index.kept_vectors(),
        manifest.models, manifest.weights, manifest.combine, missing, index,
    )  # fmt: skip
