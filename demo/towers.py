"""Towers: churches, skyscrapers, lighthouses, pagodas and keeps."""

import numpy as np

from demo import openings
from demo.canvas import Box, Canvas
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
from demo.ornament import clock, place_name, rose
from demo.shapes import Landmark, block, flat

HEIGHT = 400


def church(style: np.random.Generator, detail: np.random.Generator) -> Landmark:
    """A church front: one or two towers with spires beside or before a gabled nave."""
    wall = jitter(detail, pick(style, WALLS))
    look = openings.window_style(style, detail, pick(style, TRIMS))
    roof = jitter(detail, pick(style, ROOFS))
    texture = material(detail, str(pick(style, ("ashlar", "brick", "plaster"))), 340, HEIGHT, wall)
    towers = int(detail.integers(1, 3))
    broad = float(detail.uniform(56, 90))
    width = int(broad * (1 + towers) + detail.uniform(20, 90))
    canvas = Canvas(min(width, 340), HEIGHT)
    nave_top = float(detail.uniform(190, 280))
    centred = towers == 1 and detail.random() < 0.6
    nave = (0.0, nave_top, canvas.width, HEIGHT)
    _nave(canvas, nave, texture, (look, roof), detail)
    tower_top = float(detail.uniform(95, 170))
    spire = str(pick(detail, ("spire", "onion", "flat", "broach")))
    middle = (canvas.width - broad) / 2 if centred else 0.0
    starts = [middle] if towers == 1 else [0.0, canvas.width - broad]
    for start in starts:
        box = (start, tower_top, start + broad, HEIGHT)
        _bell_tower(canvas, box, texture, (look, roof, spire), detail)
    if centred or towers == 2:
        _portal(canvas, canvas.width / 2, broad * 0.5, look, detail)
    canvas.weather(detail)
    return flat("church", canvas.finish())


def _nave(
    canvas: Canvas, box: Box, texture: object, looks: tuple, rng: np.random.Generator
) -> None:
    look, roof = looks
    left, top, right, bottom = box
    peak = top - (right - left) * float(rng.uniform(0.2, 0.4))
    middle = (left + right) / 2
    canvas.textured([(left, bottom), (left, top), (middle, peak), (right, top), (right, bottom)],
                    texture)  # fmt: skip
    canvas.line([(left, top), (middle, peak), (right, top)], roof, 6)
    if rng.random() < 0.6:
        rose(canvas, (middle, top + 22, float(rng.uniform(16, 30))), rng)
    count = int(rng.integers(2, 6))
    for index in range(count):
        x = left + (right - left) * (index + 0.5) / count
        half = min(11.0, (right - left) / count * 0.3)
        opening = (x - half, top + 60, x + half, top + 60 + half * 4)
        openings.window(canvas, opening, look, 160, float(rng.uniform(0.6, 1.1)))


def _bell_tower(
    canvas: Canvas, box: Box, texture: object, looks: tuple, rng: np.random.Generator
) -> None:
    look, roof, spire = looks
    left, top, right, bottom = box
    middle, broad = (left + right) / 2, right - left
    _spire(canvas, (left, right), top, roof, spire)
    canvas.textured([(left, top), (right, top), (right, bottom), (left, bottom)], texture)
    light = blend(look.frame, (255, 255, 255), 0.15)
    belfry = (middle - broad * 0.24, top + 18, middle + broad * 0.24, top + 18 + broad * 0.8)
    openings.window(canvas, belfry, look, 90, 0.5)
    y = belfry[3] + 12
    if rng.random() < 0.5:
        clock(canvas, (middle, y + broad * 0.24, broad * 0.24), rng)
    y += broad * 0.6
    while y < bottom - 60:
        canvas.rect((left, y - 6, right, y - 2), light)
        slit = (middle - 6, y + 8, middle + 6, y + 32)
        openings.window(canvas, slit, look, 60, 0.6)
        y += float(rng.uniform(46, 70))
    for x in (left, right - 6):
        canvas.rect((x, top, x + 6, bottom), light)
    canvas.rect((left - 2, top - 3, right + 2, top + 4), light)
    canvas.shadow([(right - broad * 0.2, top), (right, top), (right, bottom),
                   (right - broad * 0.2, bottom)], 0.18, 3)  # fmt: skip


