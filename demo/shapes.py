"""What a landmark is: textured rectangles in space, and how they are put together."""

from typing import NamedTuple

import numpy as np

from demo.canvas import Texture

Vector = tuple[float, float, float]

STREET, WATER, ROOM = "street", "water", "room"


class Panel(NamedTuple):
    """A textured rectangle in space: x to the right, y up, z towards the viewer.

    Attributes:
        texture: Its picture.
        origin: Where the picture's top left corner is.
        right: From there to the top right corner.
        down: From the top left to the bottom left corner.
        turns: Share of the camera's azimuth by which it turns along (1 = a round body that
            looks the same from everywhere).
        two_sided: Seen from behind as well.
    """

    texture: Texture
    origin: Vector
    right: Vector
    down: Vector
    turns: float = 0.0
    two_sided: bool = False

    @property
    def normal(self) -> np.ndarray:
        """The unit vector away from the painted side."""
        cross = np.cross(np.asarray(self.down), np.asarray(self.right))
        return cross / np.linalg.norm(cross)


class Landmark(NamedTuple):
    """A landmark to photograph, scaled so that its longer side is about 1.

    Attributes:
        kind: Name of its kind.
        panels: Its surfaces.
        width: Extent in x around 0.
        height: Extent in y above the ground, y = 0.
        setting: `street`, `water` or `room`: what surrounds it.
        azimuth: How far around it a photographer can go, in degrees.
    """

    kind: str
    panels: tuple[Panel, ...]
    width: float
    height: float
    setting: str = STREET
    azimuth: float = 42.0


def upright(texture: Texture, scale: float, *, turns: float = 0.0, z: float = 0.0) -> Panel:
    """A panel that stands on the ground at depth z, centred, `scale` units per pixel."""
    width, height = (value * scale for value in texture.image.size)
    origin = (-width / 2, height, z)
    return Panel(texture, origin, (width, 0.0, 0.0), (0.0, -height, 0.0), turns, True)


def flat(kind: str, texture: Texture, *, turns: float = 0.0, setting: str = STREET) -> Landmark:
    """A landmark of one upright panel."""
    width, height = texture.image.size
    scale = 1.0 / max(width, height)
    panel = upright(texture, scale, turns=turns)
    return Landmark(kind, (panel,), width * scale, height * scale, setting, 40.0)


def block(kind: str, front: Texture, side: Texture, depth: float) -> Landmark:
    """A box: the front, and the same side to the left and to the right.

    Args:
        kind: Name of the kind.
        front: Picture of the front.
        side: Picture of the sides; its height may be less than the front's.
        depth: Depth in pixels of the front's picture.
    """
    width, height = front.image.size
    scale = 1.0 / max(width, height)
    half, deep, tall = width * scale / 2, depth * scale, height * scale
    side_tall = side.image.size[1] * scale
    middle = deep / 2
    panels = (
        Panel(side, (-half, side_tall, -middle), (0.0, 0.0, deep), (0.0, -side_tall, 0.0)),
        Panel(side, (half, side_tall, middle), (0.0, 0.0, -deep), (0.0, -side_tall, 0.0)),
        Panel(front, (-half, tall, middle), (2 * half, 0.0, 0.0), (0.0, -tall, 0.0)),
    )
    return Landmark(kind, panels, 2 * half, tall)
