"""A contact sheet of drawn data: `python demo/sheet.py --data DIR --output sheet.png`.

Every row shows photographs of one label, so that a person can judge whether they are one place.
"""

import argparse
import csv
import pathlib
import sys

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

from PIL import Image


def contact_sheet(
    data: pathlib.Path, table: str, *, rows: int = 12, columns: int = 9, cell: int = 150
) -> Image.Image:
    """Photographs of `rows` labels spread over the table, `cell` pixels each, as RGB."""
    by_label: dict[str, list[str]] = {}
    with (data / table).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            by_label.setdefault(row["label"], []).append(row["path"])
    labels = list(by_label)[:: max(1, len(by_label) // rows)][:rows]
    sheet = Image.new("RGB", (columns * cell, len(labels) * cell), (32, 32, 32))
    for number, label in enumerate(labels):
        for place, path in enumerate(by_label[label][:columns]):
            with Image.open(data / path) as image:
                image.thumbnail((cell - 4, cell - 4))
                sheet.paste(image, (place * cell + 2, number * cell + 2))
    return sheet


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Makes a contact sheet of drawn photographs.")
    parser.add_argument("--data", required=True, type=pathlib.Path)
    parser.add_argument("--output", required=True, help="picture file, such as sheet.png")
    parser.add_argument("--table", default="index.csv", help="train.csv, index.csv, query.csv ...")
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--columns", type=int, default=9)
    args = parser.parse_args(argv)
    contact_sheet(args.data, args.table, rows=args.rows, columns=args.columns).save(args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
