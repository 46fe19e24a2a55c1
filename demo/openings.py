"""Windows and doors of many shapes."""

import math
from dataclasses import dataclass

import numpy as np

from demo.canvas import Box, Canvas, Point
from demo.materials import Colour, blend, pick, shift

SHAPES = ("rect", "arch", "pointed", "segment", "round", "twin", "wide", "slit")


@dataclass(frozen=True)
class WindowStyle:
    """How all windows of a building look.

    Attributes:
        shape: One of `SHAPES`.
        frame: Colour of the surround.
        border: Width of the surround in pixels.
        bars: Vertical and horizontal glazing bars.
        hood: What is above: `none`, `flat`, `triangle` or `curve`.
        shutters: Colour of the shutters, or None.
        glass: Colour of the panes.
        sill: Whether there is a sill below.
    """

    shape: str
    frame: Colour
    border: float
    bars: tuple[int, int]
    hood: str
    shutters: Colour | None
    glass: Colour
    sill: bool


def window_style(
    style: np.random.Generator, detail: np.random.Generator, frame: Colour
) -> WindowStyle:
    """Windows of one family (`style`), with this landmark's own touches (`detail`)."""
    shape = str(pick(style, SHAPES))
    shutters = None
    if style.random() < 0.3 and shape in ("rect", "segment", "arch"):
        shutters = pick(detail, ((70, 100, 80), (90, 60, 50), (70, 90, 130), (200, 200, 190)))
    glass = pick(style, ((52, 62, 74), (70, 84, 96), (36, 40, 46), (96, 112, 120)))
    return WindowStyle(
        shape=shape,
        frame=frame,
        border=float(style.uniform(0.0, 4.0)),
        bars=(int(detail.integers(0, 3)), int(detail.integers(0, 4))),
        hood=str(pick(detail, ("none", "none", "flat", "triangle", "curve"))),
        shutters=shutters,
        glass=glass,
        sill=bool(style.random() < 0.6),
    )


