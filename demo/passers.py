"""What stands in the way: people, cars, trees, lamp posts, scaffolding and leaves."""

import math

import numpy as np
from PIL import Image, ImageDraw

from demo.camera import View
from demo.materials import VIVID, Colour, jitter, pick, shift
from demo.shapes import ROOM, WATER, Landmark

SKINS: tuple[Colour, ...] = ((236, 198, 170), (198, 150, 114), (140, 96, 70), (96, 66, 50))


def occlude(view: View, frame: Image.Image, landmark: Landmark, rng: np.random.Generator) -> None:
    """Draws a random choice of obstacles before the landmark onto the frame (RGBA), in place."""
    pen = ImageDraw.Draw(frame)
    if landmark.setting == ROOM:
        crowd(view, pen, (int(pick(rng, (0, 0, 1, 2, 4))), 0.5), (-0.8, 0.1), rng)
        return
    extent = (landmark.width, landmark.height)
    if rng.random() < 0.22:
        _tree(view, frame, extent, rng)
    if landmark.setting == WATER:
        return
    _street(view, pen, extent, rng)
    people = int(pick(rng, (0, 0, 1, 2, 3, 5, 9)))
    crowd(view, pen, (people, landmark.width), (0.1, 0.8), rng)
    if rng.random() < 0.1:
        _leaves(frame, rng)
    if rng.random() < 0.05:
        _close_person(frame, rng)


def _street(
    view: View, pen: ImageDraw.ImageDraw, extent: tuple[float, float], rng: np.random.Generator
) -> None:
    if rng.random() < 0.2:
        for _ in range(int(rng.integers(1, 4))):
            _car(view, pen, extent[0], rng)
    if rng.random() < 0.2:
        _lamp_post(view, pen, extent[0], rng)
    if rng.random() < 0.06:
        _scaffold(view, pen, extent, rng)


def crowd(
    view: View,
    pen: ImageDraw.ImageDraw,
    people: tuple[int, float],
    depth: tuple[float, float],
    rng: np.random.Generator,
) -> None:
    """People; people = (how many, width over which they stand), depth = (farthest, nearest)."""
    count, width = people
    for z in sorted(rng.uniform(*depth, count).tolist()):
        x = float(rng.uniform(-0.9, 0.9)) * max(width, 0.5)
        foot = view.project((x, 0.0, z))
        tall = view.pixels_per_unit((x, 0.0, z)) * float(rng.uniform(0.09, 0.16))
        person(pen, foot, tall, rng)


def person(
    pen: ImageDraw.ImageDraw, foot: tuple[float, float], tall: float, rng: np.random.Generator
) -> None:
    """One person from behind or from the front, `tall` pixels high."""
    x, y = foot
    coat, legs = jitter(rng, pick(rng, VIVID), 20), shift(pick(rng, VIVID), 0.5)
    wide = tall * float(rng.uniform(0.13, 0.18))
    stride = wide * float(rng.uniform(0.2, 0.9))
    thick = max(1, round(wide * 0.6))
    for side in (-1, 1):
        pen.line([(x, y - tall * 0.48), (x + side * stride, y)], fill=legs, width=thick)
        arm = x + side * wide * float(rng.uniform(0.9, 1.5))
        pen.line([(x + side * wide * 0.7, y - tall * 0.78), (arm, y - tall * 0.46)],
                 fill=shift(coat, 0.8), width=max(1, round(wide * 0.4)))  # fmt: skip
    pen.polygon([(x - wide * 0.8, y - tall * 0.82), (x + wide * 0.8, y - tall * 0.82),
                 (x + wide * 0.7, y - tall * 0.42), (x - wide * 0.7, y - tall * 0.42)],
                fill=coat)  # fmt: skip
    head = tall * 0.08
    middle = y - tall * 0.91
    pen.ellipse((x - head, middle - head * 1.15, x + head, middle + head), fill=pick(rng, SKINS))
    hair = pick(rng, ((40, 30, 24), (90, 60, 36), (170, 140, 90), (60, 60, 60)))
    pen.chord((x - head, middle - head * 1.2, x + head, middle + head), 180, 360, fill=hair)


def _car(view: View, pen: ImageDraw.ImageDraw, width: float, rng: np.random.Generator) -> None:
    place = (float(rng.uniform(-1, 1)) * max(width, 0.5), 0.0, float(rng.uniform(0.2, 0.6)))
    x, y = view.project(place)
    size = view.pixels_per_unit(place) * float(rng.uniform(0.09, 0.13))
    paint = jitter(rng, pick(rng, (*VIVID, (180, 180, 184), (230, 230, 230))), 12)
    pen.rounded_rectangle((x - 2 * size, y - size, x + 2 * size, y - size * 0.22),
                          radius=size * 0.3, fill=paint)  # fmt: skip
    roof = [(x - 1.3 * size, y - size), (x - 0.8 * size, y - 1.55 * size),
            (x + 0.7 * size, y - 1.55 * size), (x + 1.3 * size, y - size)]  # fmt: skip
    pen.polygon(roof, fill=shift(paint, 0.8))
    pen.polygon([(px * 0.85 + x * 0.15, py * 0.8 + (y - size) * 0.2) for px, py in roof],
                fill=(60, 72, 84))  # fmt: skip
    for side in (-1.15, 1.15):
        wheel = size * 0.36
        middle = (x + side * size, y - wheel)
        pen.ellipse((middle[0] - wheel, middle[1] - wheel, middle[0] + wheel, middle[1] + wheel),
                    fill=(28, 28, 30))  # fmt: skip


