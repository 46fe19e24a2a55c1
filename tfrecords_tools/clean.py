"""Makes a clean set from a noisy one: removes images whose label their neighbours do not share.

    python tfrecords_tools/clean.py --embeddings emb/train --table train.csv --output clean.csv
    python tfrecords_tools/write.py --table clean.csv --output data/train

The embeddings are those of a network that was trained on the noisy set, or on another one. The
output is the table with two more columns: `agreement` and `is_clean`, 1 or 0, from which write.py
makes the clean and the total set.

GLDv2's clean set (Yokoo et al., "Two-stage Discriminative Re-ranking for Large-scale Landmark
Retrieval", arXiv:2003.11211; Ozaki and Yokoo, arXiv:1906.04087) was made like this: of the 1,000
nearest images in the whole training set, at most 100 with the image's own label are matched with
it by DELF features and RANSAC with an affine map; a pair is verified from 30 inliers on; an image
stays if 3 of its pairs are; a class stays if it has 2 images left. 1,580,470 of 4,132,914 images
and 81,313 of 203,094 classes stayed.

Here descriptors decide, so that no local features are needed. An image stays if its 5 nearest
images of the same label are, by squared distance, at most 1 / 0.5 = 2 times as far as its 50
nearest images of any label (`neighbors.measure_agreement`). On 13 sets with 10 to 40 % of the
labels moved this ranked the moved ones with an average precision of 0.80 (labels counted among
100 neighbours: 0.71, similarity-weighted 0.72; distance to the class mean against the nearest
other: 0.81), and its one threshold gave F1 0.71 where the best for each set gave 0.75. It means
the same whatever the number of classes.

`--geometry` also keeps an image below the threshold if 2 of its 10 nearest images of the same
label match it with 30 inliers, SIFT in place of DELF. It pays for rigid things, with a higher
threshold: grocery with 20 % and 40 % moved, F1 0.85 and 0.85, with --geometry --agreement 0.7
0.86 and 0.88.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import os
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import TextIO

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

import files
from columns import column_names, read_columns
from retrieval.embeddings import Embeddings, few, load
from retrieval.search import KINDS
from tfrecords_tools.cleaning import histogram, labelled, verification
from tfrecords_tools.cleaning.labelled import Labelled
from tfrecords_tools.cleaning.neighbors import NO_LABEL, measure_agreement, own_neighbors
from tfrecords_tools.readers import tables

AGREEMENT_COLUMN, CLEAN_COLUMN = "agreement", "is_clean"

_EXIT_CODES = """exit codes:
  0  the table is written
  2  wrong arguments or input that cannot be used; nothing is written
  3  the table is written, but some of its rows could not be judged and are not clean"""


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a cleaning did.

    Attributes:
        images: with a label and an embedding.
        kept: of them that are in the clean set.
        verified: of `kept`, those below the threshold that geometry kept.
        removed: images whose neighbours do not share the label.
        dropped_images: good images of classes that have too few of them.
        classes: of the table.
        dropped_classes: of them without a clean image.
        left_out: number of rows that were not judged, by reason.
        missing: ids of the table without embedding.
        unlabelled: ids of the embeddings that the table lacks.
        unreadable: ids of images that the geometric check could not read.
        precision: share of moved labels among the images that are not kept; None if not known.
        recall: share of the moved labels that are not kept; None if not known.
    """

    images: int
    kept: int
    verified: int
    removed: int
    dropped_images: int
    classes: int
    dropped_classes: int
    left_out: dict[str, int]
    missing: Sequence[str]
    unlabelled: Sequence[str]
    unreadable: Sequence[str]
    precision: float | None
    recall: float | None

    def __str__(self) -> str:
        lines = [
            f"{'images':<17} {self.images:>9,}",
            f"{'kept':<17} {self.kept:>9,}",
            f"{'removed':<17} {self.removed:>9,}",
            f"{'in small classes':<17} {self.dropped_images:>9,}",
            f"{'classes':<17} {self.classes:>9,}, {self.dropped_classes:,} dropped",
        ]
        if self.verified:
            lines.append(f"{'kept by geometry':<17} {self.verified:>9,}")
        for reason, count in self.left_out.items():
            ids = f": {few(self.missing)}" if reason == labelled.NO_EMBEDDING else ""
            lines.append(f"{reason:<17} {count:>9,}{ids}")
        for name, ids in (("not in the table", self.unlabelled), ("unreadable", self.unreadable)):
            if ids:
                lines.append(f"{name:<17} {len(ids):>9,}: {few(ids)}")
        if self.precision is not None:
            lines.append(f"{'precision':<17} {self.precision:>9.3f}")
        if self.recall is not None:
            lines.append(f"{'recall':<17} {self.recall:>9.3f} of the moved labels")
        return "\n".join(lines)


