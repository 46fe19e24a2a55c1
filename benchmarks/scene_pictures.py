"""Scenes with known boxes: real photographs pasted into others, with things that are no item.

An item is the middle of a photograph, cut out along a rounded shape. The background is a third of
another photograph, enlarged and blurred; in it lie distractors of the same shapes: blurred pieces,
pieces cut into shuffled tiles, and patches of colour.
"""

import dataclasses

import numpy as np
from PIL import Image, ImageFilter

SIDE = 256  # pixels of a scene's longer side
MIDDLE = 0.85  # of a photograph
TRIES = 30

Box = tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class Item:
    """Where an item is pasted.

    Attributes:
        path: of its photograph.
        center: x and y, of the scene's sides.
        size: longer side, of the scene's longer one.
        power: of the rounded shape; 2 is an ellipse, many a rectangle.
    """

    path: str
    center: tuple[float, float]
    size: float
    power: float


def background(rng: np.random.Generator, path: str) -> Image.Image:
    """Returns an enlarged, blurred piece of a photograph with distractors in it."""
    shape = (SIDE, int(rng.integers(SIDE * 3 // 4, SIDE + 1)))
    width, height = shape if rng.random() < 0.5 else shape[::-1]
    photograph = _open(path)
    part = rng.uniform(0.33, 0.5)
    left = rng.uniform(0, 1 - part) * photograph.width
    top = rng.uniform(0, 1 - part) * photograph.height
    piece = photograph.crop(
        (left, top, left + part * photograph.width, top + part * photograph.height)
    )
    scene = piece.resize((width, height), Image.Resampling.BICUBIC)
    scene = scene.filter(ImageFilter.GaussianBlur(rng.uniform(1, 4)))
    for _ in range(rng.integers(2, 5)):
        _paste_distractor(rng, scene, photograph)
    return scene


def random_item(rng: np.random.Generator, path: str) -> Item:
    """Returns an item at a random place."""
    center = (float(rng.uniform(0.2, 0.8)), float(rng.uniform(0.2, 0.8)))
    return Item(path, center, float(rng.uniform(0.3, 0.55)), float(rng.uniform(2.5, 8)))


def paste(scene: Image.Image, item: Item, blur: float = 0.0) -> Box | None:
    """Pastes an item; returns its box inside the scene, None if most of it lies outside."""
    piece = _middle(_open(item.path))
    scale = item.size * max(scene.size) / max(piece.size)
    size = tuple(max(8, round(side * scale)) for side in piece.size)
    piece = piece.resize(size, Image.Resampling.LANCZOS)
    if blur:
        piece = piece.filter(ImageFilter.GaussianBlur(blur))
    left = round(item.center[0] * scene.width - size[0] / 2)
    top = round(item.center[1] * scene.height - size[1] / 2)
    scene.paste(piece, (left, top), _mask(size, item.power))
    box = (
        max(left, 0),
        max(top, 0),
        min(left + size[0], scene.width),
        min(top + size[1], scene.height),
    )
    visible = max(box[2] - box[0], 0) * max(box[3] - box[1], 0)
    return box if visible > 0.5 * size[0] * size[1] else None


def compose(
    rng: np.random.Generator, background_path: str, paths: list[str]
) -> tuple[Image.Image, list[Box]]:
    """Returns a scene with the items of `paths`, none much over another, and their boxes.

    An item for which no place is found is left out, but never the first.
    """
    scene = background(rng, background_path)
    boxes: list[Box] = []
    for path in paths:
        for _ in range(TRIES):
            item = random_item(rng, path)
            trial = scene.copy()
            box = paste(trial, item)
            if box and all(_shared(box, other) < 0.1 for other in boxes):
                scene = trial
                boxes.append(box)
                break
    return scene, boxes


def _open(path: str) -> Image.Image:
    with Image.open(path) as photograph:
        photograph.draft("RGB", (SIDE, SIDE))
        return photograph.convert("RGB")


def _middle(photograph: Image.Image) -> Image.Image:
    width, height = (side * MIDDLE for side in photograph.size)
    left, top = (photograph.width - width) / 2, (photograph.height - height) / 2
    return photograph.crop((left, top, left + width, top + height))


def _mask(size: tuple[int, int], power: float) -> Image.Image:
    """Returns a rounded shape that fades over the last pixels of its edge."""
    x, y = (np.abs((np.arange(side) + 0.5) / side * 2 - 1) for side in size)
    distance = (x[None] ** power + y[:, None] ** power) ** (1 / power)
    return Image.fromarray((np.clip((1 - distance) * 20, 0, 1) * 255).astype(np.uint8))


def _paste_distractor(
    rng: np.random.Generator, scene: Image.Image, photograph: Image.Image
) -> None:
    size = tuple(int(side) for side in rng.integers(SIDE // 6, SIDE // 2, 2))
    kind = rng.integers(3)
    if kind == 0:
        piece = photograph.resize(size).filter(ImageFilter.GaussianBlur(max(size) / 8))
    elif kind == 1:
        piece = _shuffled(rng, photograph.resize(size))
    else:
        colors = rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)
        piece = Image.fromarray(colors).resize(size, Image.Resampling.BICUBIC)
    place = (int(rng.integers(-20, scene.width - 20)), int(rng.integers(-20, scene.height - 20)))
    scene.paste(piece, place, _mask(size, rng.uniform(2.5, 8)))


def _shuffled(rng: np.random.Generator, piece: Image.Image, tile: int = 8) -> Image.Image:
    """Returns the piece as tiles in another order."""
    pixels = np.asarray(piece)
    rows, places = pixels.shape[0] // tile, pixels.shape[1] // tile
    whole = pixels[: rows * tile, : places * tile]
    tiles = whole.reshape(rows, tile, places, tile, 3).swapaxes(1, 2).reshape(-1, tile, tile, 3)
    tiles = rng.permutation(tiles).reshape(rows, places, tile, tile, 3).swapaxes(1, 2)
    return Image.fromarray(np.ascontiguousarray(tiles.reshape(whole.shape))).resize(piece.size)


def _shared(first: Box, second: Box) -> float:
    """Returns the shared area, of the smaller box."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return max(width, 0) * max(height, 0) / min(areas)
