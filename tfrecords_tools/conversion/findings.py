"""What there is to know of a set before the work begins: counts, classes, copies, disk."""

import dataclasses
import itertools
from collections.abc import Mapping

from tfrecords_tools.conversion import copies, near_duplicates
from tfrecords_tools.conversion.catalogue import Catalogue

_BORDERS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 10**9)
_BAR = 40  # characters

_CLASS_SIZES = """
CREATE TEMP TABLE class_sizes AS
SELECT class, sum(reason IS NULL) AS size FROM images WHERE class != '' GROUP BY class
"""
_BETWEEN = "SELECT count(*) FROM class_sizes WHERE size BETWEEN ? AND ?"
_REASONS = "SELECT reason, count(*) FROM images WHERE reason NOTNULL GROUP BY reason"
_CHANGES = """
SELECT change, count(*) FROM images WHERE reason IS NULL AND change != 'unchanged' GROUP BY change
"""


@dataclasses.dataclass(frozen=True)
class Findings:
    """What the listing and the inspection found.

    Attributes:
        splits: {split: usable images}.
        classes: classes with usable images.
        single: classes with one usable image.
        empty: classes of which every row was left out.
        rejects: {reason: rows left out}.
        changes: {"converted" or "shrunk": images that will be stored as another JPEG file}.
        copies: see `copies.save`.
        bytes: of all usable files.
        histogram: {(smallest, largest number of images): classes}.
        near_duplicates: see `near_duplicates.save`; None if they were not looked for.
    """

    splits: Mapping[str, int]
    classes: int
    single: int
    empty: int
    rejects: Mapping[str, int]
    changes: Mapping[str, int]
    copies: Mapping[str, int]
    bytes: int
    histogram: Mapping[tuple[int, int], int]
    near_duplicates: Mapping[str, int] | None = None

    def __str__(self) -> str:
        lines = [f"{name:<12} {count:>9} images" for name, count in self.splits.items()]
        lines.append(f"{'classes':<12} {self.classes:>9}")
        lines.append(format_rejects(self.rejects))
        lines += [f"{name:<12} {count:>9} to JPEG" for name, count in sorted(self.changes.items())]
        return "\n".join([*lines, *self._warnings()])

    def _warnings(self) -> list[str]:
        lines = []
        if self.empty:
            lines.append(f"note: {self.empty} classes have no usable image and get no label")
        if self.single:
            lines.append(f"note: {self.single} classes have one image only")
        if self.copies[copies.COPIES]:
            more = ", ".join(
                f"{count} {kind}"
                for kind, count in self.copies.items()
                if count and kind != copies.COPIES
            )
            lines.append(
                f"note: {self.copies[copies.COPIES]} images are copies of another, byte for byte"
                f"{f' ({more})' if more else ''}: {copies.COPIES_NAME} lists them"
            )
        if self.near_duplicates is not None:
            lines.append(near_duplicates.describe(self.near_duplicates))
        return lines

    def draw_histogram(self) -> str:
        """Returns a bar for each range of class sizes."""
        most = max(self.histogram.values(), default=1)
        lines = ["images per class"]
        for (low, high), count in self.histogram.items():
            name = str(low) if low == high else f"{low}-{high}" if high < 10**8 else f"{low}+"
            lines.append(f"{name:>10} {count:>8} {'#' * round(_BAR * count / most)}")
        return "\n".join(lines)


def format_rejects(rejects: Mapping[str, int]) -> str:
    """Returns a line with the number of rows left out, and of each reason."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(rejects.items()))
    return f"{'rejected':<12} {sum(rejects.values()):>9}" + (f" ({reasons})" if reasons else "")


def gather(catalogue: Catalogue, directory: str) -> Findings:
    """Returns the findings of a planned conversion; writes `copies.csv` into `directory`."""
    catalogue.change("DROP TABLE IF EXISTS temp.class_sizes")
    catalogue.change(_CLASS_SIZES)
    ranges = [(low, after - 1) for low, after in itertools.pairwise(_BORDERS)]
    counts = {limits: catalogue.value(_BETWEEN, *limits) for limits in ranges}
    return Findings(
        splits=catalogue.split_sizes(),
        classes=catalogue.value("SELECT count(*) FROM classes"),
        single=catalogue.value(_BETWEEN, 1, 1),
        empty=catalogue.value(_BETWEEN, 0, 0),
        rejects=dict(catalogue.ask(_REASONS)),
        changes=dict(catalogue.ask(_CHANGES)),
        copies=copies.save(catalogue, directory),
        bytes=catalogue.value("SELECT coalesce(sum(bytes), 0) FROM images WHERE reason IS NULL"),
        histogram={limits: count for limits, count in counts.items() if count},
    )
