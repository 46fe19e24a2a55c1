"""Photographs of the size of a Google Landmarks v2 training image, for the benchmarks."""

import io
import pathlib

import numpy as np
from PIL import Image

from demo.landmarks import landmark
from demo.photograph import photograph

LONG, SHORT = 1172, 879  # pixels
QUALITY, NOISE = 90, 5.0  # give about 275 kB
LANDMARKS, VIEWS = 8, 4  # that are drawn; the noise makes every file another


def make_photographs(folder: str, count: int) -> None:
    """Writes `count` drawn, enlarged and noisy JPEG files into `folder/0` … `folder/7`."""
    drawn = {}
    random = np.random.default_rng(0)
    for number in range(count):
        place = number % LANDMARKS, number // LANDMARKS % VIEWS
        if place not in drawn:
            drawn[place] = _enlarged(photograph(0, *place, landmark(0, place[0])))
        pixels = drawn[place]
        noisy = pixels + random.normal(0, NOISE, (*pixels.shape[:2], 1))
        path = pathlib.Path(folder, str(place[0]), f"{number}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(path, quality=QUALITY)


def _enlarged(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    size = (LONG, SHORT) if image.width >= image.height else (SHORT, LONG)
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC), np.float32)
