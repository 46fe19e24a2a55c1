"""Writes images as shuffled TFRecord shards with a manifest.

    python tfrecords_tools/write.py --table train.csv --output data/train
    python tfrecords_tools/write.py --folder photos --output data/train --max-side 768
    python tfrecords_tools/write.py --table index.csv --output data/index --split index
    python tfrecords_tools/write.py --from gldv2:/data/gldv2 --output gs://bucket/gldv2 --dry-run

A first look at all images finds what is unusable, then all cores write the shards. Each appears
under its name when it is whole; the same command, started again, goes on from there. Once the set
is complete the command changes nothing: images mended later need another folder.
"""

import argparse
import dataclasses
import os
import pathlib
import sqlite3
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TextIO

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # a command without TensorFlow's notes

from PIL import Image

import files
import jobs
from input_pipeline import schema
from progress import format_seconds
from tfrecords_tools.conversion import plan, split, steps
from tfrecords_tools.conversion.findings import Findings, format_rejects
from tfrecords_tools.conversion.near_duplicates import (
    DISTANCE,
    NEAR_DUPLICATES_NAME,
    check_distance,
)
from tfrecords_tools.conversion.options import Options
from tfrecords_tools.conversion.steps import Conversion
from tfrecords_tools.readers import sources

_EXIT_CODES = """exit codes:
  0  the shards are complete and no row was rejected
  1  stopped: no image is usable, the folder holds another conversion, or the disk is full
  2  wrong arguments
  3  the shards are complete, but some rows were rejected: rejects.csv lists them"""


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a conversion did.

    Attributes:
        manifest: what the data directory holds.
        rejects: {reason: rows left out}.
        findings: what was found before the shards were written; None if nothing was left to do.
        written: shards that this run wrote.
        kept: shards that an earlier run had finished.
        seconds: wall time of this run.
    """

    manifest: schema.Manifest
    rejects: dict[str, int]
    findings: Findings | None
    written: int
    kept: int
    seconds: float

    def __str__(self) -> str:
        if self.findings is None:
            lines = [
                f"{name:<12} {self.manifest.images(name):>9} images"
                for name in self.manifest.splits
            ]
            lines.append(format_rejects(self.rejects))
            return "\n".join([*lines, f"nothing to do: {self.kept} shards are complete"])
        lines = [str(self.findings)]
        late = self.manifest.rejected - sum(self.findings.rejects.values())
        if late:
            lines.append(f"note: {late} more turned out unusable while they were written")
        images = self.manifest.images(*self.manifest.splits)
        lines.append(
            f"{self.written} shards written, {self.kept} kept, {images} images in "
            f"{self.seconds:.1f} s"
        )
        return "\n".join(lines)


def write(
    output: str,
    *,
    workers: int | None = None,
    near_duplicates: int | None = None,
    stream: TextIO | None = sys.stderr,
    beam: jobs.Beam | None = None,
    **options: Any,
) -> Summary:
    """Converts images to a data directory.

    Args:
        output: the data directory; it may hold what an earlier run of the same conversion left.
        workers: number of processes, without effect on the result. Default: one per CPU core.
        near_duplicates: also lists images that look the same, up to so many different bits of 64,
            in `near_duplicates.csv`; a good number is `near_duplicates.DISTANCE`. All are kept. If
            that file is missing from a complete set, it is made. Default: does not look.
        stream: where progress goes; None shows nothing.
        beam: runs the work on a cluster; the shards are the same.
        **options: see `Options`.

    Raises FileNotFoundError and ValueError for wrong arguments, ConversionError if no image is
    usable or `output` holds another conversion.
    """
    start = time.monotonic()
    job = _job(output, workers, near_duplicates, stream, beam, options)
    known = plan.load_plan(job.output)
    summary = _summarise_complete(job, known)
    if summary is None:
        catalogue, findings = steps.prepare(job, known)
        with catalogue:
            kept = steps.write_shards(job, catalogue)
            manifest = steps.finish(job, catalogue)
        shards = sum(map(len, manifest.splits.values()))
        rejects = plan.count_rejects(job.output)
        summary = Summary(manifest, rejects, findings, shards - kept, kept, 0.0)
    return dataclasses.replace(summary, seconds=time.monotonic() - start)


def preview(
    output: str,
    *,
    workers: int | None = None,
    near_duplicates: int | None = None,
    stream: TextIO | None = sys.stderr,
    beam: jobs.Beam | None = None,
    **options: Any,
) -> str:
    """Returns what `write` would do: counts, class sizes, disk and time.

    What it finds out about the images stays in `output`, and `write` goes on from there.
    """
    job = _job(output, workers, near_duplicates, stream, beam, options)
    known = plan.load_plan(job.output)
    if summary := _summarise_complete(job, known):
        return str(summary)
    catalogue, findings = steps.prepare(job, known)
    with catalogue:
        seconds, size = steps.try_out(job, catalogue)
    images = sum(findings.splits.values())
    return "\n".join(
        [
            str(findings),
            findings.draw_histogram(),
            f"disk: about {size * images / 1e9:.2f} GB in shards of up to "
            f"{job.options.images_per_shard} images",
            f"time: about {format_seconds(seconds * images / job.workers)} with {job.workers} "
            f"processes, {1000 * seconds:.2f} ms per image each",
        ]
    )


def _job(
    output: str,
    workers: int | None,
    near_duplicates: int | None,
    stream: TextIO | None,
    beam: jobs.Beam | None,
    options: dict[str, Any],
) -> Conversion:
    workers = (os.cpu_count() or 1) if workers is None else workers
    if workers < 1:
        raise ValueError(f"expected workers >= 1. Received: {workers}")
    if near_duplicates is not None:
        check_distance(near_duplicates)
    output, checked = os.fspath(output), Options(**options)
    job = Conversion(output, checked, workers, stream, beam, near_duplicates)
    _check_output(job.output, job.options.sources)
    return job


def _check_output(output: str, specifications: Sequence[str]) -> None:
    if files.exists(output) and not files.is_folder(output):
        raise ValueError(f"expected a folder for the shards. Received: {output}, a file")
    inside = files.absolute(output) + "/"
    for folder in sources.folders(specifications):
        # The shards of one run would be images of the next.
        if inside.startswith(files.absolute(folder).rstrip("/") + "/"):
            raise ValueError(f"expected an output outside the images' {folder}. Received: {output}")


def _summarise_complete(job: Conversion, known: plan.Plan | None) -> Summary | None:
    """Returns the summary of a conversion that an earlier run completed, else None."""
    asked = job.near_duplicates is not None
    if known is None or (asked and not files.exists(f"{job.output}/{NEAR_DUPLICATES_NAME}")):
        return None
    try:
        manifest = schema.Manifest.load(job.output)
        rejects = plan.count_rejects(job.output)
    except (FileNotFoundError, ValueError):  # not written yet, or damaged since
        return None
    shards = [shard for members in manifest.splits.values() for shard in members]
    is_complete = manifest.plan == known.plan and all(
        _has_size(os.path.join(job.output, shard.name), shard.bytes) for shard in shards
    )
    if not is_complete:
        return None
    if steps.digest_of_request(job) != known.request:
        raise steps.another_conversion(job.output)
    for path in (job.catalogue_path, job.catalogue_path + "-journal"):
        files.remove(path)  # of a command that was killed behind its last step but one
    return Summary(manifest, rejects, None, 0, len(shards), 0.0)


def _has_size(path: str, size: int) -> bool:
    return files.exists(path) and files.size_of(path) == size


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Writes images as shuffled TFRecord shards with a manifest.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_sources(parser.add_argument)
    _add_options(parser.add_argument)
    return parser.parse_args(argv)


def _add_sources(add: Callable[..., Any]) -> None:
    add("--table", nargs="+", default=[], metavar="FILE", help="CSV, Parquet or JSON-lines tables")
    add("--folder", nargs="+", default=[], metavar="TREE", help="trees with one folder per class")
    add(
        "--from",
        nargs="+",
        default=[],
        dest="sources",
        metavar="[NAME=]KIND:PLACE",
        help="gldv2:DIR, tfds:NAME, shards:DIR, table:FILE or folder:TREE; "
        "NAME goes before ids and labels",
    )
    add("--output", required=True, metavar="DIR", help="the data directory to write")
    add("--dry-run", action="store_true", help="say what would happen and write no shard")
    add("--images", metavar="DIR", help="where the table's paths start (default: its own folder)")
    add("--id-column", default="id", metavar="NAME", help="default: id")
    add("--label-column", metavar="NAME", help="default: label")
    add("--path-column", default="path", metavar="NAME", help="default: path")
    add("--clean-column", metavar="NAME", help="column of 1 and 0 (default: is_clean, if present)")


def _add_options(add: Callable[..., Any]) -> None:
    add("--split", metavar="NAME", help="one split of this name for all rows, labels optional")
    add("--decode", action="store_true", help="decode every image before the work begins")
    add("--max-side", type=int, metavar="N", help="shrink larger images to N pixels, as JPEG")
    add("--quality", type=int, default=92, metavar="Q", help="of shrunk images (default: 92)")
    add("--images-per-shard", type=int, default=1000, metavar="N", help="default: 1000")
    add("--seed", type=int, default=0, metavar="N", help="of shuffle and validation (default: 0)")
    add("--workers", type=int, metavar="N", help="processes (default: one per CPU core)")
    add(
        "--near-duplicates",
        nargs="?",
        type=int,
        const=DISTANCE,
        metavar="BITS",
        help=f"list images that look the same, up to BITS of 64 apart (without BITS: {DISTANCE})",
    )
    add(
        "--validation",
        choices=split.VALIDATION_RULES,
        default=split.ONE_OF_FOUR,
        help="one image of each class with at least 4 clean images, or none (default: one-of-four)",
    )
    add(
        "--runner",
        nargs=argparse.REMAINDER,
        metavar="BEAM",
        help="last: an Apache Beam runner and its options, such as DataflowRunner --project=P",
    )


def _arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the arguments of `write` and `preview`."""
    arguments = vars(args)
    tables, folders = arguments.pop("table"), arguments.pop("folder")
    arguments["sources"] += [f"table:{path}" for path in tables]
    arguments["sources"] += [f"folder:{path}" for path in folders]
    if runner := arguments.pop("runner"):
        folder = os.path.join(arguments["output"], "tasks")
        arguments["beam"] = jobs.Beam(runner[0], tuple(runner[1:]), folder)
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    arguments = _arguments(parse_args(argv))
    is_preview = arguments.pop("dry_run")
    # A picture of too many pixels is listed in rejects.csv; Pillow's warning adds nothing.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    try:
        result = preview(**arguments) if is_preview else write(**arguments)
    except (FileNotFoundError, ValueError) as error:
        print(f"write.py: {error}", file=sys.stderr)
        return 2
    # A full disk, a folder without permission.
    except (RuntimeError, OSError, ImportError, sqlite3.Error) as error:
        print(f"write.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("write.py: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    print(result)
    return 3 if not is_preview and result.rejects else 0


if __name__ == "__main__":
    sys.exit(main())
