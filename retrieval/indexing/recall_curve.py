"""The recall and the speed of settings of an index: as a table, as JSON and as a picture."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence

import files
from retrieval.nearest.scann_parameters import Parameters


@dataclasses.dataclass(frozen=True)
class Point:
    """One setting, measured.

    Attributes:
        parameters: the setting; None for exact search.
        recall: mean share of the k most similar vectors that were found.
        error: standard error of `recall`, over the queries.
        seconds: processor time per query, all cores together.
    """

    parameters: Parameters | None
    recall: float
    error: float
    seconds: float

    def row(self) -> str:
        """Returns the line of `HEAD`'s columns."""
        name = "exact" if self.parameters is None else ""
        if self.parameters is not None:
            one = self.parameters
            name = f"{one.leaves_to_search:>6,} of {one.leaves:>6,}  {one.candidates:>10g}"
        return f"{name:<28}{self.recall:>8.4f} ±{self.error:.4f}{1 / self.seconds:>14,.0f}"


HEAD = f"{'leaves searched':<16}  {'candidates':>10}{'recall':>8} {'':7}{'queries/CPU s':>14}"


@dataclasses.dataclass(frozen=True)
class Curve:
    """What a tuner has measured.

    Attributes:
        k: answers per query.
        wanted: the recall that was asked for.
        queries: how many.
        count: N vectors.
        dimension: D.
        points: all that was measured, exact search among them.
        chosen: the fastest of them that reaches the recall.
    """

    k: int
    wanted: float
    queries: int
    count: int
    dimension: int
    points: tuple[Point, ...]
    chosen: Point

    def front(self) -> list[Point]:
        """Returns the points than which none is both faster and more accurate, fastest first."""
        best, found = -1.0, []
        for point in sorted(self.points, key=lambda point: (point.seconds, -point.recall)):
            if point.recall > best:
                best = point.recall
                found.append(point)
        return found

    def as_json(self) -> str:
        """Returns the numbers as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"


def label_of(parameters: Parameters) -> str:
    """Returns what is built with some parameters, in words."""
    words = [f"{parameters.leaves:,} leaves", f"{parameters.block} dimensions per code"]
    if parameters.anisotropic is not None:
        words.append(f"anisotropic {parameters.anisotropic:g}")
    if parameters.soar:
        words.append("SOAR")
    return ", ".join([*words, parameters.rescoring])


def draw(curve: Curve, path: str) -> None:
    """Draws the recall over the speed as a small picture, one line for each build.

    Args:
        curve: what is drawn.
        path: ends in .svg or .png.

    Raises:
        ValueError: if it does not.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    kind = path.rpartition(".")[2]
    if kind not in ("svg", "png"):
        raise ValueError(f"expected a picture that ends in .svg or .png. Received: {path}")
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for label, points in _by_build(curve).items():
        lost, speeds = [_lost(p.recall) for p in points], [1 / p.seconds for p in points]
        axes.plot(speeds, lost, marker=".", linewidth=1.4, label=label)
    axes.axhline(1 - curve.wanted, color="0.5", linestyle="--", linewidth=1)
    chosen = 1 / curve.chosen.seconds, _lost(curve.chosen.recall)
    axes.scatter(*chosen, s=70, facecolors="none", edgecolors="black", zorder=3, label="chosen")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.invert_yaxis()
    shares = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005)
    axes.set_yticks(shares, [f"{1 - share:g}" for share in shares])
    axes.set_ylim(0.5, 0.0004)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.minorticks_off()
    axes.set_xlabel("queries per second of one core")
    axes.set_ylabel(f"recall@{curve.k}")
    axes.set_title(f"{curve.count:,} vectors of {curve.dimension:,} dimensions", loc="left")
    axes.grid(color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False)
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "curve"}):  # equal curves give equal files
        metadata = {"Date": None} if kind == "svg" else {}
        figure.savefig(buffer, format=kind, dpi=160, metadata=metadata)
    files.write_bytes(path, buffer.getvalue())


def _lost(recall: float) -> float:
    """Returns 1 - recall, which a logarithmic axis can show."""
    return max(1 - recall, 4.5e-4)


def _by_build(curve: Curve) -> dict[str, Sequence[Point]]:
    """Returns the best points of every build, by label, from fast to slow."""
    groups: dict[str, list[Point]] = {}
    for point in curve.points:
        label = "exact" if point.parameters is None else label_of(point.parameters)
        groups.setdefault(label, []).append(point)
    return {
        label: dataclasses.replace(curve, points=tuple(points)).front()
        for label, points in groups.items()
    }