def outline(box: Box, shape: str) -> list[Point]:
    """The outline of an opening of the given shape, inside the box."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    middle = (left + right) / 2
    if shape == "round":
        radius = min(width, height) / 2
        return _arc(middle, top + height / 2, radius, radius, 0, 360)
    rise = {"arch": width / 2, "twin": width / 2, "segment": width / 5, "pointed": width * 0.8}
    drop = min(rise.get(shape, 0.0), height * 0.7)
    if not drop:
        return [(left, top), (right, top), (right, bottom), (left, bottom)]
    if shape == "pointed":
        crown = [
            (left, top + drop), (left + width * 0.1, top + drop * 0.5),
            (left + width * 0.27, top + drop * 0.2), (middle, top),
            (right - width * 0.27, top + drop * 0.2), (right - width * 0.1, top + drop * 0.5),
            (right, top + drop),
        ]  # fmt: skip
    else:
        crown = _arc(middle, top + drop, width / 2, drop, 180, 360)
    return [(left, bottom), *crown, (right, bottom)]


def window(canvas: Canvas, box: Box, look: WindowStyle, lit: int, tint: float) -> None:
    """Draws one window; lit 0-255 is its light at night, tint the brightness of its glass."""
    left, top, right, bottom = _shaped(box, look.shape)
    edge = look.border
    surround = (left - edge, top - edge, right + edge, bottom + edge * 0.6)
    if look.shutters is not None:
        _shutters(canvas, (left, top, right, bottom), look.shutters)
    if edge > 0.5:
        canvas.polygon(outline(surround, look.shape), look.frame)
    canvas.polygon(outline((left, top, right, bottom), look.shape), shift(look.glass, tint), lit)
    height = bottom - top
    reflection = (left, top + height * 0.45, right, bottom)
    if look.shape in ("rect", "wide"):
        canvas.rect(reflection, shift(look.glass, tint * 0.78), lit)
    _bars(canvas, (left, top, right, bottom), look)
    _hood(canvas, surround, look)
    if look.sill and look.shape != "round":
        sill = (left - edge - 2, bottom, right + edge + 2, bottom + 3)
        canvas.rect(sill, blend(look.frame, (255, 255, 255), 0.15))
        canvas.shadow([(sill[0], sill[3]), (sill[2], sill[3]), (sill[2], sill[3] + 2),
                       (sill[0], sill[3] + 2)], 0.3)  # fmt: skip


def door(canvas: Canvas, box: Box, shape: str, leaf: Colour, frame: Colour) -> None:
    """A door with surround, two leaves and panels."""
    left, top, right, bottom = box
    width = right - left
    shape = shape if shape in ("arch", "pointed", "segment") else "rect"
    around = (left - width * 0.15, top - width * 0.15, right + width * 0.15, bottom)
    canvas.polygon(outline(around, shape), frame)
    canvas.polygon(outline(box, shape), leaf)
    dark = shift(leaf, 0.7)
    middle = (left + right) / 2
    canvas.line([(middle, top + 2), (middle, bottom)], dark, 1.5)
    for share in (0.55, 0.78):
        y = top + (bottom - top) * share
        for start, end in ((left + 2, middle - 2), (middle + 2, right - 2)):
            canvas.rect((start, y, end, y + (bottom - top) * 0.16), dark)


def _shaped(box: Box, shape: str) -> Box:
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    grow = {"wide": -0.22, "slit": 0.28, "round": 0.0, "twin": -0.05}.get(shape, 0.0)
    if shape == "round":
        return left, top + height * 0.15, right, bottom - height * 0.15
    return left + width * grow, top, right - width * grow, bottom


def _bars(canvas: Canvas, box: Box, look: WindowStyle) -> None:
    left, top, right, bottom = box
    across, down = look.bars
    if look.shape == "twin":
        across = 1
    if look.shape in ("slit", "round"):
        across = down = 0
    top = top + (bottom - top) * (0.15 if look.shape in ("arch", "pointed", "twin") else 0.0)
    thick = 2.5 if look.shape == "twin" else 1.3
    for index in range(1, across + 1):
        x = left + (right - left) * index / (across + 1)
        canvas.line([(x, top), (x, bottom)], look.frame, thick)
    for index in range(1, down + 1):
        y = top + (bottom - top) * index / (down + 1)
        canvas.line([(left, y), (right, y)], look.frame, 1.2)


def _hood(canvas: Canvas, surround: Box, look: WindowStyle) -> None:
    left, top, right, _ = surround
    width = right - left
    if look.hood == "none" or look.shape in ("round", "pointed", "slit"):
        return
    low, rise = top - 1, width * 0.28
    light = blend(look.frame, (255, 255, 255), 0.1)
    if look.hood == "flat":
        canvas.rect((left - 2, low - 3, right + 2, low), light)
    elif look.hood == "triangle":
        canvas.polygon([(left - 3, low), ((left + right) / 2, low - rise), (right + 3, low)], light)
    else:
        canvas.polygon(_arc((left + right) / 2, low, width / 2 + 3, rise, 180, 360), light)


def _shutters(canvas: Canvas, box: Box, colour: Colour) -> None:
    left, top, right, bottom = box
    leaf = (right - left) * 0.45
    for start in (left - leaf - 1, right + 1):
        canvas.rect((start, top, start + leaf, bottom), colour)
        middle = (top + bottom) / 2
        canvas.line([(start, middle), (start + leaf, middle)], shift(colour, 0.7), 1.2)


def _arc(x: float, y: float, wide: float, tall: float, start: int, end: int) -> list[Point]:
    count = 16
    angles = [math.radians(start + (end - start) * step / count) for step in range(count + 1)]
    return [(x + wide * math.cos(angle), y + tall * math.sin(angle)) for angle in angles]
