"""Recognition score: `python eval/gap.py --index DIR --query DIR --labels CSV --solution CSV`."""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Mapping, Sequence

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import numpy as np

from eval import breakdown, command, metrics, solutions, usage
from retrieval import recognise as recognition
from retrieval import search
from retrieval.reranking import voting


def vote(answers: search.Answers, labels: Mapping[str, str]) -> dict[str, metrics.Prediction]:
    """Turns each query's nearest neighbours into one label with a score.

    The similarities of the neighbours are summed per label; the label with the largest sum wins and
    the sum is its score. Of labels with equal sums the first wins, numerically if all labels are
    integers, else as text.

    Args:
        answers: the neighbours that vote, all of them.
        labels: the label of every index image; others are not looked at.

    Raises:
        ValueError: if an index image has no label.
    """
    names, codes = recognition.class_codes(answers.index_ids, labels)
    found = voting.vote(codes, answers.positions, answers.similarities)
    return _named(answers.query_ids, names, found)


def recognise(
    index: Sequence[str],
    query: Sequence[str],
    non_landmarks: Sequence[str],
    labels: Mapping[str, str],
) -> dict[str, metrics.Prediction]:
    """Labels the queries with the penalty of `retrieval.reranking.non_landmarks`.

    Args:
        index: embeddings directories of the labelled images, one per member of the ensemble.
        query: the same for the queries.
        non_landmarks: the same for images that show no landmark.
        labels: the label of every index image.
    """
    found = recognition.recognise(index, query, labels, non_landmarks=non_landmarks)
    return {query: metrics.Prediction(label, score) for query, label, score in found.rows()}


def evaluate(
    *,
    solution: str,
    index: Sequence[str] = (),
    query: Sequence[str] = (),
    labels: str | None = None,
    predictions: str | None = None,
    weights: Sequence[float] | None = None,
    kind: str = "auto",
    neighbors: int = 1,
    settings: search.Settings = search.PLAIN,
    non_landmarks: Sequence[str] = (),
    id_column: str = "id",
    label_column: str = "label",
    bootstrap: int = 0,
    ignore_unlabelled: bool = False,
    per_query: str | None = None,
    per_class: str | None = None,
    write_predictions: str | None = None,
) -> dict:
    """Scores embeddings, or a prediction file if one is given, against a recognition solution.

    Args:
        solution: path of a `recognition_solution` table.
        index: embeddings directories, one per member of the ensemble, or an index built of them.
        query: embeddings directories of the queries, one per member.
        labels: path of the table with the index images' labels; see `vote`.
        predictions: path of a prediction file `id,landmarks` to score instead of searching.
        weights: one per member; all 1 if absent.
        kind: of search, "auto", "exact" or "scann".
        neighbors: how many nearest neighbours vote.
        settings: see `search.Settings`.
        non_landmarks: embeddings directories of images that show no landmark, one per member: the
            labels are those of `recognise`, whose search is exact.
        id_column: the label table's column of image ids.
        label_column: the label table's column of labels.
        bootstrap: resamplings for confidence intervals; 0 for none.
        ignore_unlabelled: leave predictions for queries without a label out of the GAP; by default
            they are wrong answers.
        per_query: path of a table to write; see `breakdown.recognition_per_query`.
        per_class: path of a table to write; see `breakdown.recognition_per_class`.
        write_predictions: path of the submission file `id,landmarks` to write.

    Returns:
        gap, public_gap and private_gap (if the solution has both; see `eval.usage`), top_1,
        top_1_error, and counts: queries (of the solution), labelled (with a right answer),
        predicted.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if files do not fit each other or their formats.
    """
    truths = solutions.read_recognition_solution(solution)
    if not any(truths.values()):
        raise ValueError(f"expected a label for at least one query. Received: none in {solution}")
    if predictions:
        predicted = solutions.read_recognition_predictions(predictions, queries=truths.keys())
        kind = "predictions"
    elif labels is None:
        raise ValueError("expected the table of the index images' labels. Received: none")
    else:
        table = solutions.read_labels(labels, id_column=id_column, label_column=label_column)
        predicted, kind = predict(
            index,
            query,
            table,
            weights=weights,
            kind=kind,
            neighbors=neighbors,
            settings=settings,
            non_landmarks=non_landmarks,
        )
    judged = metrics.judge_recognition(predicted, truths)
    _write(judged, predicted, truths, per_query, per_class, write_predictions)
    scores = _scores(judged, usage.read_parts(solution), ignore_unlabelled, bootstrap)
    return {**scores, **_counts(predicted, truths, kind)}


