"""The rankings that the results page shows as pictures: which queries, and their thumbnails."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import itertools
import os
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageOps

from eval import metrics, solutions

RANKS = 100
_QUERY_SIDE, _ANSWER_SIDE = 320, 176  # pixels; about twice the size on the page
_JPEG_QUALITY = 78


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture of the page.

    Attributes:
        id: of the image.
        label: its label, "" if not known.
        data: base64 of a JPEG thumbnail, "" if the picture is missing or broken.
    """

    id: str
    label: str
    data: str


@dataclasses.dataclass(frozen=True)
class Ranking:
    """One query and the first images of its ranking.

    Attributes:
        query: the query's picture.
        answers: the first images, best first, each with True where it is right.
        average_precision: AP@100.
        found: right images among the first 100.
        positives: right images in the index.
    """

    query: Picture
    answers: tuple[tuple[Picture, bool], ...]
    average_precision: float
    found: int
    positives: int


@dataclasses.dataclass(frozen=True)
class Judged:
    """All rankings, judged.

    Attributes:
        predictions: index ids per query id, best first.
        relevance: of the first 100 ranks.
        average_precision: (Q,) float64, AP@100 in the order of `relevance.queries`.
    """

    predictions: Mapping[str, Sequence[str]]
    relevance: metrics.Relevance
    average_precision: np.ndarray


def judge(predictions: str, solution: str) -> Judged:
    """Judges a prediction file against a retrieval solution.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the files do not fit each other or their formats.
    """
    answers = solutions.read_retrieval_predictions(predictions)
    truths = solutions.read_retrieval_solution(solution)
    relevance = metrics.judge(answers, truths, depth=RANKS)
    values = [
        metrics.mean_average_precision(_only(relevance, row), RANKS)
        for row in range(len(relevance.queries))
    ]
    return Judged(answers, relevance, np.array(values, np.float64))


def choose(judged: Judged, labels: Mapping[str, str], count: int = 5) -> dict[str, list[int]]:
    """Chooses the best, the typical and the worst rankings.

    Best and worst go by AP@100, and among equals by the number of right images, many first. Typical
    ones are nearest to the median. What is still equal is ordered by id. No query is chosen twice,
    and as far as there are enough labels, no two of a group have the same.

    Args:
        judged: all rankings.
        labels: per query id; a query without one counts as a label of its own.
        count: queries per group; fewer where there are less than 3 x count queries.

    Returns:
        Rows of `judged.relevance.queries` for "best", "typical" and "worst".
    """
    ids, ap = judged.relevance.queries, judged.average_precision
    positives = judged.relevance.positives
    if not ids:
        return {"best": [], "typical": [], "worst": []}
    distance = np.abs(ap - np.median(ap))
    count = min(count, max(1, len(ids) // 3))
    orders = {
        "best": sorted(range(len(ids)), key=lambda row: (-ap[row], -positives[row], ids[row])),
        "worst": sorted(range(len(ids)), key=lambda row: (ap[row], -positives[row], ids[row])),
        "typical": sorted(range(len(ids)), key=lambda row: (distance[row], ids[row])),
    }
    taken: set[int] = set()
    groups = {}
    for name, order in orders.items():
        rows = [row for row in order if row not in taken]
        chosen = _of_different_labels(rows, [labels.get(ids[row], ids[row]) for row in rows], count)
        taken.update(chosen)
        groups[name] = sorted(chosen, key=order.index)
    return {name: groups[name] for name in ("best", "typical", "worst")}


def show(judged: Judged, row: int, queries: Album, index: Album, *, depth: int = 10) -> Ranking:
    """Returns one query with the pictures of its first `depth` answers."""
    query = judged.relevance.queries[row]
    images = judged.predictions.get(query, ())[:depth]
    relevant = judged.relevance.relevant[row]  # (100,)
    answers = tuple(
        (index.picture(image, _ANSWER_SIDE), bool(right))
        for image, right in zip(images, relevant, strict=False)
    )
    return Ranking(
        query=queries.picture(query, _QUERY_SIDE),
        answers=answers,
        average_precision=float(judged.average_precision[row]),
        found=int(relevant.sum()),
        positives=int(judged.relevance.positives[row]),
    )


class Album:
    """The images of a table, found by id.

    Args:
        table: path of a CSV table with the columns id, label and path (relative to its folder).

    Raises:
        FileNotFoundError: if there is no table.
        ValueError: if it lacks a column.
    """

    def __init__(self, table: str):
        self._folder = os.path.dirname(os.path.abspath(table))
        with open(table, newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, restval="")
            header = rows.fieldnames or []
            if not {"id", "label", "path"} <= set(header):
                raise ValueError(
                    f"expected the columns id, label, path in {table}. "
                    f"Received: {', '.join(header)}"
                )
            self._rows = {row["id"]: (row["label"], row["path"]) for row in rows}

    def __len__(self) -> int:
        return len(self._rows)

    def labels(self) -> dict[str, str]:
        """Returns the label of every image that has one."""
        return {image: label for image, (label, _) in self._rows.items() if label}

    def picture(self, image: str, side: int) -> Picture:
        """Returns the thumbnail of an image, or a picture without data if it cannot be shown."""
        label, path = self._rows.get(image, ("", ""))
        return Picture(image, label, self._thumbnail(path, side))

    def _thumbnail(self, path: str, side: int) -> str:
        """Returns base64 of a JPEG that fits into side x side, "" if there is none to make."""
        path = os.path.normpath(os.path.join(self._folder, path))
        if not path.startswith(os.path.join(self._folder, "")):
            return ""  # a table cannot make the page show files from elsewhere
        try:
            with Image.open(path) as image:
                image.draft("RGB", (side, side))
                small = ImageOps.exif_transpose(image).convert("RGB")
                small.thumbnail((side, side), Image.Resampling.LANCZOS)
        except Exception:
            return ""  # Pillow has many kinds of errors for broken files, and any means the same
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
        return base64.b64encode(buffer.getvalue()).decode("ascii")


def _only(relevance: metrics.Relevance, row: int) -> metrics.Relevance:
    """Returns the relevance of one query, whose mAP is its AP."""
    one = slice(row, row + 1)
    return dataclasses.replace(
        relevance,
        queries=relevance.queries[one],
        relevant=relevance.relevant[one],
        positives=relevance.positives[one],
    )


def _of_different_labels(rows: Sequence[int], labels: Sequence[str], count: int) -> list[int]:
    """Returns the first `count` rows of different labels; where too few differ, others as well."""
    firsts: dict[str, int] = {}
    for row, label in zip(rows, labels, strict=True):
        firsts.setdefault(label, row)
    chosen = list(firsts.values())[:count]
    others = (row for row in rows if row not in chosen)
    return chosen + list(itertools.islice(others, count - len(chosen)))
