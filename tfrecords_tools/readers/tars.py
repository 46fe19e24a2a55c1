"""Where the images lie inside uncompressed tars, so that nobody needs to unpack them.

Only the headers are read. What is found is kept beside the tar as `<tar>.index.npz`, 20 bytes per
image; for the 5,012,248 images of Google Landmarks v2 that is 100 MB.
"""

import contextlib
import dataclasses
import io
import os
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO, TextIO

import numpy as np

import files
from progress import Progress, ordered_map

INDEX_SUFFIX = ".index.npz"
MEMBER = np.dtype([("id", "<u8"), ("offset", "<u8"), ("size", "<u4")])

NOT_AN_IMAGE = "its name is not <16 hexadecimal characters>.jpg"
NOT_A_FILE = "it is a link, a device or a folder"
NOT_PLAIN = "it is sparse or has 4 GiB and more"
TWICE = "the tar has it once more, further back"

_IMAGE = re.compile(r"(?:.*/)?([0-9a-f]{16})\.jpg", re.DOTALL)
_BLOCK = 512  # bytes of a header; two blocks of zeros are the end mark
_LARGEST = 2**32 - 1  # bytes of a member that the table can say


class BrokenTarError(ValueError):
    """A tar that is cut off, damaged or packed."""


@dataclasses.dataclass(frozen=True)
class TarIndex:
    """What one tar holds.

    Attributes:
        members: (N,) of dtype MEMBER, sorted by id, which is the 16 hexadecimal characters as a
            number; `offset` is the first byte of the image in the tar.
        others: (name, reason) of every member that is no image, but for folders.
    """

    members: np.ndarray
    others: tuple[tuple[str, str], ...]


def read_index(path: str) -> TarIndex:
    """Returns what a tar holds, from the file beside it if that still fits, else from its headers.

    It fits if the tar has the size it had and, on this machine, the same time of change. Headers
    that had to be read are kept for the next time, where the folder can be written.
    Raises FileNotFoundError, OSError, or BrokenTarError.
    """
    state = _state(path)
    known = _load(path, state)
    if known is not None:
        return known
    index = scan(path)
    with contextlib.suppress(OSError):
        _save(path, state, index)
    return index


def scan(path: str) -> TarIndex:
    """Reads all headers of a tar; of an image that it holds twice the last counts, as in `tar -x`.

    Raises FileNotFoundError, OSError, or BrokenTarError that names the byte.
    """
    size = files.size_of(path)
    places: dict[int, tuple[int, int]] = {}
    others: list[tuple[str, str]] = []
    with files.open_file(path, "rb") as file:
        for member in _headers(path, file, size):
            match = _IMAGE.fullmatch(member.name)
            if member.isdir() and match is None:
                continue
            reason = _reason(member, match)
            if reason:
                others.append((member.name, reason))
                continue
            image = int(match[1], 16)
            if image in places:
                others.append((member.name, TWICE))
            places[image] = member.offset_data, member.size
    members = np.fromiter(
        ((image, *place) for image, place in sorted(places.items())), MEMBER, len(places)
    )
    return TarIndex(members, tuple(others))


def unpack(path: str, folder: str, on_image: Callable[[int], None] = lambda written: None) -> None:
    """Writes each image of a tar to `folder`/a/b/c/<id>.jpg; one that is there whole is kept.

    The path is made from the id alone, so that no name in the tar can lead elsewhere. `on_image`
    is called after each with the bytes written, 0 if it was there.
    """
    for image, offset, size in read_index(path).members.tolist():
        target = unpacked_path(folder, f"{image:016x}")
        is_there = os.path.isfile(target) and os.path.getsize(target) == size
        if not is_there:
            files.make_folder(os.path.dirname(target))
            files.write_bytes(target, files.read(path, offset, size))
        on_image(0 if is_there else size)


def unpacked_path(folder: str, image_id: str) -> str:
    """Returns where the image of that id lies below `folder`."""
    return "/".join([folder, *image_id[:3], f"{image_id}.jpg"])


