"""The sections of a training job: time per step, metrics by stage, and training curves."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from eval.page import job_charts

METRICS = {"map_at_100": "mAP@100", "recall_at_1": "R@1", "gap": "GAP"}
SEARCHES = {"exact": "Exact search", "scann": "ScaNN"}
ENSEMBLE = "ensemble"
_CURVES = {"loss": "loss", "accuracy": "accuracy", "learning_rate": "learning rate"}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One value of the metrics table.

    Attributes:
        text: the value, three decimals.
        gain: over the stage before (the ensemble: over the best single row), signed; "" for none.
        best: whether no other row shows more in this column.
    """

    text: str
    gain: str = ""
    best: bool = False


@dataclasses.dataclass(frozen=True)
class Line:
    """One row of the metrics table."""

    name: str
    pixels: int | None
    starts_member: bool
    cells: Sequence[Cell]


def values(found: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """Returns what the templates show of a results file in `folder`."""
    return {
        "steps": steps(found["seconds"]),
        "total": duration(sum(found["seconds"].values())),
        "metrics": METRICS,
        "searches": {key: SEARCHES[key] for key in searches(found["rows"])},
        "lines": metrics_table(found["rows"]),
        "progress": progress(found["rows"]),
        "training": training(found["curves"], folder),
    }


def steps(seconds: Mapping[str, float]) -> list[tuple[str, str, float]]:
    """Returns name, duration in words and share (percent) of the longest for every step."""
    longest = max(seconds.values(), default=0.0) or 1.0
    return [(name, duration(s), round(100 * s / longest, 1)) for name, s in seconds.items()]


def duration(seconds: float) -> str:
    """Returns 0.42 as "0.4 s", 75.2 as "1 min 15 s" and 7300 as "2 h 02 min"."""
    if round(seconds, 1) < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def metrics_table(rows: Sequence[Mapping]) -> list[Line]:
    """Returns one line per name, with the metrics of every search side by side.

    A stage's gain is over the stage before it of the same member; the ensemble's over the best row
    of a member, and what is post-processed over the ensemble. Gains and best values are those of
    the numbers as shown, so that they add up.
    """
    columns = [(search, metric) for search in searches(rows) for metric in METRICS]
    names = list(dict.fromkeys(row["name"] for row in rows))
    about = {row["name"]: row for row in rows}
    values = {
        (row["name"], row["search"], metric): _shown(row[metric])
        for row in rows
        for metric in METRICS
    }
    lines, before = [], None
    for name in names:
        member = about[name]["member"]
        same = before is not None and about[before]["member"] == member
        earlier = [before] if same else []
        if member == ENSEMBLE and not same:
            earlier = [other for other in names if about[other]["member"] != ENSEMBLE]
        cells = [
            _cell(
                values.get((name, *column)),
                [values.get((other, *column)) for other in earlier],
                [values.get((other, *column)) for other in names],
            )
            for column in columns
        ]
        lines.append(Line(name, about[name]["pixels"], not same, cells))
        before = name
    return lines


def _cell(value: float | None, earlier: Sequence[float | None], column: Sequence) -> Cell:
    if value is None:
        return Cell("–")  # noqa: RUF001
    gain = ""
    if known := [other for other in earlier if other is not None]:
        difference = round(value - max(known), 3)
        gain = f"{difference:+.3f}" if difference else "±0.000"
        gain = gain.replace("-", "−")  # noqa: RUF001
    best = value == max(other for other in column if other is not None)
    return Cell(f"{value:.3f}", gain, best)


def _shown(value: float | None) -> float | None:
    """Returns a metric with the decimals that the page shows, None if there is no value."""
    return None if value is None or math.isnan(value) else round(value, 3)


def searches(rows: Sequence[Mapping]) -> list[str]:
    """Returns the kinds of search that the rows are of; ValueError for one that is not known."""
    found = {row["search"] for row in rows}
    if not found <= set(SEARCHES):
        raise ValueError(f"expected searches among {', '.join(SEARCHES)}. Received: {found}")
    return [search for search in SEARCHES if search in found]


def progress(rows: Sequence[Mapping]) -> dict[str, Any]:
    """Returns the chart of mAP@100 by stage, the members in its legend and its alternative text."""
    search = searches(rows)[0]
    values: dict[str, dict[int, float]] = {}
    pixels: dict[int, int | None] = {}
    ensemble = None
    for row in rows:
        if row["search"] != search:
            continue
        if row["member"] == ENSEMBLE:
            ensemble = row["map_at_100"] if ensemble is None else ensemble
            continue
        values.setdefault(row["member"], {})[row["stage"]] = row["map_at_100"]
        same = pixels.setdefault(row["stage"], row["pixels"]) == row["pixels"]
        pixels[row["stage"]] = row["pixels"] if same else None
    texts = [
        f"{member} " + ", ".join(f"{value:.3f}" for _, value in sorted(by_stage.items()))
        for member, by_stage in values.items()
    ]
    texts += [] if ensemble is None else [f"ensemble {ensemble:.3f}"]
    return {
        "svg": job_charts.progress(values, ensemble, pixels),
        "members": list(values),
        "text": f"mAP@100 by stage, {SEARCHES[search].lower()}: " + "; ".join(texts),
    }


def training(curves: Sequence[Mapping], folder: str) -> list[dict]:
    """Returns the training curves of every member: its name and a chart with text per value."""
    stages: dict[str, list[job_charts.Stage]] = {}
    for curve in curves:
        path = os.path.join(folder, curve["log"])
        stage = job_charts.read_stage(path, curve["stage"], curve["pixels"])
        stages.setdefault(curve["member"], []).append(stage)
    return [
        {
            "member": member,
            "charts": [
                {
                    "svg": job_charts.curves(parts, key, label, f"{number}-{key}"),
                    "text": _curve_text(parts, key, label),
                }
                for key, label in _CURVES.items()
            ],
        }
        for number, (member, parts) in enumerate(stages.items())
    ]


def _curve_text(stages: Sequence[job_charts.Stage], key: str, label: str) -> str:
    """Returns in words how a value went from the start to the end of every stage."""
    texts = []
    for stage in stages:
        for event, rows in (("train", stage.train), ("validation", stage.validation)):
            known = [row[key] for row in rows if key in row]
            if known:
                texts.append(f"stage {stage.number} {event} {known[0]:.3g} to {known[-1]:.3g}")
    return f"{label} by epoch: " + "; ".join(texts)
