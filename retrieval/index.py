"""Makes, changes and searches an index: `python retrieval/index.py build|add|...`.

    python retrieval/index.py build --embeddings runs/index --output runs/landmarks
    python retrieval/index.py search --index runs/landmarks --query runs/query --output answers.csv

Several directories of embeddings are the members of an ensemble, in the same order everywhere.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import time
from collections.abc import Callable

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import numpy as np

from retrieval import search
from retrieval.ensemble import COMBINATIONS
from retrieval.indexing import index_changes, recall_curve, stored_index, tuning
from retrieval.nearest.searchers import search_in_pieces


def build(options: argparse.Namespace) -> None:
    """Builds an index and says what it is."""
    index = index_changes.build(
        options.output,
        options.embeddings,
        weights=options.weights,
        combine=options.combine,
        search=options.search,
        k=options.k,
        recall=options.recall,
        queries=options.queries,
        builds=options.builds,
        seconds=options.seconds,
        stream=sys.stderr,
    )
    print(describe(index))


def add(options: argparse.Namespace) -> None:
    """Adds the images of embeddings directories."""
    print(describe(index_changes.add(options.index, options.embeddings, stream=sys.stderr)))


def delete(options: argparse.Namespace) -> None:
    """Deletes the images whose ids a file lists, one per line."""
    ids = pathlib.Path(options.ids).read_text(encoding="utf-8").split()
    if not ids:
        raise ValueError(f"expected ids, one per line. Received: none in {options.ids}")
    print(describe(index_changes.delete(options.index, ids, stream=sys.stderr)))


def tune(options: argparse.Namespace) -> None:
    """Chooses leaves and candidates anew."""
    index = index_changes.tune(
        options.index,
        k=options.k,
        recall=options.recall,
        queries=options.queries,
        seconds=options.seconds,
        stream=sys.stderr,
    )
    print(describe(index))


def check(options: argparse.Namespace) -> None:
    """Compares the files with their digests, and the answers with exact search."""
    index = stored_index.Index(options.index)
    queries = None
    if options.queries is not None:
        queries = np.asarray(index.read_queries(options.queries)[1])
    point = index.check(queries, options.k)
    print(f"files as they were written\n{recall_curve.HEAD}\n{point.row()}")
    wanted = index.manifest.wanted
    if point.recall + 2 * point.error < wanted:
        raise ValueError(f"expected recall {wanted} (tune or build). Received: {point.recall:.4f}")


def find(options: argparse.Namespace) -> None:
    """Ranks the index for every query and writes a GLDv2 prediction file."""
    index = stored_index.Index(options.index)
    ids, queries = index.read_queries(options.query)
    start = time.monotonic()
    asked = index.search_exactly if options.exact else index.search
    rows, _ = search_in_pieces(asked, queries, options.k)
    seconds = time.monotonic() - start
    search.write_predictions(options.output, index.rankings(ids, rows))
    print(
        f"{len(ids):,} queries, {rows.shape[1]} of {len(index):,} images each, "
        f"{seconds:.1f} s: {options.output}"
    )


def info(options: argparse.Namespace) -> None:
    """Says what an index is."""
    print(describe(stored_index.Index(options.index)))


def describe(index: stored_index.Index) -> str:
    """Returns what an index is, in lines."""
    manifest = index.manifest
    lines = [f"{len(index):,} images, {manifest.dimension:,} dimensions: {index.directory}"]
    for digest, weight in zip(manifest.models, manifest.weights, strict=True):
        lines.append(f"model {digest}, weight {weight:g}")
    for source in manifest.sources:
        lines.append(f"{source.rows:,} images of {', '.join(source.embeddings)}")
    changed = manifest.count - manifest.built
    if changed or manifest.removed:
        lines.append(f"since the build {changed:,} added and {manifest.removed:,} deleted")
    parameters, measured = manifest.parameters, manifest.measured
    if parameters is None:
        return "\n".join([*lines, "exact search"])
    lines.append(
        f"ScaNN: {recall_curve.label_of(parameters)}; {parameters.leaves_to_search:,} leaves "
        f"searched, {parameters.candidates:g} candidates per answer"
    )
    kind = "rows" if measured.sampled else "queries"
    lines.append(
        f"recall@{measured.k} {measured.recall:.4f} ±{measured.error:.4f} of {manifest.wanted:g} "
        f"asked for, {1 / measured.seconds:,.0f} queries per CPU second: {measured.queries:,} "
        f"{kind} among {measured.rows:,} images"
    )
    return "\n".join(lines)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python retrieval/index.py", description="Makes, changes and searches an index."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    one = _command(commands, "build", build, "makes an index of embeddings and tunes it")
    _embeddings(one)
    one.add_argument("--output", required=True, metavar="INDEX", help="replaces an index there")
    one.add_argument("--weights", nargs="+", type=float, metavar="W", help="one per member")
    one.add_argument("--combine", choices=COMBINATIONS, default=COMBINATIONS[0])
    one.add_argument("--search", choices=index_changes.SEARCHES, default="auto")
    _wishes(one, 100, 0.99)
    _seconds(one)
    one.add_argument("--builds", type=int, metavar="N", help="how many to try (default: 4 or 1)")
    for name, function, text in (
        ("add", add, "adds images"),
        ("delete", delete, "deletes images"),
        ("tune", tune, "chooses leaves and candidates anew, without building"),
        ("check", check, "compares with exact search and with the digests of the files"),
        ("search", find, "ranks the index for every query"),
        ("info", info, "says what an index is"),
    ):
        one = _command(commands, name, function, text)
        one.add_argument("--index", required=True, metavar="INDEX")
        if name == "add":
            _embeddings(one)
        elif name == "delete":
            one.add_argument("--ids", required=True, metavar="FILE", help="one id per line")
        elif name in ("tune", "check"):
            _wishes(one, None, None if name == "tune" else argparse.SUPPRESS)
            if name == "tune":
                _seconds(one)
        elif name == "search":
            _query(one)
    return parser.parse_args(argv)


def _command(commands, name: str, function: Callable, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(function=function)
    return parser


def _embeddings(parser: argparse.ArgumentParser) -> None:
    text = "one directory of embeddings per member of the ensemble"
    parser.add_argument("--embeddings", nargs="+", required=True, metavar="DIR", help=text)


def _wishes(parser: argparse.ArgumentParser, k: int | None, recall: float | str | None) -> None:
    default = "" if k else " (default: as built)"
    parser.add_argument("--k", type=int, default=k, help=f"answers per query{default}")
    if recall != argparse.SUPPRESS:
        text = f"share of the right answers to reach{default}"
        parser.add_argument("--recall", type=float, default=recall, help=text)
    text = "embeddings of queries to measure with (default: sampled rows of the index)"
    parser.add_argument("--queries", nargs="+", metavar="DIR", help=text)


def _seconds(parser: argparse.ArgumentParser) -> None:
    text = "how long settings of a build are measured (default: %(default)g)"
    parser.add_argument("--seconds", type=float, default=tuning.SECONDS, metavar="S", help=text)


def _query(parser: argparse.ArgumentParser) -> None:
    text = "embeddings of the queries, the members in the order of the index"
    parser.add_argument("--query", nargs="+", required=True, metavar="DIR", help=text)
    parser.add_argument("--k", type=int, default=100, help="answers per query (default: 100)")
    parser.add_argument("--exact", action="store_true", help="compare with all vectors")
    parser.add_argument("--output", required=True, metavar="CSV", help="predictions, id,images")


def main(argv: list[str] | None = None) -> int:
    """Runs the command line."""
    options = parse(argv)
    try:
        options.function(options)
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