def predict(
    index: Sequence[str],
    query: Sequence[str],
    labels: Mapping[str, str],
    *,
    weights: Sequence[float] | None,
    kind: str,
    neighbors: int,
    settings: search.Settings,
    non_landmarks: Sequence[str],
) -> tuple[dict[str, metrics.Prediction], str]:
    """Returns the labels of the queries, and the search that has found them; see `evaluate`."""
    if non_landmarks:
        return recognise(index, query, non_landmarks, labels), "exact"
    answers = command.answer(
        index, query, weights=weights, kind=kind, k=neighbors, settings=settings
    )
    return vote(answers, labels), answers.search


def _scores(
    judged: metrics.Recognized, parts: usage.Parts, ignore_unlabelled: bool, bootstrap: int
) -> dict[str, float | list[float]]:
    top_1 = judged.top_1(bootstrap=bootstrap)
    options = {"ignore_unlabelled": ignore_unlabelled, "bootstrap": bootstrap}
    scores = {
        "gap": judged.gap(**options),
        **usage.gaps(parts, judged, **options),
        "top_1": top_1,
        "top_1_error": metrics.complement(top_1),
    }
    return command.with_intervals(scores)


def _counts(predicted: Mapping, truths: Mapping, kind: str) -> dict[str, int | str]:
    labelled = sum(map(bool, truths.values()))
    return {
        "queries": len(truths),
        "labelled": labelled,
        "predicted": len(predicted),
        "search": kind,
    }


def _write(
    judged: metrics.Recognized,
    predicted: Mapping[str, metrics.Prediction],
    truths: Mapping[str, frozenset[str]],
    per_query: str | None,
    per_class: str | None,
    predictions: str | None,
) -> None:
    """Writes the files that were asked for."""
    if predictions:
        solutions.write_recognition_predictions(predictions, predicted)
    if per_query:
        table = breakdown.recognition_per_query(judged, predicted, truths)
        breakdown.write_table(per_query, table)
    if per_class:
        breakdown.write_table(per_class, breakdown.recognition_per_class(predicted, truths))


def _named(
    queries: Sequence[str], names: Sequence[str], found: tuple[np.ndarray, np.ndarray]
) -> dict[str, metrics.Prediction]:
    winners, scores = (values.tolist() for values in found)
    return {
        query: metrics.Prediction(names[winner], score)
        for query, winner, score in zip(queries, winners, scores, strict=True)
    }


def main(argv: list[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog="python eval/gap.py",
        description="GAP of the labels that the nearest index images give to the queries.",
    )
    command.add_arguments(parser)
    command.add_files(parser)
    parser.add_argument("--labels", metavar="CSV", help="labels of the index images")
    parser.add_argument("--id-column", default="id", metavar="NAME", help="of --labels")
    parser.add_argument("--label-column", default="label", metavar="NAME", help="of --labels")
    parser.add_argument(
        "--neighbors", type=int, default=1, metavar="K", help="how many vote (default: 1)"
    )
    parser.add_argument(
        "--ignore-unlabelled",
        action="store_true",
        help="leave predictions for queries without a label out (default: they are wrong)",
    )
    parser.add_argument(
        "--non-landmarks",
        nargs="+",
        metavar="DIR",
        help="embeddings of images that show no landmark, whose likes are marked down",
    )
    options = parser.parse_args(argv)
    command.check_source(parser, options)
    if options.index and not options.labels:
        parser.error("expected --labels with --index")
    try:
        result = evaluate(
            **command.source(options),
            labels=options.labels,
            neighbors=options.neighbors,
            non_landmarks=options.non_landmarks or (),
            id_column=options.id_column,
            label_column=options.label_column,
            ignore_unlabelled=options.ignore_unlabelled,
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
