"""Images that are byte for byte the same: which, and whether their labels or splits differ."""

import csv
from collections.abc import Callable, Iterable, Iterator

import files
from input_pipeline.schema import VALIDATION
from tfrecords_tools.catalogue import Catalogue

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


def compare(catalogue: Catalogue, run: Callable[[Iterable[list]], Iterator[list]]) -> None:
    """Tells files that only look the same from copies.

    Args:
        catalogue: with inspected images.
        run: takes batches of [number, path, offset, size], yields [[number, digest], …] of each;
            the digest of a file that cannot be read any more is None.
    """
    catalogue.change("DROP TABLE IF EXISTS candidates")
    catalogue.change(_CANDIDATES)
    for results in run(catalogue.batches("SELECT * FROM candidates", _BATCH)):
        catalogue.change_many("UPDATE images SET digest = ?2 WHERE number = ?1", results)


def save(catalogue: Catalogue, directory: str) -> dict[str, int]:
    """Writes `copies.csv`; returns the number of COPIES, and of those OTHER_CLASS, BOTH_SPLITS."""
    counts = dict.fromkeys((COPIES, OTHER_CLASS, BOTH_SPLITS), 0)
    path = f"{directory}/{COPIES_NAME}"
    with files.open_file(path + files.PARTIAL, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "label", "split", "copy_id", "copy_label", "copy_split"])
        for row in catalogue.ask(_COPIES):
            first, first_class, first_split, copy, copy_class, copy_split = row
            if copy != first:
                writer.writerow(row)
                counts[COPIES] += 1
                counts[OTHER_CLASS] += first_class != copy_class
                counts[BOTH_SPLITS] += (first_split == VALIDATION) != (copy_split == VALIDATION)
    files.rename(path + files.PARTIAL, path)
    return counts
