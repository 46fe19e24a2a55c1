"""Labels queries by labelled images: `python retrieval/recognise.py --train DIR --query DIR ...`.

Several directories are the members of an ensemble. Writes the submission file of Google Landmark
Recognition, id,landmarks; `eval/gap.py --predictions` scores it.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import numpy as np

import files
from columns import read_columns
from retrieval import embeddings, ensemble
from retrieval.embeddings import Embeddings
from retrieval.reranking import non_landmarks as penalties
from retrieval.stored.unique_ids import few


@dataclasses.dataclass(frozen=True)
class Recognised:
    """One label for every query.

    Attributes:
        ids: Q ids.
        labels: Q labels.
        scores: (Q,) float64, how sure they are; may be negative.
    """

    ids: tuple[str, ...]
    labels: tuple[str, ...]
    scores: np.ndarray

    def rows(self, threshold: float = -math.inf) -> list[tuple[str, str | None, float]]:
        """Returns query, label and score; no label where the score is below the threshold."""
        return [
            (query, label if score >= threshold else None, score)
            for query, label, score in zip(self.ids, self.labels, self.scores.tolist(), strict=True)
        ]


def recognise(
    train: Sequence[str],
    query: Sequence[str],
    labels: Mapping[str, str],
    *,
    non_landmarks: Sequence[str] = (),
    top: int = 3,
    train_neighbours: int = 5,
    query_neighbours: int = 10,
) -> Recognised:
    """Labels queries by the rule of `retrieval.reranking.non_landmarks`, with exact search.

    Args:
        train: embeddings directories of the labelled images, one per member of the ensemble.
        query: the same for the queries.
        labels: the label of every labelled image. Of labels with equal sums the first wins,
            numerically if all of them are integers, else as text.
        non_landmarks: the same for images that show no landmark; without, nothing is marked down.
        top, train_neighbours, query_neighbours: see `retrieval.reranking.non_landmarks.recognise`.

    Raises:
        FileNotFoundError: if a directory is missing or unfinished.
        ValueError: if members, models, ids or labels do not fit each other.
    """
    named = {"train": train, "query": query, "non-landmark": non_landmarks or None}
    sets = {name: _load(name, part, train) for name, part in named.items() if part is not None}
    models = [member.manifest["model_digest"] for member in sets["train"]]
    for name, members in sets.items():
        ensemble.check_models(models, members, named[name])
    train_ids, train_rows = _aligned(sets["train"])
    query_ids, query_rows = _aligned(sets["query"])
    others = sets.get("non-landmark") or [None] * len(train)
    names, codes = class_codes(train_ids, labels)
    members = [
        penalties.Member(asked, labelled, None if other is None else other.vectors)
        for asked, labelled, other in zip(query_rows, train_rows, others, strict=True)
    ]
    winners, scores = penalties.recognise(
        members,
        codes,
        top=top,
        train_neighbours=train_neighbours,
        query_neighbours=query_neighbours,
    )
    return Recognised(query_ids, tuple(names[winner] for winner in winners), scores)


def _load(name: str, directories: Sequence[str], train: Sequence[str]) -> list[Embeddings]:
    if len(directories) != len(train) or not train:
        raise ValueError(
            f"expected {name} embeddings of every member. "
            f"Received: {len(directories)} directories for {len(train)} of labelled images"
        )
    return [embeddings.load(directory) for directory in directories]


def _aligned(members: Sequence[Embeddings]) -> tuple[tuple[str, ...], list]:
    """Returns the ids, and each member's rows in their order."""
    alignment = ensemble.align(members)
    if report := alignment.report():
        raise ValueError(f"expected the same ids in every member. Received: {report}")
    return alignment.ids, [
        member.vectors
        if rows is None
        else ensemble.ConcatenatedRows([member.vectors], [rows], [1.0])
        for member, rows in zip(members, alignment.rows, strict=True)
    ]


def class_codes(ids: Sequence[str], labels: Mapping[str, str]) -> tuple[list[str], np.ndarray]:
    """Returns the labels in order, and (N,) int64 the number of every image's label among them.

    Raises:
        ValueError: if an image has no label.
    """
    missing = [image for image in ids if image not in labels]
    if missing:
        raise ValueError(
            f"expected a label for every index image. Received none for {len(missing):,}: "
            f"{few(missing)}"
        )
    found = {labels[image] for image in ids}
    are_numbers = all(label.lstrip("-").isdecimal() for label in set(labels.values()))
    names = sorted(found, key=int if are_numbers else str)
    code_of = {name: code for code, name in enumerate(names)}
    return names, np.array([code_of[labels[image]] for image in ids], np.int64)


def read_labels(path: str, id_column: str, label_column: str) -> dict[str, str]:
    """Reads the label of every image of a table; ValueError for white space in one, or none."""
    labels = {}
    for image, label in read_columns(path, (id_column, label_column)):
        if label.split() != [label] or image in labels:
            raise ValueError(
                f"{path}: expected each image once, with one label without white space. "
                f"Received: {label!r} for {image!r}"
            )
        labels[image] = label
    return labels


def write_predictions(path: str, rows: Iterable[tuple[str, str | None, float]]) -> None:
    """Writes the submission file `id,landmarks`, one "label score" per query.

    Scores are written so that they are read back the same.

    Args:
        path: of the table.
        rows: query, label and score; without a label the field is empty.
    """
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with files.replacing(path) as file:
        file.write("id,landmarks\n")
        for query, label, score in rows:
            file.write(f"{query},{label} {float(score)!r}\n" if label else f"{query},\n")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python retrieval/recognise.py",
        description="Labels every query by its nearest labelled images, marked down where they, or "
        "the query, look like images of no landmark; writes a submission file id,landmarks.",
    )
    add = parser.add_argument
    each = "one directory per member of the ensemble"
    add("--train", nargs="+", metavar="DIR", required=True, help=f"labelled embeddings, {each}")
    add("--query", nargs="+", metavar="DIR", required=True, help="of the queries, the same members")
    add("--non-landmarks", nargs="+", metavar="DIR", default=[], help="of images of no landmark")
    add("--labels", metavar="CSV", required=True, help="labels of --train")
    add("--id-column", default="id", metavar="NAME", help="of --labels")
    add("--label-column", default="label", metavar="NAME", help="of --labels")
    add("--top", type=int, default=3, help="labelled images that vote, per member (default: 3)")
    add("--train-neighbours", type=int, default=5, help="non-landmarks of B (default: 5)")
    add("--query-neighbours", type=int, default=10, help="non-landmarks of C (default: 10)")
    add("--threshold", type=float, default=-math.inf, help="no label for lower scores")
    add("--output", required=True, metavar="CSV", help="submission, id,landmarks")
    args = parser.parse_args(argv)
    for name in ("top", "train_neighbours", "query_neighbours"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: expected at least 1")
    return args


def main(argv: list[str] | None = None) -> int:
    """Runs the command line."""
    args = parse_args(argv)
    try:
        found = recognise(
            args.train,
            args.query,
            read_labels(args.labels, args.id_column, args.label_column),
            non_landmarks=args.non_landmarks,
            top=args.top,
            train_neighbours=args.train_neighbours,
            query_neighbours=args.query_neighbours,
        )
        rows = found.rows(args.threshold)
        write_predictions(args.output, rows)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    labelled = sum(label is not None for _, label, _ in rows)
    print(f"{args.output}: {len(rows):,} queries, {labelled:,} with a label")
    return 0


if __name__ == "__main__":
    sys.exit(main())
