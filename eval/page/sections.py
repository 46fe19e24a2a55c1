"""Everything that a page shows of one run, as values for the templates."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from eval import gap, recognition, solutions
from eval.page import (
    charts,
    classes,
    curves,
    embedding_map,
    gallery,
    hardness,
    pictures,
    render,
    score_table,
)
from eval.page import run as runs
from eval.page.inputs import Inputs
from eval.recognition import Prediction, Recognized
from retrieval import search

CLASSES, CONFUSIONS = 300, 20  # rows of the tables
_CELL = 64  # pixels of a picture on the map
_RIGHT, _WRONG, _NONE = 1, 2, 3  # kinds of queries on the map; 0 is an image of the index


@dataclasses.dataclass(frozen=True)
class Page:
    """A run and what is known of its images.

    Attributes:
        run: the judged rankings.
        classes: of queries and index.
        query_labels: the class per query id.
        queries, index: the albums of pictures.
        solution: the right labels per query; {} without recognition.
        predictions: the recognised label per query; {} without recognition.
        judged: the recognition, or None.
    """

    run: runs.Run
    classes: classes.Classes
    query_labels: Mapping[str, str]
    queries: pictures.Album
    index: pictures.Album
    solution: Mapping[str, Collection[str]]
    predictions: Mapping[str, Prediction]
    judged: Recognized | None


def load(inputs: Inputs) -> Page:
    """Reads, searches and judges.

    Raises:
        FileNotFoundError: if a file is missing (pictures may be).
        ValueError: if files do not fit each other or their formats.
    """
    run = runs.load(inputs)
    queries = pictures.Album(inputs.query_tables, inputs.label_column)
    tables = [] if inputs.index_table is None else [inputs.index_table]
    index = pictures.Album(tables, inputs.label_column)
    index_labels = index.labels()
    if inputs.labels is not None:
        index_labels = solutions.read_labels(
            inputs.labels, id_column=inputs.id_column, label_column=inputs.label_column
        )
    solution, predictions, judged = {}, {}, None
    if inputs.recognition_solution is not None:
        solution = solutions.read_recognition_solution(inputs.recognition_solution)
        predictions = recognise(run, index_labels)
        judged = recognition.judge_recognition(predictions, solution)
    query_labels = classes.labels_of_solution(solution) | queries.labels()
    found = classes.number(run.query_ids, run.index_ids, query_labels, index_labels)
    return Page(run, found, query_labels, queries, index, solution, predictions, judged)


def recognise(run: runs.Run, index_labels: Mapping[str, str]) -> dict[str, Prediction]:
    """Returns the label of the first answer of every query, with its similarity as the score."""
    rows, positions = run.first_answers()
    answers = search.Answers(
        tuple(run.query_ids[row] for row in rows.tolist()),
        run.index_ids,
        positions[:, None],
        run.similarities[rows, :1],
        run.search,
    )
    return gap.vote(answers, index_labels)


def values(page: Page, bootstrap: int) -> dict[str, Any]:
    """Returns what the templates show of a run; all but the title and the sections of a job."""
    run = page.run
    depth = run.relevance.relevant.shape[1]
    table = score_table.lines(score_table.compute(run, page.judged, bootstrap), depth)
    reasons = hardness.find(run, page.classes)
    return {
        "headline": score_table.headline(table),
        "scores": table,
        "bootstrap": bootstrap,
        "counts": _counts(page),
        "retrieval": _retrieval_curves(run),
        "distribution": distribution(page),
        "classes": class_table(page),
        "confusions": confusion_table(page),
        "hard": _hard(page, reasons),
        "groups": _groups(page, reasons),
        "map": map_data(page),
    }


def distribution(page: Page) -> dict[str, Any]:
    """Returns the scores of right and wrong answers and the threshold with the best F1."""
    if page.judged is not None:
        scored = curves.scored_labels(page.judged)
    else:
        rows = page.run.judged_rows()
        right = (rows >= 0) & page.run.relevance.relevant[rows, 0]
        scored = curves.scored_images(page.run.similarities[:, 0], right, rows >= 0)
        scored = dataclasses.replace(scored, total=len(page.run.relevance.queries))
    if not len(scored.scores):
        return {}
    threshold = curves.best_threshold(scored)
    edges, counts = curves.histogram(scored)
    recall, precision = curves.answers_curve(scored)
    chosen = None if threshold is None else (threshold.recall, threshold.precision)
    return {
        "threshold": threshold,
        "numbers": {name: int(count.sum()) for name, count in counts.items()},
        "answers": len(scored.scores),
        "total": scored.total,
        "is_recognition": page.judged is not None,
        "histogram": charts.scores(edges, counts, threshold and threshold.score),
        "curve": charts.answers(recall, precision, chosen),
    }


def class_table(page: Page) -> dict[str, Any]:
    """Returns the first 300 classes of `classes.results`, and how many there are."""
    if not page.query_labels:
        return {}
    depth = page.run.relevance.relevant.shape[1]
    table = classes.results(
        page.run, page.classes, page.query_labels, page.predictions, page.solution
    )
    names = ["class", "queries", "images", f"map_at_{depth}", "recall_at_1", "precision"]
    names += ["confused_with", "confused"]
    columns = [table.get(name) or [None] * len(table["class"]) for name in names]
    rows = list(zip(*columns, strict=True))
    return {
        "rows": rows[:CLASSES],
        "total": len(rows),
        "with_images": page.classes.known,
        "with_precision": bool(page.solution),
    }


def confusion_table(page: Page) -> dict[str, Any]:
    """Returns the first 20 of `classes.confusions` with pictures, and how many there are."""
    if not page.classes.known:
        return {}
    found = classes.confusions(page.run, page.classes)
    return {
        "rows": [
            (
                pair,
                page.classes.name(pair.of),
                page.classes.name(pair.by),
                *gallery.pair(page.run, page.classes, pair.row, page.queries, page.index),
            )
            for pair in found[:CONFUSIONS]
        ],
        "total": len(found),
        "queries": sum(pair.count for pair in found),
    }


def map_data(page: Page) -> dict[str, Any]:
    """Returns the points of the map for the page's script, and its sheet of pictures."""
    drawn = embedding_map.draw(page.run, page.classes)
    if drawn is None:
        return {}
    run = page.run
    codes = [page.classes.index[drawn.positions], page.classes.query[drawn.queries]]
    used, numbers = np.unique(np.concatenate(codes), return_inverse=True)
    index_ids = [run.index_ids[position] for position in drawn.positions.tolist()]
    query_ids = [run.query_ids[row] for row in drawn.queries.tolist()]
    wanted = [(page.index, image) for image in index_ids]
    wanted += [(page.queries, image) for image in query_ids]
    sheet = pictures.sheet(wanted, _CELL)
    rows = run.judged_rows()[drawn.queries]
    right = (rows >= 0) & run.relevance.relevant[rows, 0]
    kinds = np.where(rows < 0, _NONE, np.where(right, _RIGHT, _WRONG))
    return {
        "data": {
            "x": drawn.points[:, 0].tolist(),
            "y": drawn.points[:, 1].tolist(),
            "kind": [0] * len(index_ids) + kinds.tolist(),
            "class": numbers.tolist(),
            "names": [render.clip(page.classes.name(c)) for c in used.tolist()],
            "ids": [render.clip(image) for image in index_ids + query_ids],
            "cells": list(sheet.cells),
            "cell": sheet.cell,
            "columns": sheet.columns,
        },
        "sheet": sheet.data,
        "sample": drawn.sample,
        "kinds": sorted({0, *kinds.tolist()} if index_ids else set(kinds.tolist())),
        "classes": int(np.count_nonzero(used >= 0)),
    }


