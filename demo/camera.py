"""The photographer: where he stands, and how surfaces in space come onto the picture."""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from demo.shapes import ROOM, Landmark, Panel

ASPECTS = ((3, 2), (4, 3), (4, 3), (1, 1), (16, 9), (5, 4))


class View(NamedTuple):
    """A pinhole camera.

    Attributes:
        matrix: Projection from homogeneous space to the picture, float64 (3, 4).
        position: Where the camera is, float64 (3,).
        azimuth: Its angle around the landmark, radians.
        size: Width and height of the picture in pixels.
    """

    matrix: np.ndarray
    position: np.ndarray
    azimuth: float
    size: tuple[int, int]

    def project(self, point: tuple[float, float, float]) -> tuple[float, float]:
        """Where a point in space is on the picture, in pixels."""
        x, y, depth = self.matrix @ np.array([*point, 1.0])
        return float(x / depth), float(y / depth)

    def pixels_per_unit(self, point: tuple[float, float, float]) -> float:
        """How long a unit upwards is on the picture at a point."""
        x, y, z = point
        low, high = self.project((x, y, z)), self.project((x, y + 0.05, z))
        return math.dist(low, high) / 0.05


def stand(landmark: Landmark, rng: np.random.Generator) -> View:
    """A random view of the landmark: angle, height, distance, zoom, crop and tilt."""
    size = _picture_size(landmark, rng)
    room = landmark.setting == ROOM
    spread = landmark.azimuth
    angle = rng.uniform(-spread, spread) if rng.random() < 0.3 else rng.normal(0, spread * 0.45)
    azimuth = math.radians(float(np.clip(angle, -spread, spread)))
    distance = float(rng.uniform(1.25, 1.7) if room else rng.uniform(1.5, 3.2))
    eye = landmark.height * float(rng.uniform(0.3, 0.6) if room else _eye_height(rng))
    target = np.array([0.0, landmark.height * rng.uniform(0.42, 0.58), -0.4 if room else 0.0])
    offset = distance * np.array([math.sin(azimuth), 0.0, math.cos(azimuth)])
    position = np.array([0.0, eye, target[2]]) + offset
    fill, loose = _zoom(rng, room)
    reach = landmark.width * (0.6 + 0.4 * math.cos(azimuth))
    focal = fill * distance * min(size[0] / reach, size[1] / landmark.height)
    focal *= 0.75 if room else 1.0
    centre = (
        size[0] * (0.5 + float(rng.uniform(-loose, loose))),
        size[1] * (0.5 + float(rng.uniform(-loose, loose))),
    )
    roll = math.radians(float(rng.normal(0, 9.0 if rng.random() < 0.08 else 1.8)))
    matrix = projection(position, target, focal, centre, roll)
    return View(matrix, position, azimuth, size)


def _picture_size(landmark: Landmark, rng: np.random.Generator) -> tuple[int, int]:
    long = int(rng.integers(256, 321))
    first, second = ASPECTS[int(rng.integers(len(ASPECTS)))]
    short = round(long * second / first)
    upright = landmark.height > landmark.width * 1.1
    if rng.random() < (0.75 if upright else 0.2):
        return short, long
    return long, short


def _eye_height(rng: np.random.Generator) -> float:
    return float(rng.uniform(0.06, 0.35) if rng.random() < 0.8 else rng.uniform(0.4, 0.9))


def _zoom(rng: np.random.Generator, room: bool) -> tuple[float, float]:
    """The share of the picture that the landmark fills, and how far off centre it may be."""
    chance = rng.random()
    if room:
        return float(rng.uniform(1.3, 1.8)), 0.06
    if chance < 0.74:
        return float(rng.uniform(0.8, 1.12)), 0.09
    if chance < 0.88:
        return float(rng.uniform(0.5, 0.8)), 0.16
    return float(rng.uniform(1.1, 1.6)), 0.18


def projection(
    position: np.ndarray,
    target: np.ndarray,
    focal: float,
    centre: tuple[float, float],
    roll: float,
) -> np.ndarray:
    """The camera's matrix (3, 4): pixels from homogeneous space, y up there and down here."""
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    cosine, sine = math.cos(roll), math.sin(roll)
    rotation = np.stack([cosine * right + sine * down, cosine * down - sine * right, forward])
    inner = np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1.0]])
    outer = np.concatenate([rotation, -(rotation @ position)[:, None]], axis=1)
    return inner @ outer  # (3, 4)


def faces(view: View, panel: Panel) -> bool:
    """Whether the camera sees the painted side."""
    if panel.two_sided:
        return True
    middle = np.asarray(panel.origin) + np.asarray(panel.right) / 2 + np.asarray(panel.down) / 2
    return bool(panel.normal @ (view.position - middle) > 1e-6)


def paint(view: View, panel: Panel, shade: float, frame: Image.Image, glow: Image.Image) -> None:
    """Draws a panel onto the frame (RGBA) and its light onto the glow (L), both in place."""
    origin, right, down = _turned(panel, view.azimuth * panel.turns)
    columns = np.stack([right, down, origin], axis=1)  # (3, 3)
    surface = view.matrix[:, :3] @ columns
    surface[:, 2] += view.matrix[:, 3]
    corners = surface @ np.array([[0, 1, 1, 0], [0, 0, 1, 1], [1, 1, 1, 1.0]])
    if corners[2].min() < 1e-3:
        return
    xs, ys = corners[:2] / corners[2]
    width, height = view.size
    left, top = max(0, int(xs.min()) - 1), max(0, int(ys.min()) - 1)
    end, bottom = min(width, int(xs.max()) + 2), min(height, int(ys.max()) + 2)
    if end - left < 2 or bottom - top < 2:
        return
    image, light = panel.texture
    area = (xs.max() - xs.min()) * (ys.max() - ys.min())
    factor = int(min(4, max(1, math.sqrt(image.size[0] * image.size[1] / max(area, 1.0)))))
    if factor > 1:
        image, light = image.reduce(factor), light.reduce(factor)
    scale = np.diag([1 / image.size[0], 1 / image.size[1], 1.0])
    move = np.array([[1, 0, left], [0, 1, top], [0, 0, 1.0]])
    back = np.linalg.inv(surface @ scale) @ move
    data = tuple((back / back[2, 2]).ravel()[:8].tolist())
    size = (end - left, bottom - top)
    warp = (size, Image.Transform.PERSPECTIVE, data, Image.Resampling.BILINEAR)
    patch = shaded(image.transform(*warp), shade)
    # The nearer surface hides the light of those behind it.
    glow.paste(light.transform(*warp), (left, top), patch.getchannel("A"))
    frame.alpha_composite(patch, (left, top))


def shaded(image: Image.Image, factor: float) -> Image.Image:
    """The RGBA picture with its colours multiplied."""
    table = np.clip(np.arange(256) * factor, 0, 255).astype(int).tolist()
    return image.point(table * 3 + list(range(256)))


def _turned(panel: Panel, angle: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    origin, right, down = (np.asarray(part, float) for part in panel[1:4])
    if not angle:
        return origin, right, down
    cosine, sine = math.cos(angle), math.sin(angle)
    rotation = np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])
    middle = origin + right / 2
    turned = rotation @ right
    return middle - turned / 2, turned, down
