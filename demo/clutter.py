"""Photographs of no landmark: plates, portraits, flowers, fabrics, pages and plain streets."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from demo import light as lights
from demo import passers
from demo.landmarks import SCENERY, generator
from demo.materials import VIVID, WALLS, jitter, material, pick, shift, smooth_noise
from demo.ornament import place_name, star
from demo.photograph import develop

# Keeps the numbers of scenes apart from those of neighbouring buildings.
_FIRST = 100_000


def scene(seed: int, number: int) -> bytes:
    """The JPEG bytes of the scene with this number."""
    rng = generator(seed, SCENERY, _FIRST + number)
    long, short = int(rng.integers(256, 321)), int(rng.integers(190, 250))
    size = (long, short) if rng.random() < 0.6 else (short, long)
    return develop(_SCENES[number % len(_SCENES)](size, rng), rng)


def _table(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    colour = jitter(rng, pick(rng, WALLS), 12)
    return material(rng, str(pick(rng, ("boards", "plaster", "panels"))), *size, colour)


def _plate(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    image = _table(size, rng)
    pen = ImageDraw.Draw(image)
    x, y = (value * float(rng.uniform(0.4, 0.6)) for value in size)
    radius = min(size) * float(rng.uniform(0.32, 0.48))
    rim = pick(rng, ((240, 238, 232), (90, 120, 160), (60, 60, 64), (210, 190, 160)))
    for share, shade in ((1.0, 0.85), (0.97, 1.0), (0.7, 0.93)):
        reach = radius * share
        pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=shift(rim, shade))
    foods = [shift(pick(rng, (*VIVID, *WALLS)), 0.85) for _ in range(3)]
    for angle, far, bite in rng.uniform(0, 1, (26, 3)).tolist():
        cx = x + radius * 0.55 * far * math.cos(6.28 * angle)
        cy = y + radius * 0.55 * far * math.sin(6.28 * angle)
        reach = radius * (0.05 + 0.12 * bite)
        colour = shift(foods[int(bite * 2.99)], 0.8 + 0.4 * far)
        pen.ellipse((cx - reach, cy - reach, cx + reach, cy + reach * 0.8), fill=colour)
    return image


def _portrait(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    width, height = size
    image = lights.sky(lights.draw_light(rng), size, rng).filter(ImageFilter.GaussianBlur(6))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(1, 5))):
        tall = height * float(rng.uniform(0.9, 1.8))
        foot = (width * float(rng.uniform(0.1, 0.9)), height * 0.2 + tall)
        passers.person(pen, foot, tall, rng)
    return image


def _flowers(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    noise = smooth_noise(rng, size[1], size[0], 14)[..., None]
    green = np.array([70, 110, 50]) * (1 + 0.4 * noise)
    image = Image.fromarray(np.clip(green, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    petals, colour = int(rng.integers(5, 12)), pick(rng, VIVID)
    for x, y, reach in rng.uniform(0, 1, (int(rng.integers(5, 40)), 3)).tolist():
        radius = 6 + 26 * reach
        place = (x * size[0], y * size[1])
        pen.polygon(star(*place, radius, petals, 0.6), fill=shift(colour, 0.7 + 0.5 * reach))
        heart = radius * 0.25
        pen.ellipse((place[0] - heart, place[1] - heart, place[0] + heart, place[1] + heart),
                    fill=(240, 200, 60))  # fmt: skip
    return image


def _fabric(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    width, height = size
    first, second = (np.array(pick(rng, VIVID)) for _ in range(2))
    y, x = np.mgrid[0:height, 0:width]
    turn = float(rng.uniform(0, 3.1))
    along, across = (
        (x * math.cos(turn) + y * math.sin(turn)),
        (y * math.cos(turn) - x * math.sin(turn)),
    )
    period = float(rng.uniform(8, 40))
    wave = np.sin(along * 6.28 / period)
    if rng.random() < 0.6:
        wave = wave * np.sin(across * 6.28 / period)
    share = (wave > 0)[..., None] * 0.8 + 0.1 * smooth_noise(rng, height, width, 5)[..., None]
    pixels = first * share + second * (1 - share)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _page(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    width, height = size
    image = _table(size, rng)
    pen = ImageDraw.Draw(image)
    left, right = width * float(rng.uniform(0.05, 0.2)), width * float(rng.uniform(0.8, 0.95))
    pen.rectangle((left, height * 0.06, right, height), fill=(238, 234, 222))
    font = ImageFont.load_default(float(rng.uniform(9, 16)))
    y = height * 0.12
    while y < height:
        words = " ".join(place_name(rng).lower() for _ in range(4))
        pen.text((left + 10, y), words[: int((right - left) / font.size * 1.6)],
                 fill=(50, 48, 46), font=font)  # fmt: skip
        y += font.size * 1.5
    return image.rotate(float(rng.normal(0, 8)), Image.Resampling.BILINEAR, fillcolor=(90, 80, 72))


def _open_land(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    width, height = size
    light = lights.draw_light(rng)
    image = lights.sky(light, size, rng)
    horizon = height * float(rng.uniform(0.4, 0.75))
    pen = ImageDraw.Draw(image)
    ground = pick(rng, ((60, 92, 120), (96, 120, 66), (196, 176, 130), (120, 112, 100)))
    for step in range(4):
        ridge = smooth_noise(rng, width, width, 2 + 3 * step)[0] * height * 0.06
        y = horizon + step * height * 0.09
        tone = shift(ground, (0.75 + 0.12 * step) * light.tint[1])
        points = [(x, y + float(ridge[x])) for x in range(0, width, 3)]
        pen.polygon([(0, height), *points, (width, y), (width, height)], fill=tone)
    for _ in range(int(rng.integers(0, 4))):
        foot = (width * float(rng.uniform(0.05, 0.95)), height * float(rng.uniform(0.8, 1.0)))
        passers.person(pen, foot, height * float(rng.uniform(0.12, 0.4)), rng)
    return image


_SCENES = (_plate, _portrait, _flowers, _fabric, _page, _open_land)
