"""Shop fronts, billboards and painted walls: lettering, emblems and pictures."""

import numpy as np

from demo.canvas import Box, Canvas
from demo.materials import MATERIALS, TRIMS, VIVID, WALLS, Colour, jitter, material, pick, shift
from demo.ornament import emblem, picture, place_name, star
from demo.shapes import Landmark, block, flat


def billboard(style: np.random.Generator, detail: np.random.Generator) -> Landmark:
    """A poster on posts: a picture, an emblem and a name."""
    width, height = int(detail.uniform(260, 400)), int(detail.uniform(240, 330))
    canvas = Canvas(width, height)
    low = height * float(detail.uniform(0.6, 0.8))
    steel = pick(style, TRIMS)
    for share in (0.5,) if detail.random() < 0.4 else (0.25, 0.75):
        canvas.rect((width * share - 6, low, width * share + 6, height), shift(steel, 0.7))
    canvas.rect((0, 0, width, low), steel)
    sheet = (7.0, 7.0, width - 7.0, low - 7.0)
    canvas.rect(sheet, pick(style, VIVID), 130)
    _poster(canvas, sheet, detail)
    return flat("billboard", canvas.finish())


def _poster(canvas: Canvas, box: Box, rng: np.random.Generator) -> None:
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    split = left + width * float(rng.uniform(0.3, 0.5))
    ink = pick(rng, ((250, 248, 240), (24, 24, 28), (250, 220, 60)))
    first, second = ((left, split), (split, right))
    if rng.random() < 0.5:
        first, second = (right - (split - left), right), (left, right - (split - left))
    picture(canvas, (first[0] + 6, top + 6, first[1] - 6, bottom - 6), rng)
    lines = int(rng.integers(1, 4))
    for line in range(lines):
        y = top + height * (0.12 + 0.8 * line / lines)
        row = (second[0] + 8, y, second[1] - 8, y + height * 0.62 / lines)
        canvas.text(row, place_name(rng).split()[-1], ink, 220)
    if rng.random() < 0.3:
        y = bottom - height * 0.12
        canvas.rect((left, y, right, bottom), pick(rng, VIVID), 130)


def shop(style: np.random.Generator, detail: np.random.Generator) -> Landmark:
    """A single shop front with fascia, awning, window display and hanging sign."""
    wall = jitter(detail, pick(style, WALLS))
    paint = jitter(detail, pick(style, VIVID))
    canvas = Canvas(380, 300)
    texture = material(detail, str(pick(style, MATERIALS)), 380, 300, wall)
    canvas.textured([(0, 0), (380, 0), (380, 300), (0, 300)], texture)
    fascia = float(detail.uniform(50, 90))
    canvas.rect((12, fascia, 368, 300), paint)
    ink = (248, 240, 214) if sum(paint) < 480 else (40, 30, 30)
    board = (24, fascia + 4, 356, fascia + 44)
    canvas.rect(board, shift(paint, float(detail.uniform(0.6, 1.3))), 70)
    canvas.text((34, fascia + 7, 346, fascia + 41), place_name(detail), ink, 255)
    top = fascia + 54
    door = float(pick(detail, (30.0, 152.0, 270.0)))
    canvas.rect((door, top, door + 78, 300), shift(paint, 0.6))
    canvas.rect((door + 10, top + 10, door + 68, 262), (120, 134, 138), 230)
    for left, right in _spans(door):
        _display(canvas, (left, top, right, 284), detail)
    if detail.random() < 0.6:
        _awning(canvas, top, pick(detail, VIVID))
    if detail.random() < 0.7:
        emblem(canvas, (float(detail.uniform(50, 330)), fascia * 0.5, fascia * 0.75), detail)
    canvas.weather(detail, 0.08)
    side = Canvas(120, 300)
    side.textured([(0, 0), (120, 0), (120, 300), (0, 300)], texture)
    return block("shop", canvas.finish(), side.finish(), 160)


def _spans(door: float) -> list[tuple[float, float]]:
    spans = [(26.0, door - 10), (door + 88, 354.0)]
    return [(left, right) for left, right in spans if right - left > 40]


def _display(canvas: Canvas, box: Box, rng: np.random.Generator) -> None:
    left, top, right, bottom = box
    canvas.rect(box, (74, 80, 84), 235)
    rows = int(rng.integers(1, 4))
    goods = [pick(rng, VIVID) for _ in range(3)]
    size = (bottom - top) / rows * 0.34
    for row in range(rows):
        y = top + (bottom - top) * (row + 1) / rows
        canvas.rect((left, y - 4, right, y), (180, 170, 150), 200)
        x = left + size
        while x < right - size:
            colour = goods[int(rng.integers(3))]
            if rng.random() < 0.5:
                canvas.ellipse((x - size, y - 4 - 2 * size, x + size, y - 4), colour, 235)
            else:
                canvas.rect((x - size, y - 4 - size * 1.7, x + size * 0.8, y - 4), colour, 235)
            x += size * 2.4


def _awning(canvas: Canvas, top: float, colour: Colour) -> None:
    stripes = 12
    step = 372 / stripes
    for index in range(stripes):
        shade = colour if index % 2 == 0 else (238, 234, 226)
        x = 4 + index * step
        canvas.polygon([(x + 2, top - 8), (x + step, top - 8), (x + step, top + 24), (x, top + 24)],
                       shade)  # fmt: skip
        canvas.ellipse((x, top + 18, x + step, top + 32), shade)
    canvas.shadow([(4, top + 30), (376, top + 30), (376, top + 46), (4, top + 46)], 0.3, 2)


def mural(style: np.random.Generator, detail: np.random.Generator) -> Landmark:
    """A painted gable wall."""
    wall = jitter(detail, pick(style, WALLS))
    width, height = int(detail.uniform(240, 360)), int(detail.uniform(260, 380))
    canvas = Canvas(width, height)
    texture = material(
        detail, str(pick(style, ("brick", "plaster", "panels"))), width, height, wall
    )
    rise = float(pick(detail, (0.0, 0.0, 50.0, 80.0)))
    canvas.textured(
        [(0, height), (0, rise), (width / 2, 0), (width, rise), (width, height)], texture
    )
    pad = width * float(detail.uniform(0.05, 0.16))
    box = (pad, rise + 16, width - pad, height - float(detail.uniform(20, 70)))
    picture(canvas, box, detail)
    for _ in range(int(detail.integers(1, 4))):
        reach = float(detail.uniform(0.12, 0.28)) * width
        x = float(detail.uniform(box[0] + reach, box[2] - reach))
        y = float(detail.uniform(box[1] + reach, max(box[1] + reach + 1, box[3] - reach)))
        points = star(x, y, reach, int(detail.integers(3, 12)), float(detail.uniform(0.3, 0.8)))
        canvas.polygon(points, pick(detail, VIVID), 30)
    if detail.random() < 0.6:
        row = (box[0] + 10, box[3] - 44, box[2] - 10, box[3] - 8)
        canvas.text(row, place_name(detail), pick(detail, ((250, 248, 240), (26, 24, 28))), 30)
    canvas.weather(detail, 0.18)
    side = Canvas(100, int(height - rise))
    side.textured([(0, 0), (100, 0), (100, side.height), (0, side.height)], texture)
    return block("mural", canvas.finish(), side.finish(), width * 0.5)
