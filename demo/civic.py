"""Public buildings: domed halls, temples and gates."""

import numpy as np

from demo import openings
from demo.canvas import CLEAR, Box, Canvas
from demo.materials import METALS, ROOFS, TRIMS, VIVID, WALLS, Colour, jitter, material, pick, shift
from demo.ornament import emblem, place_name, star
from demo.shapes import Landmark, block, flat


def dome(style: np.random.Generator, detail: np.random.Generator) -> Landmark:
    """A hall with a dome on a drum, and sometimes minarets or small domes beside it."""
    wall = jitter(detail, pick(style, WALLS))
    roof = jitter(detail, pick(style, (*ROOFS, *METALS)))
    trim = pick(style, TRIMS)
    canvas = Canvas(400, 340)
    texture = material(detail, str(pick(style, ("ashlar", "plaster", "stripes"))), 400, 340, wall)
    top = float(detail.uniform(200, 250))
    half = float(detail.uniform(60, 110))
    slender = detail.random() < 0.5
    _dome(canvas, (200, top, half), (roof, wall, trim), detail)
    for x in (70, 330) if detail.random() < 0.5 else ():
        _dome(canvas, (x, top + 8, half * 0.4), (roof, wall, trim), detail)
    canvas.textured([(40, top), (360, top), (360, 340), (40, 340)], texture)
    canvas.rect((36, top - 4, 364, top + 6), trim)
    look = openings.window_style(style, detail, trim)
    count = int(detail.integers(4, 10))
    for index in range(count):
        x = 40 + 320 * (index + 0.5) / count
        wide = min(13.0, 100 / count)
        box = (x - wide, top + 26, x + wide, top + 26 + wide * 3)
        openings.window(canvas, box, look, 180, float(detail.uniform(0.6, 1.1)))
    _entrance(canvas, (200, 340, float(detail.uniform(60, 130))), trim, detail)
    if slender:
        for x in (20, 380):
            _minaret(canvas, x, float(detail.uniform(20, 90)), (wall, roof))
    canvas.weather(detail)
    return flat("dome", canvas.finish(), turns=0.4)


def _dome(
    canvas: Canvas,
    place: tuple[float, float, float],
    colours: tuple[Colour, Colour, Colour],
    rng: np.random.Generator,
) -> None:
    x, base, half = place
    roof, wall, trim = colours
    drum = half * float(rng.uniform(0.15, 0.5))
    rise = half * float(rng.uniform(0.8, 1.25))
    spring = base - drum
    canvas.ellipse((x - half, spring - rise, x + half, spring + rise), roof)
    ribs = int(rng.integers(0, 7))
    for index in range(ribs):
        reach = half * ((index + 0.5) / ribs * 2 - 1)
        top = spring - rise * float(np.sqrt(max(0.0, 1 - (reach / half * 0.5) ** 2)))
        canvas.line([(x + reach, spring), (x + reach * 0.5, top)], shift(roof, 0.75), 2)
    canvas.rect((x - half, spring, x + half, base + 20), wall)
    for step in np.linspace(x - half + 8, x + half - 8, max(2, int(half / 11))):
        canvas.rect((step - 3, spring + 5, step + 3, base), (60, 62, 66), 200)
    canvas.rect((x - half - 3, spring - 2, x + half + 3, spring + 3), trim)
    canvas.round_off(x - half, x + half, spring - rise, base)
    tip = spring - rise
    canvas.rect((x - half * 0.12, tip - half * 0.2, x + half * 0.12, tip + 3), trim)
    canvas.line([(x, tip - half * 0.5), (x, tip)], (214, 180, 90), 3)


def _minaret(canvas: Canvas, x: float, top: float, colours: tuple[Colour, Colour]) -> None:
    wall, roof = colours
    canvas.rect((x - 9, top, x + 9, 340), wall)
    for y in (top + 30, top + 100):
        canvas.rect((x - 14, y, x + 14, y + 6), shift(wall, 0.8))
    canvas.round_off(x - 10, x + 10, top, 340)
    canvas.polygon([(x - 11, top), (x, max(2, top - 40)), (x + 11, top)], roof)


