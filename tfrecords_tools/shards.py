"""Writes the shards that are missing and keeps those that are good."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TextIO

import tensorflow as tf

from input_pipeline import schema
from progress import Progress, ordered_map
from tfrecords_tools.tables import Row

_BLOCK = 1 << 20  # bytes read at a time for a checksum

ShardRows = Mapping[str, Mapping[str, Sequence[Row]]]  # {split: {shard name: rows}}


def write_shards(
    directory: str,
    shards: ShardRows,
    make_record: Callable[[Row], bytes],
    *,
    workers: int,
    stream: TextIO | None,
) -> tuple[dict[str, tuple[schema.Shard, ...]], int]:
    """Writes what is missing and returns {split: shards} and how many were kept.

    `make_record` runs in `workers` threads, the shards are written by this one. A shard that lies
    there is kept if its records are whole and have the expected ids in the expected order.
    """
    planned = {name: rows for members in shards.values() for name, rows in members.items()}
    present = {name: rows for name, rows in planned.items() if _exists(directory, name)}
    done = _kept_shards(directory, present, stream)
    kept = len(done)
    missing = {name: rows for name, rows in planned.items() if name not in done}
    rows_in_order = [row for rows in missing.values() for row in rows]
    progress = Progress("write", len(rows_in_order), stream)
    records = ordered_map(make_record, rows_in_order, workers=workers)
    for name, rows in missing.items():
        done[name] = _write_shard(directory, name, len(rows), records, progress)
    progress.close()
    return {split: tuple(done[name] for name in members) for split, members in shards.items()}, kept


def read_records(path: str) -> Iterator[bytes]:
    """Yields the records of one shard; tf.errors.DataLossError where it is damaged."""
    yield from tf.data.TFRecordDataset(path).as_numpy_iterator()


def sha256_of(path: str) -> str:
    """Returns the checksum of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with tf.io.gfile.GFile(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _exists(directory: str, name: str) -> bool:
    return tf.io.gfile.exists(os.path.join(directory, name))


def _kept_shards(
    directory: str, present: Mapping[str, Sequence[Row]], stream: TextIO | None
) -> dict[str, schema.Shard]:
    if not present:
        return {}
    progress = Progress("check finished shards", sum(map(len, present.values())), stream)
    kept = {}
    for name, rows in present.items():
        path = os.path.join(directory, name)
        if _read_ids(path, progress) == [row.id.encode() for row in rows]:
            kept[name] = _describe(path, len(rows))
    progress.close()
    return kept


def _read_ids(path: str, progress: Progress) -> list[bytes]:
    ids = []
    try:
        for record in read_records(path):
            feature = tf.train.Example.FromString(record).features.feature
            ids.extend(feature[schema.ID].bytes_list.value)
            progress.advance()
    except tf.errors.DataLossError:
        return []
    return ids


def _write_shard(
    directory: str, name: str, images: int, records: Iterator[bytes], progress: Progress
) -> schema.Shard:
    path = os.path.join(directory, name)
    with tf.io.TFRecordWriter(path + ".partial") as writer:
        for _ in range(images):
            writer.write(next(records))
            progress.advance()
    tf.io.gfile.rename(path + ".partial", path, overwrite=True)
    return _describe(path, images)


def _describe(path: str, images: int) -> schema.Shard:
    size = tf.io.gfile.stat(path).length
    return schema.Shard(os.path.basename(path), images, size, sha256_of(path))
