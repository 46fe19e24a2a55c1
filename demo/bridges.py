"""Bridges over water: arches, suspension, stayed and truss."""

import math

import numpy as np

from demo.canvas import CLEAR, Canvas
from demo.materials import METALS, VIVID, WALLS, Colour, jitter, material, pick, shift
from demo.openings import outline
from demo.shapes import WATER, Landmark, flat

WIDTH, HEIGHT = 440, 190


def bridge(style: np.random.Generator, detail: np.random.Generator) -> Landmark:
    """One of four kinds of bridge, seen from the bank."""
    canvas = Canvas(WIDTH, HEIGHT)
    deck = float(detail.uniform(95, 130))
    kind = pick(style, (_stone, _suspension, _stayed, _truss))
    kind(canvas, deck, style, detail)
    _lamps(canvas, deck, detail)
    canvas.weather(detail, 0.15)
    return flat("bridge", canvas.finish(), setting=WATER)


def _stone(
    canvas: Canvas, deck: float, style: np.random.Generator, rng: np.random.Generator
) -> None:
    wall = jitter(rng, pick(style, WALLS))
    stuff = str(pick(style, ("ashlar", "brick", "ashlar")))
    texture = material(rng, stuff, WIDTH, HEIGHT, wall)
    hump = float(rng.uniform(0, 30))
    xs = np.linspace(0, WIDTH, 23)
    road = [(float(x), deck - hump * math.sin(math.pi * x / WIDTH)) for x in xs]
    canvas.textured([*road, (WIDTH, HEIGHT), (0, HEIGHT)], texture)
    count = int(rng.integers(1, 8))
    span = WIDTH / count
    shape = str(pick(rng, ("arch", "arch", "pointed", "segment")))
    for index in range(count):
        left, right = span * (index + 0.12), span * (index + 0.88)
        high = deck + 16 - hump * 0.6
        rise = min(right - left, HEIGHT - high)
        top = HEIGHT - rise if shape == "segment" else high
        canvas.polygon(outline((left - 5, top - 5, right + 5, HEIGHT), shape), shift(wall, 1.15))
        canvas.polygon(outline((left, top, right, HEIGHT), shape), CLEAR)
    canvas.line([(x, y - 1) for x, y in road], shift(wall, 0.8), 6)
    if rng.random() < 0.5:
        for x in (span * 0.0 + 8, WIDTH - 8) if count < 2 else np.arange(1, count) * span:
            house = (x - 10, deck - hump - 46, x + 10, deck)
            canvas.rect(house, shift(wall, 1.1))
            canvas.polygon([(x - 13, house[1]), (x, house[1] - 22), (x + 13, house[1])],
                           shift(wall, 0.6))  # fmt: skip


def _deck(canvas: Canvas, deck: float, colour: Colour) -> None:
    canvas.rect((0, deck, WIDTH, deck + 9), colour)
    canvas.rect((0, deck + 9, WIDTH, deck + 12), shift(colour, 0.6))


def _suspension(
    canvas: Canvas, deck: float, style: np.random.Generator, rng: np.random.Generator
) -> None:
    colour = jitter(rng, pick(style, (*VIVID, *METALS)))
    inset = float(rng.uniform(0.16, 0.3)) * WIDTH
    top = float(rng.uniform(8, 45))
    broad = float(rng.uniform(8, 18))
    low = deck - 10
    towers = (inset, WIDTH - inset)
    points = []
    for x in np.linspace(towers[0], towers[1], 30):
        share = (x - WIDTH / 2) / (WIDTH / 2 - inset)
        points.append((float(x), low - (low - top) * share**2))
    for x, y in points[:: int(rng.integers(1, 4))]:
        canvas.line([(x, y), (x, deck)], shift(colour, 0.9), 1.3)
    canvas.line(points, colour, 3.5)
    canvas.line([(0, deck), (towers[0], top)], colour, 3.5)
    canvas.line([(towers[1], top), (WIDTH, deck)], colour, 3.5)
    _deck(canvas, deck, shift(colour, 0.9))
    beams = int(rng.integers(1, 5))
    for x in towers:
        canvas.rect((x - broad / 2, top - 6, x + broad / 2, HEIGHT), colour)
        canvas.rect((x - broad, HEIGHT - 24, x + broad, HEIGHT), (150, 146, 140))
        for beam in np.linspace(top + 4, deck - 12, beams):
            canvas.rect((x - broad, beam, x + broad, beam + 5), shift(colour, 1.1))


def _stayed(
    canvas: Canvas, deck: float, style: np.random.Generator, rng: np.random.Generator
) -> None:
    colour = jitter(rng, pick(style, ((236, 236, 232), (200, 200, 204), *VIVID, *METALS)))
    count = int(rng.integers(1, 4))
    fan = rng.random() < 0.5
    lean = float(pick(rng, (0.0, 0.0, 34.0, -34.0)))
    span = WIDTH / count
    cables = int(rng.integers(4, 11))
    _deck(canvas, deck, (150, 150, 152))
    for index in range(count):
        x, top = span * (index + 0.5), float(rng.uniform(6, 40))
        for cable in range(1, cables + 1):
            reach = span * 0.48 * cable / cables
            high = top + (0 if fan else (deck - top) * 0.7 * (1 - cable / cables))
            for side in (-1, 1):
                canvas.line([(x + lean * 0.6, high), (x + side * reach, deck)], colour, 1.5)
        half = float(rng.uniform(4, 9))
        canvas.polygon([(x + lean - half * 0.6, top - 5), (x + lean + half * 0.6, top - 5),
                        (x + half, HEIGHT), (x - half, HEIGHT)], colour)  # fmt: skip


def _truss(
    canvas: Canvas, deck: float, style: np.random.Generator, rng: np.random.Generator
) -> None:
    colour = jitter(rng, pick(style, (*METALS, *VIVID)))
    spans = int(rng.integers(1, 5))
    panels = int(rng.integers(4, 9))
    rise = float(rng.uniform(34, 85))
    curved = rng.random() < 0.6
    crossed = rng.random() < 0.5
    span = WIDTH / spans
    for index in range(spans):
        xs = np.linspace(span * index, span * (index + 1), panels + 1)
        shares = np.linspace(0, 1, panels + 1)
        bend = (
            np.sin(np.pi * shares) if curved else np.clip(np.minimum(shares, 1 - shares) * 6, 0, 1)
        )
        tops = [(float(x), deck - rise * float(b)) for x, b in zip(xs, bend, strict=True)]
        canvas.line(tops, colour, 5)
        for number, (x, y) in enumerate(tops):
            canvas.line([(x, y), (x, deck)], colour, 2.5)
            if number < panels:
                canvas.line([(x, y), (tops[number + 1][0], deck)], colour, 2)
            if number and crossed:
                canvas.line([(x, y), (tops[number - 1][0], deck)], colour, 2)
    _deck(canvas, deck, shift(colour, 0.85))
    for x in np.arange(0, spans + 1) * span:
        canvas.rect((x - 12, deck + 9, x + 12, HEIGHT), (140, 134, 126))


def _lamps(canvas: Canvas, deck: float, rng: np.random.Generator) -> None:
    if rng.random() < 0.5:
        return
    for x in np.linspace(20, WIDTH - 20, int(rng.integers(4, 10))):
        canvas.line([(x, deck), (x, deck - 18)], (60, 60, 60), 1.6)
        canvas.ellipse((x - 3, deck - 23, x + 3, deck - 17), (240, 230, 200), 255)
