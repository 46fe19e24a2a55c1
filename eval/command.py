"""What the evaluation commands share: where the answers come from, and how results are shown."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

import numpy as np

from eval import metrics
from retrieval import embeddings, search
from retrieval.indexing import stored_index
from retrieval.stored.unique_ids import few

_ROWS = 16384


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the source of the answers (embeddings or predictions), the solution and the output."""
    search.add_arguments(parser, required=False)
    parser.add_argument("--predictions", metavar="CSV", help="score this file instead of searching")
    parser.add_argument("--solution", metavar="CSV", required=True, help="the right answers")
    add_output(parser)


def add_output(parser: argparse.ArgumentParser) -> None:
    """Adds what is written besides the table on the terminal."""
    parser.add_argument(
        "--bootstrap",
        type=int,
        default=0,
        metavar="N",
        help="resample the queries N times for a 95%% confidence interval (1000 is usual)",
    )
    parser.add_argument("--output", metavar="JSON", help="write the results here as well")
    parser.add_argument(
        "--per-query", metavar="FILE", help="write one row per query: .json, else CSV"
    )


def source(options: argparse.Namespace) -> dict:
    """Returns the keyword arguments of an `evaluate` that the options of `add_arguments` give."""
    return {
        "solution": options.solution,
        "index": options.index or (),
        "query": options.query or (),
        "predictions": options.predictions,
        "weights": options.weights,
        "kind": options.search,
        "settings": search.Settings.of(options),
        "bootstrap": options.bootstrap,
        "per_query": options.per_query,
    }


def add_files(parser: argparse.ArgumentParser) -> None:
    """Adds the table per class and the submission file."""
    parser.add_argument(
        "--per-class", metavar="FILE", help="write one row per class: .json, else CSV"
    )
    parser.add_argument(
        "--write-predictions", metavar="CSV", help="write the answers as a submission file"
    )


def check_source(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Ends with a usage error unless there are predictions, or an index and queries."""
    check_bootstrap(parser, options)
    if options.predictions:
        right = not (options.index or options.query or options.weights)
    else:
        right = options.index and options.query
    if not right:
        parser.error("expected either --index and --query, or --predictions")
    if options.predictions and getattr(options, "write_predictions", None):
        parser.error("expected --write-predictions with --index. Received: --predictions")


def check_bootstrap(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Ends with a usage error if --bootstrap is negative."""
    if options.bootstrap < 0:
        parser.error(f"expected --bootstrap of at least 0. Received: {options.bootstrap}")


def answer(
    index: Sequence[str],
    query: Sequence[str],
    *,
    weights: Sequence[float] | None = None,
    kind: str = "auto",
    k: int | None = 100,
    settings: search.Settings = search.PLAIN,
) -> search.Answers:
    """Searches embeddings directories or an index as `search.answer` does.

    Raises:
        FileNotFoundError: if a directory is missing or unfinished.
        ValueError: if directories, models or weights do not fit each other, or embeddings are NaN
            or infinite, with the directory and the images.
    """
    try:
        return search.answer(index, query, weights=weights, search=kind, k=k, settings=settings)
    except ValueError:
        _find_fault(index, query)
        raise


def with_intervals(scores: Mapping[str, metrics.Score]) -> dict[str, float | list[float]]:
    """Returns the values by name, each followed by NAME_interval where there is an interval."""
    result = {}
    for name, score in scores.items():
        result[name] = float(score)
        if score.interval is not None:
            result[f"{name}_interval"] = list(score.interval)
    return result


def show(result: dict, output: str | None) -> None:
    """Prints a result, one line per value, and writes it as JSON if a path is given."""
    width = max(map(len, result))
    for name, value in result.items():
        print(f"{name:<{width}}  {_as_text(value)}")
    if output:
        embeddings.write_json(output, result)


def _find_fault(index: Sequence[str], query: Sequence[str]) -> None:
    """Raises the ValueError that names the directory whose contents cannot be searched."""
    if any(map(stored_index.is_index, index)):  # what it holds was checked when it was built
        index = ()
    members = {}
    for directory in (*index, *query):
        try:
            members[directory] = embeddings.load(directory)
        except ValueError as error:
            where = "" if directory in str(error) else f"{directory}: "
            raise ValueError(f"{where}{error}") from None
        if not members[directory].ids:
            raise ValueError(f"expected embeddings in {directory}. Received: none")
    for directory, other in zip(index, query, strict=False):
        sizes = [members[name].vectors.shape[1] for name in (directory, other)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"expected embeddings of dimension {sizes[0]} as in {directory}. "
                f"Received: {sizes[1]} in {other}"
            )
    for directory, member in members.items():
        _check_finite(directory, member)


def _check_finite(directory: str, member: embeddings.Embeddings) -> None:
    wrong = [
        first + row
        for first in range(0, len(member.ids), _ROWS)
        for row in np.flatnonzero(
            ~np.isfinite(member.vectors[first : first + _ROWS]).all(axis=1)
        ).tolist()
    ]
    if wrong:
        raise ValueError(
            f"expected finite embeddings in {directory}. Received: NaN or infinity for "
            f"{few([member.ids[row] for row in wrong])}"
        )


def _as_text(value: float | int | str | list[float]) -> str:
    if isinstance(value, list):
        return " to ".join(map(_as_text, value))
    return f"{value:.4f}" if isinstance(value, float) else str(value)