def _entrance(
    canvas: Canvas, place: tuple[float, float, float], trim: Colour, rng: np.random.Generator
) -> None:
    x, bottom, width = place
    top = bottom - width * float(rng.uniform(0.7, 1.1))
    half = width / 2
    if rng.random() < 0.5:
        canvas.rect((x - half, top, x + half, bottom), trim)
        inner = (x - half * 0.7, top + width * 0.12, x + half * 0.7, bottom)
        canvas.polygon(openings.outline(inner, "pointed"), shift(pick(rng, VIVID), 0.6))
        canvas.rect(
            (x - width * 0.13, bottom - width * 0.4, x + width * 0.13, bottom), (50, 40, 34)
        )
        return
    canvas.polygon([(x - half - 6, top), (x, top - width * 0.28), (x + half + 6, top)], trim)
    canvas.rect((x - half, top, x + half, bottom), shift(trim, 0.6))
    for step in np.linspace(x - half, x + half - 8, int(rng.integers(4, 8))):
        canvas.rect((step, top, step + 8, bottom), trim)
    canvas.rect((x - width * 0.1, top + 12, x + width * 0.1, bottom), (56, 44, 38))


def temple(style: np.random.Generator, detail: np.random.Generator) -> Landmark:
    """A row of columns below a pediment, on steps."""
    stone = jitter(detail, pick(style, WALLS))
    back = shift(pick(style, WALLS), 0.55)
    width, height = 400, int(detail.uniform(190, 300))
    front = Canvas(width, height)
    pediment = height * float(detail.uniform(0.16, 0.34))
    beam, base = height * 0.12, height * 0.1
    front.rect((14, pediment + beam, width - 14, height), back)
    _columns(front, (20, pediment + beam, width - 20, height - base), stone, detail)
    light = shift(stone, 1.08)
    front.rect((6, pediment, width - 6, pediment + beam), light)
    if detail.random() < 0.7:
        box = (50, pediment + 3, width - 50, pediment + beam - 3)
        front.text(box, place_name(detail), shift(stone, 0.45))
    if detail.random() < 0.8:
        front.polygon([(0, pediment), (width / 2, 2), (width, pediment)], light)
        inner = [(44, pediment - 5), (width / 2, 12), (width - 44, pediment - 5)]
        front.polygon(inner, pick(detail, (shift(stone, 0.8), shift(pick(detail, VIVID), 0.8))))
        emblem(front, (width / 2, pediment * 0.62, pediment * 0.55), detail)
    for step in range(3):
        y = height - base * (3 - step) / 3
        inset = 10 - 5 * step
        front.rect((inset, y, width - inset, y + base / 3), shift(stone, 0.95 - 0.1 * step))
    front.weather(detail)
    side = Canvas(200, int(height - pediment))
    side.rect((0, 0, 200, side.height), back)
    _columns(side, (0, beam, 200, side.height - base), stone, detail)
    side.rect((0, 0, 200, beam), light)
    side.rect((0, side.height - base, 200, side.height), shift(stone, 0.85))
    return block("temple", front.finish(), side.finish(), width * 0.7)


def _columns(canvas: Canvas, box: Box, stone: Colour, rng: np.random.Generator) -> None:
    left, top, right, bottom = box
    count = int(rng.integers(4, 11))
    gap = (right - left) / count
    thick = gap * float(rng.uniform(0.35, 0.6))
    door = int(rng.integers(count))
    for index in range(count):
        x = left + gap * (index + 0.5)
        if index == door:
            inner = (x + thick / 2, top + 20, x + gap - thick / 2, bottom)
            canvas.rect(inner, shift(pick(rng, VIVID), 0.7), 140)
        canvas.rect((x - thick / 2, top, x + thick / 2, bottom), stone)
        for share in (-0.25, 0.0, 0.25):
            line = x + thick * share
            canvas.line([(line, top + 8), (line, bottom - 6)], shift(stone, 0.8), 1.2)
        canvas.round_off(x - thick / 2, x + thick / 2, top, bottom)
        wide = thick * 0.68
        canvas.rect((x - wide, top, x + wide, top + 7), shift(stone, 1.1))
        canvas.rect((x - wide, bottom - 6, x + wide, bottom), shift(stone, 1.05))


