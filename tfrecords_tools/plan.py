"""What a stopped conversion leaves behind, so that the same command goes on where it was.

`inspection.csv` has what is known of every image and lies there until the shards are complete.
`plan.json` has two digests: `request`, of the options and the table; `plan`, of the request and the
inspected images. Shards belong to a job only if both agree.
"""

import csv
import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from input_pipeline.schema import MANIFEST_NAME, write_text
from tfrecords_tools.images import Inspection
from tfrecords_tools.tables import Reject, Row, Table

PLAN_NAME = "plan.json"
INSPECTION_NAME = "inspection.csv"
REJECTS_NAME = "rejects.csv"

_INSPECTION_HEADER = ["id", "reason", "format", "width", "height", "change", "bytes"]


class ConversionError(RuntimeError):
    """A conversion that cannot go on: no usable image, or a folder that holds something else."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The digests in `plan.json`."""

    request: str
    plan: str


def request_digest(options: Mapping[str, Any], table: Table) -> str:
    """Returns the digest of the options and the rows; the order of the rows does not count."""
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    for row in sorted(dataclasses.astuple(row) for row in table.rows):
        digest.update(json.dumps(row).encode())
    for reject in sorted(dataclasses.astuple(reject) for reject in table.rejects):
        digest.update(json.dumps(reject).encode())
    return digest.hexdigest()


def plan_digest(request: str, rows: Sequence[Row], results: Sequence[Inspection | str]) -> str:
    """Returns the digest of the request and of what the inspection found."""
    digest = hashlib.sha256(request.encode())
    for line in _inspection_lines(rows, results):
        digest.update(json.dumps(line).encode())
    return digest.hexdigest()


def load_plan(directory: str) -> Plan | None:
    """Reads `plan.json`; None where there is none yet.

    Raises ConversionError if it is damaged, or if there are shards or a manifest without it.
    """
    path = os.path.join(directory, PLAN_NAME)
    if tf.io.gfile.exists(path):
        try:
            return Plan(**json.loads(_read(path)))
        except (TypeError, ValueError) as error:
            raise ConversionError(f"{path}: expected two digests. Received: {error}") from error
    for pattern in ("*.tfrec", MANIFEST_NAME):
        if tf.io.gfile.glob(os.path.join(directory, pattern)):
            raise ConversionError(
                f"expected an empty folder or one that this command began. "
                f"Received: {directory}, with {pattern} and without {PLAN_NAME}"
            )
    return None


def save_plan(directory: str, plan: Plan) -> None:
    """Writes `plan.json`."""
    text = json.dumps(dataclasses.asdict(plan), indent=1) + "\n"
    write_text(os.path.join(directory, PLAN_NAME), text)


def save_inspections(
    directory: str, request: str, rows: Sequence[Row], results: Sequence[Inspection | str]
) -> None:
    """Writes `inspection.csv`; a result is an Inspection or the reason against the image."""
    lines = [_INSPECTION_HEADER, *_inspection_lines(rows, results)]
    _write_csv(os.path.join(directory, INSPECTION_NAME), ["request", request], lines)


def load_inspections(directory: str, request: str) -> list[Inspection | str] | None:
    """Reads `inspection.csv` back; None where it is absent or belongs to another request."""
    path = os.path.join(directory, INSPECTION_NAME)
    if not tf.io.gfile.exists(path):
        return None
    lines = list(csv.reader(io.StringIO(_read(path))))
    if lines[:2] != [["request", request], _INSPECTION_HEADER]:
        return None
    return [
        reason or Inspection(kind, int(width), int(height), change, int(size))
        for _, reason, kind, width, height, change, size in lines[2:]
    ]


def remove_inspections(directory: str) -> None:
    """Removes `inspection.csv` if it is there."""
    path = os.path.join(directory, INSPECTION_NAME)
    if tf.io.gfile.exists(path):
        tf.io.gfile.remove(path)


def save_rejects(directory: str, rejects: Iterable[Reject]) -> None:
    """Writes `rejects.csv`, in the order of the ids."""
    lines = sorted(dataclasses.astuple(reject) for reject in rejects)
    _write_csv(os.path.join(directory, REJECTS_NAME), ["id", "path", "reason"], lines)


def load_rejects(directory: str) -> list[Reject]:
    """Reads `rejects.csv`; an absent file counts as an empty one."""
    path = os.path.join(directory, REJECTS_NAME)
    if not tf.io.gfile.exists(path):
        return []
    return [Reject(**line) for line in csv.DictReader(io.StringIO(_read(path)))]


def _inspection_lines(
    rows: Sequence[Row], results: Sequence[Inspection | str]
) -> Iterator[list[Any]]:
    for row, result in zip(rows, results, strict=True):
        if isinstance(result, str):
            yield [row.id, result, *[""] * 5]
        else:
            yield [row.id, "", *dataclasses.astuple(result)]


def _write_csv(path: str, header: list[str], lines: Iterable[Sequence[Any]]) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    write_text(path, buffer.getvalue())


def _read(path: str) -> str:
    with tf.io.gfile.GFile(path) as file:
        return file.read()
