"""Boxes of objects in images: a table or COCO JSON, checked; without TensorFlow.

A table (CSV, Parquet, JSON-lines) has a row for each box with the columns `id`, `path`, `xmin`,
`ymin`, `xmax`, `ymax` in pixels from the top left corner of the image, and `label`, which may be
missing. A row with four empty cells is an image without an object. Paths start from the table's
folder. COCO JSON has `images`, `annotations` with `bbox` [x, y, width, height], and `categories`.

What is wrong with one image or box leaves out that image or box, with its reason.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence

import numpy as np

import columns
import files
from progress import ordered_map

CORNERS = ("xmin", "ymin", "xmax", "ymax")
NO_NAME = "object"  # the class of boxes without a label
TOLERANCE = 1.0  # pixels that a box may stand out; the part outside is cut off

_COCO_FIELDS = ("images", "annotations", "categories")


@dataclasses.dataclass(frozen=True)
class BoxedImage:
    """An image with its boxes.

    Attributes:
        id: of the image.
        path: of its file.
        boxes: (n, 4) float32 xmin, ymin, xmax, ymax in pixels.
        labels: n names of classes.
    """

    id: str
    path: str
    boxes: np.ndarray
    labels: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class BoxSet:
    """Images with boxes.

    Attributes:
        images: in the order of the table.
        rejects: (id of the image, reason) of the boxes and images left out.
    """

    images: tuple[BoxedImage, ...]
    rejects: tuple[tuple[str, str], ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, sorted."""
        return tuple(sorted({label for image in self.images for label in image.labels}))

    @property
    def num_boxes(self) -> int:
        """Boxes of all images."""
        return sum(len(image.boxes) for image in self.images)


@dataclasses.dataclass
class _Growing:
    """What is collected while a file is read: places of images, their boxes, what is left out."""

    paths: dict[str, str] = dataclasses.field(default_factory=dict)
    boxes: dict[str, list] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(list)
    )
    rejects: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def add_box(self, image_id: str, corners: Sequence, label: str) -> None:
        try:
            box = tuple(float(corner) for corner in corners)
            check_box(box)
        except (TypeError, ValueError) as error:
            self.rejects.append((image_id, f"box: {error}"))
            return
        self.boxes[image_id].append((box, label or NO_NAME))

    def finish(self) -> BoxSet:
        images = []
        for image_id, path in self.paths.items():
            found = self.boxes.get(image_id, [])
            boxes = np.array([box for box, _ in found], np.float32).reshape(-1, 4)
            images.append(BoxedImage(image_id, path, boxes, tuple(name for _, name in found)))
        return BoxSet(tuple(images), tuple(self.rejects))


def check_box(box: Sequence[float]) -> None:
    """Raises ValueError unless four numbers are the corners of a box with an area."""
    xmin, ymin, xmax, ymax = box
    if not all(map(math.isfinite, box)):
        raise ValueError(f"expected finite corners. Received: {list(box)}")
    if xmin >= xmax or ymin >= ymax:
        raise ValueError(f"expected xmin < xmax and ymin < ymax. Received: {list(box)}")


def read_boxes(path: str, images: str | None = None) -> BoxSet:
    """Reads a table, or COCO JSON if the name ends with `.json`.

    Args:
        path: of the file.
        images: folder that COCO's file names start from; the file's own if absent.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not what its name says, columns or fields are missing, or no image
            is left.
    """
    found = _read_coco(path, images) if path.lower().endswith(".json") else _read_table(path)
    if not found.images:
        first = f"; the first reason: {found.rejects[0]}" if found.rejects else ""
        raise ValueError(f"{path}: expected images with boxes. Received: none{first}")
    return found


def _read_table(path: str) -> BoxSet:
    names = columns.column_names(path)
    label = "label" if "label" in names else None
    inside = os.path.dirname(files.absolute(path)).rstrip("/") + "/"
    growing = _Growing()
    for image_id, image_path, *corners, name in columns.read_columns(
        path, ["id", "path", *CORNERS, label]
    ):
        if not _add_image(growing, image_id, image_path, inside):
            continue
        if any(corners):
            growing.add_box(image_id, corners, name)
    return growing.finish()


def _add_image(growing: _Growing, image_id: str, path: str, inside: str) -> bool:
    """Takes note of an image; False if it is left out."""
    is_absolute = path.startswith("/") or files.is_remote(path)
    full = files.absolute(path if is_absolute else inside + path)
    reason = None
    if image_id.split() != [image_id]:
        reason = f"image: expected an id without white space. Received: {image_id!r}"
    elif not full.startswith(inside):
        reason = f"image: expected a path inside {inside}. Received: {path!r}"
    elif growing.paths.get(image_id, full) != full:
        reason = f"image: expected one path for an id. Received: {path!r} as well"
    if reason:
        growing.rejects.append((image_id, reason))
        return False
    growing.paths[image_id] = full
    return True


