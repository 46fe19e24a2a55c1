"""From images to embeddings: python export/embed.py --model SAVEDMODEL --table T.csv --output DIR.

    python export/embed.py --model model --images photos --output embeddings/photos
    python export/embed.py --model model --data data/index --split index --output embeddings/index

The images of tables, of a folder or of a split of shards are embedded in parts of a fixed number of
images; the finished parts are then joined to an embeddings directory. The same command, started
again, goes on with the missing parts, on this machine or on a cluster, with the same result byte
for byte. A bad image is left out, listed in rejects.csv and counted.
"""

import argparse
import csv
import dataclasses
import functools
import json
import os
import pathlib
import sys
import warnings
from typing import TextIO

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
import tensorflow_wheels

os.environ.update(tensorflow_wheels.environment())  # before TensorFlow is imported

from PIL import Image

import files
import jobs
from export import device, parts
from export.images import Folder, Shards, Source, Tables
from export.request import REJECTS_NAME, TASKS_NAME, Request, images_of_part, make_request
from progress import Progress
from retrieval.embeddings import MANIFEST_NAME, EmbeddingsWriter

_EPILOG = f"""{device.HELP}

exit codes:
  0  the embeddings are complete and no image was rejected
  1  stopped: the folder holds other embeddings, a part is damaged, or the disk is full
  2  wrong arguments, tables or shards
  3  the embeddings are complete, but some images were rejected: rejects.csv lists them"""


@dataclasses.dataclass(frozen=True)
class Counts:
    """What `embed` did.

    Attributes:
        described: images in the embeddings directory.
        rejected: images that were left out.
        is_new: False if an earlier run had completed the directory.
    """

    described: int
    rejected: int
    is_new: bool = True


def embed(
    source: Source,
    model: str,
    output: str,
    *,
    batch_size: int = 64,
    images_per_part: int = 4096,
    overwrite: bool = False,
    beam: jobs.Beam | None = None,
    stream: TextIO | None = sys.stderr,
) -> Counts:
    """Embeds images with a SavedModel and writes an embeddings directory.

    An ensemble's descriptors all have the same length, the norm of its weights; they are stored
    divided by it, which changes no ranking.

    Args:
        source: `Tables(["index.csv"])`, `Folder("photos")` or `Shards("data", "index")`.
        model: folder that `export.savedmodel` has written.
        output: embeddings directory; it may hold what an earlier run of this request left.
        batch_size: images per call of the model; the last batch is filled up, so that one shape
            is compiled.
        images_per_part: images that a stopped run loses at most, without effect on the result;
            rounded up to whole batches.
        overwrite: whether embeddings of another request in `output` are removed.
        beam: runs the parts on a cluster, which must see all paths; its folder is one in `output`.
        stream: where progress goes; None shows nothing.

    Raises:
        FileNotFoundError: `model` is no SavedModel of ours, or a table or folder is missing.
        KeyError: the data directory has no such split.
        ValueError: an argument is wrong, an id is repeated or unusable, a path leads out of its
            table's folder, or a shard is damaged.
        OtherRequestError: `output` holds embeddings of another request.
        RuntimeError: a part that an earlier run left is damaged.
    """
    request = make_request(source, model, output, batch_size, images_per_part)
    if overwrite:
        request.clear()
    is_new = not request.is_complete()
    if is_new:
        request.begin()
        _run(request, beam, stream)
        _join(request)
    request.remove_parts()
    manifest = json.loads(files.read(request.path(MANIFEST_NAME)))
    return Counts(manifest["count"], manifest["rejected"], is_new)


def _run(request: Request, beam: jobs.Beam | None, stream: TextIO | None) -> None:
    """Embeds the parts that are missing."""
    paths = request.part_paths()
    done = request.finished_parts()
    wanted = {path for path in paths if path not in done}
    kept = sum(map(images_of_part, done.intersection(paths)))
    if kept and stream is not None:
        print(f"embed: {kept} images were embedded by an earlier run", file=stream)
    if not wanted:
        return
    # What an earlier run has finished shows in its parts.
    files.remove_folder(request.path(TASKS_NAME))
    if beam is None:
        parts.load_model(request.model, request.model_digest)  # before the rate is measured
    progress = Progress("embed", request.survey.images - kept, stream)
    if beam is None:
        function = functools.partial(parts.embed_part, advance=progress.advance)
        for _ in jobs.run(function, request.tasks(wanted), workers=1):
            pass
    else:
        beam = dataclasses.replace(beam, folder=request.path(TASKS_NAME))
        for result in jobs.run(parts.embed_part, request.tasks(wanted), workers=1, beam=beam):
            progress.advance(result["images"])
    progress.close()


