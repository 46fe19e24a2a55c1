"""The tables of the drawn data, in the layout and formats of GLDv2."""

import csv
import os
import pathlib
from collections.abc import Iterable, Sequence

from demo.plan import INDEX, NO_MATCH, QUERY, TRAIN, Photo


def write_tables(folder: pathlib.Path, photos: Sequence[Photo]) -> None:
    """Writes train, index and query tables and both solutions, each atomically.

    Args:
        folder: The data's folder.
        photos: The plan, sorted.
    """
    for split in (TRAIN, INDEX, QUERY, NO_MATCH):
        chosen = [photo for photo in photos if photo.split == split]
        header = ["id", "label", "path"]
        rows = [[photo.id, str(photo.label), photo.path] for photo in chosen]
        if split == TRAIN:
            header.append("is_clean")
            rows = [
                [*row, str(int(photo.is_clean))] for row, photo in zip(rows, chosen, strict=True)
            ]
        _write(folder / f"{split}.csv", header, rows)
    queries = sorted((p for p in photos if p.split in (QUERY, NO_MATCH)), key=lambda p: p.id)
    retrieval, recognition = _solutions(queries, [p for p in photos if p.split == INDEX])
    _write(folder / "retrieval_solution.csv", ["id", "images", "Usage"], retrieval)
    _write(folder / "recognition_solution.csv", ["id", "landmarks", "Usage"], recognition)


def _solutions(
    queries: Sequence[Photo], index: Sequence[Photo]
) -> tuple[list[list[str]], list[list[str]]]:
    by_label: dict[int, list[str]] = {}
    for photo in index:
        by_label.setdefault(photo.label, []).append(photo.id)
    retrieval, recognition = [], []
    for query in queries:
        found = query.split == QUERY
        images = " ".join(sorted(by_label[query.label])) if found else "None"
        retrieval.append([query.id, images, "Private" if found else "Ignored"])
        recognition.append([query.id, str(query.label) if found else "", "Private"])
    return retrieval, recognition


def _write(path: pathlib.Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    os.replace(part, path)
