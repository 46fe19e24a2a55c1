"""From images to class probabilities: python export/classify.py --recipe NAME --images FOLDER ...

    python export/classify.py --recipe tiny --images photos --classes data --output classes.csv
    python export/classify.py --recipe tiny --data data --split validation --output classes.csv

Writes the most probable classes of each image, by one finished model of a recipe or by the average
of all members' probabilities, and with --labels the share of images whose class is not the first,
or not among them.
"""

import argparse
import csv
import dataclasses
import os
import pathlib
import sys
from collections.abc import Collection, Iterator, Sequence
from typing import TextIO

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
import tensorflow_wheels

os.environ.update(tensorflow_wheels.environment())  # before TensorFlow is imported

import files
import recipes
from columns import column_names, read_columns
from export import device
from export.classifier import Classifier, Member, class_names, scale_of
from export.embed import add_source, check_source, source_of
from export.images import Source
from export.parts import Decoded, decoded
from export.savedmodel import add_members, members_of, square_of
from export.views import parse
from progress import Progress, ordered_map
from recipes import layout

REJECTS_SUFFIX = ".rejects.csv"

_IMAGES_PER_PART = 65_536
_EPILOG = f"""{device.HELP}

exit codes:
  0  all images are classified
  1  the files could not be written
  2  wrong arguments, tables or shards
  3  all but some images, which OUTPUT.rejects.csv lists, are classified"""


@dataclasses.dataclass(frozen=True)
class Errors:
    """Shares of labelled images.

    Attributes:
        images: how many have a label; one that was rejected counts, as wrong.
        first: share whose class is not the most probable one.
        any: share whose class is not among the written ones.
    """

    images: int
    first: float
    any: float


def classify(
    source: Source,
    classifier: Classifier,
    names: Sequence[str],
    output: str,
    *,
    batch_size: int = 64,
    stream: TextIO | None = sys.stderr,
) -> list[str]:
    """Writes the most probable classes of images, whole or not at all.

    Args:
        source: see `export.embed`.
        classifier: the models.
        names: of its classes.
        output: CSV to write: id, label_1, probability_1, label_2, …; OUTPUT.rejects.csv lists the
            images that could not be read, and is there only if there are any.
        batch_size: images per call.
        stream: where progress goes; None shows nothing.

    Returns:
        The ids of the rejected images.
    """
    survey = source.survey()
    if not survey.images:
        raise ValueError(f"expected at least one image. Received: none in {source.name}")
    progress = Progress("classify", survey.images, stream)
    rejects: list[tuple[str, str]] = []
    with files.replacing(output) as file:
        writer = csv.writer(file)
        columns = [(f"label_{k}", f"probability_{k}") for k in range(1, classifier.top + 1)]
        writer.writerow(["id", *(name for pair in columns for name in pair)])
        for rows in _rows(source, classifier, names, batch_size, rejects):
            writer.writerows(rows)
            progress.advance(len(rows))
    progress.close()
    _write_rejects(output + REJECTS_SUFFIX, rejects)
    return [image for image, _ in rejects]


def _rows(
    source: Source,
    classifier: Classifier,
    names: Sequence[str],
    batch_size: int,
    rejects: list[tuple[str, str]],
) -> Iterator[list[list]]:
    """Yields the rows of each batch; images that could not be read are added to `rejects`."""

    def run(batch: Decoded) -> tuple:
        return batch, *classifier(batch.images, batch_size)

    for part in source.parts(_IMAGES_PER_PART):
        batches = decoded(part, classifier.squares, batch_size)
        for batch, classes, probabilities in ordered_map(run, batches, workers=1):
            rows = []
            found = zip(batch.names, batch.reasons, classes, probabilities, strict=True)
            for name, reason, own, values in found:
                if reason is not None:
                    rejects.append((name, reason))
                    continue
                pairs = zip(own, values, strict=True)
                cells = [cell for k, p in pairs for cell in (names[k], f"{p:.6g}")]
                rows.append([name, *cells])
            yield rows


def _write_rejects(path: str, rejects: Sequence[tuple[str, str]]) -> None:
    files.remove(path)
    if rejects:
        with files.replacing(path) as file:
            csv.writer(file).writerows([("id", "reason"), *rejects])