def _join(request: Request) -> None:
    """Joins the parts in order, one at a time in memory; the manifest is written last."""
    paths = request.part_paths()
    rejected = _write_rejects(request.path(REJECTS_NAME), paths)
    writer = EmbeddingsWriter(
        request.output,
        request.dimension,
        model_digest=request.model_digest,
        source=request.source.name,
        count=request.survey.images - rejected,
        request=request.digest,
    )
    with writer:
        for path in paths:
            writer.append(parts.read_texts(path)["ids"], parts.read_vectors(path))
        writer.reject(rejected)


def _write_rejects(path: str, paths: list[str]) -> int:
    """Writes the ids and reasons of all rejected images; returns their number."""
    count = 0
    with files.replacing(path) as file:
        writer = csv.writer(file)
        writer.writerow(("id", "reason"))
        for part in paths:
            rejects = parts.read_texts(part)["rejects"]
            writer.writerows(rejects)
            count += len(rejects)
    return count


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", maxsplit=1)[0],
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, help="folder of export/savedmodel.py")
    add_source(parser)
    add("--output", required=True, help="embeddings directory to write")
    add("--overwrite", action="store_true", help="remove embeddings of another request there")
    add("--batch-size", type=int, default=64)
    add(
        "--images-per-part",
        type=int,
        default=4096,
        metavar="N",
        help="without effect on the result; rounded up to whole batches (default: 4096)",
    )
    add(
        "--runner",
        nargs=argparse.REMAINDER,
        metavar="BEAM",
        help="last: an Apache Beam runner and its options, such as DataflowRunner --project=P",
    )
    args = parser.parse_args(argv)
    check_source(parser, args)
    if args.runner is not None and not args.runner:
        parser.error("--runner: expected the name of an Apache Beam runner")
    return args


def add_source(parser: argparse.ArgumentParser) -> None:
    """Adds the options that name images."""
    sources = parser.add_mutually_exclusive_group(required=True)
    sources.add_argument("--table", nargs="+", help="CSV tables with id and path")
    sources.add_argument("--images", metavar="FOLDER", help="all JPEG and PNG files below it")
    sources.add_argument("--data", metavar="DIR", help="folder of shards, with --split")
    parser.add_argument("--split", help="split of the shards")
    parser.add_argument("--id-column", default="id")
    parser.add_argument("--path-column", default="path")


def check_source(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends with a usage error unless a split goes with shards."""
    if bool(args.data) != bool(args.split):
        parser.error("--data and --split: expected both or neither")


def source_of(args: argparse.Namespace) -> Source:
    """Returns the images that the command line names."""
    if args.data:
        return Shards(args.data, args.split)
    if args.images:
        return Folder(args.images)
    return Tables(args.table, args.id_column, args.path_column)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    args = parse_args(argv)
    # A picture of too many pixels is listed in rejects.csv; Pillow's warning adds nothing.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    print(f"embeddings: {args.runner[0] if args.runner else device.describe()}", flush=True)
    try:
        counts = embed(
            source_of(args),
            args.model,
            args.output,
            batch_size=args.batch_size,
            images_per_part=args.images_per_part,
            overwrite=args.overwrite,
            beam=jobs.Beam(args.runner[0], tuple(args.runner[1:])) if args.runner else None,
            stream=sys.stderr,
        )
    except (ValueError, FileNotFoundError, KeyError) as error:
        print(f"error: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
        return 2
    except (RuntimeError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    done = "" if counts.is_new else "nothing to do: "
    print(f"{args.output}: {done}{counts.described} images, {counts.rejected} rejected")
    return 3 if counts.rejected else 0


if __name__ == "__main__":
    sys.exit(main())