class Places:
    """Where each image lies in a set of tars, 22 bytes per image.

    Attributes:
        tars: paths of the tars.
        ids: (N,) uint64, sorted, each once; where two tars have an image the first counts.
        tar: (N,) uint16, position in `tars`.
        offset: (N,) uint64, first byte of the image.
        size: (N,) uint32, its bytes.
    """

    def __init__(self, tars: Sequence[str], members: Iterable[np.ndarray]):
        """Takes `TarIndex.members` of each tar; column by column, to hold little at a time."""
        self.tars = tuple(tars)
        columns = {name: bytearray() for name in MEMBER.names}
        counts = []
        for part in members:
            counts.append(len(part))
            for name, column in columns.items():
                column.extend(part[name].tobytes())
        tar = np.repeat(np.arange(len(counts), dtype=np.uint16), counts)
        ids = _take(columns, "id")
        order = np.argsort(ids, kind="stable")
        ids = ids[order]
        is_first = np.append(True, ids[1:] != ids[:-1])[: len(ids)]
        if not is_first.all():
            ids, order = ids[is_first], order[is_first]
        self.ids = ids
        self.tar = tar[order]
        self.offset = _take(columns, "offset")[order]
        self.size = _take(columns, "size")[order]

    @classmethod
    def load(
        cls, tars: Sequence[str], *, workers: int = 8, stream: TextIO | None = None
    ) -> "Places":
        """Reads the indexes of all tars; progress goes to `stream`. Raises what read_index does."""
        progress = Progress("headers", len(tars), stream, unit="tars")

        def read() -> Iterator[np.ndarray]:
            for index in ordered_map(read_index, tars, workers=workers):
                yield index.members
                progress.advance()

        places = cls(tars, read())
        progress.close()
        return places

    def find(self, ids: np.ndarray) -> np.ndarray:
        """Returns the positions of `ids` (M,) uint64 in this table, -1 for one it lacks: (M,)."""
        return find_sorted(self.ids, ids)


def find_sorted(table: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Returns the positions of `ids` (M,) in a sorted `table` (N,), -1 for one it lacks: (M,)."""
    if not len(table):
        return np.full(len(ids), -1)
    positions = np.searchsorted(table, ids)
    found = table.take(positions, mode="clip") == ids
    positions[~found] = -1
    return positions


def _take(columns: dict[str, bytearray], name: str) -> np.ndarray:
    return np.frombuffer(columns.pop(name), MEMBER[name])


def _headers(path: str, file: BinaryIO, size: int) -> Iterator[tarfile.TarInfo]:
    """Yields the members; the tar must end with its end mark, and not inside a member."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                tar.members = []  # tarfile would keep them all
                end = member.offset_data + (0 if member.issparse() else member.size)
                if member.size < 0 or end > size:
                    raise BrokenTarError(
                        f"{path}: expected {end} bytes up to the end of {member.name!r}. "
                        f"Received: {size}, the tar is cut off"
                    )
                yield member
            end = tar.offset
    except tarfile.TarError as error:
        raise BrokenTarError(
            f"{path}: expected a whole, uncompressed tar. Received: {error}"
        ) from error
    # tarfile takes a damaged header for the end.
    file.seek(end)
    mark = file.read(2 * _BLOCK)
    if mark != bytes(2 * _BLOCK):
        what = f"{len(mark)} bytes" if len(mark) < 2 * _BLOCK else "something else"
        raise BrokenTarError(
            f"{path}: expected a header or the end mark at byte {end}. Received: {what}, the tar "
            "is cut off or damaged"
        )


def _reason(member: tarfile.TarInfo, match: re.Match | None) -> str:
    if not member.isreg():
        return NOT_A_FILE
    if match is None:
        return NOT_AN_IMAGE
    return NOT_PLAIN if member.issparse() or member.size > _LARGEST else ""


def _state(path: str) -> tuple[int, int]:
    """Returns the size of a tar and its time of change in ns, which buckets are not asked for."""
    if files.is_remote(path):
        return files.size_of(path), 0
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _load(path: str, state: tuple[int, int]) -> TarIndex | None:
    try:
        data = io.BytesIO(files.read(path + INDEX_SUFFIX))
        with np.load(data, allow_pickle=False) as stored:
            if tuple(stored["state"].tolist()) != state or stored["members"].dtype != MEMBER:
                return None
            return TarIndex(stored["members"], tuple(map(tuple, stored["others"].tolist())))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # none there, or damaged


def _save(path: str, state: tuple[int, int], index: TarIndex) -> None:
    data = io.BytesIO()
    others = np.array(index.others, dtype=np.str_).reshape(-1, 2)
    np.savez(data, state=np.array(state, np.int64), members=index.members, others=others)
    files.write_bytes(path + INDEX_SUFFIX, data.getvalue())
