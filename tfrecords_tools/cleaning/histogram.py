"""A picture of how many images have which agreement, drawn by Matplotlib without pyplot."""

from __future__ import annotations

import io
import os

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import files

_LOWEST, _HIGHEST = 0.01, 100  # values outside are drawn at the ends
_BINS = 80


def draw(path: str, agreement: np.ndarray, threshold: float, moved: np.ndarray) -> None:
    """Writes the histogram as PNG.

    Args:
        path: of the picture.
        agreement: (N,) of the images; NaN is left out.
        threshold: drawn as a line.
        moved: (N,) 1 where the label is wrong, 0 where it is right, -1 where that is not known.
    """
    values = np.clip(agreement, _LOWEST, _HIGHEST)
    known = np.isfinite(agreement)
    groups = [("label right", moved == 0), ("label moved", moved == 1), ("images", moved < 0)]
    groups = [(name, values[chosen & known]) for name, chosen in groups if (chosen & known).any()]
    figure = Figure(figsize=(8, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names, columns = zip(*groups, strict=True)
    bins = np.geomspace(_LOWEST, _HIGHEST, _BINS + 1)  # of a ratio
    axes.hist(columns, bins=bins, stacked=True, label=names)
    axes.set_xscale("log")
    axes.axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:g}")
    axes.set_xlabel("agreement: distance to the nearest of all / of the same label")
    axes.set_ylabel("images")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    data = io.BytesIO()
    figure.savefig(data, format="png")
    files.make_folder(os.path.dirname(files.absolute(path)))
    files.write_bytes(path, data.getvalue())
