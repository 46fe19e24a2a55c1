"""Reads a data directory back and reports everything that contradicts its manifest.

python tfrecords_tools/check.py data/train [--decode]
"""

import argparse
import collections
import dataclasses
import hashlib
import io
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any, TextIO

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # damaged images are reported below

import numpy as np

import files
import jobs
from input_pipeline import schema
from input_pipeline.records import DamagedRecordError, file_crc32c, read_records
from progress import Progress
from tfrecords_tools.conversion.split import TRAIN_SPLITS
from tfrecords_tools.readers.example_fields import BadExampleError, Place, find_values

_MAGIC = {"jpeg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n"}
_SHOWN_PROBLEMS = 50
_KEPT_PROBLEMS = 1000  # as sentences, of a set and of each shard; others are counted
_IMAGES_PER_WORKER = 2000  # below that many a further process costs more than it saves

_EXIT_CODES = """exit codes:
  0  the shards are as the manifest says
  1  they are not: the list says what is wrong
  2  wrong arguments, no manifest.json among them"""


@dataclasses.dataclass
class Report:
    """What a check found.

    Attributes:
        manifest: the manifest, as it was read.
        problems: one sentence for each of the first 1,000 contradictions; empty if all is well.
        more: further contradictions.
        images: records read per split.
        labels: records read per split and total label.
    """

    manifest: schema.Manifest
    problems: list[str] = dataclasses.field(default_factory=list)
    more: int = 0
    images: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    labels: dict[str, collections.Counter] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(collections.Counter)
    )

    @property
    def room(self) -> int:
        """How many more problems are kept as sentences."""
        return _KEPT_PROBLEMS - len(self.problems)

    def add(self, *problems: str, more: int = 0) -> None:
        """Takes in problems, and `more` that have no sentence."""
        kept = problems[: self.room]
        self.problems.extend(kept)
        self.more += len(problems) - len(kept) + more

    def __str__(self) -> str:
        lines = [f"{'split':<14}{'shards':>8}{'images':>12}{'MB':>10}{'classes':>9}"]
        for split, shards in self.manifest.splits.items():
            megabytes = sum(shard.bytes for shard in shards) / 1e6
            classes = len(set(self.labels[split]) - {schema.NO_LABEL})
            lines.append(
                f"{split:<14}{len(shards):>8}{self.images[split]:>12}{megabytes:>10.1f}{classes:>9}"
            )
        lines.extend(f"wrong: {problem}" for problem in self.problems[:_SHOWN_PROBLEMS])
        count = len(self.problems) + self.more
        if count > _SHOWN_PROBLEMS:
            lines.append(f"and {count - _SHOWN_PROBLEMS} more")
        lines.append(f"{count} problems" if count else "all is well")
        return "\n".join(lines)


