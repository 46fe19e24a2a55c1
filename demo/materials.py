"""Colours and wall materials: brick, ashlar, plaster, boards, panels and glass."""

import numpy as np
from PIL import Image

Colour = tuple[int, int, int]

WALLS: tuple[Colour, ...] = (
    (156, 82, 62), (178, 108, 80), (126, 70, 60), (201, 166, 112), (221, 196, 146),
    (228, 218, 198), (186, 178, 166), (146, 142, 138), (238, 232, 222), (214, 164, 142),
    (226, 186, 180), (168, 186, 160), (150, 176, 190), (112, 128, 146), (204, 146, 80),
    (190, 120, 110), (126, 112, 96), (232, 206, 120),
)  # fmt: skip
TRIMS: tuple[Colour, ...] = (
    (240, 236, 226), (218, 206, 182), (120, 110, 100), (84, 74, 66), (196, 190, 184),
    (146, 64, 52), (60, 84, 72), (66, 76, 104),
)  # fmt: skip
ROOFS: tuple[Colour, ...] = (
    (150, 74, 54), (110, 60, 50), (78, 82, 92), (98, 92, 88), (92, 140, 120), (64, 68, 72),
    (170, 100, 66),
)  # fmt: skip
VIVID: tuple[Colour, ...] = (
    (196, 38, 44), (24, 92, 160), (22, 120, 76), (238, 180, 28), (228, 106, 30), (108, 54, 130),
    (20, 140, 150), (236, 236, 230), (30, 30, 36), (212, 80, 130), (122, 76, 40), (120, 180, 60),
)  # fmt: skip
METALS: tuple[Colour, ...] = (
    (96, 74, 52), (104, 148, 128), (196, 190, 178), (222, 176, 74), (82, 84, 90), (150, 144, 134),
)  # fmt: skip
MATERIALS = ("brick", "ashlar", "plaster", "boards", "panels", "stripes")


def pick(rng: np.random.Generator, options: tuple) -> object:
    """One of the options, each equally likely."""
    return options[int(rng.integers(len(options)))]


def jitter(rng: np.random.Generator, colour: Colour, amount: float = 7.0) -> Colour:
    """The colour with a little normal noise on every channel."""
    return clip(np.asarray(colour) + rng.normal(0.0, amount, 3))


def shift(colour: Colour, factor: float) -> Colour:
    """The colour made lighter (factor > 1) or darker (factor < 1)."""
    return clip(np.asarray(colour, float) * factor)


def blend(first: Colour, second: Colour, share: float) -> Colour:
    """A mixture with the given share of the second colour."""
    return clip(np.asarray(first, float) * (1 - share) + np.asarray(second, float) * share)


def clip(values: np.ndarray) -> Colour:
    """Three numbers as a colour of whole numbers 0-255."""
    red, green, blue = np.clip(np.round(values), 0, 255).astype(int).tolist()
    return red, green, blue


def smooth_noise(rng: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    """Smooth noise float32 (height, width), about -1 to 1, with `cells` bumps on the short side."""
    unit = max(1.0, min(height, width) / cells)
    grid = rng.uniform(-1.0, 1.0, (int(height / unit) + 2, int(width / unit) + 2))
    image = Image.fromarray(grid.astype(np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def material(
    rng: np.random.Generator, name: str, width: int, height: int, colour: Colour
) -> Image.Image:
    """A wall of the named material, RGB, `width` × `height` pixels."""
    shade = _PATTERNS[name](rng, height, width)  # (height, width)
    shade = shade + 0.07 * smooth_noise(rng, height, width, 4)
    shade = shade + rng.normal(0.0, 0.015, (height, width))
    pixels = np.asarray(colour, np.float32) * shade[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _courses(
    rng: np.random.Generator, height: int, width: int, block: tuple[int, int], look: tuple
) -> np.ndarray:
    """Blocks of (height, width) pixels in running bond; look = (variation, joint factor)."""
    block_height, block_width = block
    variation, joint = look
    rows = np.arange(height) // block_height
    offset = (rows % 2) * (block_width // 2)
    columns = (np.arange(width)[None, :] + offset[:, None]) // block_width
    table = rng.normal(1.0, variation, (int(rows[-1]) + 1, int(columns.max()) + 1))
    shade = table[rows[:, None], columns]
    in_joint = (np.arange(height) % block_height == 0)[:, None] | (
        (np.arange(width)[None, :] + offset[:, None]) % block_width == 0
    )
    return np.where(in_joint, joint, shade)


def _brick(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return _courses(rng, height, width, (5, 12), (0.09, 1.22))


def _ashlar(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    rows = int(rng.integers(12, 20))
    return _courses(rng, height, width, (rows, 2 * rows), (0.06, 0.72))


def _plaster(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    stains = np.clip(smooth_noise(rng, height, width, 9) - 0.4, 0, 1)
    return 1.0 - 0.2 * stains


def _boards(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    board = int(rng.integers(7, 12))
    shade = rng.normal(1.0, 0.06, width // board + 1)[np.arange(width) // board]
    shade = np.where(np.arange(width) % board == 0, 0.7, shade)
    return np.broadcast_to(shade, (height, width))


def _panels(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    size = int(rng.integers(30, 48))
    return _courses(rng, height, width, (size, 4 * size), (0.04, 0.8))


def _stripes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    band = int(rng.integers(9, 18))
    dark = float(rng.uniform(0.6, 0.8))
    shade = np.where((np.arange(height) // band) % 2 == 0, 1.05, dark)
    return np.broadcast_to(shade[:, None], (height, width))


_PATTERNS = {
    "brick": _brick,
    "ashlar": _ashlar,
    "plaster": _plaster,
    "boards": _boards,
    "panels": _panels,
    "stripes": _stripes,
}