def errors(
    predictions: str,
    table: str,
    *,
    rejected: Collection[str] = (),
    id_column: str = "id",
    label_column: str = "label",
) -> Errors:
    """Compares what `classify` wrote with a table of labels.

    Args:
        predictions: that file.
        table: of labels; rows of other images are passed over, and so are images without a row.
        rejected: ids of images that count as wrong.
        id_column, label_column: of the table.

    Raises:
        ValueError: a column is missing, or no image has a label.
    """
    labels = dict(read_columns(table, (id_column, label_column)))
    listed = [name for name in column_names(predictions) if name.startswith("label_")]
    total = sum(image in labels for image in rejected)
    first = among = 0
    for image, *found in read_columns(predictions, ["id", *listed]):
        if image in labels:
            total += 1
            first += labels[image] == found[0]
            among += labels[image] in found
    if not total:
        raise ValueError(
            f"expected labels of the images in {predictions}. Received: none in {table}"
        )
    return Errors(total, 1 - first / total, 1 - among / total)


def make_classifier(args: argparse.Namespace) -> tuple[Classifier, tuple[str, ...], list[str]]:
    """Returns the classifier, its classes and a line for each model, as the command line says."""
    recipe = recipes.load(args.recipe)
    workdir = args.workdir or os.path.join("runs", recipe.name)
    members, lines, names = [], [], set()
    for member, stage in members_of(recipe, args.member, args.stage):
        directory = layout.stage_directory(workdir, member.name, stage.number)
        scale = args.scale or scale_of(os.path.join(directory, "log.jsonl"))
        members.append(
            Member(
                layout.model_path(workdir, member.name, stage.number),
                square_of(member, stage, args.image_size, args.fit),
                scale,
                parse(args.views or member.model.views),
                member.weight,
            )
        )
        names.add(class_names(args.classes or args.data, stage.data))
        lines.append(
            f"{member.name} stage {stage.number}: {members[-1].square.size} px, softmax of "
            f"{scale:.4g} times its head, weight {member.weight:g}"
        )
    if len(names) != 1:
        raise ValueError("expected members of the same classes. Received: clean and total sets")
    (classes,) = names
    return Classifier(members, len(classes), min(args.top, len(classes))), classes, lines


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", maxsplit=1)[0],
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_members(parser, "average")
    add = parser.add_argument
    add("--views", help="as in export/savedmodel.py (default: the recipe's)")
    add("--scale", type=float, help="of the softmax (default: the last one in the training's log)")
    add("--classes", metavar="DIR", help="shards of the training (default: --data)")
    add_source(parser)
    add("--labels", metavar="CSV", help="columns id and label; prints the errors")
    add("--label-column", default="label", help="of --labels")
    add("--top", type=int, default=5, help="classes per image (default: %(default)s)")
    add("--batch-size", type=int, default=64)
    add("--output", required=True, metavar="CSV", help="id, label_1, probability_1, …")
    args = parser.parse_args(argv)
    check_source(parser, args)
    if not (args.classes or args.data):
        parser.error("--classes: expected the shards that the models were trained on")
    if args.scale is not None and not args.scale > 0:
        parser.error(f"--scale: expected a number above 0. Received: {args.scale}")
    for name in ("top", "batch_size"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: expected at least 1")
    return args


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    args = parse_args(argv)
    print(f"classes: {device.describe()}", flush=True)
    try:
        classifier, names, lines = make_classifier(args)
        print("\n".join(lines), flush=True)
        rejected = classify(
            source_of(args), classifier, names, args.output, batch_size=args.batch_size
        )
        print(f"{args.output}: {len(names)} classes, {len(rejected)} images rejected")
        if args.labels:
            found = errors(
                args.output,
                args.labels,
                rejected=rejected,
                id_column=args.id_column,
                label_column=args.label_column,
            )
            print(
                f"top-1 error {100 * found.first:.2f} %, top-{classifier.top} error "
                f"{100 * found.any:.2f} %, {found.images} images"
            )
    except (ValueError, FileNotFoundError, KeyError) as error:
        print(f"error: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 3 if rejected else 0


if __name__ == "__main__":
    sys.exit(main())
