"""What stands behind a mean: tables of values per query and per class, as CSV or JSON.

A table is a mapping of column names to columns of equal length.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

import files
from eval import ranking_metrics
from eval.recognition import Prediction, Recognized
from eval.relevance import Relevance

Table = Mapping[str, Sequence[Any]]


def rankings_per_query(relevance: Relevance, k: int = 100) -> Table:
    """Returns one row per query that counts, in the solution's order.

    Columns: query, positives (relevant images), found (among the first k), first_position (k + 1
    for none) and the metrics of `ranking_metrics.per_query`, under the names of their means.
    """
    values = {
        name: column.astype(np.float64)
        for name, column in ranking_metrics.per_query(relevance, k).items()
        if name != "mean_position"
    }
    return {
        "query": relevance.queries,
        "positives": relevance.positives.tolist(),
        "found": ranking_metrics.found_at(relevance, k).tolist(),
        "first_position": ranking_metrics.first_positions(relevance, k).tolist(),
        **{name: column.tolist() for name, column in values.items()},
    }


def rankings_per_class(relevance: Relevance, labels: Mapping[str, str], k: int = 100) -> Table:
    """Returns one row per class: class, queries and the means of the metrics over its queries.

    Classes are ordered by AP@k, the hardest first, then by name.

    Args:
        relevance: judged rankings.
        labels: the class of every query that counts.
        k: the number of ranks.

    Raises:
        ValueError: if a query has no class.
    """
    missing = [query for query in relevance.queries if query not in labels]
    if missing:
        raise ValueError(
            f"expected a class for every query. Received none for {len(missing):,}, "
            f"first {missing[0]!r}"
        )
    values = ranking_metrics.per_query(relevance, k)
    return _by_class([labels[query] for query in relevance.queries], values, f"map_at_{k}")


def recognition_per_query(
    judged: Recognized,
    predictions: Mapping[str, Prediction],
    solution: Mapping[str, Collection[str]],
) -> Table:
    """Returns one row per image of the solution, in its order.

    Columns: query, labels (right ones, separated by spaces), predicted, score, rank (in the order
    of GAP, from 1), right (1 or 0) and gap_share, what the image adds to the GAP: P(i) rel(i) / M.
    An image without a prediction has empty cells; one without a label is never right.
    """
    ranks = np.arange(1, len(judged.ranked) + 1)
    shares = np.cumsum(judged.correct) / ranks * judged.correct
    labelled = max(1, int(np.count_nonzero(judged.labelled)))
    rank_of = dict(zip(judged.ranked.tolist(), ranks.tolist(), strict=True))
    share_of = dict(zip(judged.ranked.tolist(), (shares / labelled).tolist(), strict=True))
    right = set(judged.ranked[judged.correct].tolist())
    answers = [predictions.get(image, Prediction("", None)) for image in judged.images]
    rows = range(len(judged.images))
    return {
        "query": judged.images,
        "labels": [" ".join(sorted(solution[image])) for image in judged.images],
        "predicted": [answer.label for answer in answers],
        "score": [answer.score for answer in answers],
        "rank": [rank_of.get(row) for row in rows],
        "right": [int(row in right) for row in rows],
        "gap_share": [share_of.get(row, 0.0) for row in rows],
    }


def recognition_per_class(
    predictions: Mapping[str, Prediction], solution: Mapping[str, Collection[str]]
) -> Table:
    """Returns one row per label that is right or predicted anywhere.

    Columns: class, queries (whose label it is), right, recall (right / queries), predicted (how
    often), precision (right / predicted) and confused_with, the wrong label that its queries get
    most often (the first by name of equals). A share of nothing is None. Ordered by recall, the
    hardest first, then by name. An image with several labels counts for each of them.
    """
    counts: dict[str, list[int]] = {}  # queries, right, predicted
    confusions: dict[str, dict[str, int]] = {}
    for image, labels in solution.items():
        answer = predictions[image].label if image in predictions else None
        if answer is not None:
            counts.setdefault(answer, [0, 0, 0])[2] += 1
        for label in labels:
            of_label = counts.setdefault(label, [0, 0, 0])
            of_label[0] += 1
            of_label[1] += answer == label
            if answer is not None and answer not in labels:
                wrong = confusions.setdefault(label, {})
                wrong[answer] = wrong.get(answer, 0) + 1
    rows = []
    for label, (queries, right, predicted) in counts.items():
        wrong = sorted(confusions.get(label, {}).items(), key=lambda item: (-item[1], item[0]))
        recall = right / queries if queries else None
        precision = right / predicted if predicted else None
        first = wrong[0][0] if wrong else ""
        rows.append((label, queries, right, recall, predicted, precision, first))
    rows.sort(key=lambda row: (2.0 if row[3] is None else row[3], row[0]))
    names = ("class", "queries", "right", "recall", "predicted", "precision", "confused_with")
    return {name: [row[column] for row in rows] for column, name in enumerate(names)}


def write_table(path: str, table: Table) -> None:
    """Writes a table: JSON (a list of objects) if the path ends in .json, else CSV.

    A missing value (None or NaN) is null or an empty cell.
    """
    columns = [list(map(_plain, column)) for column in table.values()]
    rows = zip(*columns, strict=True)
    with files.replacing(path) as file:
        if path.endswith(".json"):
            json.dump([dict(zip(table, row, strict=True)) for row in rows], file, indent=1)
            file.write("\n")
        else:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(table)
            writer.writerows(rows)


def _by_class(classes: Sequence[str], values: Mapping[str, np.ndarray], key: str) -> Table:
    """Returns the means per class, ordered by the column `key`, then by the class."""
    names, codes, counts = np.unique(
        np.array(classes, str), return_inverse=True, return_counts=True
    )
    means = {
        name: np.bincount(codes, weights=column.astype(np.float64)) / counts
        for name, column in values.items()
    }
    order = np.lexsort((np.arange(len(names)), means[key]))
    return {
        "class": names[order].tolist(),
        "queries": counts[order].tolist(),
        **{name: column[order].tolist() for name, column in means.items()},
    }


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and value != value else value  # NaN differs from itself
