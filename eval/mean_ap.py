"""Retrieval score: `python eval/mean_ap.py --index DIR --query DIR --solution CSV` -> mAP@100."""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

from eval import breakdown, coded, command, metrics, solutions, usage
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
    settings: search.Settings = search.PLAIN,
    bootstrap: int = 0,
    index_ids: str | None = None,
    labels: str | None = None,
    id_column: str = "id",
    label_column: str = "label",
    per_query: str | None = None,
    per_class: str | None = None,
    write_predictions: str | None = None,
) -> dict:
    """Scores embeddings, or a prediction file if one is given, against a retrieval solution.

    Args:
        solution: path of a `retrieval_solution` table.
        index: embeddings directories, one per member of the ensemble, or an index built of them.
        query: embeddings directories of the queries, one per member.
        predictions: path of a prediction file `id,images` to score instead of searching.
        weights: one per member; all 1 if absent.
        kind: of search, "auto", "exact" or "scann".
        k: the number of ranks of mAP@k.
        settings: see `search.Settings`.
        bootstrap: resamplings for confidence intervals; 0 for none.
        index_ids: path of a table with the index ids as `id`; predictions of others are an error.
        labels: path of a table with the class of every query, for `per_class`.
        id_column: its column of query ids.
        label_column: its column of classes.
        per_query: path of a table to write; see `breakdown.rankings_per_query`.
        per_class: path of a table to write; see `breakdown.rankings_per_class`.
        write_predictions: path of the submission file `id,images` to write.

    Returns:
        The metrics of `metrics.summary` (map_at_<k>, recall_at_1, ...), public_map_at_<k> and
        private_map_at_<k> (if the solution has both; see `eval.usage`), and counts: queries
        (scored), ignored (without a right answer), unanswered (scored, but without predictions),
        and with an index not_in_index (relevant images that it lacks, which are never found).

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if files do not fit each other or their formats.
    """
    truths = coded.read_truths(solution)
    counts: dict[str, int] = {}
    if predictions is not None:
        rankings, kind = _read(predictions, truths, k, index_ids), "predictions"
    else:
        answers = command.answer(index, query, weights=weights, kind=kind, k=k, settings=settings)
        rankings, kind = coded.rankings_of_answers(answers, truths, k), answers.search
        counts["not_in_index"] = coded.not_in_index(answers.index_ids, truths)
        if write_predictions:
            search.write_predictions(write_predictions, answers.rankings())
    relevance = coded.judge(truths, rankings)
    result = _result(relevance, k, bootstrap, usage.read_parts(solution))
    if per_query:
        breakdown.write_table(per_query, breakdown.rankings_per_query(relevance, k))
    if per_class:
        if labels is None:
            raise ValueError("expected the table of the queries' classes. Received: none")
        classes = solutions.read_labels(labels, id_column=id_column, label_column=label_column)
        breakdown.write_table(per_class, breakdown.rankings_per_class(relevance, classes, k))
    return {**result, **counts, "search": kind}


def score(rankings: dict, truths: dict, *, k: int = 100, bootstrap: int = 0) -> dict:
    """Scores rankings (index ids per query id) against the relevant ids; see `evaluate`."""
    return _result(metrics.judge(rankings, truths, depth=k), k, bootstrap)


def _read(path: str, truths: coded.Truths, k: int, index_ids: str | None) -> coded.Rankings:
    """Reads a prediction file; with a table of index ids, all images must be among them."""
    if index_ids is None:
        return coded.read_rankings(path, truths, k)
    predictions = solutions.read_retrieval_predictions(
        path, queries=frozenset(truths.queries), images=solutions.read_ids(index_ids)
    )
    return coded.rankings_of(predictions, truths, k)


def _result(
    relevance: metrics.Relevance, k: int, bootstrap: int, parts: usage.Parts | None = None
) -> dict:
    if not relevance.queries:
        raise ValueError("expected a solution with relevant images. Received: none for any query")
    name, precisions = f"map_at_{k}", metrics.average_precisions(relevance, k)
    scores = metrics.summary(relevance, k, bootstrap=bootstrap)
    by_part = usage.means(parts or {}, name, relevance.queries, precisions, bootstrap=bootstrap)
    return {
        **command.with_intervals({name: scores.pop(name), **by_part, **scores}),
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
    command.add_files(parser)
    parser.add_argument("--k", type=int, default=100, help="ranks that count (default: 100)")
    parser.add_argument(
        "--index-ids", metavar="CSV", help="table of all index ids; others in --predictions fail"
    )
    parser.add_argument("--labels", metavar="CSV", help="classes of the queries, for --per-class")
    parser.add_argument("--id-column", default="id", metavar="NAME", help="of --labels")
    parser.add_argument("--label-column", default="label", metavar="NAME", help="of --labels")
    options = parser.parse_args(argv)
    command.check_source(parser, options)
    if options.per_class and not options.labels:
        parser.error("expected --labels with --per-class")
    if options.k < 1:
        parser.error(f"expected --k of at least 1. Received: {options.k}")
    try:
        result = evaluate(
            **command.source(options),
            k=options.k,
            index_ids=options.index_ids,
            labels=options.labels,
            id_column=options.id_column,
            label_column=options.label_column,
            per_class=options.per_class,
            write_predictions=options.write_predictions,
        )
        command.show(result, options.output)
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