def _counts(page: Page) -> dict[str, Any]:
    ap = page.run.average_precision
    return {
        "queries": len(ap),
        "ignored": page.run.relevance.ignored,
        "index": len(page.run.index_ids),
        "dimension": int(page.run.vectors.shape[1]),
        "median": float(np.median(ap)),
        "perfect": int((ap == 1).sum()),
        "nothing": int((ap == 0).sum()),
        "search": page.run.search,
        "is_recognition": page.judged is not None,
    }


def _retrieval_curves(run: runs.Run) -> dict[str, str]:
    precision = curves.precision_recall(run.relevance)
    hits, found = curves.recall_at(run.relevance)
    middle = len(precision) // 2
    last = len(hits)
    return {
        "precision_recall": charts.precision_recall(curves.LEVELS, precision),
        "precision_recall_text": f"precision over recall: {precision[0]:.3f} at recall 0, "
        f"{precision[middle]:.3f} at 0.5, {precision[-1]:.3f} at 1",
        "recall_at": charts.recall_at(hits, found),
        "recall_at_text": f"by the first k answers: any right image {hits[0]:.3f} at 1, "
        f"{hits[-1]:.3f} at {last}; share of the right images {found[0]:.3f} at 1, "
        f"{found[-1]:.3f} at {last}",
    }


def _hard(page: Page, reasons: hardness.Reasons) -> dict[str, Any]:
    wrong = page.run.average_precision < 0.5
    return {"reasons": hardness.counts(reasons, wrong), "queries": int(wrong.sum())}


def _groups(page: Page, reasons: hardness.Reasons) -> dict[str, list]:
    """Returns the rankings to show by group, each with its reasons in words."""
    chosen = gallery.choose(page.run, page.query_labels)
    return {
        name: [
            (shown, _reasons(page, reasons, shown) if name != "best" else [])
            for shown in (_ranking(page, row) for row in rows)
        ]
        for name, rows in chosen.items()
        if rows
    }


def _ranking(page: Page, row: int) -> gallery.Ranking:
    label = page.query_labels.get(page.run.relevance.queries[row], "")
    return gallery.show(page.run, page.classes, row, page.queries, page.index, label)


def _reasons(page: Page, reasons: hardness.Reasons, shown: gallery.Ranking) -> list[str]:
    if shown.average_precision == 1:
        return []
    return hardness.describe(reasons, shown.row, page.classes, shown.positives)
