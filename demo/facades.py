"""Town houses, palaces and blocks: grids of windows, doors, cornices, roofs and signs."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from demo import openings
from demo.canvas import Box, Canvas, Texture
from demo.materials import (
    MATERIALS,
    ROOFS,
    TRIMS,
    VIVID,
    WALLS,
    Colour,
    blend,
    jitter,
    material,
    pick,
    shift,
)
from demo.ornament import emblem, place_name
from demo.shapes import Landmark, block

ROOF_SHAPES = ("flat", "gable", "steps", "mansard", "hip", "curved", "balustrade")


@dataclass(frozen=True)
class Plan:
    """The measures and colours of one facade, in pixels."""

    width: int
    roof_height: int
    storey_heights: tuple[int, ...]  # from the top storey down
    bays: tuple[float, ...]  # relative widths, from left to right
    wall: Colour
    trim: Colour
    roof: Colour
    roof_shape: str
    windows: openings.WindowStyle
    ground: str  # what the ground floor has

    @property
    def height(self) -> int:
        """Height of wall and roof."""
        return self.roof_height + sum(self.storey_heights)

    def columns(self) -> list[tuple[float, float]]:
        """Left and right of every bay."""
        margin = self.width * 0.04
        edges = np.concatenate([[0.0], np.cumsum(self.bays)])
        edges = margin + edges / edges[-1] * (self.width - 2 * margin)
        return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))


def house(style: np.random.Generator, detail: np.random.Generator) -> Landmark:
    """A building with a front and plainer sides."""
    wall = jitter(detail, pick(style, WALLS))
    stuff = str(pick(style, MATERIALS))
    plan = _plan(style, detail, wall)
    texture = material(detail, stuff, plan.width, plan.height, wall)
    front = _front(plan, texture, detail)
    side = _side(plan, texture, detail)
    return block("house", front, side, plan.width * float(detail.uniform(0.35, 0.8)))


def _plan(style: np.random.Generator, detail: np.random.Generator, wall: Colour) -> Plan:
    trim = pick(style, TRIMS)
    bays = _rhythm(detail, int(detail.integers(2, 8)))
    storeys = int(detail.integers(2, 6))
    tall = float(detail.uniform(34, 58))
    heights = [tall * float(detail.uniform(0.75, 1.15)) for _ in range(storeys)]
    heights[-1] *= float(detail.uniform(1.0, 1.5))
    width = float(np.clip(sum(bays) * tall * detail.uniform(0.6, 0.95), 130, 400))
    shape = str(pick(style, ROOF_SHAPES))
    roof_height = {"flat": 10, "balustrade": 20}.get(shape, width * detail.uniform(0.16, 0.42))
    shrink = min(1.0, 400 / (sum(heights) + roof_height))
    return Plan(
        width=int(width),
        roof_height=int(roof_height * shrink),
        storey_heights=tuple(int(height * shrink) for height in heights),
        bays=bays,
        wall=wall,
        trim=trim,
        roof=jitter(detail, pick(style, ROOFS)),
        roof_shape=shape,
        windows=openings.window_style(style, detail, trim),
        ground=str(pick(detail, ("door", "portal", "arcade", "shops", "columns"))),
    )


def _rhythm(rng: np.random.Generator, count: int) -> tuple[float, ...]:
    """Widths of the bays: equal, with a stressed centre, with wings, or alternating."""
    widths = np.ones(count)
    mode = int(rng.integers(4))
    if mode == 1:
        widths[count // 2] = rng.uniform(1.5, 2.2)
    elif mode == 2:
        widths[[0, -1]] = rng.uniform(1.4, 1.9)
    elif mode == 3:
        widths[1::2] = rng.uniform(0.5, 0.75)
    return tuple(widths.tolist())


def _front(plan: Plan, texture: Image.Image, rng: np.random.Generator) -> Texture:
    canvas = Canvas(plan.width, plan.height)
    top, right, bottom = plan.roof_height, plan.width, plan.height
    canvas.textured([(0, top), (right, top), (right, bottom), (0, bottom)], texture)
    canvas.weather(rng)
    _roof(canvas, plan, texture, rng)
    _order(canvas, plan, rng)
    y = top
    for number, height in enumerate(plan.storey_heights):
        if number == len(plan.storey_heights) - 1:
            _ground_floor(canvas, plan, (0, y, right, bottom), rng)
        else:
            _storey(canvas, plan, (y, y + height), rng)
        y += height
    _cornice(canvas, plan, rng)
    _own_mark(canvas, plan, rng)
    return canvas.finish()


def _storey(
    canvas: Canvas, plan: Plan, rows: tuple[float, float], rng: np.random.Generator
) -> None:
    top, bottom = rows
    height = bottom - top
    share = float(rng.uniform(0.5, 0.72))
    filled = rng.random() < 0.2
    balcony = rng.random() < 0.25
    for left, right in plan.columns():
        width = min((right - left) * 0.52, height * 0.8)
        middle = (left + right) / 2
        box = (middle - width / 2, top + height * 0.2, middle + width / 2, 0.0)
        box = (*box[:3], top + height * (0.2 + share))
        if filled and rng.random() < 0.3:
            canvas.polygon(openings.outline(box, plan.windows.shape), shift(plan.wall, 0.85))
            continue
        lit = 230 if rng.random() < 0.5 else 0
        openings.window(canvas, box, plan.windows, lit, float(rng.uniform(0.7, 1.3)))
        if balcony:
            _balcony(canvas, (left + 2, bottom - height * 0.26, right - 2, bottom - height * 0.06))


def _balcony(canvas: Canvas, box: Box) -> None:
    left, top, right, bottom = box
    dark = (46, 44, 44)
    canvas.rect((left, bottom - 2, right, bottom), (120, 114, 106))
    canvas.line([(left, top), (right, top)], dark, 1.6)
    for x in np.arange(left, right, 4.0):
        canvas.line([(x, top), (x, bottom)], dark, 0.9)


def _ground_floor(canvas: Canvas, plan: Plan, box: Box, rng: np.random.Generator) -> None:
    left, top, right, bottom = box
    height = bottom - top
    if rng.random() < 0.5:
        canvas.rect(box, blend(plan.wall, pick(rng, TRIMS), 0.55))
        canvas.rect((left, top, right, top + 3), shift(plan.trim, 0.9))
    columns = plan.columns()
    entrance = int(rng.integers(len(columns))) if rng.random() < 0.5 else len(columns) // 2
    leaf = pick(rng, VIVID)
    awning = pick(rng, VIVID)
    for number, (start, end) in enumerate(columns):
        width = (end - start) * 0.6
        middle = (start + end) / 2
        bay = (middle - width / 2, top + height * 0.2, middle + width / 2, bottom)
        if number == entrance and plan.ground != "arcade":
            openings.door(canvas, bay, plan.windows.shape, leaf, plan.trim)
        elif plan.ground == "arcade":
            canvas.polygon(openings.outline(bay, "arch"), (44, 38, 36), 120)
        elif plan.ground == "shops":
            _shop_window(canvas, bay, awning)
        else:
            low = (bay[0], bay[1], bay[2], bottom - height * 0.28)
            openings.window(canvas, low, plan.windows, 200, float(rng.uniform(0.7, 1.2)))
    if plan.ground in ("portal", "columns"):
        _porch(canvas, plan, columns[entrance], (top, bottom))


def _shop_window(canvas: Canvas, bay: Box, awning: Colour) -> None:
    left, top, right, bottom = bay
    canvas.rect((left - 3, top, right + 3, bottom - 4), (60, 56, 54))
    canvas.rect((left, top + 2, right, bottom - 8), (150, 160, 160), 250)
    stripe = (right - left + 10) / 6
    for index in range(6):
        colour = awning if index % 2 == 0 else (236, 232, 224)
        start = left - 5 + index * stripe
        canvas.rect((start, top - 2, start + stripe, top + (bottom - top) * 0.25), colour)


def _porch(canvas: Canvas, plan: Plan, bay: tuple[float, float], rows: tuple[float, float]) -> None:
    left, right = bay
    top, bottom = rows
    height = bottom - top
    pad = (right - left) * 0.12
    light = blend(plan.trim, (255, 255, 255), 0.2)
    for x in (left - pad, right + pad - 7):
        canvas.rect((x, top + height * 0.12, x + 7, bottom), light)
    beam = (left - pad - 4, top + height * 0.05, right + pad + 4, top + height * 0.16)
    canvas.rect(beam, light)
    if plan.ground == "portal":
        peak = ((left + right) / 2, top - height * 0.22)
        canvas.polygon([(beam[0], beam[1]), peak, (beam[2], beam[1])], light)
    canvas.rect((left - pad - 8, bottom - 4, right + pad + 8, bottom), shift(light, 0.8))


def _order(canvas: Canvas, plan: Plan, rng: np.random.Generator) -> None:
    """Pilasters, quoins and string courses."""
    mode = int(rng.integers(4))
    light = blend(plan.trim, plan.wall, 0.3)
    top = plan.roof_height
    if mode == 1:
        for left, _ in plan.columns()[1:]:
            canvas.rect((left - 4, top, left + 4, plan.height), light)
    elif mode == 2:
        for number, y in enumerate(range(top, plan.height, 9)):
            long = 14 if number % 2 else 9
            canvas.rect((0, y, long, y + 8), light)
            canvas.rect((plan.width - long, y, plan.width, y + 8), light)
    if rng.random() < 0.6:
        y = top
        for height in plan.storey_heights[:-1]:
            y += height
            canvas.rect((0, y - 3, plan.width, y + 1), light)


def _cornice(canvas: Canvas, plan: Plan, rng: np.random.Generator) -> None:
    top, right = plan.roof_height, plan.width
    deep = float(rng.uniform(3, 9))
    canvas.rect((0, top - 2, right, top + deep), plan.trim)
    under = [(0, top + deep), (right, top + deep), (right, top + deep + 5), (0, top + deep + 5)]
    canvas.shadow(under, 0.3)
    if rng.random() < 0.5:
        for x in np.arange(3.0, right, 10.0):
            canvas.rect((x, top + deep, x + 4, top + deep + 3), plan.trim)


def _roof(canvas: Canvas, plan: Plan, wall: Image.Image, rng: np.random.Generator) -> None:
    top, right, middle = plan.roof_height, plan.width, plan.width / 2
    shape = plan.roof_shape
    if shape == "steps":
        _steps(canvas, plan, wall, int(rng.integers(3, 6)))
    elif shape == "gable":
        canvas.textured([(0, top), (middle, 0), (right, top)], wall)
        canvas.line([(0, top), (middle, 1), (right, top)], plan.roof, 5)
    elif shape == "curved":
        crown = openings.outline((right * 0.12, 0, right * 0.88, top * 2), "arch")
        canvas.textured([(x, min(y, top)) for x, y in crown], wall)
        canvas.line([(x, min(y, top) + 1) for x, y in crown[1:-1]], plan.trim, 4)
    elif shape in ("mansard", "hip"):
        inset = right * (0.06 if shape == "mansard" else 0.22)
        canvas.polygon([(0, top), (inset, 2), (right - inset, 2), (right, top)], plan.roof)
        _dormers(canvas, plan, int(rng.integers(0, 5)))
    elif shape == "balustrade":
        canvas.rect((0, 2, right, 6), plan.trim)
        for x in np.arange(2.0, right, 8.0):
            canvas.rect((x, 4, x + 4, top), plan.trim)
    else:
        canvas.rect((0, 4, right, top), shift(plan.trim, 0.85))


def _steps(canvas: Canvas, plan: Plan, wall: Image.Image, count: int) -> None:
    for step in range(count):
        inset = plan.width * 0.45 * step / count
        y = plan.roof_height * (1 - (step + 1) / count)
        right = plan.width - inset
        corners = [(inset, y), (right, y), (right, plan.roof_height), (inset, plan.roof_height)]
        canvas.textured(corners, wall)
        canvas.rect((inset - 1, y, right + 1, y + 3), plan.trim)


def _dormers(canvas: Canvas, plan: Plan, count: int) -> None:
    for index in range(count):
        x = plan.width * (index + 1) / (count + 1)
        high, low, half = plan.roof_height * 0.35, plan.roof_height * 0.9, plan.width * 0.035 + 4
        canvas.rect((x - half, high, x + half, low), plan.trim)
        canvas.polygon([(x - half - 3, high), (x, high - half), (x + half + 3, high)], plan.trim)
        canvas.rect((x - half + 3, high + 4, x + half - 3, low), (50, 56, 66), 180)


def _own_mark(canvas: Canvas, plan: Plan, rng: np.random.Generator) -> None:
    """What only this house has: an emblem, a name over the ground floor, or banners."""
    chance = rng.random()
    ground = plan.height - plan.storey_heights[-1]
    if chance < 0.35:
        size = plan.width * float(rng.uniform(0.1, 0.2))
        y = plan.roof_height * (0.6 if plan.roof_shape in ("gable", "steps", "curved") else 1.25)
        emblem(canvas, (plan.width * 0.5, max(size / 2, y), size), rng)
    elif chance < 0.6:
        box = (plan.width * 0.12, ground - 9, plan.width * 0.88, ground + 9)
        canvas.rect(box, pick(rng, VIVID), 60)
        words = (box[0] + 4, box[1] + 1, box[2] - 4, box[3] - 1)
        canvas.text(words, place_name(rng), (244, 240, 226), 255)
    elif chance < 0.75:
        colour = pick(rng, VIVID)
        for share in (0.2, 0.8):
            x = plan.width * share
            canvas.rect((x - 7, plan.height * 0.35, x + 7, ground), colour)


def _side(plan: Plan, texture: Image.Image, rng: np.random.Generator) -> Texture:
    height = sum(plan.storey_heights)
    width = 160
    canvas = Canvas(width, height)
    canvas.textured([(0, 0), (width, 0), (width, height), (0, height)], texture)
    count = int(rng.integers(1, 5))
    y = 0
    for storey in plan.storey_heights[:-1]:
        for index in range(count):
            x = width * (index + 0.5) / count
            half = min(width / count * 0.26, storey * 0.35)
            box = (x - half, y + storey * 0.22, x + half, y + storey * 0.8)
            lit = 220 if rng.random() < 0.4 else 0
            openings.window(canvas, box, plan.windows, lit, float(rng.uniform(0.7, 1.2)))
        y += storey
    canvas.rect((0, 0, width, 6), plan.trim)
    return canvas.finish()