def _read_coco(path: str, folder: str | None) -> BoxSet:
    try:
        data = json.loads(files.read(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected COCO JSON. Received: {error}") from error
    missing = [
        field
        for field in _COCO_FIELDS
        if not isinstance(data, dict) or not isinstance(data.get(field), list)
    ]
    if missing:
        raise ValueError(f"{path}: expected lists {list(_COCO_FIELDS)}. Received: no {missing}")
    inside = files.absolute(folder or os.path.dirname(path) or ".").rstrip("/") + "/"
    growing = _Growing()
    try:
        names = {entry["id"]: str(entry["name"]) for entry in data["categories"]}
        for entry in data["images"]:
            _add_image(growing, str(entry["id"]), str(entry["file_name"]), inside)
        for entry in data["annotations"]:
            _add_annotation(growing, entry, names)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: a field is missing or of the wrong type: {error}") from error
    return growing.finish()


def _add_annotation(growing: _Growing, entry: dict, names: dict) -> None:
    """Adds one box of COCO; a crowd has no box of its own and is passed over."""
    image_id = str(entry["image_id"])
    if entry.get("iscrowd"):
        return
    if image_id not in growing.paths:
        growing.rejects.append((image_id, "box: its image is not among the images"))
        return
    if entry["category_id"] not in names:
        growing.rejects.append((image_id, f"box: category {entry['category_id']!r} has no name"))
        return
    box = entry["bbox"]
    if not isinstance(box, list) or len(box) != 4:
        growing.rejects.append((image_id, f"box: expected [x, y, width, height]. Received: {box}"))
        return
    try:
        x, y, width, height = map(float, box)
    except (TypeError, ValueError):
        growing.rejects.append((image_id, f"box: expected four numbers. Received: {box}"))
        return
    growing.add_box(image_id, (x, y, x + width, y + height), names[entry["category_id"]])


def check_images(
    found: BoxSet,
    *,
    max_boxes: int = 100,
    workers: int = 16,
    advance: Callable[[int], None] = lambda images: None,
) -> BoxSet:
    """Opens the header of every image and holds the boxes against its size.

    A box that stands out by up to `TOLERANCE` pixels is cut; one that stands out more is left out,
    since coordinates of another size or order look like that.

    Args:
        found: what `read_boxes` returned.
        max_boxes: an image with more is left out: a few of them would set the size of all batches.
        workers: threads.
        advance: is told how many images are done.

    Returns:
        The images that can be opened, and the rejects, old and new.
    """
    images, rejects = [], list(found.rejects)
    for image, checked in zip(
        found.images, ordered_map(_checked, found.images, workers=workers), strict=True
    ):
        advance(1)
        kept, reasons = checked
        if kept is not None and len(kept.boxes) > max_boxes:
            kept = None
            reasons = [f"image: {len(image.boxes)} boxes, more than {max_boxes}"]
        rejects += [(image.id, reason) for reason in reasons]
        if kept is not None:
            images.append(kept)
    return BoxSet(tuple(images), tuple(rejects))


def _checked(image: BoxedImage) -> tuple[BoxedImage | None, list[str]]:
    from PIL import Image

    try:
        with files.open_binary(image.path) as file, Image.open(file) as picture:
            size = np.array(picture.size * 2, np.float32)  # width, height, width, height
    except Exception as error:  # damaged headers raise errors of many kinds
        return None, [f"image: {type(error).__name__} at {image.path}"]
    lowest = np.minimum(image.boxes[:, :2].min(axis=1, initial=np.inf), np.inf)
    inside = (lowest >= -TOLERANCE) & (image.boxes <= size + TOLERANCE).all(axis=1)
    reasons = [
        f"box: expected corners inside {int(size[0])} x {int(size[1])} pixels. "
        f"Received: {box.tolist()}"
        for box in image.boxes[~inside]
    ]
    boxes = np.clip(image.boxes[inside], 0, size)
    labels = tuple(name for name, good in zip(image.labels, inside, strict=True) if good)
    return dataclasses.replace(image, boxes=boxes, labels=labels), reasons


def write_rejects(path: str, rejects: Iterable[tuple[str, str]]) -> None:
    """Writes the table `id,reason`."""
    import csv

    with files.replacing(path) as file:
        csv.writer(file).writerows([("id", "reason"), *rejects])