def _spire(canvas: Canvas, sides: tuple[float, float], top: float, roof: Colour, kind: str) -> None:
    left, right = sides
    middle, broad = (left + right) / 2, right - left
    tip = 6.0
    if kind == "flat":
        for x in np.linspace(left, right - 9, 5):
            canvas.rect((x, top - 12, x + 9, top), blend(roof, (200, 190, 170), 0.6))
        return
    if kind == "onion":
        wide = broad * 0.46
        bulb = (middle - wide, top - wide * 1.7, middle + wide, top + wide * 0.4)
        canvas.ellipse(bulb, roof)
        canvas.polygon([(middle - wide * 0.5, bulb[1] + wide * 0.25), (middle, bulb[1] - wide),
                        (middle + wide * 0.5, bulb[1] + wide * 0.25)], roof)  # fmt: skip
        canvas.round_off(middle - wide, middle + wide, bulb[1] - wide, top)
        tip = max(2.0, bulb[1] - wide)
    elif kind == "broach":
        tip = max(8.0, top - broad * 0.9)
        canvas.polygon([(left - 3, top), (middle, tip), (right + 3, top)], roof)
        canvas.polygon([(middle, tip), (right + 3, top), (middle, top)], shift(roof, 0.8))
    else:
        canvas.polygon([(left, top), (middle, tip), (right, top)], roof)
        canvas.polygon([(middle, tip), (right, top), (middle, top)], shift(roof, 0.75))
    canvas.line([(middle, tip - 2), (middle, tip + 12)], (210, 180, 90), 2.5)


def _portal(
    canvas: Canvas,
    middle: float,
    width: float,
    look: openings.WindowStyle,
    rng: np.random.Generator,
) -> None:
    shape = "pointed" if look.shape == "pointed" else "arch"
    for grow in (10, 5, 0):
        half = width / 2 + grow
        box = (middle - half, HEIGHT - width * 1.35 - grow, middle + half, HEIGHT)
        canvas.polygon(openings.outline(box, shape), shift(look.frame, 1.0 - grow * 0.03))
    leaf = pick(rng, VIVID)
    box = (middle - width / 2, HEIGHT - width * 1.35, middle + width / 2, HEIGHT)
    openings.door(canvas, (box[0] + 4, box[1] + 6, box[2] - 4, HEIGHT), shape, leaf, look.frame)


def skyscraper(style: np.random.Generator, detail: np.random.Generator) -> Landmark:
    """A high-rise: a grid of panes, bands or fins, with a crown of its own."""
    glass = pick(style, ((70, 100, 126), (54, 66, 78), (110, 140, 140), (140, 110, 80),
                         (46, 90, 96), (150, 162, 172)))  # fmt: skip
    frame = pick(style, (*TRIMS, (60, 62, 66), (170, 172, 176)))
    width = int(detail.uniform(90, 190))
    grid = (int(detail.integers(4, 11)), int(detail.integers(12, 30)))
    mode = str(pick(detail, ("grid", "fins", "bands", "cross", "checker")))
    front = Canvas(width, HEIGHT)
    top = int(detail.uniform(30, 90))
    crown = str(pick(detail, ("slope", "steps", "needle", "flat", "pyramid", "notch")))
    _crown(front, top, crown, frame)
    _curtain(front, (0, top, width, HEIGHT), (glass, frame, mode, grid), detail)
    _band(front, top, detail)
    side = Canvas(width, HEIGHT - top)
    _curtain(side, (0, 0, width, HEIGHT - top), (shift(glass, 0.9), frame, mode, grid), detail)
    return block("skyscraper", front.finish(), side.finish(), width * 0.8)