def gate(style: np.random.Generator, detail: np.random.Generator) -> Landmark:
    """A triumphal arch or town gate, with sky in its openings."""
    wall = jitter(detail, pick(style, WALLS))
    trim = pick(style, TRIMS)
    width = int(detail.uniform(240, 400))
    height = int(np.clip(width * detail.uniform(0.7, 1.2), 200, 400))
    texture = material(
        detail, str(pick(style, ("ashlar", "brick", "plaster"))), width, height, wall
    )
    front = Canvas(width, height)
    top = 34.0
    front.textured([(8, top), (width - 8, top), (width - 8, height), (8, height)], texture)
    attic = top + height * float(detail.uniform(0.14, 0.28))
    front.rect((2, attic, width - 2, attic + 8), trim)
    front.rect((4, top - 4, width - 4, top + 5), trim)
    front.text((width * 0.2, top + 8, width * 0.8, attic - 3), place_name(detail), shift(wall, 0.4))
    _arches(front, attic + 22, (wall, trim), detail)
    _gate_top(front, top, detail)
    front.weather(detail)
    side = Canvas(120, int(height - top))
    side.textured([(0, 0), (120, 0), (120, side.height), (0, side.height)], texture)
    side.rect((0, attic - top, 120, attic - top + 8), trim)
    return block("gate", front.finish(), side.finish(), width * 0.22)


def _arches(
    canvas: Canvas, top: float, colours: tuple[Colour, Colour], rng: np.random.Generator
) -> None:
    wall, trim = colours
    width, height = canvas.width, canvas.height
    count = int(pick(rng, (1, 1, 2, 3, 3)))
    shape = str(pick(rng, ("arch", "arch", "rect", "pointed")))
    pillar = width * 0.09
    for index in range(count):
        span = (width - 2 * pillar) / count
        left = pillar + span * index + span * 0.14
        right = left + span * 0.72
        small = count == 3 and index != 1
        high = top + (height - top) * (0.35 if small else 0.0)
        frame = (left - 7, high - 7, right + 7, height)
        canvas.polygon(openings.outline(frame, shape), trim)
        canvas.polygon(openings.outline((left, high, right, height), shape), CLEAR)
        if small:
            relief = (left, top + 4, right, high - 14)
            canvas.rect(relief, shift(wall, 0.85))
            middle = ((left + right) / 2, (relief[1] + relief[3]) / 2)
            canvas.polygon(star(*middle, (right - left) * 0.25, 6, 0.5), trim)
    for x in (pillar * 0.55, width - pillar * 0.55):
        canvas.rect((x - pillar * 0.25, top, x + pillar * 0.25, height), shift(wall, 1.15))


def _gate_top(canvas: Canvas, top: float, rng: np.random.Generator) -> None:
    metal = pick(rng, METALS)
    kind, middle = int(rng.integers(4)), canvas.width / 2
    if kind == 0:
        for x in np.linspace(middle - 36, middle + 36, 4):
            canvas.ellipse((x - 9, top - 22, x + 9, top - 8), metal)
            canvas.line([(x - 5, top - 10), (x - 5, top - 3)], metal, 3)
            canvas.line([(x + 5, top - 10), (x + 5, top - 3)], metal, 3)
            canvas.ellipse((x - 13, top - 32, x - 4, top - 18), metal)
    elif kind == 1:
        for x in np.linspace(14, canvas.width - 14, int(rng.integers(3, 8))):
            canvas.limb([(x, top - 4), (x, top - 22)], metal, 7)
            canvas.ellipse((x - 4, top - 31, x + 4, top - 23), metal)
    elif kind == 2:
        canvas.polygon([(20, top), (middle, 2), (canvas.width - 20, top)], pick(rng, ROOFS))
    else:
        for x in np.arange(8, canvas.width - 16, 22):
            canvas.rect((x, top - 16, x + 12, top), pick(rng, (metal, shift(metal, 1.2))))
