"""Halls, naves and galleries: tiled floor, walls with windows or paintings, columns, ceiling."""

from typing import NamedTuple

import numpy as np

from demo import openings
from demo.canvas import Canvas, Texture
from demo.materials import (
    MATERIALS,
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
from demo.ornament import picture, rose
from demo.shapes import ROOM, Landmark, Panel

PIXELS = 240  # per unit of space


class _Room(NamedTuple):
    wide: float
    tall: float
    deep: float
    wall: Colour
    trim: Colour
    accent: Colour
    stuff: str
    bays: int


def interior(style: np.random.Generator, detail: np.random.Generator) -> Landmark:
    """A room with an open front, through which the photographer looks."""
    room = _Room(
        wide=1.0,
        tall=float(detail.uniform(0.6, 1.1)),
        deep=float(detail.uniform(0.9, 1.7)),
        wall=jitter(detail, pick(style, WALLS)),
        trim=pick(style, TRIMS),
        accent=jitter(detail, pick(style, VIVID)),
        stuff=str(pick(style, MATERIALS)),
        bays=int(detail.integers(2, 6)),
    )
    wall = _wall(room, style, detail)
    back = _back(room, detail)
    half, tall, deep = room.wide / 2, room.tall, room.deep
    panels = [
        Panel(_floor(room, detail), (-half, 0, -deep), (1.0, 0, 0), (0, 0, deep)),
        Panel(_ceiling(room, detail), (-half, tall, 0), (1.0, 0, 0), (0, 0, -deep)),
        Panel(back, (-half, tall, -deep), (1.0, 0, 0), (0, -tall, 0)),
        Panel(_mirror(wall), (-half, tall, 0), (0, 0, -deep), (0, -tall, 0)),
        Panel(wall, (half, tall, -deep), (0, 0, deep), (0, -tall, 0)),
    ]
    if detail.random() < 0.6:
        panels += _colonnade(room, detail)
    return Landmark("interior", tuple(panels), 1.0, tall, ROOM, 17.0)


def _mirror(texture: Texture) -> Texture:
    flip = 0  # Image.Transpose.FLIP_LEFT_RIGHT
    return Texture(texture.image.transpose(flip), texture.glow.transpose(flip))


def _floor(room: _Room, rng: np.random.Generator) -> Texture:
    width, height = PIXELS, int(room.deep * PIXELS)
    canvas = Canvas(width, height)
    first = shift(pick(rng, (*WALLS, *TRIMS)), 0.9)
    second = blend(first, pick(rng, ((30, 28, 30), room.accent, (236, 230, 220))), 0.7)
    canvas.rect((0, 0, width, height), first)
    size = width / int(rng.integers(4, 12))
    kind = int(rng.integers(4))
    for row in range(int(height / size) + 1):
        for column in range(int(width / size) + 1):
            x, y = column * size, row * size
            if kind == 0 and (row + column) % 2:
                canvas.rect((x, y, x + size, y + size), second)
            elif kind == 1:
                middle = (x + size / 2, y + size / 2)
                canvas.polygon([(x, middle[1]), (middle[0], y), (x + size, middle[1]),
                                (middle[0], y + size)], second)  # fmt: skip
            elif kind == 2:
                canvas.line([(x, y), (x + size, y)], second, 2)
                canvas.line([(x, y), (x, y + size)], second, 2)
    if kind == 3:
        for x in np.arange(0, width, size / 2):
            canvas.line([(x, 0), (x, height)], shift(first, 0.75), 1.5)
    if rng.random() < 0.6:
        half = width * float(rng.uniform(0.08, 0.2))
        canvas.rect((width / 2 - half, 0, width / 2 + half, height), shift(room.accent, 0.85))
        canvas.rect((width / 2 - half + 5, 0, width / 2 + half - 5, height), room.accent)
    return canvas.finish()


def _ceiling(room: _Room, rng: np.random.Generator) -> Texture:
    width, height = PIXELS, int(room.deep * PIXELS)
    canvas = Canvas(width, height)
    plain = shift(blend(room.wall, pick(rng, TRIMS), 0.5), 0.85)
    canvas.rect((0, 0, width, height), plain)
    kind = int(rng.integers(4))
    dark, light = shift(plain, 0.6), shift(plain, 1.25)
    count = int(rng.integers(3, 8))
    step = height / count
    for index in range(count):
        y = index * step
        canvas.rect((0, y, width, y + step * 0.16), dark if kind else light)
        if kind == 1:
            canvas.line([(0, y), (width, y + step)], light, 4)
            canvas.line([(width, y), (0, y + step)], light, 4)
        elif kind == 2:
            for x in np.linspace(0, width, 6)[:-1]:
                canvas.rect((x + 8, y + step * 0.3, x + width / 5 - 8, y + step * 0.9), dark)
        else:
            lamp = (width / 2 - 14, y + step * 0.45, width / 2 + 14, y + step * 0.7)
            canvas.rect(lamp, (250, 244, 220), 255)
    if kind == 3:
        canvas.rect((width * 0.3, 0, width * 0.7, height), (196, 214, 226), 120)
        for y in np.arange(0, height, 14):
            canvas.line([(width * 0.3, y), (width * 0.7, y)], dark, 2)
    return canvas.finish()


def _wall(room: _Room, style: np.random.Generator, rng: np.random.Generator) -> Texture:
    width, height = int(room.deep * PIXELS), int(room.tall * PIXELS)
    canvas = Canvas(width, height)
    texture = material(rng, room.stuff, width, height, room.wall)
    canvas.textured([(0, 0), (width, 0), (width, height), (0, height)], texture)
    kind = str(pick(rng, ("windows", "paintings", "arches", "shelves")))
    look = openings.window_style(style, rng, room.trim)
    span = width / room.bays
    for index in range(room.bays):
        left, right = span * (index + 0.18), span * (index + 0.82)
        box = (left, height * 0.2, right, height * 0.7)
        if kind == "windows":
            canvas.polygon(openings.outline(box, look.shape), (206, 222, 232), 200)
            canvas.line([((left + right) / 2, box[1] + 6), ((left + right) / 2, box[3])],
                        room.trim, 3)  # fmt: skip
        elif kind == "paintings":
            _framed(canvas, box, rng)
        elif kind == "arches":
            arch = (left, height * 0.3, right, height)
            canvas.polygon(openings.outline(arch, "arch"), shift(room.wall, 0.45))
        else:
            _shelf(canvas, (left, height * 0.15, right, height * 0.95), rng)
        canvas.rect((span * index - 5, 0, span * index + 5, height), room.trim)
    canvas.rect((0, 0, width, height * 0.06), room.trim)
    canvas.rect((0, height * 0.94, width, height), shift(room.trim, 0.7))
    return canvas.finish()


def _framed(
    canvas: Canvas, box: tuple[float, float, float, float], rng: np.random.Generator
) -> None:
    left, top, right, bottom = box
    frame = pick(rng, ((196, 156, 70), (60, 44, 34), (230, 226, 214)))
    drop = float(rng.uniform(0.0, 0.25)) * (bottom - top)
    canvas.rect((left - 4, top - 4 + drop, right + 4, bottom + 4 - drop), frame)
    picture(canvas, (left, top + drop, right, bottom - drop), rng)


def _shelf(
    canvas: Canvas, box: tuple[float, float, float, float], rng: np.random.Generator
) -> None:
    left, top, right, bottom = box
    canvas.rect(box, (72, 50, 36))
    rows = int(rng.integers(3, 6))
    tall = (bottom - top) / rows
    for row in range(rows):
        x = left + 3
        while x < right - 6:
            wide = float(rng.uniform(3, 8))
            book = tall * float(rng.uniform(0.5, 0.85))
            y = top + (row + 1) * tall - 3
            canvas.rect((x, y - book, min(x + wide, right - 3), y), shift(pick(rng, VIVID), 0.8))
            x += wide


def _back(room: _Room, rng: np.random.Generator) -> Texture:
    width, height = PIXELS, int(room.tall * PIXELS)
    canvas = Canvas(width, height)
    texture = material(rng, room.stuff, width, height, shift(room.wall, 0.95))
    canvas.textured([(0, 0), (width, 0), (width, height), (0, height)], texture)
    kind = int(rng.integers(5))
    middle = width / 2
    if kind == 0:
        rose(canvas, (middle, height * 0.38, height * 0.28), rng)
    elif kind == 1:
        _framed(canvas, (width * 0.2, height * 0.2, width * 0.8, height * 0.75), rng)
    elif kind == 2:
        apse = (width * 0.2, height * 0.12, width * 0.8, height)
        canvas.polygon(openings.outline(apse, "arch"), shift(room.accent, 0.7))
        for share in (0.32, 0.5, 0.68):
            x = width * share
            light = (x - 12, height * 0.3, x + 12, height * 0.62)
            canvas.polygon(openings.outline(light, "arch"), (226, 232, 226), 220)
    elif kind == 3:
        canvas.rect(
            (width * 0.08, height * 0.1, width * 0.92, height * 0.9), shift(room.accent, 0.6)
        )
        for x in np.arange(width * 0.08, width * 0.92, 12):
            canvas.line([(x, height * 0.1), (x, height * 0.9)], room.accent, 5)
    else:
        look = (width * 0.12, height * 0.15, width * 0.88, height * 0.8)
        canvas.polygon(openings.outline(look, "segment"), (204, 222, 234), 160)
        for share in (0.25, 0.5, 0.75):
            x = look[0] + (look[2] - look[0]) * share
            canvas.line([(x, look[1] + 4), (x, look[3])], room.trim, 4)
    canvas.rect((middle - 40, height * 0.86, middle + 40, height), shift(room.trim, 0.9))
    canvas.rect((0, 0, width, height * 0.05), room.trim)
    return canvas.finish()


def _colonnade(room: _Room, rng: np.random.Generator) -> list[Panel]:
    """Two rows of columns, from the back to the front."""
    height = int(room.tall * PIXELS)
    canvas = Canvas(44, height)
    stone = jitter(rng, pick(rng, (*WALLS, room.accent)))
    half = float(rng.uniform(7, 16))
    canvas.rect((22 - half, 0, 22 + half, height), stone)
    for y in np.arange(0, height, float(rng.uniform(12, 60))):
        canvas.rect((22 - half, y, 22 + half, y + 4), shift(stone, 0.8))
    canvas.round_off(22 - half, 22 + half, 0, height)
    canvas.rect((22 - half - 5, height * 0.08, 22 + half + 5, height * 0.14), room.trim)
    canvas.rect((22 - half - 5, height * 0.94, 22 + half + 5, height), room.trim)
    texture, wide = canvas.finish(), 44 / PIXELS
    panels = []
    for z in np.linspace(-room.deep * 0.85, -room.deep * 0.15, int(rng.integers(2, 5))).tolist():
        for x in (-0.3, 0.3):
            origin = (x - wide / 2, room.tall, z)
            panels.append(Panel(texture, origin, (wide, 0, 0), (0, -room.tall, 0), 1.0, True))
    return panels
