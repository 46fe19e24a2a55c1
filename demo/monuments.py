"""Monuments: figures and riders on pedestals, columns, fountains and sculptures."""

import math

import numpy as np

from demo.canvas import Canvas, Point
from demo.materials import METALS, VIVID, WALLS, Colour, jitter, material, pick, shift
from demo.ornament import place_name, star
from demo.shapes import Landmark, flat

WIDTH, HEIGHT = 260, 400


def statue(style: np.random.Generator, detail: np.random.Generator) -> Landmark:
    """A person or a rider of metal or stone on a pedestal."""
    metal = jitter(detail, pick(style, METALS))
    canvas = Canvas(WIDTH, HEIGHT)
    top = float(detail.uniform(200, 290))
    if detail.random() < 0.35:
        _rider(canvas, (WIDTH / 2, top), metal, detail)
        half = 95.0
    else:
        _person(canvas, (WIDTH / 2, top, top * 0.8), metal, detail)
        half = float(detail.uniform(45, 80))
    canvas.relief()
    _pedestal(canvas, (WIDTH / 2, top, half), jitter(detail, pick(style, WALLS)), detail)
    return flat("statue", canvas.finish(), turns=0.6)


def _pedestal(
    canvas: Canvas, place: tuple[float, float, float], stone: Colour, rng: np.random.Generator
) -> None:
    x, top, half = place
    texture = material(rng, str(pick(rng, ("ashlar", "plaster"))), WIDTH, HEIGHT, stone)
    flare = float(rng.uniform(0.8, 1.0))
    canvas.textured([(x - half * flare, top), (x + half * flare, top), (x + half, HEIGHT),
                     (x - half, HEIGHT)], texture)  # fmt: skip
    canvas.rect((x - half - 6, top - 3, x + half + 6, top + 9), shift(stone, 1.12))
    for step in range(int(rng.integers(1, 4))):
        grow = 10 * (step + 1)
        y = HEIGHT - 12 * (3 - step)
        canvas.rect((x - half - grow, y, x + half + grow, HEIGHT), shift(stone, 1.0 - 0.06 * step))
    middle = (top + HEIGHT - 30) / 2
    plate = (x - half * 0.7, middle - 16, x + half * 0.7, middle + 16)
    if rng.random() < 0.6:
        canvas.rect(plate, pick(rng, METALS))
        canvas.text(plate, place_name(rng), (240, 226, 190))
    else:
        canvas.polygon(
            star(x, middle, half * 0.45, int(rng.integers(3, 9)), 0.5), pick(rng, METALS)
        )
    canvas.shadow([(x + half * 0.55, top), (x + half, top), (x + half, HEIGHT),
                   (x + half * 0.55, HEIGHT)], 0.22, 2)  # fmt: skip


def _person(
    canvas: Canvas, place: tuple[float, float, float], metal: Colour, rng: np.random.Generator
) -> None:
    """A standing figure; place = (x, y of the feet, height)."""
    x, feet, tall = place
    hip, neck = feet - tall * 0.48, feet - tall * 0.82
    lean = tall * float(rng.normal(0, 0.04))
    thick = tall * float(rng.uniform(0.07, 0.1))
    stance = tall * float(rng.uniform(0.03, 0.16))
    if rng.random() < 0.45:
        spread = tall * float(rng.uniform(0.12, 0.24))
        canvas.polygon([(x + lean - thick, neck), (x + lean + thick, neck), (x + spread, feet),
                        (x - spread, feet)], shift(metal, 0.85))  # fmt: skip
    for side in (-1, 1):
        canvas.limb([(x, hip), (x + side * stance, feet - 3)], metal, thick)
    canvas.limb([(x, hip), (x + lean, neck)], metal, thick * 2.1)
    for side in (-1, 1):
        shoulder = (x + lean + side * thick * 1.1, neck + thick * 0.4)
        hand = _arm(canvas, shoulder, (side, tall), metal, rng)
        if rng.random() < 0.6:
            _held(canvas, hand, tall, metal, rng)
    head = tall * 0.075
    crown = (x + lean, neck - head * 1.4)
    canvas.ellipse((crown[0] - head, crown[1] - head * 1.25, crown[0] + head,
                    crown[1] + head * 1.25), metal)  # fmt: skip
    hat = int(rng.integers(4))
    if hat == 1:
        canvas.rect((crown[0] - head * 1.7, crown[1] - head, crown[0] + head * 1.7,
                     crown[1] - head * 0.6), metal)  # fmt: skip
        canvas.rect((crown[0] - head, crown[1] - head * 2.1, crown[0] + head, crown[1]), metal)
    elif hat == 2:
        canvas.polygon(star(crown[0], crown[1] - head, head * 1.7, 7, 0.5), metal)


