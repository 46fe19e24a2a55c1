"""Writes one shard: reads its images where they lie and stores them in the planned order."""

import io
import os
from collections.abc import Iterator
from typing import Any

import files
from input_pipeline import schema
from input_pipeline.records import RecordWriter, file_crc32c, read_records
from progress import ordered_map
from tfrecords_tools.conversion import images
from tfrecords_tools.conversion.images import Inspection, RejectedImageError
from tfrecords_tools.conversion.inspection import fingerprint, read_image
from tfrecords_tools.readers.example_fields import find_values, read_place

CHANGED = "changed since it was inspected"

_REMOTE_READERS = 16  # images of a bucket that a process asks for at once


def write_shard(task: dict[str, Any]) -> dict[str, Any]:
    """Writes a shard, or keeps it if it lies there already; a task of `jobs.run`.

    Args:
        task: "path" of the shard; "rows" as `Catalogue.planned_rows` gives them; "quality" of
            shrunk images.

    Returns:
        "name", "images", "bytes" and "crc32c" of the shard; "rejects", a list of [number, reason]
        of images that turned out unusable; "kept", whether it lay there.
    """
    path, rows = task["path"], task["rows"]
    result = _kept(path, rows)
    if result is None:
        result = _write(path, rows, task["quality"])
    return {"name": os.path.basename(path), **result}


def _kept(path: str, rows: list[dict]) -> dict[str, Any] | None:
    """Describes a shard that an earlier run wrote whole, else None."""
    if not files.exists(path):
        return None
    try:
        ids = [_image_id(record) for record in read_records(path)]
    except (ValueError, KeyError, AttributeError):  # damaged, or another file of that name
        return None
    if ids != [row["id"] for row in rows]:
        return None
    size, checksum = files.size_of(path), file_crc32c(path)
    return {"images": len(rows), "bytes": size, "crc32c": checksum, "rejects": [], "kept": True}


def _image_id(record: bytes) -> str:
    file = io.BytesIO(record)
    (place,) = find_values(file, 0, len(record), (schema.ID,))[schema.ID]
    return read_place(file, place).decode()


def _write(path: str, rows: list[dict], quality: int) -> dict[str, Any]:
    rejects = []
    with RecordWriter(path) as writer:
        for row, data in zip(rows, _read_images(rows), strict=True):
            try:
                writer.write(_make_record(row, data, quality))
            except RejectedImageError as error:
                rejects.append([row["number"], str(error)])
    return {
        "images": len(rows) - len(rejects),
        "bytes": writer.bytes,
        "crc32c": writer.crc32c,
        "rejects": rejects,
        "kept": False,
    }


def _read_images(rows: list[dict]) -> Iterator[bytes | RejectedImageError]:
    """Yields the bytes of each row's image, or why there are none."""
    if any(files.is_remote(row["path"]) for row in rows):
        yield from ordered_map(_read_row, rows, workers=_REMOTE_READERS)
    else:
        yield from map(_read_row, rows)


def _read_row(row: dict) -> bytes | RejectedImageError:
    try:
        data = read_image(row["path"], row["offset"], row["size"])
    except RejectedImageError as error:
        return error
    is_same = len(data) == row["bytes"] and fingerprint(data) == row["fingerprint"]
    return data if is_same else RejectedImageError(CHANGED)


def _make_record(row: dict, data: bytes | RejectedImageError, quality: int) -> bytes:
    if isinstance(data, RejectedImageError):
        raise data
    known = Inspection(row["format"], row["width"], row["height"], row["change"], row["bytes"])
    return schema.encode_example(
        encoded=images.stored_bytes(data, known, quality=quality),
        image_format=known.format,
        height=known.height,
        width=known.width,
        label=row["label"],
        image_id=row["id"],
        is_clean=bool(row["clean"]),
    )
