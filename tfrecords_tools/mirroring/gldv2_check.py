"""Which images of Google Landmarks v2 the archives lack, and what they have besides."""

import csv
import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

import numpy as np

import files
from tfrecords_tools.readers import gldv2, tars

NOT_LISTED = "the part's table does not list it"
IN_TWO = "{} has it too"


@dataclasses.dataclass(frozen=True)
class Differences:
    """How the archives of a part differ from its table.

    Attributes:
        missing: ids that no archive has.
        unexpected: (name of the archive, name or id of the member, what is wrong with it).
    """

    missing: tuple[str, ...]
    unexpected: tuple[tuple[str, str, str], ...]


def compare(
    directory: str,
    part: str,
    archives: Sequence[str] | None = None,
    *,
    stream: TextIO | None = None,
) -> Differences:
    """Compares the images in the archives of a part with its table.

    Args:
        directory: what download.py wrote.
        part: train, index or test.
        archives: paths of the tars. Default: all that are there.
        stream: where progress goes; None shows nothing.

    Raises FileNotFoundError without the table, ValueError if it is not as published,
    tars.BrokenTarError.
    """
    archives = gldv2.find_tars(directory, part) if archives is None else archives
    expected = gldv2.read_ids(directory, part)
    places = tars.Places.load(archives, stream=stream)
    missing = expected[tars.find_sorted(places.ids, expected) < 0]
    return Differences(
        tuple(f"{image:016x}" for image in missing.tolist()),
        tuple(_unexpected(archives, places, expected)),
    )


def _unexpected(
    archives: Sequence[str], places: tars.Places, expected: np.ndarray
) -> Iterator[tuple[str, str, str]]:
    names = [os.path.basename(path) for path in archives]
    for number, path in enumerate(archives):
        index = tars.read_index(path)
        yield from ((names[number], *other) for other in index.others)
        ids = index.members["id"]
        for image in ids[tars.find_sorted(expected, ids) < 0].tolist():
            yield names[number], f"{image:016x}", NOT_LISTED
        first = places.tar[places.find(ids)]
        for image, other in zip(ids[first != number], first[first != number], strict=True):
            yield names[number], f"{image:016x}", IN_TWO.format(names[other])


def save_missing(directory: str, part: str, missing: Iterable[str] | None) -> None:
    """Writes missing_<part>.csv with the column id; without images there is no such file."""
    _save(f"{directory}/missing_{part}.csv", ["id"], [(image,) for image in missing or ()])


def save_unexpected(directory: str, part: str, unexpected: Sequence[tuple[str, ...]]) -> None:
    """Writes unexpected_<part>.csv with the columns archive, member and reason, or no file."""
    _save(f"{directory}/unexpected_{part}.csv", ["archive", "member", "reason"], unexpected)


def _save(path: str, header: Sequence[str], lines: Sequence[tuple[str, ...]]) -> None:
    if not lines:
        files.remove(path)
        return
    # A member's name may be any bytes.
    with open(
        path + files.PARTIAL, "w", newline="", encoding="utf-8", errors="backslashreplace"
    ) as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(lines)
    files.rename(path + files.PARTIAL, path)
