"""From images to embeddings: python export/embed.py --model SAVEDMODEL --table T.csv --output DIR.

Reads the images of tables, of a folder or of a split of shards, and writes an embeddings directory
in pieces: memory stays bounded whatever the number of images. A bad image is left out, listed in
rejects.csv and counted; the exit code is then 3.
"""

import argparse
import csv
import dataclasses
import io
import itertools
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # warnings, but no notes

import numpy as np
import tensorflow as tf
from PIL import Image

from export.savedmodel import INFO_NAME
from input_pipeline import ops, schema
from progress import Progress, ordered_map
from retrieval.embeddings import EmbeddingsWriter, atomic_file

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclasses.dataclass(frozen=True)
class Source:
    """One image that is still to be read: its id, and how to get its bytes."""

    image_id: str
    read: Callable[[], bytes]


def table_sources(path: str, *, id_column: str = "id", path_column: str = "path") -> list[Source]:
    """Returns the images of a CSV table; paths are relative to the table's folder.

    Raises:
        ValueError: a column is missing, an id is empty or repeated, or a path leads elsewhere.
    """
    folder = os.path.dirname(os.path.abspath(path))
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = {id_column, path_column} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(
                f"{path}: expected the columns {id_column} and {path_column}. "
                f"Received: {reader.fieldnames}"
            )
        rows = [(row[id_column], row[path_column]) for row in reader]
    return [Source(image_id, _file_reader(folder, name)) for image_id, name in rows]


def folder_sources(folder: str) -> list[Source]:
    """Returns the JPEG and PNG files below a folder; the id is the path relative to it."""
    paths = sorted(path for path in pathlib.Path(folder).rglob("*") if path.is_file())
    return [
        Source(path.relative_to(folder).as_posix(), path.read_bytes)
        for path in paths
        if path.suffix.lower() in IMAGE_SUFFIXES
    ]


def shard_sources(directory: str, split: str) -> Iterator[Source]:
    """Yields the images of one split of a data directory."""
    manifest = schema.Manifest.load(directory)
    for serialized in tf.data.TFRecordDataset(manifest.shard_paths(split)):
        parsed = tf.io.parse_single_example(serialized, dict(ops.FEATURES))
        encoded = parsed[schema.ENCODED]
        yield Source(parsed[schema.ID].numpy().decode(), encoded.numpy)


def _file_reader(folder: str, name: str) -> Callable[[], bytes]:
    path = os.path.normpath(os.path.join(folder, name))
    if os.path.commonpath([folder, path]) != folder:
        raise ValueError(f"expected a path inside {folder}. Received: {name!r}")
    return lambda: pathlib.Path(path).read_bytes()


@dataclasses.dataclass(frozen=True)
class Counts:
    """How many images `embed` has described and how many it had to leave out."""

    described: int
    rejected: int


def embed(
    sources: Iterable[Source],
    model: str,
    output: str,
    *,
    batch_size: int = 64,
    source_name: str = "",
    total: int = 0,
) -> Counts:
    """Describes images with a SavedModel and writes an embeddings directory.

    An ensemble's descriptors all have the same length, the norm of its weights; they are stored
    divided by it, which changes no ranking.

    Args:
        sources: the images; see `table_sources` and `shard_sources`.
        model: folder that `export.savedmodel` has written.
        output: embeddings directory to write.
        batch_size: images per call of the model; the last batch is filled up, so that one shape
            is compiled.
        source_name: for the manifest.
        total: number of images, for the time left; 0 if unknown.

    Returns:
        The counts; the left out images and the reasons are in `rejects.csv` in `output`.

    Raises:
        FileNotFoundError: `model` is no SavedModel of ours.
        ValueError: no image could be read, or an id is repeated.
    """
    info = load_info(model)
    norm = float(np.linalg.norm(info["weights"]))  # of an ensemble's descriptor; 1 for a member
    describe = tf.saved_model.load(model).signatures["resized"]
    squares = list(dict.fromkeys(ops.Square(**square) for square in info["squares"]))
    rejects, progress = [], Progress("embed", total, sys.stderr)
    writer = EmbeddingsWriter(
        output, info["dimension"], model_digest=info["model_digest"], source=source_name
    )
    with writer:
        decoded = _decode_all(sources, squares, rejects)
        while batch := list(itertools.islice(decoded, batch_size)):
            inputs = {}
            for position, square in enumerate(squares):
                images = np.zeros((batch_size, square.size, square.size, 3), np.uint8)
                images[: len(batch)] = [resized[position] for _, resized in batch]
                inputs[square.name] = tf.constant(images)
            vectors = describe(**inputs)["global_descriptor"].numpy()
            writer.append([image_id for image_id, _ in batch], vectors[: len(batch)] / norm)
            progress.advance(len(batch))
        writer.reject(len(rejects))
    progress.close()
    _write_rejects(output, rejects)
    return Counts(progress.done, len(rejects))


