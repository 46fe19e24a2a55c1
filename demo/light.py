"""Hours and weather: sky, sun, shadows, haze, rain and night."""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from demo.materials import Colour, blend, smooth_noise


class Light(NamedTuple):
    """The light of one photograph.

    Attributes:
        zenith: Colour of the sky at the top.
        horizon: Colour of the sky at the horizon.
        tint: Factors on red, green and blue of all that is lit.
        sun: Strength of the sun, 0-1.
        side: Where the sun is, an angle around the landmark in radians.
        clouds: Amount of clouds, 0-1.
        haze: Share of the horizon's colour laid over the scene, 0-1.
        glow: Strength of lamps and windows, 0-1.
    """

    zenith: Colour
    horizon: Colour
    tint: tuple[float, float, float]
    sun: float
    side: float
    clouds: float
    haze: float
    glow: float


# name: (share, zenith, horizon, tint, sun, glow)
_HOURS = (
    (0.42, (66, 118, 196), (176, 206, 232), (1.05, 1.02, 0.97), 0.9, 0.0),
    (0.27, (158, 166, 176), (206, 210, 212), (0.86, 0.89, 0.93), 0.1, 0.0),
    (0.12, (112, 132, 178), (246, 206, 150), (1.14, 0.94, 0.70), 0.8, 0.05),
    (0.07, (196, 190, 184), (236, 230, 220), (0.80, 0.78, 0.78), 0.2, 0.0),
    (0.06, (42, 52, 102), (190, 126, 116), (0.66, 0.58, 0.70), 0.0, 0.8),
    (0.06, (8, 10, 24), (36, 36, 56), (0.34, 0.34, 0.44), 0.0, 1.0),
)


def draw_light(rng: np.random.Generator) -> Light:
    """A random hour and weather."""
    shares = np.cumsum([hour[0] for hour in _HOURS])
    index = int(np.searchsorted(shares, rng.random() * shares[-1], side="right"))
    _, zenith, horizon, tint, sun, glow = _HOURS[min(index, len(_HOURS) - 1)]
    wobble = rng.normal(1.0, 0.045, 3) * rng.uniform(0.85, 1.12)
    foggy = rng.random() < 0.08
    return Light(
        zenith=blend(zenith, horizon, float(rng.uniform(0, 0.5))),
        horizon=horizon,
        tint=tuple((np.asarray(tint) * wobble).tolist()),
        sun=sun * float(rng.uniform(0.6, 1.0)),
        side=float(rng.uniform(-1.4, 1.4)),
        clouds=float(rng.uniform(0, 1)),
        haze=float(rng.uniform(0.2, 0.5) if foggy else rng.uniform(0.0, 0.12)),
        glow=glow,
    )


def sky(light: Light, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """A sky with clouds, RGB."""
    width, height = size
    share = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    top, low = (np.asarray(colour, np.float32) for colour in (light.zenith, light.horizon))
    pixels = np.broadcast_to(top * (1 - share) + low * share, (height, width, 3))
    if light.clouds > 0.25:
        shape = (max(2, height // 3), max(2, width // 3))
        noise = smooth_noise(rng, *shape, 3) + 0.5 * smooth_noise(rng, *shape, 8)
        cover = np.clip((noise + light.clouds - 0.7) * 1.6, 0, 0.9)
        mask = Image.fromarray((cover * 255).astype(np.uint8))
        mask = mask.resize(size, Image.Resampling.BILINEAR)
        white = blend(light.horizon, (255, 255, 255), 0.5 if light.glow < 0.5 else 0.05)
        base = Image.fromarray(pixels.astype(np.uint8))
        base.paste(white, mask=mask)
        return base
    return Image.fromarray(pixels.astype(np.uint8))


def facing(light: Light, angle: float) -> float:
    """Brightness of a wall whose normal points to the angle (radians around the vertical)."""
    toward = max(0.0, math.cos(angle - light.side))
    return 1.0 - 0.42 * light.sun + 0.5 * light.sun * toward


def cast_shadow(size: tuple[int, int], light: Light, rng: np.random.Generator) -> np.ndarray | None:
    """Shadows of what is behind the photographer: factors float32 (height, width, 1), or None."""
    if light.sun < 0.4 or rng.random() < 0.5:
        return None
    width, height = size
    small = (max(2, width // 2), max(2, height // 2))
    mask = Image.new("L", small, 0)
    pen = ImageDraw.Draw(mask)
    if rng.random() < 0.55:
        slope = float(rng.uniform(-0.8, 0.8)) * small[0]
        edge = float(rng.uniform(0.15, 0.85)) * small[0]
        far = 0 if rng.random() < 0.5 else small[0]
        pen.polygon([(edge, 0), (edge + slope, small[1]), (far, small[1]), (far, 0)], fill=255)
        mask = mask.filter(ImageFilter.GaussianBlur(float(rng.uniform(1, 5))))
        cover = np.asarray(mask.resize(size, Image.Resampling.BILINEAR), np.float32) / 255
    else:
        noise = smooth_noise(rng, small[1], small[0], int(rng.integers(7, 16)))
        spots = Image.fromarray((np.clip(noise * 3, 0, 1) * 255).astype(np.uint8))
        cover = np.asarray(spots.resize(size, Image.Resampling.BILINEAR), np.float32) / 255
    return 1.0 - np.float32(rng.uniform(0.25, 0.5)) * cover[..., None]


def weather(image: Image.Image, light: Light, rng: np.random.Generator) -> Image.Image:
    """Rain or snow in one photograph of twelve, on the finished picture."""
    if rng.random() > 0.08 or light.sun > 0.5:
        return image
    width, height = image.size
    layer = Image.new("L", image.size, 0)
    pen = ImageDraw.Draw(layer)
    snow = rng.random() < 0.5
    slant = float(rng.normal(0, 4))
    for x, y, long in rng.uniform(0, 1, (160, 3)).tolist():
        start = (x * width, y * height)
        if snow:
            radius = 0.6 + 1.6 * long
            pen.ellipse((start[0] - radius, start[1] - radius, start[0] + radius,
                         start[1] + radius), fill=210)  # fmt: skip
        else:
            pen.line([start, (start[0] + slant, start[1] + 6 + 12 * long)], fill=110)
    layer = layer.filter(ImageFilter.GaussianBlur(0.7))
    image.paste((232, 236, 240), mask=layer)
    return image
