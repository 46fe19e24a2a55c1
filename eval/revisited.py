"""Revisited Oxford and Paris: `python eval/revisited.py --ground-truth JSON --queries cropped ...`.

The rankings come from embeddings directories (`--index`, `--query`, ids as in the ground truth),
from a prediction file (`--predictions`), or from an array of positions (`--ranks`).
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import numpy as np

from eval import breakdown, command, solutions
from eval import revisited_protocol as protocol
from retrieval import search
from retrieval.stored.unique_ids import few

# What the queries' descriptors are of, and what the result says about it.
QUERIES = {
    "cropped": "queries cropped to their boxes (the benchmark's protocol)",
    "uncropped": "UNCROPPED queries: another protocol, not comparable with published results",
}
_SUFFIXES = ("jpg", "jpeg", "png")


@dataclasses.dataclass(frozen=True)
class Judged:
    """Rankings judged in all settings.

    Attributes:
        truth: the ground truth.
        by_setting: the values per query of easy, medium and hard.
        not_ranked: how many positives, easy or hard, the rankings lack; they are never found.
        search: "exact", "scann", "predictions" or "ranks": where the rankings come from.
    """

    truth: protocol.GroundTruth
    by_setting: Mapping[str, protocol.Judged]
    not_ranked: int
    search: str


def judge(
    ground_truth: str,
    *,
    index: Sequence[str] = (),
    query: Sequence[str] = (),
    predictions: str | None = None,
    ranks: str | None = None,
    weights: Sequence[float] | None = None,
    kind: str = "exact",
    settings: search.Settings = search.PLAIN,
) -> Judged:
    """Judges rankings from one of the sources; see `evaluate`."""
    truth = protocol.read_ground_truth(ground_truth)
    if ranks:
        rankings, kind = read_ranks(ranks, truth), "ranks"
    elif predictions:
        rankings, kind = _from_predictions(predictions, truth), "predictions"
    else:
        answers = command.answer(
            index, query, weights=weights, kind=kind, k=None, settings=settings
        )
        rankings, kind = _from_embeddings(answers, truth), answers.search
    by_setting = {
        setting: protocol.evaluate_revisited(rankings, truth.truths, setting)
        for setting in protocol.SETTINGS
    }
    return Judged(truth, by_setting, _not_ranked(rankings, truth), kind)


def evaluate(
    *,
    ground_truth: str,
    queries: str,
    bootstrap: int = 0,
    per_query: str | None = None,
    **source: object,
) -> dict:
    """Scores rankings in the three settings of the benchmark.

    Args:
        ground_truth: path of gnd_roxford5k or gnd_rparis6k as JSON; see
            `revisited_protocol.read_ground_truth`.
        queries: "cropped" if the queries' descriptors are of their boxes alone, as the benchmark
            asks; "uncropped" if they are of the whole photographs, which the result then says.
        bootstrap: resamplings for confidence intervals; 0 for none.
        per_query: path of a table to write with AP and P@k of every query and setting.
        **source: of the rankings, one of
            index, query: embeddings directories of the database and of the queries, one per member
                of an ensemble, with `weights` (all 1 if absent) and `kind` of search ("exact").
                Ids are the names of the ground truth, with or without folder and image suffix.
                Images besides the database's, such as R1M's distractors, are wrong answers.
            predictions: path of a prediction file `id,images`, ids as above.
            ranks: path of an .npy or .npz (array `ranks`) of (N, Q) positions in the database:
                column q is the ranking of query q, as the benchmark's evaluator takes it.

    Returns:
        <setting>_map, <setting>_precision_at_1, _5, _10 and <setting>_queries (with positives) for
        easy, medium and hard; not_ranked (positives that the rankings lack, which are never
        found), search, and the protocol in words.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if files do not fit each other or their formats.
    """
    if queries not in QUERIES:
        raise ValueError(f"expected queries among {', '.join(QUERIES)}. Received: {queries!r}")
    judged = judge(ground_truth, **source)
    if per_query:
        breakdown.write_table(per_query, revisited_per_query(judged))
    result = {}
    for setting, values in judged.by_setting.items():
        scores = command.with_intervals(values.scores(bootstrap=bootstrap))
        result |= {f"{setting}_{name}": value for name, value in scores.items()}
        result[f"{setting}_queries"] = int(np.count_nonzero(values.positives))
    return {
        **result,
        "not_ranked": judged.not_ranked,
        "search": judged.search,
        "protocol": QUERIES[queries],
    }


def revisited_per_query(judged: Judged) -> breakdown.Table:
    """Returns one row per query: its name, and per setting positives, AP and P@k (None for none).

    The columns are query, <setting>_positives, <setting>_map and <setting>_precision_at_<k>.
    """
    table: dict[str, Sequence] = {"query": judged.truth.queries}
    for setting, values in judged.by_setting.items():
        table[f"{setting}_positives"] = values.positives.tolist()
        table[f"{setting}_map"] = values.average_precision.tolist()
        for k, column in values.precision.items():
            table[f"{setting}_precision_at_{k}"] = column.tolist()
    return table


def read_ranks(path: str, truth: protocol.GroundTruth) -> list[np.ndarray]:
    """Reads (N, Q) positions in the database, column q the ranking of query q, best first.

    Raises:
        ValueError: if the array is not that, or a column holds a position twice.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        array = loaded["ranks"] if isinstance(loaded, np.lib.npyio.NpzFile) else loaded
    except (KeyError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: expected an array of ranks. Received: {error}") from None
    most, count = len(truth.images), len(truth.queries)
    if array.ndim != 2 or array.shape[1] != count or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"{path}: expected integers of shape (ranks, {count} queries). "
            f"Received: {array.dtype} {array.shape}"
        )
    if array.size and not (array.min() >= 0 and array.max() < most):
        raise ValueError(
            f"{path}: expected positions from 0 to {most - 1}. "
            f"Received: {array.min()} to {array.max()}"
        )
    for name, column in zip(truth.queries, array.T, strict=True):
        if np.bincount(column, minlength=1).max(initial=0) > 1:
            raise ValueError(f"{path}: expected every position once for {name!r}. Received: twice")
    return list(np.ascontiguousarray(array.T))