def _tree(
    view: View, frame: Image.Image, extent: tuple[float, float], rng: np.random.Generator
) -> None:
    width, height = extent
    side = 1 if rng.random() < 0.5 else -1
    place = (side * width * float(rng.uniform(0.25, 0.75)), 0.0, float(rng.uniform(0.1, 0.7)))
    x, y = view.project(place)
    tall = view.pixels_per_unit(place) * float(rng.uniform(0.35, 0.8)) * max(height, 0.5)
    pen = ImageDraw.Draw(frame)
    pen.line([(x, y), (x + tall * 0.02, y - tall * 0.55)], fill=(86, 66, 48),
             width=max(2, round(tall * 0.05)))  # fmt: skip
    season = pick(
        rng, ((70, 104, 50), (52, 84, 46), (96, 120, 56), (186, 122, 44), (220, 150, 160))
    )
    for angle, reach, shade in rng.uniform(0, 1, (34, 3)).tolist():
        far = math.sqrt(reach) * tall * 0.26
        cx = x + far * math.cos(6.28 * angle)
        cy = y - tall * 0.7 + far * 1.1 * math.sin(6.28 * angle)
        size = tall * (0.05 + 0.07 * shade)
        pen.ellipse((cx - size, cy - size, cx + size, cy + size),
                    fill=shift(season, 0.7 + 0.5 * shade))  # fmt: skip


def _lamp_post(
    view: View, pen: ImageDraw.ImageDraw, width: float, rng: np.random.Generator
) -> None:
    place = (float(rng.uniform(-0.6, 0.6)) * width, 0.0, float(rng.uniform(0.1, 0.6)))
    x, y = view.project(place)
    tall = view.pixels_per_unit(place) * float(rng.uniform(0.3, 0.6))
    colour = pick(rng, ((44, 46, 48), (70, 80, 74), (130, 132, 134)))
    pen.line([(x, y), (x, y - tall)], fill=colour, width=max(1, round(tall * 0.025)))
    if rng.random() < 0.5:
        for side in (-1, 1):
            arm = x + side * tall * 0.12
            pen.line([(x, y - tall * 0.92), (arm, y - tall * 0.96)], fill=colour, width=2)
            pen.ellipse((arm - tall * 0.03, y - tall, arm + tall * 0.03, y - tall * 0.93),
                        fill=(236, 230, 206))  # fmt: skip
    else:
        board = (x - tall * 0.12, y - tall, x + tall * 0.12, y - tall * 0.78)
        pen.rectangle(board, fill=pick(rng, VIVID), outline=(230, 230, 230))


def _scaffold(
    view: View, pen: ImageDraw.ImageDraw, extent: tuple[float, float], rng: np.random.Generator
) -> None:
    width, height = extent
    left = float(rng.uniform(-0.5, 0.2)) * width
    right = left + width * float(rng.uniform(0.25, 0.6))
    top = height * float(rng.uniform(0.4, 0.95))
    pole = pick(rng, ((150, 150, 150), (190, 150, 60), (90, 110, 150)))
    for x in np.linspace(left, right, 5).tolist():
        pen.line([view.project((x, 0, 0.35)), view.project((x, top, 0.35))], fill=pole, width=2)
    for y in np.linspace(0.0, top, 6).tolist():
        pen.line(
            [view.project((left, y, 0.35)), view.project((right, y, 0.35))], fill=pole, width=2
        )
    if rng.random() < 0.4:
        low, high = top * 0.1, top * 0.6
        corners = ((left, low, 0.35), (right, low, 0.35), (right, high, 0.35), (left, high, 0.35))
        net = [view.project(corner) for corner in corners]
        pen.polygon(net, fill=(110, 140, 120, 255))


def _leaves(frame: Image.Image, rng: np.random.Generator) -> None:
    width, height = frame.size
    pen = ImageDraw.Draw(frame)
    corner = 0 if rng.random() < 0.5 else width
    colour = pick(rng, ((60, 92, 44), (44, 70, 40), (150, 100, 40)))
    for x, y, size in rng.uniform(0, 1, (50, 3)).tolist():
        cx = corner + (x * x * 0.5) * width * (1 if corner == 0 else -1)
        cy = y * y * height * 0.4
        reach = 4 + 9 * size
        pen.ellipse((cx - reach, cy - reach * 0.6, cx + reach, cy + reach * 0.6),
                    fill=shift(colour, 0.7 + 0.6 * size))  # fmt: skip


def _close_person(frame: Image.Image, rng: np.random.Generator) -> None:
    """Somebody right in front of the camera, cut by the lower edge."""
    width, height = frame.size
    tall = height * float(rng.uniform(0.9, 1.5))
    foot = (width * float(rng.uniform(0.1, 0.9)), height + tall * float(rng.uniform(0.4, 0.6)))
    person(ImageDraw.Draw(frame), foot, tall, rng)
