"""Detection score: `python eval/detection.py --detections crops.csv --boxes boxes.csv` -> AP."""

from __future__ import annotations

import argparse
import collections
import pathlib
import sys
from collections.abc import Mapping, Sequence

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import numpy as np

import columns
from eval import command

CORNERS = ("xmin", "ymin", "xmax", "ymax")
THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).round(2).tolist())
MOST = 100  # detections of an image and a class that count, the best ones

_RECALLS = np.linspace(0, 1, 101)

Boxes = Mapping[str, Mapping[str, np.ndarray]]  # class, image: (n, 4), or (n, 5) with the score


def average_precisions(
    detections: Mapping[str, np.ndarray],
    truths: Mapping[str, np.ndarray],
    thresholds: Sequence[float] = THRESHOLDS,
) -> np.ndarray:
    """Returns the average precision of one class at each overlap, as COCO defines it.

    In each image the detections, best score first (ties in their order), each take the object
    that they overlap most among those not taken, if by at least the threshold. Over all images in
    the order of the score (ties in the order of the images), precision at a recall is the highest
    at that recall or above; AP is its mean at the recalls 0, 0.01 … 1, 0 beyond what is reached.

    Args:
        detections: by image, (n, 5) xmin, ymin, xmax, ymax, score.
        truths: by image, (m, 4); at least one box in one of them.
        thresholds: T least overlaps (IoU).

    Returns:
        (T,) float64.

    Reference:
        Lin et al., "Microsoft COCO", arXiv:1405.0312, and its evaluation (cocodataset.org).
    """
    scores, hits = [np.zeros(0)], [np.zeros((len(thresholds), 0), bool)]
    for image in [*truths, *(image for image in detections if image not in truths)]:
        found = np.asarray(detections.get(image, np.zeros((0, 5))), np.float64)
        found = found[np.argsort(-found[:, 4], kind="stable")][:MOST]
        real = np.asarray(truths.get(image, np.zeros((0, 4))), np.float64)
        scores.append(found[:, 4])
        hits.append(_hits(overlaps(found[:, :4], real), thresholds))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    hit = np.concatenate(hits, axis=1)[:, order]  # (T, N)
    count = sum(map(len, truths.values()))
    return np.array([_area(row, count) for row in hit])


def overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the IoU (n, m) of each of (n, 4) with each of (m, 4) boxes."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _hits(overlap: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Returns (T, n): whether each detection of an image takes an object."""
    hits = np.zeros((len(thresholds), len(overlap)), bool)
    if not overlap.size:
        return hits
    for row, threshold in zip(hits, thresholds, strict=True):
        free = np.ones(overlap.shape[1], bool)
        for number, each in enumerate(overlap):
            best = int(np.argmax(np.where(free, each, -1.0)))
            if free[best] and each[best] >= threshold:
                row[number], free[best] = True, False
    return hits


def _area(hit: np.ndarray, count: int) -> float:
    """Returns the AP of detections in the order of their scores, with `count` objects in all."""
    true = np.cumsum(hit)
    precision = true / np.arange(1, len(hit) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(true / count, _RECALLS, side="left")
    return float(np.append(envelope, 0.0)[places].mean())


def score(detections: Boxes, truths: Boxes) -> dict:
    """Scores the detections of several classes.

    Args:
        detections, truths: by class, see `average_precisions`. Detections of a class without an
            object are no part of the mean, as in COCO.

    Returns:
        ap (mean over overlaps 0.5 to 0.95 and classes), ap_50, ap_75, recall_50 (share of all
        objects that some detection takes at 0.5), classes, images, boxes and detections.

    Raises:
        ValueError: there are no objects.
    """
    known = {name: images for name, images in truths.items() if any(map(len, images.values()))}
    if not known:
        raise ValueError("expected boxes of objects. Received: none")
    values = np.array(
        [average_precisions(detections.get(name, {}), images) for name, images in known.items()]
    )  # (classes, T)
    total = sum(len(boxes) for images in known.values() for boxes in images.values())
    found = sum(_found(detections.get(name, {}), images) for name, images in known.items())
    return {
        "ap": float(values.mean()),
        "ap_50": float(values[:, THRESHOLDS.index(0.5)].mean()),
        "ap_75": float(values[:, THRESHOLDS.index(0.75)].mean()),
        "recall_50": found / total,
        "classes": len(known),
        "images": len({image for images in truths.values() for image in images}),
        "boxes": total,
        "detections": sum(len(b) for images in detections.values() for b in images.values()),
    }


def _found(detections: Mapping[str, np.ndarray], truths: Mapping[str, np.ndarray]) -> int:
    count = 0
    for image, real in truths.items():
        found = np.asarray(detections.get(image, np.zeros((0, 5))), np.float64)
        found = found[np.argsort(-found[:, 4], kind="stable")][:MOST]
        count += int(_hits(overlaps(found[:, :4], np.asarray(real, np.float64)), (0.5,)).sum())
    return count


def evaluate(detections: str, boxes: str, *, any_class: bool = False) -> dict:
    """Scores the table of `detection/detect.py` against a table of boxes.

    Args:
        detections: path of a table `source,score,label` with the corners.
        boxes: path of a table `id` with the corners and perhaps `label`; a row without corners
            is an image without an object.
        any_class: whether labels are left out of account.

    Returns:
        See `score`.

    Raises:
        FileNotFoundError: there is no such table.
        ValueError: columns are missing or numbers are not what they should be.
    """
    truths = _read(boxes, "id", None, any_class)
    found = _read(detections, "source", "score", any_class)
    known = {image for images in truths.values() for image in images}
    others = sorted({image for images in found.values() for image in images} - known)
    if others:
        raise ValueError(
            f"{detections}: expected images of {boxes}. Received: {len(others)} others, such as "
            f"{others[0]!r}"
        )
    return score(found, truths)


def _read(path: str, image: str, value: str | None, any_class: bool) -> dict:
    label = "label" if not any_class and "label" in columns.column_names(path) else None
    found: dict = collections.defaultdict(lambda: collections.defaultdict(list))
    width = 4 if value is None else 5
    for number, (image_id, name, *cells) in enumerate(
        columns.read_columns(path, [image, label, *CORNERS, value]), start=1
    ):
        boxes = found[name][image_id]
        if any(cells[:4]):
            boxes.append(_numbers(path, number, cells[:width]))
    return {
        name: {each: np.array(rows).reshape(-1, width) for each, rows in images.items()}
        for name, images in found.items()
    }


def _numbers(path: str, number: int, cells: Sequence[str]) -> list[float]:
    try:
        values = [float(cell) for cell in cells]
    except ValueError:
        values = [np.nan]
    if not np.isfinite(values).all() or values[0] > values[2] or values[1] > values[3]:
        raise ValueError(
            f"{path}, row {number}: expected the numbers of a box. Received: {list(cells)}"
        )
    return values


def main(argv: list[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog="python eval/detection.py", description="Average precision of detected boxes (COCO)."
    )
    parser.add_argument("--detections", metavar="CSV", required=True, help="of detect.py")
    parser.add_argument("--boxes", metavar="CSV", required=True, help="the objects' boxes")
    parser.add_argument("--any-class", action="store_true", help="leave labels out of account")
    parser.add_argument("--output", metavar="JSON", help="write the results here as well")
    options = parser.parse_args(argv)
    try:
        result = evaluate(options.detections, options.boxes, any_class=options.any_class)
        command.show(result, options.output)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
