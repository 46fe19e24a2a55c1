"""Searches an index of embeddings: `python retrieval/search.py --index DIR --query DIR ...`.

Several directories are the members of an ensemble, in the same order on both sides.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Protocol

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import numpy as np

from progress import Progress
from retrieval import approximate, embeddings, ensemble, exact

KINDS = ("auto", "exact", "scann")
# From here on ScaNN is faster than the matrix product.
AUTO_SCANN_FROM = 20_000
_PIECE = 8192


class Searcher(Protocol):
    """What finds the k most similar vectors; see `exact.ExactSearcher.search`."""

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns positions (Q, k) int64 and similarities (Q, k) float32."""
        ...


@dataclasses.dataclass(frozen=True)
class Answers:
    """The ranked answers to all queries.

    Attributes:
        query_ids: Q ids.
        index_ids: N ids; `positions` point into them.
        positions: (Q, k) int64, the most similar first.
        similarities: (Q, k) float32 inner products.
        search: the kind of search that was made, "exact" or "scann".
    """

    query_ids: tuple[str, ...]
    index_ids: tuple[str, ...]
    positions: np.ndarray
    similarities: np.ndarray
    search: str

    def rankings(self) -> dict[str, list[str]]:
        """Returns the index ids for every query id, best first."""
        ids = np.array(self.index_ids, object)
        return dict(zip(self.query_ids, ids[self.positions].tolist(), strict=True))


def resolve(kind: str, count: int) -> str:
    """Returns "exact" or "scann": what "auto" means for an index of `count` vectors."""
    if kind not in KINDS:
        raise ValueError(f"expected a search among {', '.join(KINDS)}. Received: {kind!r}")
    if kind == "auto":
        return "scann" if count >= AUTO_SCANN_FROM else "exact"
    return kind


def make_searcher(kind: str, vectors: np.ndarray, k: int) -> Searcher:
    """Returns a searcher over `vectors` (N, D) float32.

    Args:
        kind: "exact", "scann", or "auto": exact below 20,000 vectors, ScaNN from there on.
        vectors: what is searched.
        k: the number of neighbours that will be asked for.
    """
    if resolve(kind, len(vectors)) == "scann":
        return approximate.ScannSearcher(vectors, k=k)
    return exact.ExactSearcher(vectors)


def answer(
    index: Sequence[str],
    query: Sequence[str],
    *,
    weights: Sequence[float] | None = None,
    search: str = "auto",
    k: int = 100,
) -> Answers:
    """Searches embeddings directories.

    Args:
        index: one directory per member of the ensemble.
        query: the same for the queries, in the same order.
        weights: one per member; all 1 if absent.
        search: see `make_searcher`.
        k: answers per query; a smaller index gives all it has.

    Raises:
        FileNotFoundError: if a directory is missing or unfinished.
        ValueError: if directories, models or weights do not fit each other.
    """
    index_members, query_members = _load_pairs(index, query)
    index_ids, vectors = ensemble.join(index_members, weights)
    query_ids, queries = ensemble.join(query_members, weights)
    searcher = make_searcher(search, vectors, k)
    positions, similarities = _search_in_pieces(searcher, queries, k)
    return Answers(query_ids, index_ids, positions, similarities, resolve(search, len(vectors)))


def write_predictions(path: str, rankings: dict[str, list[str]]) -> None:
    """Writes a GLDv2 prediction file `id,images`, the images separated by spaces, best first."""
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with embeddings.atomic_file(target) as file:
        file.write(b"id,images\n")
        for query, images in rankings.items():
            file.write(f"{query},{' '.join(images)}\n".encode())


def add_arguments(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Adds the options of `answer`, which the evaluation commands share."""
    parser.add_argument(
        "--index",
        nargs="+",
        metavar="DIR",
        required=required,
        help="embeddings of the index, one directory per member of the ensemble",
    )
    parser.add_argument(
        "--query",
        nargs="+",
        metavar="DIR",
        required=required,
        help="embeddings of the queries, the same members in the same order",
    )
    parser.add_argument(
        "--weights", nargs="+", type=float, metavar="W", help="one per member (default: all 1)"
    )
    parser.add_argument(
        "--search",
        choices=KINDS,
        default="auto",
        help="auto: exact below 20,000 vectors, ScaNN from there on (default: %(default)s)",
    )


def _load_pairs(
    index: Sequence[str], query: Sequence[str]
) -> tuple[list[embeddings.Embeddings], list[embeddings.Embeddings]]:
    if len(index) != len(query) or not index:
        raise ValueError(
            "expected the same members as index and as query. "
            f"Received: {len(index)} index and {len(query)} query directories"
        )
    index_members = [embeddings.load(directory) for directory in index]
    query_members = [embeddings.load(directory) for directory in query]
    for number, pair in enumerate(zip(index_members, query_members, strict=True)):
        digests = [member.manifest["model_digest"] for member in pair]
        if digests[0] != digests[1]:
            raise ValueError(
                f"expected index and query embedded by the same model. Received: {digests[0]!r} "
                f"in {index[number]} and {digests[1]!r} in {query[number]}"
            )
    return index_members, query_members


def _search_in_pieces(
    searcher: Searcher, queries: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Searches some thousand queries at a time, with the progress on stderr."""
    found = []
    shown = sys.stderr if len(queries) > _PIECE else None
    progress = Progress("search", len(queries), shown, unit="queries")
    for first in range(0, len(queries), _PIECE):
        found.append(searcher.search(queries[first : first + _PIECE], k))
        progress.advance(len(found[-1][0]))
    progress.close()
    positions, similarities = zip(*found, strict=True)
    return np.concatenate(positions), np.concatenate(similarities)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog="python retrieval/search.py",
        description="Ranks the index for every query and writes a GLDv2 prediction file.",
    )
    add_arguments(parser, required=True)
    parser.add_argument("--k", type=int, default=100, help="answers per query (default: 100)")
    parser.add_argument("--output", required=True, metavar="CSV", help="predictions, id,images")
    options = parser.parse_args(argv)
    try:
        answers = answer(
            options.index,
            options.query,
            weights=options.weights,
            search=options.search,
            k=options.k,
        )
        write_predictions(options.output, answers.rankings())
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"{len(answers.query_ids):,} queries, {answers.positions.shape[1]} of "
        f"{len(answers.index_ids):,} images each, {answers.search} search: {options.output}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
