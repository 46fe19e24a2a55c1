"""Searches embeddings or an index: `python retrieval/search.py --index DIR --query DIR ...`.

Several directories are the members of an ensemble, in the same order on both sides. An index of
retrieval/index.py is one directory, and the queries are the members that it was built of.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import sys
from collections.abc import Sequence

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import numpy as np

import columns
from retrieval import embeddings, ensemble, searched
from retrieval.nearest.searchers import KINDS, search_in_pieces
from retrieval.projecting import validation
from retrieval.reranking import steps
from retrieval.reranking.post_processing import Reference, State
from retrieval.stored.unique_ids import few


@dataclasses.dataclass(frozen=True)
class Settings:
    """How embeddings become answers, besides the weights and the kind of search.

    Attributes:
        combine: how members are joined, "concatenate", "scores" or "sum"; see `ensemble.join`.
        missing: what to do with ids that a member lacks, "error" or "drop".
        memory_mb: working memory of exact search in MiB.
        steps: texts of `retrieval.reranking.steps`, in order; none is the plain search.
        reference: embeddings directories of the labelled set, one per member, for steps that need
            one.
        reference_labels: table of its labels, columns id and label.
        query_table, index_table: tables with the columns id and path of the photographs, for
            geometric verification; relative paths are relative to the table's folder.
    """

    combine: str = "concatenate"
    missing: str = "error"
    memory_mb: int = 256
    steps: Sequence[str] = ()
    reference: Sequence[str] = ()
    reference_labels: str | None = None
    query_table: str | None = None
    index_table: str | None = None

    def __post_init__(self) -> None:
        for text in self.steps:
            steps.parse(text)
        if bool(self.reference) != bool(self.reference_labels):
            raise ValueError(
                "expected --reference together with --reference-labels. "
                f"Received: {self.reference} and {self.reference_labels}"
            )

    @property
    def compares_photographs(self) -> bool:
        """Whether a step needs paths; otherwise the tables may lack them."""
        return any(steps.parse(text).name == "geometric" for text in self.steps)

    @classmethod
    def of(cls, options: argparse.Namespace) -> Settings:
        """Takes it from the options of `add_arguments`."""
        return cls(
            combine=options.combine,
            missing=options.missing,
            memory_mb=options.memory_mb,
            steps=options.steps or (),
            reference=options.reference or (),
            reference_labels=options.reference_labels,
            query_table=options.query_table,
            index_table=options.index_table,
        )


PLAIN = Settings()


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


def answer(
    index: Sequence[str],
    query: Sequence[str],
    *,
    weights: Sequence[float] | None = None,
    search: str = "auto",
    k: int | None = 100,
    settings: Settings = PLAIN,
) -> Answers:
    """Searches embeddings directories, or an index that was built of them.

    Args:
        index: one directory per member of the ensemble, or an index of `retrieval/index.py`.
        query: embeddings directories of the queries, one per member in the same order.
        weights: one per member; all 1 if absent. An index has its own.
        search: see `searched.Pair.searcher`.
        k: answers per query, all if None; a smaller index gives all it has.
        settings: see `Settings`.

    Raises:
        FileNotFoundError: if a directory is missing or unfinished.
        ValueError: if directories, models, weights or steps do not fit each other.
    """
    pair = open_pair(index, query, weights, settings)
    k = max(1, len(pair.index_ids)) if k is None else k
    kind = pair.resolve(search)
    if settings.steps:
        state = steps.run(_state(pair, settings, search, k), settings.steps, stream=sys.stderr)
        found = state.positions[:, :k], state.scores[:, :k]
    else:
        searcher = pair.searcher(search, k, memory_mb=settings.memory_mb)
        found = search_in_pieces(searcher.search, pair.queries, k)
    return Answers(pair.query_ids, pair.index_ids, *found, kind)


def open_pair(
    index: Sequence[str], query: Sequence[str], weights: Sequence[float] | None, settings: Settings
) -> searched.Pair:
    """Opens queries and what they are searched in; see `answer`."""
    return searched.open_pair(
        index, query, weights=weights, combine=settings.combine, missing=settings.missing
    )


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
        help="embeddings, one directory per member of the ensemble, or one of retrieval/index.py",
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
        help="auto: exact below 20,000 vectors, ScaNN from there on, an index as it was built "
        "(default: %(default)s)",
    )
    _add_settings(parser)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `Settings`."""
    parser.add_argument(
        "--combine",
        choices=ensemble.COMBINATIONS,
        default="concatenate",
        help="how members become one (default: %(default)s)",
    )
    parser.add_argument(
        "--missing",
        choices=ensemble.MISSING,
        default="error",
        help="what to do with images that a member lacks (default: %(default)s)",
    )
    parser.add_argument(
        "--memory-mb",
        type=int,
        default=256,
        metavar="MIB",
        help="working memory of exact search (default: %(default)s)",
    )
    parser.add_argument(
        "--steps",
        nargs="+",
        metavar="STEP",
        help="post-processing in order, such as pca:dimension=512 expand_queries k_reciprocal",
    )
    parser.add_argument(
        "--reference", nargs="+", metavar="DIR", help="embeddings of a labelled set, for steps"
    )
    parser.add_argument("--reference-labels", metavar="CSV", help="its labels: id, label")
    parser.add_argument("--query-table", metavar="CSV", help="photographs: id, path")
    parser.add_argument("--index-table", metavar="CSV", help="photographs: id, path")


def _state(pair: searched.Pair, settings: Settings, search: str, k: int) -> State:
    """Returns what the first step starts from."""
    reference, photographs = None, None
    if settings.reference:
        ids, labelled = pair.join(settings.reference)
        classes = validation.read_labels(settings.reference_labels, ids)
        reference = Reference(np.asarray(labelled), classes)
    if settings.compares_photographs and settings.query_table and settings.index_table:
        photographs = (
            _paths(settings.query_table, pair.query_ids),
            _paths(settings.index_table, pair.index_ids),
        )
    return State(
        np.asarray(pair.queries),
        np.asarray(pair.vectors),
        depth=min(max(k, 100), len(pair.index_ids)),
        search=search,
        built=pair.approximate(search),
        reference=reference,
        photographs=photographs,
    )


def _paths(table: str, ids: Sequence[str]) -> list[str]:
    """Returns the path of each image's photograph."""
    folder = os.path.dirname(table)
    known = {
        image: path if os.path.isabs(path) else os.path.join(folder, path)
        for image, path in columns.read_columns(table, ["id", "path"])
    }
    missing = [image for image in ids if image not in known]
    if missing:
        raise ValueError(
            f"{table}: expected a path for every image. Received: none for {len(missing):,} "
            f"({few(missing)})"
        )
    return [known[image] for image in ids]


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
            settings=Settings.of(options),
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
