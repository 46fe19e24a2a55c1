"""Images that are byte for byte the same: which, and whether their labels or splits differ."""

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence

import files
from input_pipeline.schema import VALIDATION
from tfrecords_tools.conversion.catalogue import Catalogue

COPIES_NAME = "copies.csv"
COPIES, OTHER_CLASS, BOTH_SPLITS = "copies", "of another class", "in validation and in training"

_BATCH = 200  # files per task

# Only files of equal size that end alike are read whole.
_CANDIDATES = """
CREATE TEMP TABLE candidates AS SELECT number, path, offset, size FROM images JOIN (
    SELECT bytes, fingerprint FROM images WHERE reason IS NULL
    GROUP BY bytes, fingerprint HAVING count(*) > 1
) USING (bytes, fingerprint) WHERE reason IS NULL AND digest IS NULL ORDER BY number
"""
_COPIES = """
SELECT first_value(id) OVER same AS first, first_value(class) OVER same,
    first_value(split) OVER same, id, class, split
FROM images WHERE reason IS NULL AND digest NOTNULL
WINDOW same AS (PARTITION BY digest ORDER BY id) ORDER BY first, id
"""


def compare(catalogue: Catalogue, run: Callable[[Iterable[list], int], Iterator[list]]) -> None:
    """Tells files that only look the same from copies.

    Args:
        catalogue: with inspected images.
        run: takes batches of [number, path, offset, size] and the number of files in all; yields
            [[number, digest], …] of each batch. The digest of a file that cannot be read any more
            is None.
    """
    catalogue.change("DROP TABLE IF EXISTS candidates")
    catalogue.change(_CANDIDATES)
    batches = catalogue.batches("SELECT * FROM candidates", _BATCH)
    for results in run(batches, catalogue.value("SELECT count(*) FROM candidates")):
        catalogue.change_many("UPDATE images SET digest = ?2 WHERE number = ?1", results)


def save(catalogue: Catalogue, directory: str) -> dict[str, int]:
    """Writes `copies.csv`; returns the number of COPIES, and of those OTHER_CLASS, BOTH_SPLITS."""
    header = ("id", "label", "split", "copy_id", "copy_label", "copy_split")
    rows = (row for row in catalogue.ask(_COPIES) if row[0] != row[3])
    return write_pairs(f"{directory}/{COPIES_NAME}", header, rows, COPIES)


def write_pairs(
    path: str, header: Sequence[str], rows: Iterable[Sequence], what: str
) -> dict[str, int]:
    """Writes a table of pairs of images.

    Args:
        path: of the CSV file.
        header: names of the columns.
        rows: id, label and split of the one image, those of the other, and anything more.
        what: the name of their number.

    Returns:
        The number of all, by that name, and of those OTHER_CLASS and BOTH_SPLITS.
    """
    counts = dict.fromkeys((what, OTHER_CLASS, BOTH_SPLITS), 0)
    with files.replacing(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for row in rows:
            writer.writerow(row)
            _, one_class, one_split, _, other_class, other_split, *_ = row
            counts[what] += 1
            counts[OTHER_CLASS] += one_class != other_class
            counts[BOTH_SPLITS] += (one_split == VALIDATION) != (other_split == VALIDATION)
    return counts