def _arm(
    canvas: Canvas,
    shoulder: Point,
    build: tuple[int, float],
    metal: Colour,
    rng: np.random.Generator,
) -> Point:
    side, tall = build
    upper = math.radians(float(rng.uniform(-70, 160)))
    lower = upper + math.radians(float(rng.uniform(-40, 90)))
    reach = tall * 0.17
    elbow = (shoulder[0] + side * reach * math.sin(max(upper, 0.1)),
             shoulder[1] + reach * math.cos(upper))  # fmt: skip
    hand = (elbow[0] + side * reach * math.sin(lower), elbow[1] + reach * math.cos(lower))
    canvas.limb([shoulder, elbow, hand], metal, tall * 0.055)
    return hand


def _held(
    canvas: Canvas, hand: Point, tall: float, metal: Colour, rng: np.random.Generator
) -> None:
    x, y = hand
    kind = int(rng.integers(4))
    size = tall * 0.09
    if kind == 0:
        angle = float(rng.uniform(-0.6, 0.6))
        tip = (x + tall * 0.35 * math.sin(angle), y - tall * 0.35 * math.cos(angle))
        canvas.line([(x, y), tip], shift(metal, 1.2), tall * 0.025)
    elif kind == 1:
        canvas.rect((x - size, y - size * 0.7, x + size, y + size * 0.7), shift(metal, 1.15))
    elif kind == 2:
        canvas.ellipse((x - size, y - size, x + size, y + size), shift(metal, 1.2))
    else:
        canvas.line([(x, y - tall * 0.3), (x, y + tall * 0.4)], shift(metal, 0.9), tall * 0.022)
        canvas.polygon(star(x, y - tall * 0.3, size, 4, 0.4), metal)


def _rider(canvas: Canvas, place: Point, metal: Colour, rng: np.random.Generator) -> None:
    x, feet = place
    rear = float(rng.uniform(0, 38))
    back = feet - 88
    flank = [(x - 55, back + rear * 0.5), (x + 50, back - rear * 0.6)]
    canvas.limb(flank, metal, 42)
    hind, fore = flank[0][0] - 4, flank[1][0] + 6
    for offset in (0, 16):
        canvas.limb([(hind + offset, back + rear * 0.5), (hind + offset - 8, feet - 40),
                     (hind + offset, feet - 4)], metal, 12)  # fmt: skip
        lift = rear if offset else rear * 1.6
        leg = fore - offset
        canvas.limb([(leg, back - rear * 0.5), (leg + 14, feet - 44 - lift * 0.5),
                     (leg + 8, feet - 4 - lift)], metal, 11)  # fmt: skip
    head = (x + 92, back - 66 - rear * 0.5)
    canvas.limb([(x + 48, back - rear * 0.6), (x + 78, head[1] + 8)], metal, 26)
    canvas.limb([(x + 76, head[1]), (x + 104, head[1] + 20)], metal, 17)
    canvas.limb([(hind - 16, back + rear * 0.5), (hind - 34, back + 55)], metal, 8)
    _person(canvas, (x - 6, feet - 34, min(150.0, (feet - 34) * 0.8)), metal, rng)


def column(style: np.random.Generator, detail: np.random.Generator) -> Landmark:
    """A column or obelisk with a figure, globe or star on top."""
    stone = jitter(detail, pick(style, WALLS))
    metal = jitter(detail, pick(style, METALS))
    canvas = Canvas(160, HEIGHT)
    x, top, base = 80.0, float(detail.uniform(70, 120)), float(detail.uniform(300, 350))
    low, high = float(detail.uniform(16, 34)), float(detail.uniform(0.45, 0.95))
    texture = material(
        detail, str(pick(style, ("ashlar", "stripes", "plaster"))), 160, HEIGHT, stone
    )
    shaft = [(x - low * high, top), (x + low * high, top), (x + low, base), (x - low, base)]
    canvas.textured(shaft, texture)
    for y in np.linspace(top + 20, base - 15, int(detail.integers(0, 6))):
        canvas.rect((x - low, y, x + low, y + 6), shift(metal, 0.9))
    canvas.round_off(x - low, x + low, top, base)
    canvas.textured([(x - 48, base), (x + 48, base), (x + 48, HEIGHT), (x - 48, HEIGHT)], texture)
    canvas.rect((x - 54, base - 4, x + 54, base + 6), shift(stone, 1.15))
    canvas.rect((x - 66, HEIGHT - 16, x + 66, HEIGHT), shift(stone, 0.9))
    canvas.rect((x - low * 1.2, top - 7, x + low * 1.2, top + 4), shift(stone, 1.15))
    canvas.text((x - 42, base + 12, x + 42, base + 34), place_name(detail), shift(stone, 0.35))
    kind = int(detail.integers(4))
    if kind == 0:
        _person(canvas, (x, top - 6, top * 0.78), metal, detail)
    elif kind == 1:
        canvas.ellipse((x - 24, top - 54, x + 24, top - 6), metal)
        canvas.round_off(x - 24, x + 24, top - 54, top - 6)
    elif kind == 2:
        canvas.polygon(star(x, top - 38, 34, int(detail.integers(4, 10)), 0.5), metal, 100)
    else:
        tip = max(6.0, top - 60)
        canvas.polygon([(x - low * high, top - 6), (x, tip), (x + low * high, top - 6)], metal)
    canvas.weather(detail)
    return flat("column", canvas.finish(), turns=0.9)


