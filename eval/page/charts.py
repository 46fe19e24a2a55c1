"""Charts of the results page as inline SVG, drawn by Matplotlib without pyplot.

A chart takes its colours from the page, light or dark: it is drawn in placeholder colours, which
become CSS variables in the SVG. Its texts are numbers and fixed words only, in the page's font.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Colours that no chart needs otherwise, by the CSS variable that takes their place.
INK, MUTED, GRID = "#010101", "#010102", "#010103"
RIGHT, WRONG = "#010104", "#010105"
# 6 colours and 7 markers: together they tell 42 members apart.
SERIES = 6
COLOURS = tuple(f"#02020{number}" for number in range(1, SERIES + 1))
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--rule)",
    RIGHT: "var(--right)",
    WRONG: "var(--wrong)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(COLOURS, 1)},
}
_STYLE = {
    "svg.fonttype": "none",  # texts stay texts: small, selectable, in the page's font
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.unicode_minus": True,
    "font.size": 11,
    "text.color": MUTED,
    "text.parse_math": False,
    "xtick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.color": GRID,
    "ytick.labelcolor": MUTED,
}
_SIZE = 4.4, 3.0  # inches
_RANKS = (1, 2, 5, 10, 20, 50, 100)


def precision_recall(recall: np.ndarray, precision: np.ndarray) -> str:
    """Draws the mean precision over recall of retrieval."""

    def draw(axes: Axes) -> None:
        axes.fill_between(recall, precision, color=COLOURS[0], alpha=0.12, linewidth=0)
        axes.plot(recall, precision, color=COLOURS[0], linewidth=2)
        _unit_square(axes)

    return make(draw, "precision-recall")


def recall_at(hits: np.ndarray, found: np.ndarray) -> str:
    """Draws recall@k (any hit) and the share of the relevant images found, (depth,) each."""

    def draw(axes: Axes) -> None:
        ranks = np.arange(1, len(hits) + 1)
        axes.plot(ranks, hits, color=COLOURS[0], linewidth=2)
        axes.plot(ranks, found, color=COLOURS[1], linewidth=2, dashes=(4, 2))
        axes.set_xscale("log")
        axes.set_xticks(_RANKS, _RANKS)
        axes.minorticks_off()
        axes.set_xlim(1, max(2, len(hits)))
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("first k answers")

    return make(draw, "recall-at-k")


def scores(edges: np.ndarray, counts: Mapping[str, np.ndarray], threshold: float | None) -> str:
    """Draws how many answers of each kind ("right", "wrong", "none") have which score."""
    looks = {
        "none": {"color": MUTED, "linestyle": (0, (1, 1.5))},
        "wrong": {"color": WRONG, "linestyle": (0, (4, 2))},
        "right": {"color": RIGHT},
    }

    def draw(axes: Axes) -> None:
        for name, look in looks.items():
            if counts[name].any():
                axes.stairs(counts[name], edges, fill=True, color=look["color"], alpha=0.13)
                axes.stairs(counts[name], edges, linewidth=1.8, **look)
        axes.set_ylim(bottom=0)
        axes.margins(y=0.12)
        axes.set_xlabel("score")
        axes.set_ylabel("queries")
        axes.yaxis.get_major_locator().set_params(integer=True)
        if threshold is not None:
            axes.axvline(threshold, color=INK, linewidth=1.5)
            middle = (edges[0] + edges[-1]) / 2
            axes.annotate(
                f"threshold {threshold:.3f}",
                (threshold, 1),
                xycoords=axes.get_xaxis_transform(),
                xytext=(-4 if threshold > middle else 4, 4),
                textcoords="offset points",
                ha="right" if threshold > middle else "left",
                color=INK,
                weight="bold",
            )

    return make(draw, "scores")


def answers(recall: np.ndarray, precision: np.ndarray, chosen: tuple[float, float] | None) -> str:
    """Draws precision over recall of the answers by score, the threshold's point marked."""

    def draw(axes: Axes) -> None:
        axes.fill_between(recall, precision, color=COLOURS[2], alpha=0.12, linewidth=0)
        axes.plot(recall, precision, color=COLOURS[2], linewidth=2)
        if chosen is not None:
            axes.plot(*chosen, color=INK, marker="o", markersize=8)
        _unit_square(axes)

    return make(draw, "answers")


def make(draw: Callable[[Axes], None], salt: str) -> str:
    """Returns the `<svg>` of what a function draws into empty axes.

    Args:
        draw: gets axes with horizontal grid lines.
        salt: makes the ids inside the SVG differ from those of other charts.
    """
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": salt}):
        axes = Figure(figsize=_SIZE, layout="constrained").subplots()
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        draw(axes)
        return _svg(axes.figure)


def _unit_square(axes: Axes) -> None:
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")


def _svg(figure: Figure) -> str:
    """Returns the figure as an `<svg>` element that fills its place in the page.

    What only a file of its own needs (name spaces, metadata with the date, size) is left out.
    """
    buffer = io.StringIO()
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
