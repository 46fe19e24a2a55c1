"""A validation protocol of training classes: python benchmarks/hold_out.py --source DATA ...

Takes classes out of DATA/train.csv and writes tables like DATA's: train.csv with the other classes,
numbered from 0, index.csv, query.csv and their solutions with those that are held out. The folders
of the images are linked.
"""

import argparse
import csv
import os
import pathlib
import sys
from collections.abc import Sequence

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import columns


def hold_out(
    source: str,
    output: str,
    *,
    every: int | None = None,
    prefix: str | None = None,
    queries: str | float = 0.5,
) -> dict[str, int]:
    """Writes the tables of a validation protocol from the training classes of a data folder.

    Args:
        source: folder with train.csv and, for `prefix`, labels.csv.
        output: folder to write.
        every: every so many-th class is held out.
        prefix: or the classes whose names begin with it.
        queries: table of ids that are queries, or their share of each class.

    Returns:
        The number of rows of each table.
    """
    rows = list(columns.read_columns(os.path.join(source, "train.csv"), ["id", "label", "path"]))
    labels = sorted({int(label) for _, label, _ in rows})
    if every is not None:
        held = set(labels[every - 1 :: every])
    else:
        table = columns.read_columns(os.path.join(source, "labels.csv"), ["label", "name"])
        held = {int(label) for label, name in table if name.startswith(prefix)} & set(labels)
    if not held or len(held) == len(labels):
        raise ValueError(f"expected some of {len(labels)} classes. Received: {len(held)}")
    asked = _query_ids(rows, queries)
    number = {label: new for new, label in enumerate(lb for lb in labels if lb not in held)}
    tables: dict[str, list] = {"train": [], "index": [], "query": []}
    for image, label, path in rows:
        if int(label) in held:
            tables["query" if image in asked else "index"].append((image, int(label), path))
        else:
            tables["train"].append((image, number[int(label)], path))
    os.makedirs(output, exist_ok=True)
    for folder in {pathlib.PurePath(path).parts[0] for _, _, path in rows}:
        link = pathlib.Path(output, folder)
        if not link.exists():
            link.symlink_to(os.path.abspath(os.path.join(source, folder)))
    for name, content in tables.items():
        _write(os.path.join(output, f"{name}.csv"), ("id", "label", "path"), content)
    _write_solutions(output, tables["query"], tables["index"])
    return {name: len(content) for name, content in tables.items()}


def _query_ids(rows: Sequence[tuple], queries: str | float) -> set[str]:
    if isinstance(queries, str):
        return {image for (image,) in columns.read_columns(queries, ["id"])}
    asked: set[str] = set()
    for label in {label for _, label, _ in rows}:
        ids = sorted(image for image, own, _ in rows if own == label)
        asked.update(ids[: round(queries * len(ids))])  # ids are digests: any order is as good
    return asked


def _write(path: str, header: Sequence[str], rows: Sequence[Sequence]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def _write_solutions(output: str, queries: Sequence[tuple], index: Sequence[tuple]) -> None:
    images: dict[int, list[str]] = {}
    for image, label, _ in index:
        images.setdefault(label, []).append(image)
    for name, column, answer in (
        ("retrieval", "images", lambda label: " ".join(images[label])),
        ("recognition", "landmarks", str),
    ):
        rows = [(image, answer(label), "Private") for image, label, _ in queries]
        path = os.path.join(output, f"{name}_solution.csv")
        _write(path, ("id", column, "Usage"), rows)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--source", required=True, help="folder of train.csv")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--every", type=int, help="hold out every so many-th class")
    which.add_argument("--prefix", help="hold out the classes whose names begin like this")
    parser.add_argument("--queries", default="0.5", help="table of their ids, or their share")
    parser.add_argument("--output", required=True)
    args = parser.parse_args(argv)
    queries = args.queries if args.queries.endswith(".csv") else float(args.queries)
    counts = hold_out(
        args.source, args.output, every=args.every, prefix=args.prefix, queries=queries
    )
    print("  ".join(f"{name} {count:,}" for name, count in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