def fountain(style: np.random.Generator, detail: np.random.Generator) -> Landmark:
    """Basins one above the other, with water and a figure on top."""
    stone = jitter(detail, pick(style, WALLS))
    canvas = Canvas(400, 300)
    x, y, half = 200.0, 300.0, 190.0
    for tier in range(int(detail.integers(2, 5))):
        bowl, stem = float(detail.uniform(20, 36)), float(detail.uniform(20, 46))
        if tier:
            canvas.rect((x - half * 0.14 - 4, y - stem, x + half * 0.14 + 4, y), shift(stone, 0.9))
            y -= stem
        canvas.polygon([(x - half, y - bowl), (x + half, y - bowl), (x + half * 0.75, y),
                        (x - half * 0.75, y)], shift(stone, 1.0 + 0.05 * tier))  # fmt: skip
        canvas.ellipse((x - half, y - bowl - 7, x + half, y - bowl + 7), (120, 160, 176), 60)
        canvas.line([(x - half, y - bowl + 4), (x + half, y - bowl + 4)], shift(stone, 1.2), 3)
        y -= bowl
        half *= float(detail.uniform(0.4, 0.62))
    metal = pick(style, METALS)
    if detail.random() < 0.6 and y > 70:
        _person(canvas, (x, y + 4, min(120.0, y - 16)), metal, detail)
    jets = int(detail.integers(2, 7))
    reach = float(detail.uniform(40, 150))
    for jet in range(jets):
        side = reach * (2 * (jet + 0.5) / jets - 1)
        points = [(x + side * t, y - 60 * t * (1 - t) * 2 + (280 - y) * t * t) for t in
                  np.linspace(0, 1, 10).tolist()]  # fmt: skip
        canvas.line(points, (214, 228, 234), 2.6)
    canvas.weather(detail)
    return flat("fountain", canvas.finish(), turns=0.8)


def sculpture(style: np.random.Generator, detail: np.random.Generator) -> Landmark:
    """Modern art: balls, rings, slabs and bent tubes in a few colours."""
    colours = [pick(style, (*VIVID, *METALS)) for _ in range(2)]
    canvas = Canvas(320, 340)
    canvas.rect((60, 322, 260, 340), (150, 148, 144))
    y = 322.0
    for _ in range(int(detail.integers(3, 7))):
        colour = shift(colours[int(detail.integers(2))], float(detail.uniform(0.85, 1.15)))
        x, size = 160 + float(detail.normal(0, 26)), float(detail.uniform(28, 66))
        _piece(canvas, (x, y, size), colour, detail)
        y = max(90.0, y - size * float(detail.uniform(0.9, 1.5)))
    canvas.relief(5.0, 1.6)
    return flat("sculpture", canvas.finish(), turns=0.5)


def _piece(
    canvas: Canvas, place: tuple[float, float, float], colour: Colour, rng: np.random.Generator
) -> None:
    x, y, size = place
    kind = int(rng.integers(5))
    box = (x - size, y - 2 * size, x + size, y)
    if kind == 0:
        canvas.ellipse(box, colour)
    elif kind == 1:
        tilt = float(rng.uniform(-0.7, 0.7)) * size
        canvas.polygon([(x - size + tilt, y - size * 1.6), (x + size + tilt, y - size * 1.5),
                        (x + size, y), (x - size, y)], colour)  # fmt: skip
    elif kind == 2:
        angles = np.linspace(0, 2 * math.pi, 30)
        ring = [(x + size * math.cos(a), y - size - size * math.sin(a)) for a in angles.tolist()]
        canvas.line(ring, colour, size * 0.3)
    elif kind == 3:
        shares = np.linspace(0, 1, 20).tolist()
        wave = [(x + size * math.sin(5 * t), y - 2.2 * size * t) for t in shares]
        canvas.limb(wave, colour, size * 0.32)
    else:
        canvas.polygon([(x - size, y), (x, y - 2.2 * size), (x + size, y)], colour)
