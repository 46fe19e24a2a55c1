"""The first look at the images: what head and end of each file tell, and copies of one another."""

import hashlib
from typing import Any

import files
from input_pipeline.schema import MAX_BYTES
from tfrecords_tools.conversion import images, jpeg_header
from tfrecords_tools.conversion.images import Inspection, RejectedImageError
from tfrecords_tools.readers.tables import MISSING

UNREADABLE = "unreadable"
NOT_A_FILE = "not a file"
TOO_MANY_BYTES = "too many bytes"

_HEADS = (4096, 2**17, 2**21)  # bytes; with a colour profile and a thumbnail headers are long
_TAIL = 4096  # bytes, compared to find copies


def inspect_places(task: dict[str, Any]) -> list[list]:
    """Inspects images where they lie; a task of `jobs.run`.

    Args:
        task: "places", a list of [number, path, offset, size]; "max_side"; "decode", whether every
            image is decoded or only those that are no plain JPEG files.

    Returns:
        For each place [number, reason, format, width, height, change, bytes, fingerprint].
    """
    return [
        _inspect_place(*place, max_side=task["max_side"], decode=task["decode"])
        for place in task["places"]
    ]


def digest_places(task: list[list]) -> list[list]:
    """Returns [number, sha256 of the bytes] of [number, path, offset, size]; of `jobs.run`.

    The digest is None where the file cannot be read any more.
    """
    return [[number, _digest(*place)] for number, *place in task]


def fingerprint(data: bytes) -> str:
    """Returns a digest of the last bytes of an image."""
    return hashlib.blake2b(data[-_TAIL:], digest_size=8).hexdigest()


def _digest(path: str, offset: int, size: int | None) -> str | None:
    try:
        return hashlib.sha256(read_image(path, offset, size)).hexdigest()
    except RejectedImageError:  # it is left out when its shard is written
        return None


def read_image(path: str, offset: int = 0, size: int | None = None) -> bytes:
    """Returns the bytes of an image; RejectedImageError where they cannot be read."""
    try:
        return files.read(path, offset, size)
    except (OSError, ValueError) as error:
        raise RejectedImageError(_reason(error)) from error


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError):
        return MISSING
    return NOT_A_FILE if isinstance(error, files.NotAFileError) else UNREADABLE


def _inspect_place(
    number: int, path: str, offset: int, size: int | None, *, max_side: int | None, decode: bool
) -> list:
    try:
        known, print_of_tail = _look(path, offset, size, max_side, decode)
    except RejectedImageError as error:
        return [number, str(error), *[None] * 6]
    fields = (known.format, known.width, known.height, known.change, known.bytes)
    return [number, None, *fields, print_of_tail]


def _look(
    path: str, offset: int, size: int | None, max_side: int | None, decode: bool
) -> tuple[Inspection, str]:
    if size is None:
        size = _size_of(path)
    if size > MAX_BYTES:
        raise RejectedImageError(TOO_MANY_BYTES)
    tail = read_image(path, offset + max(size - _TAIL, 0), min(size, _TAIL))
    if len(tail) < min(size, _TAIL):  # the tar or TFRecord file ends before
        raise RejectedImageError(images.TRUNCATED)
    pixels = None
    if not decode and tail.endswith(jpeg_header.END):
        pixels = _plain_jpeg(path, offset, size)
    if pixels is None:
        data = read_image(path, offset, size)
        return images.inspect(data, max_side=max_side), fingerprint(data)
    return images.describe(pixels, size, max_side), fingerprint(tail)


def _size_of(path: str) -> int:
    try:
        return files.size_of(path)
    except (OSError, ValueError) as error:
        raise RejectedImageError(_reason(error)) from error


def _plain_jpeg(path: str, offset: int, size: int) -> tuple[int, int] | None:
    """Returns (width, height) of a plain JPEG file of allowed size, None for all others."""
    for length in _HEADS:
        head = read_image(path, offset, min(size, length))
        try:
            pixels = jpeg_header.size_of(head)
        except jpeg_header.TooShortError:
            continue
        is_allowed = pixels is not None and images.is_allowed(*pixels)
        return pixels if is_allowed else None
    return None
