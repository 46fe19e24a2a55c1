"""Names, emblems and pictures that only one landmark has."""

import math

import numpy as np

from demo.canvas import Box, Canvas, Point
from demo.materials import VIVID, Colour, pick, shift

_SYLLABLES = (
    "ba", "do", "ka", "lo", "mi", "ra", "su", "ve", "to", "ni", "ga", "le", "zo", "fe", "hu",
    "pa", "ri", "sto", "bel", "mar", "ten", "vor", "lin", "gra", "sol", "dur", "win", "ast",
)  # fmt: skip
_KINDS = ("", "", "", "CAFE", "HOTEL", "BANK", "MUSEUM", "OPERA", "MARKET", "CINEMA", "HALL")


def place_name(rng: np.random.Generator) -> str:
    """An invented name in capitals, one or two words."""
    count = int(rng.integers(2, 4))
    name = "".join(str(pick(rng, _SYLLABLES)) for _ in range(count)).upper()
    return f"{pick(rng, _KINDS)} {name}".strip()


def star(x: float, y: float, radius: float, points: int, depth: float) -> list[Point]:
    """A star with the given number of points; depth 0-1 is the inner radius' share."""
    outline = []
    for step in range(2 * points):
        reach = radius if step % 2 == 0 else radius * depth
        angle = math.pi * step / points - math.pi / 2
        outline.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
    return outline


def emblem(canvas: Canvas, place: tuple[float, float, float], rng: np.random.Generator) -> None:
    """A clock, rose window, shield or star at (x, y) with the given diameter."""
    x, y, size = place
    radius = size / 2
    first, second = pick(rng, VIVID), pick(rng, VIVID)
    kind = int(rng.integers(4))
    box = (x - radius, y - radius, x + radius, y + radius)
    if kind == 0:
        clock(canvas, (x, y, radius), rng)
    elif kind == 1:
        rose(canvas, (x, y, radius), rng)
    elif kind == 2:
        shield = [(box[0], box[1]), (box[2], box[1]), (box[2], y + radius * 0.2), (x, box[3]),
                  (box[0], y + radius * 0.2)]  # fmt: skip
        canvas.polygon(shield, first)
        canvas.polygon([(box[0], box[1]), (box[2], box[1]), (x, y)], second)
        canvas.polygon(star(x, y, radius * 0.4, 5, 0.45), (240, 220, 140))
    else:
        canvas.ellipse(box, first)
        canvas.polygon(star(x, y, radius * 0.85, int(rng.integers(3, 9)), 0.45), second)


def clock(canvas: Canvas, place: tuple[float, float, float], rng: np.random.Generator) -> None:
    """A clock face at (x, y) with the given radius."""
    x, y, radius = place
    rim = pick(rng, ((70, 60, 50), (200, 170, 90), (40, 50, 80)))
    canvas.ellipse((x - radius, y - radius, x + radius, y + radius), rim)
    inner = radius * 0.82
    canvas.ellipse((x - inner, y - inner, x + inner, y + inner), (240, 236, 222), 230)
    for hand, reach in ((rng.uniform(0, 6.28), 0.45), (rng.uniform(0, 6.28), 0.7)):
        tip = (x + radius * reach * math.sin(hand), y - radius * reach * math.cos(hand))
        canvas.line([(x, y), tip], (40, 36, 34), max(1.0, radius * 0.1))


def rose(canvas: Canvas, place: tuple[float, float, float], rng: np.random.Generator) -> None:
    """A round window with petals of coloured glass at (x, y) with the given radius."""
    x, y, radius = place
    canvas.ellipse((x - radius, y - radius, x + radius, y + radius), (210, 200, 180))
    petals = int(rng.integers(5, 13))
    glass = (shift(pick(rng, VIVID), 0.7), shift(pick(rng, VIVID), 0.7))
    for step in range(petals):
        angle = 2 * math.pi * step / petals
        centre = (x + radius * 0.6 * math.cos(angle), y + radius * 0.6 * math.sin(angle))
        reach = min(radius * 0.28, radius * 1.7 / petals)
        box = (centre[0] - reach, centre[1] - reach, centre[0] + reach, centre[1] + reach)
        canvas.ellipse(box, glass[step % 2], 170)
    heart = radius * 0.25
    canvas.ellipse((x - heart, y - heart, x + heart, y + heart), glass[0], 170)


def picture(canvas: Canvas, box: Box, rng: np.random.Generator) -> None:
    """A painting or poster: bands, discs, triangles and a few strokes on a ground."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    canvas.rect(box, pick(rng, VIVID), 40)
    horizon = top + height * float(rng.uniform(0.35, 0.8))
    canvas.rect((left, horizon, right, bottom), shift(pick(rng, VIVID), 0.8), 40)
    for _ in range(int(rng.integers(2, 6))):
        _figure(canvas, (left, top, right, bottom), rng)
    if rng.random() < 0.4:
        for _ in range(int(rng.integers(2, 6))):
            y = float(rng.uniform(top, bottom - height * 0.08))
            canvas.rect((left, y, right, y + height * 0.04), pick(rng, VIVID), 40)
    if rng.random() < 0.3:
        x = left + width * float(rng.uniform(0.1, 0.8))
        canvas.rect((x, top, x + width * 0.1, bottom), pick(rng, VIVID), 40)


def _figure(canvas: Canvas, box: Box, rng: np.random.Generator) -> None:
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    reach = float(rng.uniform(0.1, 0.32)) * min(width, height)
    x = float(rng.uniform(left + reach, right - reach))
    y = float(rng.uniform(top + reach, bottom - reach))
    colour: Colour = pick(rng, VIVID)
    kind = int(rng.integers(4))
    if kind == 0:
        canvas.ellipse((x - reach, y - reach, x + reach, y + reach), colour, 60)
        return
    if kind == 1:
        canvas.polygon(star(x, y, reach, int(rng.integers(3, 8)), 0.5), colour, 60)
        return
    if kind == 2:
        peak = (x, y - reach)
        canvas.polygon([(x - reach, y + reach), peak, (x + reach, y + reach)], colour, 60)
        return
    canvas.rect((x - reach, y - reach / 2, x + reach, y + reach / 2), colour, 60)
