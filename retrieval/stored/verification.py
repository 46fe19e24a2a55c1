"""Whether an embeddings directory is what its manifest says, and which rows are not."""

from __future__ import annotations

import dataclasses
from typing import TextIO

import numpy as np

from progress import Progress
from retrieval import embeddings
from retrieval.stored import checksums, precision
from retrieval.stored import directory as layout
from retrieval.stored.unique_ids import check_unique, few

_PIECE = 1 << 23  # numbers read at a time
_NAMED = 100  # bad rows whose numbers and ids are kept


@dataclasses.dataclass
class Verified:
    """What a check has found.

    Attributes:
        rows: how many were read.
        problems: one sentence each; none if all is right.
        bad_rows: up to 100 numbers of rows that are not finite or not of norm 1.
    """

    rows: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)
    bad_rows: list[int] = dataclasses.field(default_factory=list)


def verify(directory: str, *, stream: TextIO | None = None) -> Verified:
    """Reads all of an embeddings directory: manifest, shape, ids, checksums, norms, NaN.

    Directories of version 1 have no checksums. Nothing is changed.

    Args:
        directory: of the embeddings.
        stream: where the progress is shown.
    """
    found = Verified()
    try:
        manifest = layout.read_manifest(directory)
        ids = embeddings.read_ids(directory)
        rows = embeddings.open_rows(directory, manifest)
    except (OSError, ValueError) as error:
        found.problems.append(str(error))
        return found
    sums = manifest.get("checksums", {})
    _check_ids(directory, ids, manifest, sums, found)
    shown = Progress("verify", len(rows), stream, unit="vectors")
    _check_rows(rows, ids, sums, found, shown)
    shown.close()
    if rows.scales is not None:
        _compare(rows.scales, "scales", sums, found)
    return found


def _check_ids(
    directory: str, ids: tuple[str, ...], manifest: dict, sums: dict, found: Verified
) -> None:
    if len(ids) != manifest["count"]:
        found.problems.append(f"expected {manifest['count']} ids. Received: {len(ids)}")
    try:
        check_unique(ids)
    except ValueError as error:
        found.problems.append(str(error))
    unusable = [image for image in ids if image.split() != [image]]
    if unusable:
        found.problems.append(f"expected ids without white space. Received: {few(unusable)}")
    if "ids" in sums and checksums.of_file(f"{directory}/{layout.IDS_NAME}") != sums["ids"]:
        found.problems.append(f"{layout.IDS_NAME} is not what was written: its checksum differs")


def _check_rows(
    rows: precision.StoredRows,
    ids: tuple[str, ...],
    sums: dict,
    found: Verified,
    shown: Progress,
) -> None:
    actual = checksums.RowChecksums(sums.get("rows_per_block", checksums.ROWS_PER_BLOCK))
    step = max(1, _PIECE // rows.shape[1])
    wrong: list[tuple[int, float]] = []
    total = 0
    for first in range(0, len(rows), step):
        piece = slice(first, first + step)
        actual.add(rows.stored[piece])
        norms = np.linalg.norm(rows[piece], axis=1)  # (n,)
        bad = np.flatnonzero(~(np.abs(norms - 1) <= embeddings.NORM_TOLERANCE))
        total += len(bad)
        wrong += [(first + int(row), float(norms[row])) for row in bad[: _NAMED - len(wrong)]]
        rows.release()
        found.rows += len(norms)
        shown.advance(len(norms))
    found.bad_rows = [row for row, _ in wrong]
    if wrong:
        named = [
            f"row {row} ({ids[row] if row < len(ids) else 'no id'}): {n:.4g}" for row, n in wrong
        ]
        found.problems.append(f"expected rows of norm 1. Received {total:,} others: {few(named)}")
    _report_blocks(actual, "rows", sums, found)


def _compare(array: np.ndarray, name: str, sums: dict, found: Verified) -> None:
    actual = checksums.RowChecksums()
    actual.add(array)
    _report_blocks(actual, name, sums, found)


def _report_blocks(actual: checksums.RowChecksums, name: str, sums: dict, found: Verified) -> None:
    """Names the blocks of rows whose checksums differ from the manifest's."""
    if name not in sums:
        return
    expected, values, size = sums[name], actual.values(), actual.rows_per_block
    if len(expected) != len(values):
        found.problems.append(
            f"expected {len(values)} checksums of {name} in the manifest. Received: {len(expected)}"
        )
    for block, (value, wanted) in enumerate(zip(values, expected, strict=False)):
        if value != wanted:
            found.problems.append(
                f"{name} {block * size:,} to {(block + 1) * size - 1:,} are not what was written: "
                "their checksum differs"
            )
