"""What is around a landmark and differs between its photographs: ground, water, neighbours."""

import functools

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from demo.camera import View, shaded
from demo.facades import house
from demo.landmarks import SCENERY, generator
from demo.materials import Colour, blend, jitter, pick, shift, smooth_noise
from demo.towers import skyscraper

NEIGHBOURS = 26

GROUNDS: tuple[Colour, ...] = (
    (112, 112, 114), (150, 144, 134), (176, 164, 146), (98, 128, 70), (84, 108, 62),
    (140, 120, 100), (190, 186, 178), (120, 100, 90),
)  # fmt: skip


@functools.lru_cache(maxsize=NEIGHBOURS)
def _neighbour(seed: int, number: int) -> Image.Image:
    """An ordinary building, RGBA; none of the landmarks."""
    kind = skyscraper if number % 5 == 0 else house
    style, detail = generator(seed, SCENERY, number, 0), generator(seed, SCENERY, number, 1)
    image = kind(style, detail).panels[-1].texture.image
    return image.reduce(2)


def skyline(view: View, frame: Image.Image, seed: int, rng: np.random.Generator) -> None:
    """Hills, trees and buildings behind the landmark, onto the frame (RGBA) in place."""
    if rng.random() < 0.3:
        _hills(view, frame, rng)
    count = int(pick(rng, (0, 0, 1, 2, 3, 4, 6)))
    for z in sorted(rng.uniform(-4.0, -0.9, count).tolist()):
        x = float(rng.uniform(-1.0, 1.0)) * (1.2 - z * 0.5)
        foot = view.project((x, 0.0, z))
        tall = float(rng.uniform(0.3, 0.8)) * view.pixels_per_unit((x, 0.0, z))
        building = _neighbour(seed, int(rng.integers(NEIGHBOURS)))
        _stand_up(frame, building, foot, tall, float(rng.uniform(0.6, 1.05)))


def beside(
    view: View, frame: Image.Image, width: float, seed: int, rng: np.random.Generator
) -> None:
    """Neighbouring houses next to the landmark, onto the frame in place."""
    for side in (-1, 1):
        if rng.random() < 0.6:
            continue
        building = _neighbour(seed, int(rng.integers(NEIGHBOURS)))
        tall = float(rng.uniform(0.3, 0.75))
        wide = tall * building.size[0] / building.size[1]
        gap = float(rng.uniform(0.02, 0.35))
        x, z = side * (width / 2 + gap + wide / 2), float(rng.uniform(-0.5, 0.1))
        scale = view.pixels_per_unit((x, 0.0, z))
        _stand_up(frame, building, view.project((x, 0.0, z)), tall * scale,
                  float(rng.uniform(0.7, 1.05)))  # fmt: skip


def _stand_up(
    frame: Image.Image,
    building: Image.Image,
    foot: tuple[float, float],
    tall: float,
    shade: float,
) -> None:
    width = tall * building.size[0] / building.size[1]
    size = (int(min(width, 500)), int(min(tall, 700)))
    if size[0] < 4 or size[1] < 4:
        return
    image = shaded(building.resize(size, Image.Resampling.BILINEAR, reducing_gap=1.5), shade)
    paste(frame, image, (int(foot[0] - size[0] / 2), int(foot[1] - size[1]) + 1))


def paste(frame: Image.Image, image: Image.Image, corner: tuple[int, int]) -> None:
    """Composites an RGBA image whose corner may lie outside of the frame."""
    left, top = max(0, -corner[0]), max(0, -corner[1])
    right = min(image.size[0], frame.size[0] - corner[0])
    bottom = min(image.size[1], frame.size[1] - corner[1])
    if right > left and bottom > top:
        part = image.crop((left, top, right, bottom))
        frame.alpha_composite(part, (max(0, corner[0]), max(0, corner[1])))


def _hills(view: View, frame: Image.Image, rng: np.random.Generator) -> None:
    width, _ = frame.size
    foot = view.project((0.0, 0.0, -12.0))[1]
    colour = pick(rng, ((92, 112, 84), (120, 130, 138), (110, 100, 88), (76, 92, 70)))
    ridge = smooth_noise(rng, 40, width, 40 if rng.random() < 0.5 else 1)[0] * float(
        rng.uniform(10, 40)
    )
    ridge = foot - float(rng.uniform(6, 40)) - ridge
    points = [(x, float(ridge[x])) for x in range(0, width, 4)]
    ImageDraw.Draw(frame).polygon([(0, foot + 3), *points, (width, float(ridge[-1])),
                                   (width, foot + 3)], fill=(*colour, 255))  # fmt: skip