def check(
    directory: str,
    *,
    decode: bool = False,
    workers: int | None = None,
    stream: TextIO | None = sys.stderr,
) -> Report:
    """Re-reads all shards of a data directory.

    Args:
        directory: what `tfrecords_tools.write` wrote.
        decode: whether TensorFlow decodes every image too.
        workers: number of processes. Default: one per CPU core.
        stream: where progress goes; None shows nothing.

    Memory is 40 bytes per image, in which the ids are compared as hashes of 64 bits: of 4 million
    ids two different ones are taken for the same once in two million checks.
    Raises FileNotFoundError without a manifest, ValueError if it is not one.
    """
    manifest = schema.Manifest.load(os.fspath(directory))
    report = Report(manifest)
    total = manifest.images(*manifest.splits)
    workers = max(1, min(workers or os.cpu_count() or 1, total // _IMAGES_PER_WORKER))
    progress = Progress("check", total, stream)
    shards = [(split, shard) for split, members in manifest.splits.items() for shard in members]
    hashes = []
    tasks = (_task(manifest, split, shard, decode) for split, shard in shards)
    results = jobs.run(_check_shard, tasks, workers=workers)
    for (split, _), result in zip(shards, results, strict=True):
        report.add(*result["problems"], more=result["more"])
        report.images[split] += len(result["hashes"])
        report.labels[split].update(dict(result["labels"]))
        hashes.append(np.array(result["hashes"], dtype=np.uint64))
        progress.advance(len(result["hashes"]))
    progress.close()
    _look_for_repeated_ids(report, [shard.name for _, shard in shards], hashes)
    _compare_counts(report)
    _look_for_other_files(report)
    return report


def _task(manifest: schema.Manifest, split: str, shard: schema.Shard, decode: bool) -> dict:
    return {
        "directory": manifest.directory,
        "shard": dataclasses.asdict(shard),
        "split": split,
        "classes": manifest.num_classes,
        "decode": decode,
    }


def _check_shard(task: dict[str, Any]) -> dict[str, Any]:
    """Reads one shard as far as it is whole; a task of `jobs.run`.

    Returns "problems", sentences, and "more", the number of others; "labels", a list of
    [label, records]; "hashes", an integer for each record, the same for the same id.
    """
    shard = schema.Shard(**task["shard"])
    path = os.path.join(task["directory"], shard.name)
    problems: list[str] = []
    labels: collections.Counter = collections.Counter()
    hashes: list[int] = []
    more = 0
    for number, record in enumerate(_read(path, shard, problems)):
        finding = _examine(record, task["classes"], task["split"], task["decode"])
        where = f"{shard.name}, record {number}{_named(finding.image_id)}"
        more += max(0, len(problems) + len(finding.problems) - _KEPT_PROBLEMS)
        problems += [f"{where}: {problem}" for problem in finding.problems]
        del problems[_KEPT_PROBLEMS:]
        labels[finding.label] += 1
        hashes.append(_hash(finding.image_id or where.encode()))  # no two without id are the same
    if len(hashes) != shard.images:
        problems.append(f"{shard.name}: expected {shard.images} records. Received: {len(hashes)}")
    return {"problems": problems, "more": more, "labels": [*labels.items()], "hashes": hashes}


def _hash(text: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def _named(image_id: bytes) -> str:
    return f", id {image_id.decode(errors='replace')}" if image_id else ""


@dataclasses.dataclass(frozen=True)
class _Finding:
    """What one record says, and what is wrong with it."""

    image_id: bytes = b""
    label: int = schema.NO_LABEL
    problems: tuple[str, ...] = ()


def _read(path: str, shard: schema.Shard, problems: list[str]) -> Iterator[bytes]:
    """Yields the records of a shard as far as they are whole."""
    if not files.exists(path):
        problems.append(f"{shard.name}: the file is missing")
        return
    size = files.size_of(path)
    if size != shard.bytes:
        problems.append(f"{shard.name}: expected {shard.bytes} bytes. Received: {size}")
    elif (checksum := file_crc32c(path)) != shard.crc32c:
        problems.append(f"{shard.name}: expected CRC-32C {shard.crc32c}. Received: {checksum}")
    try:
        yield from read_records(path)
    except DamagedRecordError:
        problems.append(f"{shard.name}: a record is cut off or fails its checksum")


def _examine(record: bytes, classes: int, split: str, decode: bool) -> _Finding:
    try:
        values = _values(record)
    except BadExampleError:
        return _Finding(problems=("not a tf.train.Example",))
    except ValueError as error:
        return _Finding(problems=(str(error),))
    if not values[schema.ID]:
        return _Finding(problems=(f"expected an id. Received: {values[schema.ID]!r}",))
    problems = [*_label_problems(values, classes, split), *_image_problems(values, decode)]
    return _Finding(values[schema.ID], values[schema.LABEL], tuple(problems))


def _values(record: bytes) -> dict[str, Any]:
    """Returns the features; ValueError unless each has exactly one value of its type."""
    found = find_values(io.BytesIO(record), 0, len(record), schema.FEATURES.keys())
    values: dict[str, Any] = {}
    for key, kind in schema.FEATURES.items():
        is_text = kind is bytes
        entries = [value for value in found.get(key, []) if isinstance(value, Place) == is_text]
        if len(entries) != 1:
            name = "text" if is_text else "integer"
            raise ValueError(f"{key}: expected one {name}. Received: {len(entries)}")
        (value,) = entries
        values[key] = record[value.offset : value.offset + value.size] if is_text else value
    return values


def _label_problems(values: dict[str, Any], classes: int, split: str) -> Iterator[str]:
    label, is_clean = values[schema.LABEL], values[schema.IS_CLEAN]
    lowest = 0 if split in TRAIN_SPLITS else schema.NO_LABEL
    if not lowest <= label < classes:
        yield f"expected a label from {lowest} to {classes - 1}. Received: {label}"
    expected = (int(split != schema.TRAIN_NOISY),) if split in TRAIN_SPLITS else (0, 1)
    if is_clean not in expected:
        yield f"expected is_clean in {expected}. Received: {is_clean}"


def _image_problems(values: dict[str, Any], decode: bool) -> Iterator[str]:
    image_format = values[schema.FORMAT].decode(errors="replace")
    expected_size = (values[schema.HEIGHT], values[schema.WIDTH])
    if image_format not in schema.IMAGE_FORMATS:
        yield f"expected a format of {schema.IMAGE_FORMATS}. Received: {image_format!r}"
    elif not values[schema.ENCODED].startswith(_MAGIC[image_format]):
        yield f"expected a {image_format} file. Received: {values[schema.ENCODED][:8]!r}"
    if min(expected_size) < 1:
        yield f"expected a height and a width of at least 1. Received: {expected_size}"
    if not decode:
        return
    import tensorflow as tf

    try:
        image = tf.io.decode_image(values[schema.ENCODED], channels=3, expand_animations=False)
    except tf.errors.InvalidArgumentError:
        yield "TensorFlow cannot decode the image"
        return
    size = tuple(image.shape[:2])
    if size != expected_size:
        yield f"expected an image of (height, width) {expected_size}. Received: {size}"


def _look_for_repeated_ids(report: Report, names: list[str], hashes: list[np.ndarray]) -> None:
    """Reports every record whose id an earlier one has; `hashes` of the records of each shard."""
    merged = np.concatenate([*hashes, np.empty(0, np.uint64)])  # (records,)
    starts = np.cumsum([0, *map(len, hashes)])  # (shards + 1,)
    order = np.argsort(merged, kind="stable")
    repeated = np.sort(order[1:][merged[order[1:]] == merged[order[:-1]]])
    shown, others = np.split(repeated, [report.room])
    report.add(more=len(others))
    for shard in np.unique(np.searchsorted(starts, shown, side="right") - 1):
        numbers = shown[(starts[shard] <= shown) & (shown < starts[shard + 1])] - starts[shard]
        path = os.path.join(report.manifest.directory, names[shard])
        for number, record in enumerate(read_records(path)):
            if number in numbers:
                where = f"{names[shard]}, record {number}{_named(_values(record)[schema.ID])}"
                report.add(f"{where}: the id was in an earlier record")
            if number == numbers[-1]:
                break


def _compare_counts(report: Report) -> None:
    """Compares the labels that were read with the manifest's counts per class."""
    manifest = report.manifest
    for split, counts in (
        (schema.TRAIN_CLEAN, manifest.clean_counts),
        (schema.TRAIN_NOISY, manifest.noisy_counts),
    ):
        for label, expected in enumerate(counts):
            received = report.labels[split][label]
            if received != expected:
                report.add(
                    f"{split}: expected {expected} images of label {label} "
                    f"(class {manifest.class_ids[label]}). Received: {received}"
                )


def _look_for_other_files(report: Report) -> None:
    """Reports shards that the manifest does not know and what a stopped run left."""
    manifest = report.manifest
    known = {shard.name for shards in manifest.splits.values() for shard in shards}
    for pattern in ("*.tfrec", "*.partial"):
        for path in files.find_in(manifest.directory, pattern):
            if os.path.basename(path) not in known:
                report.add(f"{os.path.basename(path)}: not in the manifest")


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description="Reads a data directory back and compares it with its manifest.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", metavar="DIR", help="what write.py wrote")
    parser.add_argument("--decode", action="store_true", help="decode every image too")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes (default: one per core)"
    )
    arguments = parser.parse_args(argv)
    try:
        report = check(arguments.directory, decode=arguments.decode, workers=arguments.workers)
    except FileNotFoundError as error:
        print(f"check.py: {error}", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"check.py: {error}", file=sys.stderr)
        return 1
    print(report)
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
