"""Charts of a training job: a metric by stage, and the training curves."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from eval.page import charts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = ("o", "s", "D", "^", "v", "P", "X")
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

    def draw(axes: Axes) -> None:
        for row, by_stage in enumerate(values.values()):
            axes.plot(
                [stages.index(stage) for stage in sorted(by_stage)],
                [by_stage[stage] for stage in sorted(by_stage)],
                color=charts.COLOURS[row % charts.SERIES],
                marker=MARKERS[row % len(MARKERS)],
                linewidth=2,
                markersize=7,
            )
        if ensemble is not None:
            axes.axhline(ensemble, color=charts.INK, linewidth=1.5, dashes=(5, 3))
            axes.annotate(
                f"ensemble {ensemble:.3f}",
                (0, ensemble),
                xycoords=axes.get_yaxis_transform(),
                xytext=(0, 4),
                textcoords="offset points",
                color=charts.INK,
                weight="bold",
            )
        axes.set_xlim(-0.3, len(stages) - 0.7)
        axes.margins(y=0.14)
        axes.set_xticks(range(len(stages)), [_stage_name(s, pixels.get(s)) for s in stages])
        axes.set_ylabel("mAP@100")

    return charts.make(draw, "progress")


def curves(stages: Sequence[Stage], key: str, label: str, salt: str) -> str:
    """Draws one value over the epochs of all stages, one after another, on train and validation.

    Args:
        stages: of one member.
        key: of the log's rows: "loss", "accuracy" or "learning_rate".
        label: of the vertical axis.
        salt: makes the ids inside the SVG differ from those of other charts.
    """
    train = {"color": charts.COLOURS[0], "linewidth": 1.6}
    validation = {"color": charts.COLOURS[1], "linewidth": 1.2, "dashes": (3, 2)}
    validation |= {"marker": "o", "markersize": 3.2}

    def draw(axes: Axes) -> None:
        for stage, start in _starts(stages):
            _plot(axes, stage.train, key, start, **train)
            _plot(axes, stage.validation, key, start, **validation)
        axes.margins(x=0, y=0.06)
        axes.set_xlim(0, max(sum(stage.epochs for stage in stages), 1e-3))
        if key != "loss":
            axes.set_ylim(bottom=0)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        _mark_stages(axes, stages)

    return charts.make(draw, salt)


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
            axes.axvline(start, color=charts.MUTED, linewidth=1)
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
