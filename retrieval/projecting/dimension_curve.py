"""What fewer dimensions cost: the score of one fitted transform, cut to several dimensions."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
from collections.abc import Sequence

import numpy as np

import files
from retrieval.projecting import transforms, validation
from retrieval.projecting.projections import Transform

DIMENSIONS = (2048, 1024, 512, 256, 128, 64, 32, 16)


@dataclasses.dataclass(frozen=True)
class Point:
    """The score at one dimension.

    Attributes:
        dimension: d.
        score: mAP@k, each image of the set querying the others.
        lost: how much less that is than without the transform.
        interval: 95 % interval of `lost`: 1.96 standard errors of the mean difference per query.
        bytes_per_image: of a float32 vector.
    """

    dimension: int
    score: float
    lost: float
    interval: tuple[float, float]
    bytes_per_image: int


@dataclasses.dataclass(frozen=True)
class Curve:
    """The scores of one fit over its dimensions.

    Attributes:
        k: ranks that count.
        queries: the number of queries.
        input_dimension: D.
        untransformed: mAP@k without the transform.
        points: by falling dimension.
    """

    k: int
    queries: int
    input_dimension: int
    untransformed: float
    points: tuple[Point, ...]

    def table(self) -> str:
        """Returns lines of columns for reading."""
        lines = [f"{'dimension':>9}  {f'mAP@{self.k}':>8}  {'lost':>7}  95 % interval      bytes"]
        size = 4 * self.input_dimension
        lines.append(f"{'none':>9}  {self.untransformed:8.4f}  {'':7}  {'':17}  {size:5,}")
        for point in self.points:
            interval = f"{point.interval[0]:7.4f} to {point.interval[1]:7.4f}"
            row = f"{point.dimension:9,}  {point.score:8.4f}  {point.lost:7.4f}  {interval}"
            lines.append(f"{row}{point.bytes_per_image:7,}")
        return "\n".join(lines)

    def as_json(self) -> str:
        """Returns the numbers as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


def dimension_curve(
    vectors: np.ndarray,
    labels: Sequence | np.ndarray,
    transform: Transform | None = None,
    *,
    dimensions: Sequence[int] | None = None,
    k: int = 100,
    queries: int | None = None,
    seed: int = 0,
) -> Curve:
    """Scores a transform at several dimensions on a labelled set.

    Args:
        vectors: (N, D) float32, L2-normalised; copies of d columns are made in memory.
        labels: N classes.
        transform: what is cut; a PCA fitted on `vectors` if None, which sees no label. One that was
            fitted on labels must have been fitted on other images, or the curve flatters it.
        dimensions: to which it is cut; 2048, 1024, ... 16 and its own if None.
        k: the number of ranks of mAP@k.
        queries: how many images query, drawn at random; all if None.
        seed: of the drawing.

    Raises:
        ValueError: if a dimension is larger than the transform's, or labels do not fit.
    """
    if transform is None:
        transform = transforms.fit_pca(vectors, None)
    largest = transform.dimension
    if dimensions is None:
        dimensions = {largest, *(d for d in DIMENSIONS if d < largest)}
    cuts = [transform.truncated(d) for d in sorted(dimensions, reverse=True)]
    rows = None
    if queries is not None and queries < len(vectors):
        drawn = np.random.default_rng(seed).choice(len(vectors), queries, replace=False)
        rows = np.sort(drawn)
    before = validation.leave_one_out(vectors, labels, k, queries=rows)
    points = []
    for cut in cuts:
        after = validation.leave_one_out(cut.apply(vectors), labels, k, queries=rows)
        points.append(_point(cut.dimension, before, after))
    size = len(before)
    return Curve(k, size, vectors.shape[1], float(before.mean()), tuple(points))


def _point(dimension: int, before: np.ndarray, after: np.ndarray) -> Point:
    """Compares the average precisions (Q,) of the same queries before and after."""
    difference = before - after
    lost = float(difference.mean())
    error = float(difference.std(ddof=1) / math.sqrt(len(before))) if len(before) > 1 else math.nan
    interval = (lost - 1.96 * error, lost + 1.96 * error)
    return Point(dimension, float(after.mean()), lost, interval, 4 * dimension)


def picture_format(path: str) -> str:
    """Returns "svg", "png" or "pdf", what a path ends in, or raises ValueError."""
    kind = os.path.splitext(path)[1].removeprefix(".").lower()
    if kind not in ("svg", "png", "pdf"):
        raise ValueError(f"expected a picture that ends in .svg, .png or .pdf. Received: {path}")
    return kind


def draw(curve: Curve, path: str) -> None:
    """Draws the score over the dimension as a small picture.

    Args:
        curve: what is drawn.
        path: ends in .svg, .png or .pdf.
    """
    import matplotlib
    from matplotlib.figure import Figure

    kind = picture_format(path)
    dimensions = [point.dimension for point in curve.points]
    figure = Figure(figsize=(4.8, 3.0), layout="constrained")
    axes = figure.subplots()
    axes.axhline(curve.untransformed, color="0.45", linestyle="--", linewidth=1)
    note = f"dashed: {curve.untransformed:.4f}, all {curve.input_dimension:,} without the transform"
    axes.set_title(note, loc="left", fontsize=9, color="0.35")
    scores = [point.score for point in curve.points]
    errors = [point.interval[1] - point.lost for point in curve.points]
    axes.errorbar(dimensions, scores, yerr=errors, marker="o", capsize=3, linewidth=1.8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(dimensions, [f"{d:,}" for d in dimensions])
    axes.minorticks_off()
    axes.margins(y=0.15)
    axes.set_xlabel("dimensions")
    axes.set_ylabel(f"mAP@{curve.k}")
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "curve"}):  # equal curves give equal files
        figure.savefig(
            buffer, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else {}
        )
    files.write_bytes(path, buffer.getvalue())
