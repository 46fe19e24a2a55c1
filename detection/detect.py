"""Detects objects and cuts them out: python detection/detect.py --model DIR --table T.csv ...

    python detection/detect.py --model runs/detector --table images.csv --output detections
    python detection/detect.py --model runs/detector --video a.mp4 --frames 80:380:20 --output v

The crops are JPEG files below OUTPUT/crops, and OUTPUT/crops.csv has a row for each, with its
source, frame, score, label and box; `export/embed.py --table OUTPUT/crops.csv` embeds them. Images
that cannot be read, and frames that a video does not have, are listed in OUTPUT/rejects.csv.
"""

import argparse
import csv
import dataclasses
import itertools
import os
import pathlib
import sys
import zlib
from collections.abc import Iterable, Iterator
from typing import TextIO

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
import tensorflow_wheels

os.environ.update(tensorflow_wheels.environment())  # before TensorFlow is imported

import io

import numpy as np
import tensorflow as tf
from PIL import Image

import files
from detection import sources, videos
from detection.boxes import CORNERS, write_rejects
from detection.predict import Detections, Detector
from progress import Progress, ordered_map
from training import strategy

TABLE_NAME = "crops.csv"
CROPS_NAME = "crops"
REJECTS_NAME = "rejects.csv"
COLUMNS = ("id", "path", "source", "frame", "score", "label", *CORNERS)
WHEN_NONE = ("nothing", "whole")

_QUALITY = 95  # of the JPEG files
_BATCHES = 4  # of images that are decoded together
_EPILOG = """Runs on the first GPU, or on the CPU. A TPU is for training alone: fit.py --tpu.

exit codes:
  0  done
  1  stopped: the output cannot be written, or OpenCV is missing
  2  wrong arguments, tables or videos
  3  done, but some images or frames were left out: rejects.csv lists them"""


@dataclasses.dataclass(frozen=True)
class Counts:
    """What `detect` did: pictures read, crops written, pictures without one, and rejects."""

    pictures: int
    crops: int
    empty: int
    rejected: int


def detect(
    detector: Detector,
    pictures: sources.Pictures,
    output: str,
    *,
    margin: float = 0.0,
    when_none: str = "nothing",
    stream: TextIO | None = None,
) -> Counts:
    """Detects in all pictures and writes the crops and their tables.

    Args:
        detector: with its threshold.
        pictures: where they come from.
        output: folder; an earlier run's tables are replaced, and its crops overwritten.
        margin: share of a box's sides that a crop has more, at each of them.
        when_none: "nothing", or "whole": the crop of an image without a box is the image, with a
            score of 0.
        stream: where progress goes; None shows nothing.

    Raises:
        ValueError: an option is wrong, or ids are repeated.
        OSError: the output cannot be written.
    """
    if when_none not in WHEN_NONE or not 0 <= margin <= 1:
        raise ValueError(
            f"expected when_none of {WHEN_NONE} and a margin from 0 to 1. "
            f"Received: {when_none!r}, {margin}"
        )
    clash = sorted(set(pictures.kept) & set(COLUMNS))
    if clash:
        raise ValueError(f"--keep: expected columns other than {list(COLUMNS)}. Received: {clash}")
    progress = Progress("detect", pictures.count(), stream)
    files.make_folder(output)
    crops = empty = done = 0
    rejects = []
    with files.replacing(os.path.join(output, TABLE_NAME)) as file:
        writer = csv.writer(file)
        writer.writerow((*COLUMNS, *pictures.kept))
        for picture, found in _found(detector, pictures):
            done += 1
            progress.advance()
            if found is None:
                name = picture.source if picture.frame is None else picture.name
                rejects.append((name, picture.reason))
                continue
            is_empty = not len(found.boxes)
            empty += is_empty
            kept = _whole(picture.pixels) if is_empty and when_none == "whole" else found
            rows = _cut_out(picture, kept, output, margin)
            writer.writerows(rows)
            crops += len(rows)
    write_rejects(os.path.join(output, REJECTS_NAME), rejects)
    progress.close()
    return Counts(done, crops, empty, len(rejects))


def _found(
    detector: Detector, pictures: Iterable[sources.Picture]
) -> Iterator[tuple[sources.Picture, Detections | None]]:
    """Yields every picture with what was found in it; detects while the next ones are read."""
    pictures = iter(pictures)
    size = detector.batch_size * _BATCHES
    groups = iter(lambda: list(itertools.islice(pictures, size)), [])

    def work(group: list[sources.Picture]) -> list[tuple]:
        readable = [picture for picture in group if picture.pixels is not None]
        results = iter(detector([picture.pixels for picture in readable]))
        return [(picture, None if picture.pixels is None else next(results)) for picture in group]

    for pairs in ordered_map(work, groups, workers=1):
        yield from pairs


