"""Writes a table of images as shuffled TFRecord shards with a manifest.

    python tfrecords_tools/write.py --table train.csv --output data/train
    python tfrecords_tools/write.py --table index.csv --output data/index --split index

The first pass looks at every image, the second writes the shards. Each shard appears under its
final name only when it is finished; the same command, started again, keeps it. Once the set is
complete the command changes nothing: images mended later need another folder.
"""

import argparse
import dataclasses
import os
import pathlib
import sys
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # a command without TensorFlow's notes

import tensorflow as tf
from PIL import Image

from input_pipeline import schema
from progress import Progress, ordered_map
from tfrecords_tools import images, plan, split
from tfrecords_tools.images import Inspection, RejectedImageError
from tfrecords_tools.options import Options
from tfrecords_tools.plan import ConversionError
from tfrecords_tools.shards import write_shards
from tfrecords_tools.tables import Reject, Row, Table, locate

MISSING = "missing"
UNREADABLE = "unreadable"

_EXIT_CODES = """exit codes:
  0  the shards are complete and no row was rejected
  1  stopped: no image is usable, the folder holds another conversion, or an image changed
  2  wrong arguments
  3  the shards are complete, but some rows were rejected: rejects.csv lists them"""


_Results = Sequence[Inspection | str]  # for each row what is known of its image, or the reason


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a conversion did.

    Attributes:
        manifest: what the data directory holds.
        rejects: the rows that were left out.
        changes: number of images per `Inspection.change`; empty if nothing was left to do.
        written: shards that this run wrote.
        kept: shards that an earlier run had finished.
        seconds: wall time of this run.
    """

    manifest: schema.Manifest
    rejects: Sequence[Reject]
    changes: Mapping[str, int]
    written: int
    kept: int
    seconds: float

    def __str__(self) -> str:
        lines = [
            f"{name:<12} {self.manifest.images(name):>9} images, {len(shards)} shards"
            for name, shards in self.manifest.splits.items()
        ]
        lines.append(f"{'classes':<12} {self.manifest.num_classes:>9}")
        reasons = f" ({_count_reasons(self.rejects)})" if self.rejects else ""
        lines.append(f"{'rejected':<12} {len(self.rejects):>9}{reasons}")
        for change in (images.CONVERTED, images.SHRUNK):
            if self.changes.get(change):
                lines.append(f"{change:<12} {self.changes[change]:>9} to JPEG")
        done = f"{self.written} shards written, {self.kept} kept, {self.seconds:.1f} s"
        lines.append(done if self.written else f"nothing to do: {self.kept} shards are complete")
        return "\n".join(lines)


def write(
    output: str, *, workers: int | None = None, stream: TextIO | None = sys.stderr, **options: Any
) -> Summary:
    """Converts a table or a tree of images to a data directory.

    Args:
        output: the data directory; it may hold what an earlier run of the same conversion left.
        workers: number of threads, without effect on the result. Default: one per CPU core.
        stream: where progress goes; None shows nothing.
        **options: see `Options`.

    Raises FileNotFoundError and ValueError for wrong arguments, ConversionError if no image is
    usable, if `output` holds another conversion, or if an image changed since it was inspected.
    """
    start = time.monotonic()
    workers = (os.cpu_count() or 1) if workers is None else workers
    if workers < 1:
        raise ValueError(f"expected workers >= 1. Received: {workers}")
    chosen = Options(**options)
    job = _Job(os.fspath(output), chosen, chosen.read(), workers, stream)
    request = plan.request_digest(chosen.as_dict(), job.table)
    known = plan.load_plan(job.output)
    if known is not None and known.request != request:
        raise ConversionError(
            "expected a folder for this table with these options only. "
            f"Received: {job.output}, whose {plan.PLAN_NAME} belongs to another conversion"
        )
    summary = _summarise_complete(job.output, known)
    if summary is None:
        summary = _convert(job, request, known)
    return dataclasses.replace(summary, seconds=time.monotonic() - start)


@dataclasses.dataclass(frozen=True)
class _Job:
    output: str
    options: Options
    table: Table
    workers: int
    stream: TextIO | None


def _summarise_complete(output: str, known: plan.Plan | None) -> Summary | None:
    """Returns the summary of a conversion that an earlier run completed, else None."""
    if known is None:
        return None
    try:
        manifest = schema.Manifest.load(output)
    except (FileNotFoundError, ValueError):  # not written yet, or damaged since
        return None
    shards = [shard for members in manifest.splits.values() for shard in members]
    is_complete = manifest.plan == known.plan and all(
        _size(os.path.join(output, shard.name)) == shard.bytes for shard in shards
    )
    if not is_complete:
        return None
    return Summary(manifest, plan.load_rejects(output), {}, 0, len(shards), 0.0)


def _size(path: str) -> int | None:
    return tf.io.gfile.stat(path).length if tf.io.gfile.exists(path) else None


def _convert(job: _Job, request: str, known: plan.Plan | None) -> Summary:
    tf.io.gfile.makedirs(job.output)
    results = _inspect(job, request)
    digest = plan.plan_digest(request, job.table.rows, results)
    if known is not None and known.plan != digest:
        plan.remove_inspections(job.output)
        raise ConversionError(
            "expected the images that an earlier run of this command inspected. "
            f"Received: others; empty {job.output} or choose another folder"
        )
    good, rejects = _sort_out(job.table, results)
    plan.save_rejects(job.output, rejects)
    if not good:
        plan.remove_inspections(job.output)
        raise ConversionError(
            f"expected at least one usable image. Received: {len(rejects)} rejected rows "
            f"({_count_reasons(rejects)})"
        )
    plan.save_plan(job.output, plan.Plan(request, digest))
    rows = [row for row in job.table.rows if row.id in good]
    manifest, kept = _write_splits(job, rows, good, rejected=len(rejects), digest=digest)
    plan.remove_inspections(job.output)
    changes = Counter(inspection.change for inspection in good.values())
    written = sum(map(len, manifest.splits.values())) - kept
    return Summary(manifest, rejects, changes, written, kept, 0.0)


def _inspect(job: _Job, request: str) -> _Results:
    """The first pass: decodes every image, or reads what a stopped run found."""
    rows = job.table.rows
    results = plan.load_inspections(job.output, request)
    if results is not None:
        return results
    progress = Progress("inspect", len(rows), job.stream)
    results = []
    for result in ordered_map(lambda row: _inspect_row(job, row), rows, workers=job.workers):
        results.append(result)
        progress.advance()
    progress.close()
    plan.save_inspections(job.output, request, rows, results)
    return results


def _inspect_row(job: _Job, row: Row) -> Inspection | str:
    try:
        data = _read_image(locate(job.table.images, row.path))
        return images.inspect(data, max_side=job.options.max_side)
    except RejectedImageError as error:
        return str(error)


def _read_image(path: str) -> bytes:
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read()
    except tf.errors.NotFoundError as error:
        raise RejectedImageError(MISSING) from error
    except tf.errors.OpError as error:
        raise RejectedImageError(UNREADABLE) from error


def _sort_out(table: Table, results: _Results) -> tuple[dict[str, Inspection], list[Reject]]:
    good, rejects = {}, list(table.rejects)
    for row, result in zip(table.rows, results, strict=True):
        if isinstance(result, str):
            rejects.append(Reject(row.id, row.path, result))
        else:
            good[row.id] = result
    return good, rejects


def _write_splits(
    job: _Job, rows: Sequence[Row], good: Mapping[str, Inspection], *, rejected: int, digest: str
) -> tuple[schema.Manifest, int]:
    """The second pass: writes the shards and the manifest; returns it and the shards kept."""
    options = job.options
    if options.split is None:
        splits = split.split_for_training(rows, seed=options.seed, validation=options.validation)
    else:
        splits = {options.split: split.shuffle(rows, options.seed)}
    class_ids = split.sort_class_ids(row.label for row in rows)
    labels = {class_id: label for label, class_id in enumerate(class_ids)}

    def make_record(row: Row) -> bytes:
        return _make_record(job, row, good[row.id], labels.get(row.label, schema.NO_LABEL))

    shards, kept = write_shards(
        job.output,
        split.cut_into_shards(splits, options.images_per_shard),
        make_record,
        workers=job.workers,
        stream=job.stream,
    )
    manifest = schema.Manifest(
        directory=job.output,
        splits=shards,
        class_ids=tuple(class_ids),
        clean_counts=split.count_by_class(splits.get(schema.TRAIN_CLEAN, ()), class_ids),
        noisy_counts=split.count_by_class(splits.get(schema.TRAIN_NOISY, ()), class_ids),
        options=options.as_dict(),
        rejected=rejected,
        plan=digest,
    )
    manifest.save()
    return manifest, kept


def _make_record(job: _Job, row: Row, inspection: Inspection, label: int) -> bytes:
    path = locate(job.table.images, row.path)
    try:
        data = _read_image(path)
    except RejectedImageError as error:
        raise ConversionError(f"{path}: {error}, though it was read before") from error
    if len(data) != inspection.bytes:
        raise ConversionError(
            f"{path}: expected the {inspection.bytes} bytes that were inspected. "
            f"Received: {len(data)}"
        )
    return schema.encode_example(
        encoded=images.stored_bytes(data, inspection, quality=job.options.quality),
        image_format=inspection.format,
        height=inspection.height,
        width=inspection.width,
        label=label,
        image_id=row.id,
        is_clean=row.is_clean,
    )


def _count_reasons(rejects: Sequence[Reject]) -> str:
    counts = Counter(reject.reason for reject in rejects)
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Writes a table of images as shuffled TFRecord shards with a manifest.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--table", metavar="CSV", help="table with a header line")
    add("--folder", metavar="TREE", help="or: a tree with one folder per class")
    add("--output", required=True, metavar="DIR", help="the data directory to write")
    add("--images", metavar="DIR", help="where the table's paths start (default: its own folder)")
    add("--id-column", default="id", metavar="NAME", help="default: id")
    add("--label-column", metavar="NAME", help="default: label")
    add("--path-column", default="path", metavar="NAME", help="default: path")
    add("--clean-column", metavar="NAME", help="column of 1 and 0 (default: is_clean, if present)")
    add("--split", metavar="NAME", help="one split of this name for all rows, labels optional")
    add("--max-side", type=int, metavar="N", help="shrink larger images to N pixels, as JPEG")
    add("--quality", type=int, default=92, metavar="Q", help="of shrunk images (default: 92)")
    add("--images-per-shard", type=int, default=1000, metavar="N", help="default: 1000")
    add("--seed", type=int, default=0, metavar="N", help="of shuffle and validation (default: 0)")
    add("--workers", type=int, metavar="N", help="threads (default: one per CPU core)")
    add(
        "--validation",
        choices=split.VALIDATION_RULES,
        default=split.ONE_OF_FOUR,
        help="one image of each class with at least 4 clean images, or none (default: one-of-four)",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    arguments = vars(_parser().parse_args(argv))
    # A picture of too many pixels is listed in rejects.csv; Pillow's warning adds nothing.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    try:
        summary = write(arguments.pop("output"), **arguments)
    except (FileNotFoundError, ValueError) as error:
        print(f"write.py: {error}", file=sys.stderr)
        return 2
    except ConversionError as error:
        print(f"write.py: {error}", file=sys.stderr)
        return 1
    except tf.errors.OpError as error:  # a full disk, a folder without permission
        print(f"write.py: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("write.py: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    print(summary)
    return 3 if summary.rejects else 0


if __name__ == "__main__":
    sys.exit(main())
