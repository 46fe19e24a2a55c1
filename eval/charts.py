"""Charts of the results page as inline SVG, drawn by Matplotlib without pyplot.

A chart takes its colours from the page, light or dark: it is drawn in placeholder colours, which
become CSS variables in the SVG. Its texts are numbers and fixed words only, in the page's font.
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Colours that no chart needs otherwise, by the CSS variable that takes their place.
_INK, _MUTED, _GRID = "#010101", "#010102", "#010103"
# 6 colours and 7 markers: together they tell 42 members apart.
SERIES = 6
_SERIES = tuple(f"#02020{number}" for number in range(1, SERIES + 1))
_VARIABLES = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _GRID: "var(--rule)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(_SERIES, 1)},
}
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
_STYLE = {
    "svg.fonttype": "none",  # texts stay texts: small, selectable, in the page's font
    "axes.edgecolor": _GRID,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.labelcolor": _MUTED,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.unicode_minus": True,
    "font.size": 10,
    "text.color": _MUTED,
    "text.parse_math": False,
    "xtick.color": _GRID,
    "xtick.labelcolor": _MUTED,
    "ytick.color": _GRID,
    "ytick.labelcolor": _MUTED,
}
# A stage narrower than this share of the chart is named by its number alone.
_NARROW = 0.15


@dataclasses.dataclass(frozen=True)
class Stage:
    """What one stage of a member logged.

    Attributes:
        number: of the stage.
        pixels: side of its images, or None if not known.
        train: rows of the event "train", in order.
        validation: rows of the event "validation", in order.
    """

    number: int
    pixels: int | None
    train: Sequence[Mapping[str, float]]
    validation: Sequence[Mapping[str, float]]

    @property
    def epochs(self) -> float:
        """Epochs that the log covers."""
        return max((row["epoch"] for row in (*self.train, *self.validation)), default=0.0)


def read_stage(path: str, number: int, pixels: int | None) -> Stage:
    """Reads the log of a stage: one JSON object per line; a last line that is cut off is dropped.

    Raises:
        FileNotFoundError: if there is no log.
        ValueError: if a line is no JSON.
    """
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file if line.endswith("\n")]
    train, validation = (
        [row for row in rows if row["event"] == event] for event in ("train", "validation")
    )
    return Stage(number, pixels, train, validation)


def progress(
    values: Mapping[str, Mapping[int, float]],
    ensemble: float | None,
    pixels: Mapping[int, int | None],
) -> str:
    """Draws a metric by stage: one line per member, the ensemble as a dashed horizontal line.

    Args:
        values: the metric per member and stage.
        ensemble: the metric of the ensemble, or None.
        pixels: side of the images per stage; None where members differ.
    """
    stages = sorted({stage for by_stage in values.values() for stage in by_stage})
    at = {stage: position for position, stage in enumerate(stages)}
    with matplotlib.rc_context(_STYLE):
        axes = _axes(5.2, 3.1)
        for row, by_stage in enumerate(values.values()):
            axes.plot(
                [at[stage] for stage in sorted(by_stage)],
                [by_stage[stage] for stage in sorted(by_stage)],
                color=_SERIES[row % SERIES],
                marker=MARKERS[row % len(MARKERS)],
                linewidth=2,
                markersize=7,
            )
        if ensemble is not None:
            axes.axhline(ensemble, color=_INK, linewidth=1.5, dashes=(5, 3))
            place = {"xytext": (0, 4), "textcoords": "offset points", "va": "bottom"}
            left = (0, ensemble), axes.get_yaxis_transform()
            text = f"ensemble {ensemble:.3f}"
            axes.annotate(text, left[0], xycoords=left[1], color=_INK, weight="bold", **place)
        axes.set_xlim(-0.3, len(stages) - 0.7)
        axes.margins(y=0.14)
        axes.set_xticks(range(len(stages)), [_stage_name(s, pixels.get(s)) for s in stages])
        axes.set_ylabel("mAP@100")
        return _svg(axes.figure, "progress")


def curves(stages: Sequence[Stage], key: str, label: str, salt: str) -> str:
    """Draws one value over the epochs of all stages, one after another, on train and validation.

    Args:
        stages: of one member.
        key: of the log's rows: "loss", "accuracy" or "learning_rate".
        label: of the vertical axis.
        salt: makes the ids inside the SVG differ from those of other charts.
    """
    with matplotlib.rc_context(_STYLE):
        axes = _axes(4.4, 2.9)
        for stage, start in _starts(stages):
            _plot(axes, stage.train, key, start, color=_SERIES[0], linewidth=1.6)
            _plot(
                axes,
                stage.validation,
                key,
                start,
                color=_SERIES[1],
                linewidth=1.2,
                dashes=(3, 2),
                marker="o",
                markersize=3.2,
            )
        axes.margins(x=0, y=0.06)
        axes.set_xlim(0, max(sum(stage.epochs for stage in stages), 1e-3))
        if key != "loss":
            axes.set_ylim(bottom=0)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        _mark_stages(axes, stages)
        return _svg(axes.figure, salt)


def _axes(width: float, height: float) -> Axes:
    """Returns empty axes with horizontal grid lines in a figure of this size in inches."""
    axes = Figure(figsize=(width, height), layout="constrained").subplots()
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    return axes


def _starts(stages: Sequence[Stage]) -> Iterator[tuple[Stage, float]]:
    """Yields every stage with the epochs of the stages before it."""
    start = 0.0
    for stage in stages:
        yield stage, start
        start += stage.epochs


def _plot(
    axes: Axes, rows: Sequence[Mapping[str, float]], key: str, start: float, **style: object
) -> None:
    rows = [row for row in rows if key in row]
    axes.plot([start + row["epoch"] for row in rows], [row[key] for row in rows], **style)


def _mark_stages(axes: Axes, stages: Sequence[Stage]) -> None:
    """Draws the boundaries between stages, and names the stages above the axes."""
    total = axes.get_xlim()[1]
    for stage, start in _starts(stages):
        if start:
            axes.axvline(start, color=_MUTED, linewidth=1)
        narrow = stage.epochs < _NARROW * total
        name = str(stage.number) if narrow else _stage_name(stage.number, stage.pixels)
        axes.annotate(
            name,
            (start + stage.epochs / 2, 1),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            va="bottom",
            linespacing=1.15,
        )


def _stage_name(number: int, pixels: int | None) -> str:
    return f"stage {number}" + (f"\n{pixels} px" if pixels else "")


def _svg(figure: Figure, salt: str) -> str:
    """Returns the figure as an `<svg>` element that fills its place in the page.

    Equal figures give equal text: the ids come from `salt`. What only a file of its own needs
    (name spaces, metadata with the date, size) is left out.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": salt}):
        FigureCanvasSVG(figure).print_svg(buffer)
    text = buffer.getvalue()
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    opening, rest = text.split(">", 1)
    opening = re.sub(r' (xmlns(:\w+)?|width|height|version)="[^"]*"', "", opening)
    used = set(re.findall(r"#([\w-]+)", rest))
    # Names such as "axes_1" come back in every chart, and ids must be unique in a page.
    rest = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", rest)
    for colour, variable in _VARIABLES.items():
        rest = rest.replace(colour, variable)
    return f"{opening}>{rest}".strip()