def clean(
    output: str,
    *,
    embeddings: str,
    table: str,
    images: str | None = None,
    id_column: str = "id",
    label_column: str = "label",
    path_column: str = "path",
    truth_column: str | None = None,
    neighbors: int = 50,
    agreement: float = 0.5,
    min_images: int = 2,
    geometry: bool = False,
    search: str = "auto",
    report: str | None = None,
    workers: int | None = None,
    stream: TextIO | None = sys.stderr,
) -> Summary:
    """Writes a copy of a table with the columns `agreement` and `is_clean`.

    Args:
        output: the table to write, CSV; it appears when it is whole.
        embeddings: embeddings directory of the whole set.
        table: CSV, Parquet or JSON-lines with ids and labels.
        images: folder that the paths start from, for `geometry`. Default: the table's own folder.
        id_column: name of the column of ids.
        label_column: name of the column of labels, any text.
        path_column: name of the column of paths, for `geometry`.
        truth_column: name of a column of true labels, to measure precision and recall.
        neighbors: nearest images of the whole set that an image's own class is compared with.
        agreement: an image below it is removed; see `neighbors.measure_agreement`.
        min_images: a class with fewer clean images is dropped.
        geometry: whether matching local features keep an image below `agreement`.
        search: "exact", "scann" or "auto" (ScaNN from 20,000 images on).
        report: path of a PNG picture of the agreement of all images.
        workers: threads of the geometric check. Default: one per CPU core.
        stream: where progress goes; None shows nothing.

    Raises:
        FileNotFoundError: without the table or finished embeddings.
        ImportError: without OpenCV, for `geometry`, or without ScaNN.
        ValueError: the input does not fit together, or no image would be clean.
    """
    _check_numbers(agreement, min_images)
    store = load(embeddings)
    columns = {"id_column": id_column, "label_column": label_column}
    known = labelled.read(store, table, truth_column=truth_column, **columns)
    labelled.check_vectors(store)
    scores = measure_agreement(
        store.vectors, known.labels, neighbors=neighbors, search=search, stream=stream
    )
    is_good = scores >= agreement  # not if NaN: no other image has its label
    verified, unreadable = [], set()
    if geometry:
        rows = np.flatnonzero(scores < agreement)
        pairs = list(own_neighbors(store.vectors, known.labels, rows, verification.NEIGHBORS))
        paths = _paths(pairs, known, table, images=images, path_column=path_column, **columns)
        workers = workers or os.cpu_count() or 1
        verified, unreadable = verification.verify(pairs, paths, workers=workers, stream=stream)
        is_good[verified] = True
    is_clean = _in_large_classes(known.labels, is_good, min_images)
    _write(output, table, known, scores, is_clean)
    if report is not None:
        histogram.draw(report, scores, agreement, known.moved)
    return _summarise(store, known, is_good, is_clean, len(verified), unreadable)


def _check_numbers(agreement: float, min_images: int) -> None:
    if not 0 < agreement < float("inf"):
        raise ValueError(f"expected an agreement above 0. Received: {agreement}")
    if min_images < 1:
        raise ValueError(f"expected min_images of at least 1. Received: {min_images}")


def _paths(
    pairs: Sequence[verification.Candidate], known: Labelled, table: str, **columns: str | None
) -> dict[int, str]:
    """Returns the paths of the candidates and their neighbours, where the table may name them."""
    needed = {row for row, _ in pairs}.union(*(others.tolist() for _, others in pairs))
    paths = {}
    for row in tables.read_table(table, needs_label=False, **columns):
        if isinstance(row, tables.Row) and known.row_of.get(row.id) in needed:
            paths.setdefault(known.row_of[row.id], row.path)
    return paths