def load_info(model: str) -> dict:
    """Returns what `waymark.json` says about a SavedModel.

    Raises:
        FileNotFoundError: there is none.
    """
    path = pathlib.Path(model, INFO_NAME)
    if not path.is_file():
        raise FileNotFoundError(
            f"expected a folder written by export/savedmodel.py, with {INFO_NAME}. "
            f"Received: {model}"
        )
    return json.loads(path.read_text())


def _decode_all(
    sources: Iterable[Source], squares: list[ops.Square], rejects: list
) -> Iterator[tuple]:
    """Yields (id, image in all squares) in order, decoding some images ahead on all cores."""

    def decode(source: Source) -> tuple[str, list[np.ndarray] | Exception]:
        try:
            image = _decode(source.read())
            return source.image_id, [square(image).numpy() for square in squares]
        except (OSError, tf.errors.OpError, ValueError) as error:
            return source.image_id, error

    for image_id, resized in ordered_map(decode, sources, workers=os.cpu_count() or 1):
        if isinstance(resized, Exception):
            rejects.append((image_id, str(resized).splitlines()[0]))
        else:
            yield image_id, resized


def _decode(encoded: bytes) -> tf.Tensor:
    """Decodes one image, after a look at its header: a small file can hold a huge picture."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            pixels = image.width * image.height
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(str(error)) from error
    if pixels > schema.MAX_PIXELS:
        raise ValueError(f"expected at most {schema.MAX_PIXELS} pixels. Received: {pixels}")
    return ops.decode_image(tf.constant(encoded))


def _write_rejects(output: str, rejects: list) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("id", "reason"), *rejects])
    with atomic_file(pathlib.Path(output, "rejects.csv")) as file:
        file.write(text.getvalue().encode())


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--model", required=True, help="folder of export/savedmodel.py")
    images = parser.add_mutually_exclusive_group(required=True)
    images.add_argument("--table", nargs="+", help="CSV tables with id and path")
    images.add_argument("--images", metavar="FOLDER", help="all JPEG and PNG files below it")
    images.add_argument("--data", metavar="DIR", help="folder of shards, with --split")
    parser.add_argument("--split", help="split of the shards")
    parser.add_argument("--id-column", default="id")
    parser.add_argument("--path-column", default="path")
    parser.add_argument("--output", required=True, help="embeddings directory to write")
    parser.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args(argv)
    if bool(args.data) != bool(args.split):
        parser.error("--data and --split: expected both or neither")
    return args


def sources_of(args: argparse.Namespace) -> tuple[Iterable[Source], int, str]:
    """Returns the images the command line names, their number, and what to call them."""
    if args.data:
        total = schema.Manifest.load(args.data).images(args.split)
        return shard_sources(args.data, args.split), total, f"{args.data} {args.split}"
    if args.images:
        sources, name = folder_sources(args.images), args.images
    else:
        columns = {"id_column": args.id_column, "path_column": args.path_column}
        sources = [source for table in args.table for source in table_sources(table, **columns)]
        name = " ".join(args.table)
    return sources, len(sources), name


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    args = parse_args(argv)
    try:
        sources, total, name = sources_of(args)
        counts = embed(
            sources,
            args.model,
            args.output,
            batch_size=args.batch_size,
            source_name=name,
            total=total,
        )
    except (ValueError, FileNotFoundError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.output}: {counts.described} images, {counts.rejected} rejected")
    return 3 if counts.rejected else 0


if __name__ == "__main__":
    sys.exit(main())
