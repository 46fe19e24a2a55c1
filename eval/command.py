"""What the evaluation commands share: where the answers come from, and how results are shown."""

from __future__ import annotations

import argparse

from eval import metrics
from retrieval import embeddings, search


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the source of the answers (embeddings or predictions), the solution and the output."""
    search.add_arguments(parser, required=False)
    parser.add_argument("--predictions", metavar="CSV", help="score this file instead of searching")
    parser.add_argument("--solution", metavar="CSV", required=True, help="the right answers")
    parser.add_argument(
        "--bootstrap",
        type=int,
        default=0,
        metavar="N",
        help="resample the queries N times for a 95%% confidence interval (1000 is usual)",
    )
    parser.add_argument("--output", metavar="JSON", help="write the results here as well")


def check_source(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Ends with a usage error unless there are predictions, or an index and queries."""
    if options.bootstrap < 0:
        parser.error(f"expected --bootstrap of at least 0. Received: {options.bootstrap}")
    if options.predictions:
        right = not (options.index or options.query or options.weights)
    else:
        right = options.index and options.query
    if not right:
        parser.error("expected either --index and --query, or --predictions")


def with_intervals(scores: dict[str, metrics.Score]) -> dict[str, float | list[float]]:
    """Returns the values by name, followed by NAME_interval where there is an interval."""
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


def _as_text(value: float | int | str | list[float]) -> str:
    if isinstance(value, list):
        return " to ".join(map(_as_text, value))
    return f"{value:.4f}" if isinstance(value, float) else str(value)