def _in_large_classes(labels: np.ndarray, is_good: np.ndarray, min_images: int) -> np.ndarray:
    """Returns `is_good` (N) without the classes that have fewer than `min_images` of them.

    Raises ValueError if nothing is left.
    """
    counts = np.bincount(labels[is_good], minlength=labels.max() + 1)
    is_clean = is_good & (counts[labels] >= min_images)
    if not is_clean.any():
        raise ValueError(
            f"expected a class of {min_images} images whose neighbours share their label. "
            f"Received: {len(labels):,} images and none such"
        )
    return is_clean


def _write(
    output: str, table: str, known: Labelled, scores: np.ndarray, is_clean: np.ndarray
) -> None:
    """Copies the table, row by row, and adds the two columns."""
    added = (AGREEMENT_COLUMN, CLEAN_COLUMN)
    names = [name for name in column_names(table) if name not in added]
    files.make_folder(os.path.dirname(files.absolute(output)))
    with files.replacing(output) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*names, *added])
        rows = read_columns(table, names)
        for cells, row in zip(rows, known.positions.tolist(), strict=True):
            judged = row >= 0 and np.isfinite(scores[row])
            score = f"{scores[row]:.4f}" if judged else ""
            writer.writerow([*cells, score, int(row >= 0 and is_clean[row])])


def _summarise(
    store: Embeddings,
    known: Labelled,
    is_good: np.ndarray,
    is_clean: np.ndarray,
    verified: int,
    unreadable: set[int],
) -> Summary:
    has_label = known.labels != NO_LABEL
    is_moved = known.moved == 1
    is_judged = has_label & ~is_clean & (known.moved >= 0)
    return Summary(
        images=known.images,
        kept=int(is_clean.sum()),
        verified=verified,
        removed=int((has_label & ~is_good).sum()),
        dropped_images=int((is_good & ~is_clean).sum()),
        classes=len(known.classes),
        dropped_classes=len(known.classes) - len(np.unique(known.labels[is_clean])),
        left_out={r: known.count(r) for r in labelled.REASONS if known.count(r)},
        missing=known.missing,
        unlabelled=_ids(store, np.flatnonzero(~has_label)),
        unreadable=_ids(store, sorted(unreadable)),
        precision=_share(is_moved[is_judged]),
        recall=_share(~is_clean[is_moved]),
    )


def _ids(store: Embeddings, rows: Sequence[int]) -> list[str]:
    return [store.ids[row] for row in rows]


def _share(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python tfrecords_tools/clean.py",
        description="Marks the images whose label their neighbours share: a clean set.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--embeddings", required=True, metavar="DIR", help="embeddings of the whole set")
    add("--table", required=True, help="CSV, Parquet or JSON-lines with ids and labels")
    add("--output", required=True, metavar="CSV", help="the table with agreement and is_clean")
    add("--images", metavar="DIR", help="folder the paths start from (default: the table's)")
    add("--id-column", default="id", metavar="NAME", help="(default: id)")
    add("--label-column", default="label", metavar="NAME", help="(default: label)")
    add("--path-column", default="path", metavar="NAME", help="(default: path)")
    add("--truth-column", metavar="NAME", help="true labels, to measure precision and recall")
    add("--neighbors", type=int, default=50, metavar="N", help="of the whole set (default: 50)")
    add("--agreement", type=float, default=0.5, help="images below are removed (default: 0.5)")
    add("--min-images", type=int, default=2, metavar="N", help="clean images of a class at least")
    add("--geometry", action="store_true", help="images whose local features match stay")
    add("--search", choices=KINDS, default="auto", help="(default: auto)")
    add("--report", metavar="PNG", help="a picture of the agreement of all images")
    add("--workers", type=int, metavar="N", help="threads of --geometry (default: all cores)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    args = parse_args(argv)
    try:
        summary = clean(**vars(args))
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing is written", file=sys.stderr)
        return 130
    print(summary)
    folder = args.images or os.path.dirname(os.path.abspath(args.table))
    print(f"{args.output}: for write.py --table {shlex.join([args.output, '--images', folder])}")
    return 3 if summary.left_out else 0


if __name__ == "__main__":
    sys.exit(main())
