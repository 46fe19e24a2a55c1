"""Two runs, one solution: `python eval/compare.py --solution FILE --a RUN --b RUN`.

A run is a prediction file, or two embeddings directories: index and queries.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import numpy as np

from eval import breakdown, coded, command, gap, metrics, revisited, significance, solutions
from retrieval import embeddings, search

# The metrics of `metrics.per_query` that are compared besides mAP@k.
_COMPARED = ("recall_at_1", "recall_at_10", "precision_at_10", "map_at_r")


@dataclasses.dataclass(frozen=True)
class Options:
    """How runs are turned into answers.

    Attributes:
        kind: of search, "auto", "exact" or "scann".
        k: the number of ranks of mAP@k.
        labels: path of the table with the index images' labels, for recognition by embeddings.
        neighbors: how many nearest neighbours vote in recognition.
        id_column, label_column: of `labels`.
    """

    kind: str = "auto"
    k: int = 100
    labels: str | None = None
    neighbors: int = 1
    id_column: str = "id"
    label_column: str = "label"


def compare(
    *,
    solution: str,
    a: Sequence[str],
    b: Sequence[str],
    resamplings: int = 10_000,
    seed: int = 0,
    per_query: str | None = None,
    **options: object,
) -> dict[str, significance.Comparison]:
    """Compares two runs on the queries of a solution.

    A retrieval solution (a table with `images`) compares mAP@k and other means over queries, a
    recognition solution (`landmarks`) GAP and top-1, a revisited ground truth (.json) the mAP of
    its three settings.

    Args:
        solution: path of the table or of the ground truth.
        a, b: one prediction file each, or an index and a query embeddings directory.
        resamplings: see `significance`; a tenth of them for GAP, each of which takes longer.
        seed: of the resamplings.
        per_query: path of a table to write: query, a, b and difference of the first metric (of
            top_1 for GAP), the largest losses of A first; .json, else CSV.
        **options: see `Options`.

    Returns:
        The comparisons by metric.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if files do not fit each other or their formats.
    """
    for run in (a, b):
        if len(run) not in (1, 2):
            raise ValueError(
                "expected a prediction file, or an index and a query embeddings directory, as a "
                f"run. Received: {len(run)} paths"
            )
    chosen = Options(**options)
    if solution.endswith(".json"):
        queries, *values = _revisited(solution, (a, b), chosen)
        result = {}
    elif "images" in (columns := solutions.column_names(solution)):
        queries, *values = _retrieval(solution, (a, b), chosen)
        result = {}
    elif "landmarks" in columns:
        runs = _recognized(solution, (a, b), chosen)
        queries, values = runs[0].images, [{"top_1": run.right()} for run in runs]
        drawings = max(1, resamplings // 10)
        result = {"gap": significance.compare_gaps(*runs, resamplings=drawings, seed=seed)}
    else:
        raise ValueError(
            f"expected a column images or landmarks in {solution}. Received: {', '.join(columns)}"
        )
    first, second = values
    for name in first:
        result[name] = significance.compare_means(
            first[name], second[name], resamplings=resamplings, seed=seed
        )
    if per_query:
        name = next(iter(first))
        breakdown.write_table(per_query, differences(queries, first[name], second[name]))
    return result


def differences(queries: Sequence[str], a: np.ndarray, b: np.ndarray) -> breakdown.Table:
    """Returns one row per query that has a value: query, a, b and a - b, the largest loss first."""
    difference = a - b
    order = np.argsort(difference, kind="stable")
    order = order[~np.isnan(difference[order])]
    columns = {"a": a, "b": b, "difference": difference}
    return {
        "query": [queries[row] for row in order.tolist()],
        **{name: column[order].astype(np.float64).tolist() for name, column in columns.items()},
    }


def _retrieval(solution: str, runs: Sequence[Sequence[str]], options: Options) -> list:
    """Returns the queries and, for each run, the values per query by metric."""
    truths = coded.read_truths(solution)
    found: list = [()]
    for run in runs:
        if len(run) == 1:
            rankings = coded.read_rankings(run[0], truths, options.k)
        else:
            answers = _search(run, options, options.k)
            rankings = coded.rankings_of_answers(answers, truths, options.k)
        relevance = coded.judge(truths, rankings)
        values = metrics.per_query(relevance, options.k, depths=(1, 10))
        names = (f"map_at_{options.k}", *_COMPARED)
        found.append({name: values[name].astype(float) for name in names if name in values})
        found[0] = relevance.queries
    if not found[0]:
        raise ValueError(f"expected relevant images in {solution}. Received: none for any query")
    return found


def _revisited(path: str, runs: Sequence[Sequence[str]], options: Options) -> list:
    """Returns the queries and, for each run, the average precisions by setting."""
    found: list = [()]
    for run in runs:
        source = (
            {"predictions": run[0]}
            if len(run) == 1
            else {"index": run[:1], "query": run[1:], "kind": options.kind}
        )
        judged = revisited.judge(path, **source)
        values = judged.by_setting.items()
        found.append({f"{setting}_map": value.average_precision for setting, value in values})
        found[0] = judged.truth.queries
    return found


def _recognized(
    solution: str, runs: Sequence[Sequence[str]], options: Options
) -> list[metrics.Recognized]:
    truths = solutions.read_recognition_solution(solution)
    if not any(truths.values()):
        raise ValueError(f"expected a label for at least one query. Received: none in {solution}")
    found = []
    for run in runs:
        if len(run) == 1:
            answers = solutions.read_recognition_predictions(run[0], queries=truths.keys())
        elif options.labels is None:
            raise ValueError("expected the table of the index images' labels. Received: none")
        else:
            labels = solutions.read_labels(
                options.labels, id_column=options.id_column, label_column=options.label_column
            )
            answers = gap.vote(_search(run, options, options.neighbors), labels)
        found.append(metrics.judge_recognition(answers, truths))
    return found


def _search(run: Sequence[str], options: Options, k: int) -> search.Answers:
    return command.answer(run[:1], run[1:], kind=options.kind, k=k)


def show(result: Mapping[str, significance.Comparison]) -> None:
    """Prints one line per metric."""
    width = max(map(len, result))
    print(
        f"{'':<{width}}  {'A':>7}  {'B':>7}  {'A - B':>8}  {'95 % interval':<20}  {'p':>7}  "
        "wins/ties/losses"
    )
    for name, one in result.items():
        low, high = one.interval
        counts = "" if one.wins is None else f"{one.wins}/{one.ties}/{one.losses}"
        p_value = f"{one.p_value:.4f}" if one.p_value >= 1e-4 else f"{one.p_value:.0e}"
        print(
            f"{name:<{width}}  {one.a:7.4f}  {one.b:7.4f}  {one.difference:+8.4f}  "
            f"{low:+.4f} to {high:+.4f}  {p_value:>7}  {counts}".rstrip()
        )


def main(argv: list[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog="python eval/compare.py",
        description="The difference of two runs on the same queries, and whether it is chance.",
    )
    run = "prediction file, or index and query embeddings directory"
    parser.add_argument("--a", nargs="+", metavar="PATH", required=True, help=run)
    parser.add_argument("--b", nargs="+", metavar="PATH", required=True, help="the same")
    parser.add_argument(
        "--solution", metavar="FILE", required=True, help="CSV, or JSON of revisited Oxford, Paris"
    )
    parser.add_argument("--search", choices=search.KINDS, default="auto", help="of embeddings")
    parser.add_argument("--k", type=int, default=100, help="ranks of mAP@k (default: 100)")
    parser.add_argument("--labels", metavar="CSV", help="labels of the index, for recognition")
    parser.add_argument("--id-column", default="id", metavar="NAME", help="of --labels")
    parser.add_argument("--label-column", default="label", metavar="NAME", help="of --labels")
    parser.add_argument("--neighbors", type=int, default=1, metavar="K", help="how many vote")
    parser.add_argument(
        "--resamplings", type=int, default=10_000, metavar="N", help="of the test (default: 10000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the resamplings")
    parser.add_argument("--per-query", metavar="FILE", help="write the differences: .json or CSV")
    parser.add_argument("--output", metavar="JSON", help="write the results here as well")
    options = vars(parser.parse_args(argv))
    output = options.pop("output")
    options["kind"] = options.pop("search")
    for name in ("k", "neighbors", "resamplings"):
        if options[name] < 1:
            parser.error(f"expected --{name} of at least 1. Received: {options[name]}")
    try:
        result = compare(**options)
        show(result)
        if output:
            embeddings.write_json(output, {k: dataclasses.asdict(v) for k, v in result.items()})
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