def _from_predictions(path: str, truth: protocol.GroundTruth) -> list[np.ndarray]:
    """Returns the rankings of a prediction file as positions; see `_positions_of`."""
    read = solutions.read_retrieval_predictions(path)
    rows = _rows_of_queries(list(read), truth, path)
    ids = list(dict.fromkeys(image for images in read.values() for image in images))
    position_of = dict(zip(ids, _positions_of(ids, truth, path).tolist(), strict=True))
    answers = list(read.values())
    rankings = [np.array([position_of[i] for i in answers[row]], np.int64) for row in rows]
    for query, ranking in zip(truth.queries, rankings, strict=True):
        if len(np.unique(ranking)) < len(ranking):
            raise ValueError(f"expected every image once for {query!r} in {path}. Received: twice")
    return rankings


def _from_embeddings(answers: search.Answers, truth: protocol.GroundTruth) -> list[np.ndarray]:
    """Returns the rankings of a search as positions; see `_positions_of`."""
    rows = _rows_of_queries(answers.query_ids, truth, "the query embeddings")
    positions = _positions_of(answers.index_ids, truth, "the index embeddings")
    return [positions[answers.positions[row]] for row in rows]


def _positions_of(ids: Sequence[str], truth: protocol.GroundTruth, source: str) -> np.ndarray:
    """Returns the position in the database of every id, (n,) int64; others get those behind it."""
    position_of = {name: position for position, name in enumerate(truth.images)}
    database = len(position_of)
    positions = []
    for image in ids:
        name = image if image in position_of else _stem(image)
        if position_of.get(name, database) >= database:
            name = image
        positions.append(position_of.setdefault(name, len(position_of)))
    found = np.array(positions, np.int64)
    if found.size and found.min() >= database:
        raise ValueError(
            f"expected images of the ground truth, such as {truth.images[0]!r}, in {source}. "
            f"Received: {few(list(ids), 3)}"
        )
    if len(np.unique(found)) < len(found):
        counts = collections.Counter(positions)
        twice = [image for image, at in zip(ids, positions, strict=True) if counts[at] > 1]
        raise ValueError(f"expected every image once in {source}. Received: {few(twice)}")
    return found


def _rows_of_queries(ids: Sequence[str], truth: protocol.GroundTruth, source: str) -> list[int]:
    """Returns the row among `ids` of every query of the ground truth."""
    known = set(truth.queries)
    names = [query if query in known else _stem(query) for query in ids]
    row_of = {name: row for row, name in enumerate(names)}
    unknown = [query for query, name in zip(ids, names, strict=True) if name not in known]
    missing = [query for query in truth.queries if query not in row_of]
    if unknown or missing or len(row_of) < len(names):
        raise ValueError(
            f"expected each of the {len(known)} queries of the ground truth once in {source}. "
            f"Received: {len(ids)} queries, {len(unknown)} unknown ({few(unknown, 3)}), "
            f"{len(missing)} missing ({few(missing, 3)})"
        )
    return [row_of[query] for query in truth.queries]


def _stem(image: str) -> str:
    """Returns an id without folders and image suffix."""
    name = image.rpartition("/")[2]
    stem, _, suffix = name.rpartition(".")
    return stem if suffix.lower() in _SUFFIXES else name


def _not_ranked(rankings: Sequence[np.ndarray], truth: protocol.GroundTruth) -> int:
    """Returns how many positives, easy or hard, the rankings lack."""
    return sum(
        int(np.count_nonzero(~np.isin(np.concatenate([kinds.easy, kinds.hard]), ranking)))
        for ranking, kinds in zip(rankings, truth.truths, strict=True)
    )


def main(argv: list[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog="python eval/revisited.py",
        description="mAP and P@k of revisited Oxford and Paris: easy, medium and hard.",
    )
    search.add_arguments(parser, required=False)
    parser.set_defaults(search="exact")
    parser.add_argument("--predictions", metavar="CSV", help="score this file instead of searching")
    parser.add_argument(
        "--ranks", metavar="NPZ", help="score these positions, one column per query, instead"
    )
    parser.add_argument(
        "--ground-truth", metavar="JSON", required=True, help="imlist, qimlist, gnd"
    )
    parser.add_argument(
        "--queries",
        choices=tuple(QUERIES),
        required=True,
        help="what the queries' descriptors are of; the benchmark crops queries to their boxes",
    )
    command.add_output(parser)
    options = parser.parse_args(argv)
    command.check_bootstrap(parser, options)
    sources = [options.predictions, options.ranks, options.index or options.query]
    if sum(map(bool, sources)) != 1 or bool(options.index) != bool(options.query):
        parser.error("expected one of --index and --query, --predictions, --ranks")
    try:
        result = evaluate(
            ground_truth=options.ground_truth,
            queries=options.queries,
            index=options.index or (),
            query=options.query or (),
            predictions=options.predictions,
            ranks=options.ranks,
            weights=options.weights,
            kind=options.search,
            settings=search.Settings.of(options),
            bootstrap=options.bootstrap,
            per_query=options.per_query,
        )
        command.show(result, options.output)
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
