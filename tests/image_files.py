"""Small pictures and tables that the tests of the TFRecord tools write to disk."""

import csv
import io

import numpy as np
from PIL import Image


def picture(seed, size=(24, 16)):
    """An RGB picture of smooth colours, other for each seed; `size` is (width, height)."""
    colours = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)


def encode(image, image_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def jpeg(seed, size=(24, 16)):
    return encode(picture(seed, size), "JPEG")


def write_table(path, rows, header=("id", "label", "path")):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return str(path)


def write_photos(folder, count, classes=3):
    """Writes `count` JPEG files and returns table rows (id, label, path)."""
    rows = []
    for seed in range(count):
        label = 10 * (seed % classes)
        path = folder / str(label) / f"p{seed:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(seed))
        rows.append((f"id{seed:03d}", str(label), str(path.relative_to(folder))))
    return rows
