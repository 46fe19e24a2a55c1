"""Reads a data directory back and reports everything that contradicts its manifest.

python tfrecords_tools/check.py data/train [--decode]
"""

import argparse
import collections
import dataclasses
import functools
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any, TextIO

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # damaged images are reported below

import tensorflow as tf
from google.protobuf.message import DecodeError

from input_pipeline import schema
from progress import Progress, ordered_map
from tfrecords_tools.shards import read_records, sha256_of
from tfrecords_tools.split import TRAIN_SPLITS

_MAGIC = {"jpeg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n"}
_SHOWN_PROBLEMS = 50

_EXIT_CODES = """exit codes:
  0  the shards are as the manifest says
  1  they are not: the list says what is wrong
  2  wrong arguments, no manifest.json among them"""


@dataclasses.dataclass
class Report:
    """What a check found.

    Attributes:
        manifest: the manifest, as it was read.
        problems: one sentence for each contradiction; empty if all is well.
        images: records read per split.
        labels: records read per split and total label.
    """

    manifest: schema.Manifest
    problems: list[str] = dataclasses.field(default_factory=list)
    images: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    labels: dict[str, collections.Counter] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(collections.Counter)
    )

    def __str__(self) -> str:
        lines = [f"{'split':<14}{'shards':>8}{'images':>12}{'MB':>10}{'classes':>9}"]
        for split, shards in self.manifest.splits.items():
            megabytes = sum(shard.bytes for shard in shards) / 1e6
            classes = len(set(self.labels[split]) - {schema.NO_LABEL})
            lines.append(
                f"{split:<14}{len(shards):>8}{self.images[split]:>12}{megabytes:>10.1f}{classes:>9}"
            )
        lines.extend(f"wrong: {problem}" for problem in self.problems[:_SHOWN_PROBLEMS])
        hidden = len(self.problems) - _SHOWN_PROBLEMS
        if hidden > 0:
            lines.append(f"and {hidden} more")
        lines.append(f"{len(self.problems)} problems" if self.problems else "all is well")
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
        workers: number of threads. Default: one per CPU core.
        stream: where progress goes; None shows nothing.

    Raises FileNotFoundError without a manifest, ValueError if it is not one.
    """
    manifest = schema.Manifest.load(os.fspath(directory))
    report = Report(manifest)
    progress = Progress("check", manifest.images(*manifest.splits), stream)
    seen: set[bytes] = set()
    for split, shards in manifest.splits.items():
        examine = functools.partial(
            _examine, classes=manifest.num_classes, split=split, decode=decode
        )
        for shard in shards:
            records = _read(os.path.join(manifest.directory, shard.name), shard, report)
            findings = ordered_map(examine, records, workers=workers or os.cpu_count() or 1)
            _add_shard(findings, split, shard, report, seen, progress)
    progress.close()
    _compare_counts(report)
    _look_for_other_files(report)
    return report


@dataclasses.dataclass(frozen=True)
class _Finding:
    """What one record says, and what is wrong with it."""

    image_id: bytes = b""
    label: int = schema.NO_LABEL
    problems: tuple[str, ...] = ()


def _read(path: str, shard: schema.Shard, report: Report) -> Iterator[bytes]:
    """Yields the records of a shard as far as they are whole."""
    if not tf.io.gfile.exists(path):
        report.problems.append(f"{shard.name}: the file is missing")
        return
    size = tf.io.gfile.stat(path).length
    if size != shard.bytes:
        report.problems.append(f"{shard.name}: expected {shard.bytes} bytes. Received: {size}")
    elif (digest := sha256_of(path)) != shard.sha256:
        report.problems.append(f"{shard.name}: expected sha256 {shard.sha256}. Received: {digest}")
    try:
        yield from read_records(path)
    except tf.errors.DataLossError:
        report.problems.append(f"{shard.name}: a record is cut off or fails its checksum")


def _examine(record: bytes, *, classes: int, split: str, decode: bool) -> _Finding:
    try:
        values = _values(tf.train.Example.FromString(record))
    except DecodeError:
        return _Finding(problems=("not a tf.train.Example",))
    except ValueError as error:
        return _Finding(problems=(str(error),))
    if not values[schema.ID]:
        return _Finding(problems=(f"expected an id. Received: {values[schema.ID]!r}",))
    problems = [*_label_problems(values, classes, split), *_image_problems(values, decode)]
    return _Finding(values[schema.ID], values[schema.LABEL], tuple(problems))


def _values(example: tf.train.Example) -> dict[str, Any]:
    """Returns the features; ValueError unless each has exactly one value of its type."""
    values: dict[str, Any] = {}
    for key, specification in schema.FEATURES.items():
        feature = example.features.feature.get(key, tf.train.Feature())
        is_text = specification.dtype == tf.string
        entries = feature.bytes_list.value if is_text else feature.int64_list.value
        if len(entries) != 1:
            kind = "text" if is_text else "integer"
            raise ValueError(f"{key}: expected one {kind}. Received: {len(entries)}")
        values[key] = entries[0]
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
    try:
        image = tf.io.decode_image(values[schema.ENCODED], channels=3, expand_animations=False)
    except tf.errors.InvalidArgumentError:
        yield "TensorFlow cannot decode the image"
        return
    size = tuple(image.shape[:2])
    if size != expected_size:
        yield f"expected an image of (height, width) {expected_size}. Received: {size}"


def _add_shard(
    findings: Iterator[_Finding],
    split: str,
    shard: schema.Shard,
    report: Report,
    seen: set[bytes],
    progress: Progress,
) -> None:
    """Adds what the records of one shard say to the report and their ids to `seen`."""
    images = 0
    for images, finding in enumerate(findings, start=1):
        where = f"{shard.name}, record {images - 1}"
        if finding.image_id:
            where += f", id {finding.image_id.decode(errors='replace')}"
        report.problems.extend(f"{where}: {problem}" for problem in finding.problems)
        report.labels[split][finding.label] += 1
        if finding.image_id in seen:
            report.problems.append(f"{where}: the id was in an earlier record")
        if finding.image_id:
            seen.add(finding.image_id)
        progress.advance()
    report.images[split] += images
    if images != shard.images:
        report.problems.append(f"{shard.name}: expected {shard.images} records. Received: {images}")


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
                report.problems.append(
                    f"{split}: expected {expected} images of label {label} "
                    f"(class {manifest.class_ids[label]}). Received: {received}"
                )


def _look_for_other_files(report: Report) -> None:
    """Reports shards that the manifest does not know and what a stopped run left."""
    manifest = report.manifest
    known = {shard.name for shards in manifest.splits.values() for shard in shards}
    for pattern in ("*.tfrec", "*.partial"):
        for path in sorted(tf.io.gfile.glob(os.path.join(manifest.directory, pattern))):
            if os.path.basename(path) not in known:
                report.problems.append(f"{os.path.basename(path)}: not in the manifest")


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description="Reads a data directory back and compares it with its manifest.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", metavar="DIR", help="what write.py wrote")
    parser.add_argument("--decode", action="store_true", help="decode every image too")
    parser.add_argument("--workers", type=int, metavar="N", help="threads (default: one per core)")
    arguments = parser.parse_args(argv)
    try:
        report = check(arguments.directory, decode=arguments.decode, workers=arguments.workers)
    except FileNotFoundError as error:
        print(f"check.py: {error}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"check.py: {error}", file=sys.stderr)
        return 1
    print(report)
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
