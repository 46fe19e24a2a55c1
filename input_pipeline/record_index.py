"""Where each record lies, and its label and sides: what reading single records needs.

One pass over the shards finds it out, which reads a few hundred bytes of each local record, and a
file beside the manifest keeps it: 24 bytes per image, 99 MB for 4.1 million.
"""

import hashlib
import io
import mmap
import os
import sys
from collections.abc import Iterator
from typing import TextIO

import numpy as np

import files
import jobs
from input_pipeline import records, schema
from progress import Progress

ROW = np.dtype(
    [
        ("offset", "<i8"),  # of the payload's first byte in the shard
        ("size", "<i4"),
        ("label", "<i4"),  # as stored: the total label
        ("shard", "<i4"),  # position in the list of paths
        ("height", "<u2"),  # 65,535 at most
        ("width", "<u2"),
    ]
)
_WANTED = {schema.LABEL.encode(): 0, schema.HEIGHT.encode(): 1, schema.WIDTH.encode(): 2}


def load(
    manifest: schema.Manifest,
    *splits: str,
    folder: str | None = None,
    workers: int | None = None,
    stream: TextIO | None = sys.stderr,
) -> np.ndarray:
    """Returns one `ROW` for each record of `splits`, in the order of the shards.

    Reads it from the file that an earlier call has left, or makes it and writes the file. The
    file's name holds a digest of the shards' checksums: other shards have another.

    Args:
        manifest: what the shards hold.
        splits: of which the records are.
        folder: of the file. Default: the data directory, which may be read-only.
        workers: processes. Default: one per core where that pays, beyond 50,000 images.
        stream: where progress is shown.

    Raises:
        ValueError: a shard does not hold what the manifest says; records.DamagedRecordError is
            one of these.
        OSError: a shard cannot be read or the file not be written.
    """
    shards = [shard for split in splits for shard in manifest.splits[split]]
    key = "\n".join(f"{shard.name} {shard.crc32c} {shard.images}" for shard in shards)
    name = f"index-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"
    path = os.path.join(folder or manifest.directory, name)
    if files.exists(path):
        return _load(path, len(shards), manifest.images(*splits))
    rows = _make(manifest, shards, manifest.shard_paths(*splits), workers, stream)
    buffer = io.BytesIO()
    np.save(buffer, rows, allow_pickle=False)
    files.write_bytes(path, buffer.getbuffer())
    return rows


def _load(path: str, shards: int, images: int) -> np.ndarray:
    try:
        rows = np.load(io.BytesIO(files.read(path)), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: expected an index of records; delete it: {error}") from error
    if rows.dtype != ROW or rows.shape != (images,) or not (rows["shard"] < shards).all():
        raise ValueError(
            f"{path}: expected an index of {images} records; delete it. Received: {rows.shape} "
            f"of {rows.dtype}"
        )
    return rows


def _make(manifest, shards, paths, workers, stream) -> np.ndarray:
    tasks = [[path, number] for number, path in enumerate(paths)]
    shown = Progress("index", sum(shard.images for shard in shards), stream)
    parts = []
    if workers is None:  # a record takes 0.03 ms
        workers = os.cpu_count() or 1 if shown.total > 50_000 else 1
    found = jobs.run(_index_shard, tasks, workers=workers)
    for shard, path, part in zip(shards, paths, found, strict=True):
        if len(part) != shard.images:
            raise ValueError(f"{path}: expected {shard.images} records. Received: {len(part)}")
        parts.append(np.array([tuple(row) for row in part], ROW))
        shown.advance(len(part))
    shown.close()
    rows = np.concatenate(parts) if parts else np.zeros(0, ROW)
    bad = ~((rows["label"] >= 0) & (rows["label"] < manifest.num_classes))
    if bad.any():
        raise ValueError(
            f"{manifest.directory}: expected labels from 0 to {manifest.num_classes - 1}. "
            f"Received: {rows['label'][bad][0]}"
        )
    return rows


def _index_shard(task: list) -> list[list[int]]:
    """Returns the rows of one shard, as lists."""
    path, shard = task
    rows = []
    for offset, size, data, start in _payloads(path):
        try:
            label, height, width = _features(data, start, start + size)
        except (IndexError, ValueError) as error:
            raise ValueError(f"{path}: no example of ours at byte {offset}: {error}") from error
        rows.append([offset, size, label, shard, min(height, 65535), min(width, 65535)])
    return rows


def _payloads(path: str) -> Iterator[tuple[int, int, bytes | mmap.mmap, int]]:
    """Yields (offset in the file, size, data, start in the data) of each payload."""
    if files.is_remote(path):
        offset = 12  # after size and checksum; another checksum ends the record
        for payload in records.read_records(path):
            yield offset, len(payload), payload, 0
            offset += len(payload) + 16
    elif files.size_of(path):
        with (
            open(path, "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            if hasattr(mmap, "MADV_RANDOM"):
                data.madvise(mmap.MADV_RANDOM)  # else the kernel reads the images on suspicion
            for offset, size in records.record_spans(path):
                yield offset, size, data, offset


def _features(data: bytes | mmap.mmap, start: int, end: int) -> list[int]:
    """Returns label, height and width of a tf.train.Example without reading its image.

    Example = {1: Features}, Features = {1: entry, repeated}, entry = {1: key, 2: Feature},
    Feature = {3: Int64List}, Int64List = {1: varints, packed or not}.
    """
    found: list[int | None] = [None] * len(_WANTED)
    for _, features_start, features_end in _fields(data, start, end):
        for _, entry_start, entry_end in _fields(data, features_start, features_end):
            entry = {n: (a, b) for n, a, b in _fields(data, entry_start, entry_end)}
            key_start, key_end = entry.get(1, (0, 0))
            place = (
                _WANTED.get(bytes(data[key_start:key_end])) if key_end - key_start < 64 else None
            )
            if place is not None and 2 in entry:
                found[place] = _integer(data, *entry[2])
    if None in found:
        raise ValueError(f"expected the features {', '.join(map(bytes.decode, _WANTED))}")
    return found


def _integer(data: bytes | mmap.mmap, start: int, end: int) -> int:
    for kind, list_start, list_end in _fields(data, start, end):
        for number, value_start, value_end in _fields(data, list_start, list_end):
            if (kind, number) == (3, 1) and value_end > value_start:
                value, _ = _varint(data, value_start)
                return value - 2**64 if value >= 2**63 else value
    raise ValueError("expected an integer")


def _fields(data: bytes | mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yields (number, first byte, end) of each field of a protocol buffer message."""
    while start < end:
        tag, start = _varint(data, start)
        if tag & 7 == 2:  # length, bytes
            size, start = _varint(data, start)
            stop = start + size
        elif tag & 7 == 0:
            _, stop = _varint(data, start)
        else:
            raise ValueError(f"expected wire type 0 or 2. Received: {tag & 7}")
        if stop > end:
            raise ValueError("a field is longer than what holds it")
        yield tag >> 3, start, stop
        start = stop


def _varint(data: bytes | mmap.mmap, start: int) -> tuple[int, int]:
    """Returns the value and where it ends."""
    value = shift = 0
    while (byte := data[start]) & 0x80:
        value |= (byte & 0x7F) << shift
        shift += 7
        start += 1
        if shift > 63:
            raise ValueError("expected a varint of 10 bytes at most")
    return value | byte << shift, start + 1
