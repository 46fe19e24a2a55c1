"""The images of Google Landmarks v2.1, as download.py leaves them, as rows to convert.

The images stay in their tars. An image that no tar has is looked for where it lies unpacked,
`<part>/a/b/c/<id>.jpg`. Memory grows by 22 bytes per image for its place and by 13 per image of the
clean set: 110 MB for train, and once that much again while the places are sorted.
"""

import array
import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TextIO

import numpy as np

import files
from tfrecords_tools.readers import gldv2_tables as formats
from tfrecords_tools.readers import tars
from tfrecords_tools.readers.tables import MISSING, Reject, Row, Rows

PARTS = {"train": formats.TRAIN, "index": formats.INDEX, "test": formats.TEST}
TARS = "images_*.tar"

_BATCH = 8192  # rows whose places are looked up together


def rows(directory: str, part: str = "train", *, stream: TextIO | None = None) -> Rows:
    """Yields the images of one part in the order of its table; no image is opened.

    The label is the landmark's number. In train the images listed in train_clean.csv are clean. In
    index the label comes from index_image_to_landmark.csv, if that is there, and counts in another
    numbering than train's. The images of test have none. An image whose bytes are nowhere is a
    Reject; in a bucket only the tars are looked into, and an unpacked image is taken to be there.

    Args:
        directory: what download.py wrote.
        part: train, index or test.
        stream: where the progress of reading tar headers goes, if they must be read.

    Raises FileNotFoundError without the tables; tars.BrokenTarError; ValueError if a table is not
    as published, if train_clean.csv lists an image that train.csv lacks or has under another
    landmark.
    """
    if part not in PARTS:
        raise ValueError(f"expected a part in {tuple(PARTS)}. Received: {part!r}")
    directory = files.absolute(directory)
    found = find_tars(directory, part)
    places = tars.Places.load(found, stream=stream if found else None)
    entries = {"train": _train, "index": _index, "test": _test}[part](directory)
    for batch in _batches(entries):
        yield from _place(batch, places, f"{directory}/{part}")


def find_tars(directory: str, part: str) -> list[str]:
    """Returns the paths of the tars of a part, sorted."""
    return files.find_in(f"{directory}/{part}", TARS)


def read_ids(directory: str, part: str) -> np.ndarray:
    """Returns the ids of a part as its table lists them: (N,) uint64, sorted, each once.

    Raises FileNotFoundError without the table, ValueError if it is not as published.
    """
    table = PARTS[part]
    entries = table.read(f"{directory}/{table.path}")
    ids = array.array("Q")
    for entry in entries:
        ids.append(int(entry.id if part == "train" else entry, 16))
    numbers = np.frombuffer(ids, np.uint64)
    numbers.sort()  # in place; np.unique would copy it twice
    return numbers[np.append(True, numbers[1:] != numbers[:-1])] if len(numbers) else numbers


class _Entry(NamedTuple):
    id: str
    label: str = ""
    is_clean: bool = True


def _train(directory: str) -> Iterator[_Entry]:
    landmarks = _Landmarks(
        (image, row.landmark)
        for row in formats.TRAIN_CLEAN.read(f"{directory}/{formats.TRAIN_CLEAN.path}")
        for image in row.images
    )
    seen = np.zeros(len(landmarks.ids), bool)
    table = f"{directory}/{formats.TRAIN.path}"
    for batch in _batches(formats.TRAIN.read(table)):
        positions = landmarks.find([image.id for image in batch])
        seen[positions[positions >= 0]] = True
        for image, position in zip(batch, positions.tolist(), strict=True):
            clean = int(landmarks.numbers[position]) if position >= 0 else None
            if clean not in (None, int(image.landmark)):
                raise ValueError(
                    f"{table}: expected landmark {clean} for {image.id}, as in train_clean.csv. "
                    f"Received: {image.landmark}"
                )
            yield _Entry(str(image.id), str(image.landmark), clean is not None)
    unknown = landmarks.ids[~seen]
    if len(unknown):
        raise ValueError(
            f"expected all images of train_clean.csv in {table}. "
            f"Received: {len(unknown)} that it lacks, such as {int(unknown[0]):016x}"
        )


def _index(directory: str) -> Iterator[_Entry]:
    table = f"{directory}/{formats.INDEX_LANDMARKS.path}"
    landmarks = _Landmarks(formats.INDEX_LANDMARKS.read(table) if files.exists(table) else ())
    for batch in _batches(formats.INDEX.read(f"{directory}/{formats.INDEX.path}")):
        positions = landmarks.find(batch)
        for image, position in zip(batch, positions.tolist(), strict=True):
            label = str(landmarks.numbers[position]) if position >= 0 else ""
            yield _Entry(str(image), label)


def _test(directory: str) -> Iterator[_Entry]:
    for image in formats.TEST.read(f"{directory}/{formats.TEST.path}"):
        yield _Entry(str(image))


class _Landmarks:
    """The landmark of each image, 12 bytes per image.

    Attributes:
        ids: (N,) uint64, sorted.
        numbers: (N,) uint32, the landmarks.
    """

    def __init__(self, pairs: Iterable[tuple[str, int]]):
        ids, numbers = array.array("Q"), array.array("I")
        for image, landmark in pairs:
            ids.append(int(image, 16))
            numbers.append(landmark)
        order = np.argsort(np.frombuffer(ids, np.uint64), kind="stable")
        self.ids = np.frombuffer(ids, np.uint64)[order]
        self.numbers = np.frombuffer(numbers, np.uint32)[order]
        twice = self.ids[1:][self.ids[1:] == self.ids[:-1]]
        if len(twice):
            raise ValueError(
                f"expected each image under one landmark, once. Received: {int(twice[0]):016x} "
                "more often"
            )

    def find(self, images: Iterable[str]) -> np.ndarray:
        """Returns the positions of the images, -1 for one without landmark: (M,) int64."""
        return tars.find_sorted(self.ids, _numbers(images))


def _place(batch: list[_Entry], places: tars.Places, folder: str) -> Rows:
    positions = places.find(_numbers(entry.id for entry in batch))
    for entry, position in zip(batch, positions.tolist(), strict=True):
        if position >= 0:
            path = places.tars[places.tar[position]]
            offset, size = int(places.offset[position]), int(places.size[position])
            yield Row(entry.id, entry.label, path, entry.is_clean, offset, size)
            continue
        path = tars.unpacked_path(folder, entry.id)
        # One question per image is free on a disk and takes days in a bucket.
        if files.is_remote(path) or files.exists(path):
            yield Row(entry.id, entry.label, path, entry.is_clean)
        else:
            yield Reject(entry.id, path, MISSING)


def _numbers(images: Iterable[str]) -> np.ndarray:
    """Returns the ids, 16 hexadecimal characters each, as numbers: (M,) uint64."""
    return np.array([int(image, 16) for image in images], np.uint64)


def _batches(items: Iterable) -> Iterator[list]:
    items = iter(items)
    while batch := list(itertools.islice(items, _BATCH)):
        yield batch