def _whole(pixels: np.ndarray) -> Detections:
    height, width = pixels.shape[:2]
    box = np.array([[0, 0, width, height]], np.float32)
    return Detections(box, np.zeros(1, np.float32), ("",))


def _cut_out(
    picture: sources.Picture, found: Detections, output: str, margin: float
) -> list[tuple]:
    """Writes the crops of one picture; returns their rows."""
    rows = []
    folder = f"{zlib.crc32(picture.name.encode()) % 256:02x}"  # few files in each
    for number, (box, score, label) in enumerate(
        zip(found.boxes, found.scores, found.labels, strict=True)
    ):
        crop_id = f"{picture.name}-{number}"
        path = f"{CROPS_NAME}/{folder}/{crop_id}.jpg"
        _write_crop(os.path.join(output, path), crop(picture.pixels, box, margin))
        frame = "" if picture.frame is None else picture.frame
        corners = (f"{corner:.2f}" for corner in box)
        rows.append(
            (crop_id, path, picture.source, frame, f"{score:.4f}", label, *corners, *picture.kept)
        )
    return rows


def crop(pixels: np.ndarray, box: np.ndarray, margin: float = 0.0) -> np.ndarray:
    """Cuts a box, with a margin, out of `(H, W, 3)`; at least one pixel."""
    height, width = pixels.shape[:2]
    xmin, ymin, xmax, ymax = (float(corner) for corner in box)
    wide, high = (xmax - xmin) * margin, (ymax - ymin) * margin
    left = min(max(int(np.floor(xmin - wide)), 0), width - 1)
    top = min(max(int(np.floor(ymin - high)), 0), height - 1)
    right = max(min(int(np.ceil(xmax + wide)), width), left + 1)
    bottom = max(min(int(np.ceil(ymax + high)), height), top + 1)
    return pixels[top:bottom, left:right]


def _write_crop(path: str, pixels: np.ndarray) -> None:
    files.make_folder(os.path.dirname(path))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY)
    files.write_bytes(path, buffer.getvalue())


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", maxsplit=1)[0],
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, help="workdir of detection/fit.py")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--table", nargs="+", help="CSV tables with id and path")
    which.add_argument("--images", metavar="FOLDER", help="all JPEG and PNG files below it")
    which.add_argument("--video", nargs="+", metavar="FILE", help="videos, with --frames")
    add("--frames", metavar="FIRST:LAST:STEP", help="indices from 0 on, the last one included")
    add("--keep", nargs="+", default=[], metavar="COLUMN", help="columns of --table to keep")
    add("--output", required=True, help="folder to write")
    add("--threshold", type=float, default=0.6, help="lowest score (default: 0.6)")
    add("--max-boxes", type=int, default=20, help="of an image (default: 20)")
    add("--overlap", type=float, default=0.6, help="of two boxes of a class (default: 0.6)")
    add("--margin", type=float, default=0.0, help="around a crop, of its sides (default: 0)")
    add("--when-none", choices=WHEN_NONE, default="nothing", help="default: nothing")
    add("--batch-size", type=int, default=8)
    args = parser.parse_args(argv)
    if bool(args.video) != bool(args.frames):
        parser.error("--video and --frames: expected both or neither")
    if args.keep and not args.table:
        parser.error("--keep: expected with --table")
    return args


def pictures_of(args: argparse.Namespace) -> sources.Pictures:
    """Returns the pictures that the command line names."""
    if args.video:
        return sources.VideoPictures(args.video, videos.parse_frames(args.frames))
    if args.images:
        return sources.FolderPictures(args.images)
    return sources.TablePictures(args.table, args.keep)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    args = parse_args(argv)
    try:
        device = strategy.device(tf.distribute.get_strategy())
        print(f"detection: {device}, TensorFlow {tf.__version__}", flush=True)
        pictures = pictures_of(args)
        detector = Detector(
            args.model,
            threshold=args.threshold,
            max_boxes=args.max_boxes,
            overlap=args.overlap,
            batch_size=args.batch_size,
        )
        counts = detect(
            detector,
            pictures,
            args.output,
            margin=args.margin,
            when_none=args.when_none,
            stream=sys.stderr,
        )
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    print(
        f"{args.output}: {counts.crops} crops of {counts.pictures} images, {counts.empty} without, "
        f"{counts.rejected} rejected"
    )
    return 3 if counts.rejected else 0


if __name__ == "__main__":
    sys.exit(main())