def ground(view: View, frame: Image.Image, rng: np.random.Generator) -> None:
    """The ground up to the horizon, with paving in perspective, onto the frame in place."""
    width, height = view.size
    left, right = _horizon(view)
    colour = jitter(rng, pick(rng, GROUNDS), 10)
    mask = Image.new("L", frame.size, 0)
    corners = [(0, left), (width, right), (width, max(height, right) + 1),
               (0, max(height, left) + 1)]  # fmt: skip
    ImageDraw.Draw(mask).polygon(corners, fill=255)
    grain = smooth_noise(rng, max(2, height // 3), max(2, width // 6), 22) * 0.07 + 0.95
    layer = Image.fromarray(np.clip(grain * 160, 0, 255).astype(np.uint8)).resize(frame.size)
    paper = Image.merge("RGB", [layer.point([min(255, v * c // 160) for v in range(256)])
                                for c in colour])  # fmt: skip
    if rng.random() < 0.45:
        _paving(view, paper, shift(colour, float(pick(rng, (0.8, 1.2)))), rng)
    frame.paste(paper.convert("RGBA"), mask=mask)


def _horizon(view: View) -> tuple[float, float]:
    """Where the far edge of the ground meets the left and right edges of the picture."""
    angle = view.azimuth
    away = np.array([-np.sin(angle), 0.0, -np.cos(angle)]) * 60
    across = np.array([np.cos(angle), 0.0, -np.sin(angle)]) * 40
    first = view.project(tuple(away - across))
    second = view.project(tuple(away + across))
    slope = (second[1] - first[1]) / (second[0] - first[0])
    left = first[1] - slope * first[0]
    return left, left + slope * view.size[0]


def _paving(view: View, paper: Image.Image, colour: Colour, rng: np.random.Generator) -> None:
    pen = ImageDraw.Draw(paper)
    step = float(rng.uniform(0.12, 0.4))
    camera = view.position
    near = float(np.hypot(camera[0], camera[2])) - 0.25
    turn = np.array([np.sin(view.azimuth), np.cos(view.azimuth)])

    def place(x: float, away: float) -> tuple[float, float]:
        along = turn * away + np.array([turn[1], -turn[0]]) * x
        return view.project((float(along[0]), 0.0, float(along[1])))

    for x in np.arange(-3, 3, step).tolist():
        pen.line([place(x, near), place(x * 1.0, -4.0)], fill=colour)
    away = near
    while away > -3:
        pen.line([place(-3, away), place(3, away)], fill=colour)
        away -= step


def water(view: View, frame: Image.Image, rng: np.random.Generator) -> None:
    """Water from the landmark's foot to the photographer, with reflections, in place."""
    width, height = frame.size
    line = int(np.clip(view.project((0.0, 0.0, 0.0))[1], 4, height - 2))
    deep = height - line
    colour = jitter(rng, pick(rng, ((70, 104, 120), (92, 116, 104), (60, 84, 110))), 8)
    above = frame.crop((0, max(0, line - deep), width, line))
    above = above.transpose(Image.Transpose.FLIP_TOP_BOTTOM).resize((width, deep))
    above = above.filter(ImageFilter.BoxBlur((float(rng.uniform(0, 2)), float(rng.uniform(1, 4)))))
    surface = Image.new("RGBA", (width, deep), (*colour, 255))
    share = float(rng.uniform(0.25, 0.6))
    above.putalpha(above.getchannel("A").point([int(v * share) for v in range(256)]))
    surface.alpha_composite(above)
    pen = ImageDraw.Draw(surface)
    for x, y, long in rng.uniform(0, 1, (60, 3)).tolist():
        start = (x * width, y * y * deep)
        pen.line([start, (start[0] + 4 + 16 * long * (0.3 + y), start[1])],
                 fill=(*blend(colour, (230, 240, 244), 0.35), 255))  # fmt: skip
    frame.paste(surface, (0, line))
