"""Retrieval score: `python eval/mean_ap.py --index DIR --query DIR --solution CSV` -> mAP@100."""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

from eval import command, metrics, solutions
from retrieval import search


def evaluate(
    *,
    solution: str,
    index: Sequence[str] = (),
    query: Sequence[str] = (),
    predictions: str | None = None,
    weights: Sequence[float] | None = None,
    kind: str = "auto",
    k: int = 100,
    bootstrap: int = 0,
) -> dict:
    """Scores embeddings, or a prediction file if one is given, against a retrieval solution.

    Args:
        solution: path of a `retrieval_solution` table.
        index: embeddings directories, one per member of the ensemble.
        query: the same for the queries.
        predictions: path of a prediction file `id,images` to score instead of searching.
        weights: one per member; all 1 if absent.
        kind: of search, "auto", "exact" or "scann".
        k: the number of ranks of mAP@k.
        bootstrap: resamplings for confidence intervals; 0 for none.

    Returns:
        map_at_<k>, recall_at_1, recall_at_5, recall_at_10 (as far as k goes), and counts: queries
        (scored), ignored (without a right answer), unanswered (scored, but without predictions).

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if files do not fit each other or their formats.
    """
    if predictions:
        rankings, kind = solutions.read_retrieval_predictions(predictions), "predictions"
    else:
        answers = search.answer(index, query, weights=weights, search=kind, k=k)
        rankings, kind = answers.rankings(), answers.search
    truths = solutions.read_retrieval_solution(solution)
    return {**score(rankings, truths, k=k, bootstrap=bootstrap), "search": kind}


def score(rankings: dict, truths: dict, *, k: int = 100, bootstrap: int = 0) -> dict:
    """Scores rankings (index ids per query id) against the relevant ids; see `evaluate`."""
    relevance = metrics.judge(rankings, truths, depth=k)
    if not relevance.queries:
        raise ValueError("expected a solution with relevant images. Received: none for any query")
    scores = {f"map_at_{k}": metrics.mean_average_precision(relevance, k, bootstrap=bootstrap)}
    for depth in (1, 5, 10):
        if depth <= k:
            recall = metrics.recall_at_k(relevance, depth, bootstrap=bootstrap)
            scores[f"recall_at_{depth}"] = recall
    return {
        **command.with_intervals(scores),
        "queries": len(relevance.queries),
        "ignored": relevance.ignored,
        "unanswered": relevance.unanswered,
    }


def main(argv: list[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog="python eval/mean_ap.py", description="mAP@k and recall of an index and its queries."
    )
    command.add_arguments(parser)
    parser.add_argument("--k", type=int, default=100, help="ranks that count (default: 100)")
    options = parser.parse_args(argv)
    command.check_source(parser, options)
    try:
        result = evaluate(
            solution=options.solution,
            index=options.index or (),
            query=options.query or (),
            predictions=options.predictions,
            weights=options.weights,
            kind=options.search,
            k=options.k,
            bootstrap=options.bootstrap,
        )
        command.show(result, options.output)
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
