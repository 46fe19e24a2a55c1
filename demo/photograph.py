"""One photograph: landmark and surroundings, lit, and seen through a lens."""

import io
import math

import numpy as np
from PIL import Image, ImageFilter

from demo import light as lights
from demo import passers, surroundings
from demo.camera import View, faces, paint, stand
from demo.landmarks import PHOTO, generator
from demo.light import Light
from demo.materials import pick
from demo.shapes import ROOM, WATER, Landmark


def photograph(seed: int, number: int, index: int, landmark: Landmark) -> bytes:
    """The JPEG bytes of photograph `index` of the landmark with this number.

    Everything random comes from (seed, number, index), so that the bytes do not depend on what
    else is drawn.
    """
    rng = generator(seed, PHOTO, number, index)
    view, light = stand(landmark, rng), lights.draw_light(rng)
    if landmark.setting == ROOM:
        light = _indoors(light, rng)
    frame = Image.new("RGBA", view.size, (0, 0, 0, 0))
    glow = Image.new("L", view.size, 0)
    _compose(frame, glow, (view, light), (seed, landmark), rng)
    image = _expose(frame, glow, (view, light), landmark.setting, rng)
    return develop(lights.weather(image, light, rng) if landmark.setting != ROOM else image, rng)


def _indoors(light: Light, rng: np.random.Generator) -> Light:
    tint = pick(rng, ((1.0, 0.97, 0.92), (1.08, 0.88, 0.66), (0.82, 0.9, 1.0), (0.7, 0.66, 0.6)))
    wobble = rng.normal(1.0, 0.03, 3) * rng.uniform(0.85, 1.12)
    tint = tuple((np.asarray(tint) * wobble).tolist())
    dark = (28, 25, 24)
    return light._replace(tint=tint, zenith=dark, horizon=dark, clouds=0.0, haze=0.0, sun=0.0,
                          glow=float(rng.uniform(0.2, 0.8)))  # fmt: skip


def _compose(
    frame: Image.Image,
    glow: Image.Image,
    seen: tuple[View, Light],
    scene: tuple[int, Landmark],
    rng: np.random.Generator,
) -> None:
    """Draws everything, from far to near, without light."""
    (view, light), (seed, landmark) = seen, scene
    outdoors = landmark.setting != ROOM
    if outdoors:
        surroundings.skyline(view, frame, seed, rng)
        surroundings.ground(view, frame, rng)
        if landmark.setting != WATER:
            surroundings.beside(view, frame, landmark.width, seed, rng)
    for panel in landmark.panels:
        if faces(view, panel):
            normal = panel.normal
            angle = math.atan2(float(normal[0]), float(normal[2]))
            shade = lights.facing(light, angle) if panel.turns < 0.5 else 1.0
            paint(view, panel, shade, frame, glow)
    if landmark.setting == WATER:
        surroundings.water(view, frame, rng)
    front = Image.new("RGBA", view.size, (0, 0, 0, 0))
    passers.occlude(view, front, landmark, rng)
    frame.alpha_composite(front)
    glow.paste(0, mask=front.getchannel("A"))


def _expose(
    frame: Image.Image,
    glow: Image.Image,
    seen: tuple[View, Light],
    setting: str,
    rng: np.random.Generator,
) -> Image.Image:
    """Lights the scene, puts the sky behind it and lamps into it."""
    view, light = seen
    backdrop = lights.sky(light, view.size, rng)
    scene = np.asarray(frame.convert("RGB"), np.float32) * np.asarray(light.tint, np.float32)
    height = view.size[1]
    if light.glow > 0.5 and setting != ROOM and rng.random() < 0.7:
        # Floodlights at the foot of the landmark.
        warm = np.asarray(pick(rng, ((1.6, 1.25, 0.7), (1.2, 1.25, 1.3), (1.5, 0.9, 0.9))))
        rise = np.linspace(0.2, 1.0, height, dtype=np.float32)[:, None, None]
        scene *= 1.0 + rise * warm.astype(np.float32) * np.float32(rng.uniform(0.4, 1.3))
    shadow = lights.cast_shadow(view.size, light, rng) if setting != ROOM else None
    if shadow is not None:
        scene *= shadow
    if light.haze > 0.03:
        scene += (np.asarray(light.horizon, np.float32) - scene) * np.float32(light.haze)
    if light.glow > 0.1:
        lamp = np.asarray(glow.filter(ImageFilter.GaussianBlur(0.8)), np.float32)[..., None] / 255
        scene += lamp * np.array([225, 185, 110], np.float32) * np.float32(0.8 * light.glow)
    lit = Image.fromarray(np.clip(scene, 0, 255).astype(np.uint8))
    backdrop.paste(lit, mask=frame.getchannel("A"))
    return backdrop


def develop(image: Image.Image, rng: np.random.Generator) -> bytes:
    """Lens and sensor: blur, exposure, colour cast, vignette, noise; then JPEG."""
    image = _blur(image, rng)
    pixels = np.asarray(image, np.float32)
    grey = pixels.mean(axis=2, keepdims=True)
    saturation = 0.0 if rng.random() < 0.03 else float(rng.uniform(0.75, 1.25))
    cast = rng.normal(1.0, 0.03, 3).astype(np.float32) * np.float32(rng.uniform(0.88, 1.1))
    contrast = np.float32(rng.uniform(0.85, 1.2))
    pixels = (grey + (pixels - grey) * np.float32(saturation) - 118) * (
        contrast * cast
    ) + 118 * cast
    if rng.random() < 0.4:
        pixels *= _vignette(image.size, float(rng.uniform(0.15, 0.5)))
    deviation = float(rng.choice([1.5, 3.0, 6.0, 11.0], p=[0.5, 0.3, 0.15, 0.05]))
    noise = rng.standard_normal((*pixels.shape[:2], 1), np.float32)
    pixels += noise * np.float32(deviation)
    final = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    buffer = io.BytesIO()
    final.save(buffer, "JPEG", quality=int(rng.integers(55, 93)))
    return buffer.getvalue()


def _blur(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    chance = rng.random()
    if chance < 0.86:
        return image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.35, 0.8))))
    if chance < 0.95:
        return image.filter(ImageFilter.GaussianBlur(float(rng.uniform(1.0, 2.4))))
    across = rng.random() < 0.6
    reach = float(rng.uniform(1.5, 4.0))
    return image.filter(ImageFilter.BoxBlur((reach, 0.3) if across else (0.3, reach)))


def _vignette(size: tuple[int, int], strength: float) -> np.ndarray:
    width, height = size
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    return (1 - np.float32(strength) * (x * x + y * y) / 2)[..., None]
