"""What tells one conversion from another, and the list of rows that were left out.

`plan.json` has two digests: `request`, of the options and the rows; `plan`, of the request and what
the inspection found. Shards belong to a conversion only if both agree.
"""

import csv
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import files
from input_pipeline.schema import MANIFEST_NAME
from tfrecords_tools.readers.tables import Reject, Row

PLAN_NAME = "plan.json"
REJECTS_NAME = "rejects.csv"

_MODULUS = 2**256


class ConversionError(RuntimeError):
    """A conversion that cannot go on: no usable image, or a folder that holds something else."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The digests in `plan.json`."""

    request: str
    plan: str


class Digest:
    """A digest of rows that pass by; their order does not count."""

    def __init__(self, start: str = ""):
        self._sum = int.from_bytes(hashlib.sha256(start.encode()).digest(), "big")

    def add(self, *values: Any) -> None:
        """Counts one row in."""
        digest = hashlib.sha256(json.dumps(values).encode()).digest()
        self._sum = (self._sum + int.from_bytes(digest, "big")) % _MODULUS

    def watch(self, rows: Iterable[Row | Reject]) -> Iterator[Row | Reject]:
        """Yields the rows as they come and counts them in."""
        for row in rows:
            self.add(*dataclasses.astuple(row))
            yield row

    def __str__(self) -> str:
        return f"{self._sum:064x}"


def request_digest(options: Mapping[str, Any]) -> Digest:
    """Returns the digest of the options, to which the rows are added."""
    return Digest(json.dumps(options, sort_keys=True))


def load_plan(directory: str) -> Plan | None:
    """Reads `plan.json`; None where there is no shard yet, as after a dry run, and none counts.

    Raises ConversionError if it is damaged, or if there are shards or a manifest without it.
    """
    there = [name for name in ("*.tfrec", MANIFEST_NAME) if files.find_in(directory, name)]
    if not there:
        return None
    path = f"{directory}/{PLAN_NAME}"
    if not files.exists(path):
        raise ConversionError(
            f"expected an empty folder or one that this command began. "
            f"Received: {directory}, with {there[0]} and without {PLAN_NAME}"
        )
    try:
        return Plan(**json.loads(files.read(path)))
    except (TypeError, ValueError) as error:
        raise ConversionError(f"{path}: expected two digests. Received: {error}") from error


def save_plan(directory: str, plan: Plan) -> None:
    """Writes `plan.json`."""
    text = json.dumps(dataclasses.asdict(plan), indent=1) + "\n"
    files.write_text(f"{directory}/{PLAN_NAME}", text)


def save_rejects(directory: str, rejects: Iterable[Reject]) -> None:
    """Writes `rejects.csv`."""
    with files.replacing(f"{directory}/{REJECTS_NAME}") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "path", "reason"])
        writer.writerows(map(dataclasses.astuple, rejects))


def count_rejects(directory: str) -> dict[str, int]:
    """Returns {reason: rows} of `rejects.csv`; an absent file counts as an empty one.

    Raises ValueError if it is damaged.
    """
    path = f"{directory}/{REJECTS_NAME}"
    counts: dict[str, int] = {}
    if files.exists(path):
        with files.open_file(path) as file:
            try:
                lines = csv.reader(file)
                next(lines, None)
                for _, _, reason in lines:
                    counts[reason] = counts.get(reason, 0) + 1
            except (csv.Error, ValueError) as error:
                raise ValueError(f"{path}: expected three cells in a row: {error}") from error
    return counts
