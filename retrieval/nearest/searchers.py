"""The search that fits an index: exact or ScaNN."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from progress import Progress
from retrieval.nearest import approximate, exact
from retrieval.nearest.scann_parameters import WORTH_FROM
from retrieval.stored import precision

KINDS = ("auto", "exact", "scann")
_PIECE = 8192


class Searcher(Protocol):
    """What finds the k most similar vectors; see `exact.ExactSearcher.search`."""

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns positions (Q, k) int64 and similarities (Q, k) float32."""
        ...


def resolve(kind: str, count: int) -> str:
    """Returns "exact" or "scann": what "auto" means for an index of `count` vectors."""
    if kind not in KINDS:
        raise ValueError(f"expected a search among {', '.join(KINDS)}. Received: {kind!r}")
    if kind == "auto":
        return "scann" if count >= WORTH_FROM else "exact"
    return kind


def make_searcher(
    kind: str,
    vectors: np.ndarray | precision.Rows,
    k: int,
    *,
    ids: Sequence[str] | None = None,
    memory_mb: int = 256,
) -> Searcher:
    """Returns a searcher over `vectors` (N, D) float32.

    Args:
        kind: "exact", "scann", or "auto": exact below 20,000 vectors, ScaNN from there on.
        vectors: what is searched.
        k: the number of neighbours that will be asked for.
        ids: N texts by which exact search orders equal similarities; without them it is the
            position.
        memory_mb: working memory of exact search in MiB.
    """
    if resolve(kind, len(vectors)) == "scann":
        return approximate.ScannSearcher(vectors, k=k)
    return exact.ExactSearcher(vectors, ids=ids, memory_mb=memory_mb)


def search_in_pieces(
    search: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]],
    queries: np.ndarray | precision.Rows,
    k: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Calls a searcher's `search` with some thousand queries at a time; progress is on stderr."""
    found = []
    shown = sys.stderr if len(queries) > _PIECE else None
    progress = Progress("search", len(queries), shown, unit="queries")
    for first in range(0, len(queries), _PIECE):
        found.append(search(queries[first : first + _PIECE], k))
        progress.advance(len(found[-1][0]))
    progress.close()
    positions, similarities = zip(*found, strict=True)
    return np.concatenate(positions), np.concatenate(similarities)