def _curtain(canvas: Canvas, box: Box, looks: tuple, rng: np.random.Generator) -> None:
    glass, frame, mode, (across, down) = looks
    left, top, right, bottom = box
    canvas.rect(box, frame)
    cell_wide, cell_tall = (right - left) / across, (bottom - top) / down
    gap_x = cell_wide * {"fins": 0.4, "bands": 0.0}.get(mode, 0.16)
    gap_y = cell_tall * {"fins": 0.06, "bands": 0.45}.get(mode, 0.2)
    dark = rng.normal(1.0, 0.16, (down, across))
    lit = rng.random((down, across)) < rng.uniform(0.25, 0.6)
    for row in range(down):
        for column in range(across):
            x, y = left + column * cell_wide, top + row * cell_tall
            colour = shift(glass, float(dark[row, column]) * (1.15 - 0.3 * row / down))
            if mode == "checker" and (row // 2 + column) % 3 == 0:
                colour = shift(frame, 0.8)
            pane = (x + gap_x / 2, y + gap_y / 2, x + cell_wide - gap_x / 2,
                    y + cell_tall - gap_y / 2)  # fmt: skip
            canvas.rect(pane, colour, 210 if lit[row, column] else 0)
    if mode == "cross":
        steps = int(rng.integers(2, 5))
        tall = (bottom - top) / steps
        for step in range(steps):
            y = top + step * tall
            canvas.line([(left, y), (right, y + tall)], frame, 4)
            canvas.line([(right, y), (left, y + tall)], frame, 4)


def _crown(canvas: Canvas, top: float, kind: str, frame: Colour) -> None:
    right, middle = canvas.width, canvas.width / 2
    dark = shift(frame, 0.8)
    if kind == "slope":
        canvas.polygon([(0, top), (0, 4), (right, top)], dark)
    elif kind == "steps":
        for step in range(3):
            inset = right * 0.15 * (step + 1)
            y = top * (1 - (step + 1) / 3)
            canvas.rect((inset, y, right - inset, top), shift(frame, 0.75 + 0.12 * step))
    elif kind == "needle":
        canvas.polygon([(middle - 8, top), (middle, 2), (middle + 8, top)], dark)
        canvas.rect((right * 0.2, top - 12, right * 0.8, top), dark)
    elif kind == "pyramid":
        canvas.polygon([(0, top), (middle, 4), (right, top)], dark)
    elif kind == "notch":
        canvas.rect((0, 6, right * 0.32, top), dark)
        canvas.rect((right * 0.68, 6, right, top), dark)


def _band(canvas: Canvas, top: float, rng: np.random.Generator) -> None:
    colour = pick(rng, VIVID)
    chance = rng.random()
    if chance < 0.4:
        box = (canvas.width * 0.1, top + 8, canvas.width * 0.9, top + 34)
        canvas.rect(box, colour, 80)
        canvas.text(box, place_name(rng).split()[-1], (246, 244, 236), 255)
    elif chance < 0.7:
        y = float(rng.uniform(0.3, 0.8)) * HEIGHT
        canvas.rect((0, y, canvas.width, y + 16), colour, 90)
    canvas.rect((0, HEIGHT - 26, canvas.width, HEIGHT), (90, 90, 92), 160)


def lighthouse(style: np.random.Generator, detail: np.random.Generator) -> Landmark:
    """A round tower with bands or spirals, a gallery and a lantern."""
    first, second = pick(style, VIVID), pick(style, ((240, 238, 230), (226, 214, 190)))
    broad = float(detail.uniform(70, 130))
    narrow = broad * float(detail.uniform(0.5, 0.8))
    canvas = Canvas(int(broad) + 60, HEIGHT)
    middle, top = canvas.width / 2, float(detail.uniform(80, 130))
    bands = int(detail.integers(2, 9))
    slant = float(pick(detail, (0.0, 0.0, 30.0, -30.0)))
    edges = np.linspace(top, HEIGHT, bands + 1)
    for number in range(bands):
        colour = first if number % 2 == 0 else second
        low, high = float(edges[number]), float(edges[number + 1])
        spans = [_half(y, top, broad, narrow) for y in (low, high)]
        canvas.polygon([(middle - spans[0], low), (middle + spans[0], low + slant),
                        (middle + spans[1], high + slant), (middle - spans[1], high)],
                       colour)  # fmt: skip
    for y in np.linspace(top + 30, HEIGHT - 70, int(detail.integers(2, 6))):
        x = middle + float(detail.uniform(-0.25, 0.25)) * narrow
        canvas.rect((x - 6, y, x + 6, y + 18), (50, 56, 62), 200)
    canvas.rect((middle - 13, HEIGHT - 42, middle + 13, HEIGHT), shift(first, 0.6))
    canvas.round_off(middle - broad / 2, middle + broad / 2, 0, HEIGHT)
    _lantern(canvas, (middle, top, narrow), pick(detail, ROOFS), detail)
    return flat("lighthouse", canvas.finish(), turns=1.0)


def _half(y: float, top: float, broad: float, narrow: float) -> float:
    return (narrow + (broad - narrow) * (y - top) / (HEIGHT - top)) / 2


def _lantern(
    canvas: Canvas, place: tuple[float, float, float], roof: Colour, rng: np.random.Generator
) -> None:
    middle, top, narrow = place
    rim = narrow * float(rng.uniform(0.6, 0.85))
    canvas.rect((middle - rim, top - 4, middle + rim, top + 6), (64, 62, 62))
    glass = narrow * 0.34
    high = float(rng.uniform(30, 46))
    canvas.rect((middle - glass, top - high, middle + glass, top - 4), (206, 220, 214), 255)
    for x in np.linspace(middle - glass, middle + glass, 5):
        canvas.line([(x, top - high), (x, top - 4)], (70, 70, 70), 1.5)
    crown = top - high
    if rng.random() < 0.5:
        canvas.ellipse((middle - glass - 4, crown - glass, middle + glass + 4, crown + glass), roof)
        canvas.rect((middle - glass, crown + 1, middle + glass, top - 4), (206, 220, 214), 255)
    else:
        peak = (middle, crown - glass * 1.6)
        canvas.polygon([(middle - glass - 6, crown), peak, (middle + glass + 6, crown)], roof)
    canvas.line([(middle, crown - glass * 1.2), (middle, 6)], (70, 70, 70), 2)


def pagoda(style: np.random.Generator, detail: np.random.Generator) -> Landmark:
    """Storeys with curved eaves, each smaller than the one below."""
    wall, roof = pick(style, (*WALLS, *VIVID)), jitter(detail, pick(style, ROOFS))
    trim = pick(style, TRIMS)
    tiers = int(detail.integers(3, 8))
    base = float(detail.uniform(120, 200))
    canvas = Canvas(int(base * 1.4), HEIGHT)
    middle, tall = canvas.width / 2, (HEIGHT - 50) / tiers
    taper = float(detail.uniform(0.35, 0.75))
    lift = float(detail.uniform(4, 18))
    for tier in range(tiers):
        low = HEIGHT - tier * tall
        half = base / 2 * (1 - (1 - taper) * tier / max(1, tiers - 1))
        canvas.rect((middle - half * 0.75, low - tall, middle + half * 0.75, low), wall)
        count = int(detail.integers(2, 6))
        for index in range(count):
            x = middle + half * 1.3 * ((index + 0.5) / count - 0.5)
            canvas.rect((x - 6, low - tall * 0.6, x + 6, low - 4), shift(trim, 0.6), 190)
        canvas.rect((middle - half * 0.8, low - 5, middle + half * 0.8, low), trim)
        eave = [(middle - half * 1.35, low - tall * 0.62 - lift), (middle - half, low - tall * 0.7),
                (middle - half * 0.6, low - tall), (middle + half * 0.6, low - tall),
                (middle + half, low - tall * 0.7),
                (middle + half * 1.35, low - tall * 0.62 - lift),
                (middle + half, low - tall * 0.56), (middle - half, low - tall * 0.56)]  # fmt: skip
        canvas.polygon(eave, roof)
        canvas.shadow([(middle - half * 0.75, low - tall * 0.55),
                       (middle + half * 0.75, low - tall * 0.55),
                       (middle + half * 0.75, low - tall * 0.42),
                       (middle - half * 0.75, low - tall * 0.42)], 0.4)  # fmt: skip
    canvas.line([(middle, 4), (middle, 60)], (206, 170, 80), 4)
    canvas.weather(detail)
    return flat("pagoda", canvas.finish(), turns=0.9)


def keep(style: np.random.Generator, detail: np.random.Generator) -> Landmark:
    """A castle: walls and towers with battlements, a gate and banners."""
    wall = jitter(detail, pick(style, WALLS))
    texture = material(detail, str(pick(style, MATERIALS[:3])), HEIGHT, 300, wall)
    roof = jitter(detail, pick(style, ROOFS))
    canvas = Canvas(HEIGHT, 300)
    curtain = float(detail.uniform(150, 210))
    _battlement(canvas, (20, curtain, HEIGHT - 20, 300), texture)
    count = int(detail.integers(2, 6))
    centres = np.linspace(45, HEIGHT - 45, count)
    for x in centres.tolist():
        half, top = float(detail.uniform(22, 42)), float(detail.uniform(50, 150))
        _battlement(canvas, (x - half, top, x + half, 300), texture)
        canvas.round_off(max(0, x - half), min(HEIGHT, x + half), top, 300)
        if detail.random() < 0.5:
            canvas.polygon([(x - half - 4, top), (x, top - half * 1.7), (x + half + 4, top)], roof)
        else:
            canvas.polygon([(x, top - 34), (x + 22, top - 27), (x, top - 20)], pick(detail, VIVID))
            canvas.line([(x, top - 34), (x, top)], (60, 56, 52), 2)
        for y in np.arange(top + 24, 260, float(detail.uniform(34, 60))):
            canvas.rect((x - 4, y, x + 4, y + 16), (44, 40, 38), 150)
    gate = float(detail.uniform(0.3, 0.7)) * HEIGHT
    half = float(detail.uniform(20, 34))
    outer = (gate - half - 6, 300 - half * 2.6, gate + half + 6, 300)
    canvas.polygon(openings.outline(outer, "arch"), shift(wall, 1.15))
    inner = (gate - half, 300 - half * 2.3, gate + half, 300)
    canvas.polygon(openings.outline(inner, "arch"), (48, 38, 32), 60)
    canvas.weather(detail, 0.2)
    return flat("keep", canvas.finish())


def _battlement(canvas: Canvas, box: Box, texture: object) -> None:
    left, top, right, bottom = box
    canvas.textured([(left, top), (right, top), (right, bottom), (left, bottom)], texture)
    count = max(2, round((right - left) / 20))
    step = (right - left) / (2 * count - 1)
    for index in range(count):
        start = left + 2 * index * step
        merlon = [(start, top - 11), (start + step, top - 11), (start + step, top), (start, top)]
        canvas.textured(merlon, texture)
