"""Which video shows the item of which image folder: `python retrieval/match.py --query DIR ...`.

    python retrieval/match.py --query embeddings/images --query-table images/crops.csv \\
        --video embeddings/videos --video-table videos/crops.csv --output matches.csv

The embeddings are those of crops, the tables what `detection/detect.py` wrote: the query's has the
column of the folder that an image belongs to (--folder-column, default `folder`), the video's has
the name of the video (--video-column, default `source`). The rule is that of a system of the
Taobao-live contest (Tianchi 2020), step by step in `match_folder` and `match`.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import numpy as np

import columns
import files
from retrieval import embeddings
from retrieval.ensemble import check_models
from retrieval.nearest.exact import ExactSearcher

COUNTED = ("highest", "kept")
HEADER = ("video", "folder", "distance", "boxes", "query_id", "video_id")


@dataclasses.dataclass(frozen=True)
class Rule:
    """The thresholds of the matching; the defaults are the published ones.

    Attributes:
        quantile: of a folder's boxes those strictly under this quantile of their distances count
            (so that a folder with a single box has none).
        share: a video stays if it has at least this share of …
        counted: … the "highest" count of a video, or of the number of boxes "kept", rounded, as
            the authors' program has it.
        farthest: pairs of this distance or more are dropped. It is the squared Euclidean distance
            of two vectors of length 1, 2 − 2·cos: 1.12 is a cosine of 0.44.
    """

    quantile: float = 0.28
    share: float = 0.5
    counted: str = "highest"
    farthest: float = 1.12

    def __post_init__(self):
        for name in ("quantile", "share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"{name}: expected a number from 0 to 1. Received: {getattr(self, name)}"
                )
        if self.counted not in COUNTED:
            raise ValueError(f"counted: expected one of {COUNTED}. Received: {self.counted!r}")


@dataclasses.dataclass(frozen=True)
class Match:
    """A video and the folder whose item it shows.

    Attributes:
        video, folder: their names.
        distance: mean of those of the boxes that say so, squared Euclidean.
        boxes: how many these are.
        query, row: position of the nearest of them among the queries, and of the video's box that
            it is nearest to.
    """

    video: str
    folder: str
    distance: float
    boxes: int
    query: int
    row: int


def match_folder(
    distances: np.ndarray, videos: Sequence[str], rule: Rule = Rule()
) -> tuple[str, np.ndarray] | None:
    """Chooses the video of one image folder.

    1. Each box of the folder names the video of the nearest video box.
    2. The boxes under the quantile of the folder's distances are kept.
    3. Of the videos that they name, those that reach the share of the counts stay.
    4. One left: it is the one; several: that with the smallest mean distance of its kept boxes,
       then the first by name; none: no match.

    Args:
        distances: (n,) of each box to the nearest video box.
        videos: n names of that box's video.
        rule: the thresholds.

    Returns:
        The video and the positions of the kept boxes that name it; None without a match.
    """
    distances = np.asarray(distances, np.float64)
    if not len(distances):
        return None
    kept = np.flatnonzero(distances < np.quantile(distances, rule.quantile))
    named: dict[str, list[int]] = {}
    for position in kept.tolist():
        named.setdefault(videos[position], []).append(position)
    if not named:
        return None
    if rule.counted == "highest":
        least = max(map(len, named.values())) * rule.share
    else:
        least = round(len(kept) * rule.share)
    left = {video: boxes for video, boxes in named.items() if len(boxes) >= least}
    if not left:
        return None
    best = min(left, key=lambda video: (distances[left[video]].mean(), video))
    return best, np.array(left[best])


def match(
    distances: np.ndarray,
    rows: np.ndarray,
    folders: Sequence[str],
    videos: Sequence[str],
    rule: Rule = Rule(),
) -> list[Match]:
    """Matches image folders and videos, one folder per video.

    Each folder chooses by `match_folder`; of several that choose one video the nearest has it;
    pairs of `rule.farthest` or more are dropped.

    Args:
        distances: (Q,) squared Euclidean, of each query box to its nearest video box.
        rows: (Q,) which video box that is.
        folders: Q names.
        videos: N names, of each video box.
        rule: the thresholds.

    Returns:
        The matches, by the names of the videos.
    """
    distances = np.asarray(distances, np.float64)
    positions: dict[str, list[int]] = {}
    for position, folder in enumerate(folders):
        positions.setdefault(folder, []).append(position)
    chosen: dict[str, Match] = {}
    for folder in sorted(positions):
        own = np.array(positions[folder])
        choice = match_folder(distances[own], [videos[row] for row in rows[own]], rule)
        if choice is None:
            continue
        video, kept = choice
        boxes = own[kept]
        nearest = int(boxes[np.argmin(distances[boxes])])
        mean = float(distances[boxes].mean())
        found = Match(video, folder, mean, len(boxes), nearest, int(rows[nearest]))
        if video not in chosen or mean < chosen[video].distance:
            chosen[video] = found
    return [chosen[video] for video in sorted(chosen) if chosen[video].distance < rule.farthest]


def match_embeddings(
    query: str,
    video: str,
    *,
    query_table: str,
    video_table: str,
    folder_column: str = "folder",
    video_column: str = "source",
    rule: Rule = Rule(),
) -> list[tuple]:
    """Matches the crops of two embeddings directories.

    Args:
        query: embeddings of the crops of the image folders.
        video: embeddings of the crops of the videos' frames.
        query_table, video_table: tables with the ids of the crops.
        folder_column, video_column: their columns of the folders' and the videos' names.
        rule: the thresholds.

    Returns:
        Rows of `HEADER`; the last two are ids of crops.

    Raises:
        FileNotFoundError: a directory or a table is missing.
        ValueError: they do not fit each other.
    """
    queries, boxes = embeddings.load(query), embeddings.load(video)
    check_models([boxes.manifest["model_digest"]], [queries], [query])
    if not queries.ids or not boxes.ids:
        raise ValueError(
            f"expected crops to match. Received: {len(queries.ids)} in {query} and "
            f"{len(boxes.ids)} in {video}"
        )
    folders = _names(query_table, folder_column, queries.ids)
    videos = _names(video_table, video_column, boxes.ids)
    searcher = ExactSearcher(boxes.vectors)
    rows, cosines = searcher.search(np.asarray(queries.vectors[:]), 1)
    distances = np.maximum(2.0 - 2.0 * cosines[:, 0].astype(np.float64), 0.0)
    return [
        (
            found.video,
            found.folder,
            f"{found.distance:.6f}",
            found.boxes,
            queries.ids[found.query],
            boxes.ids[found.row],
        )
        for found in match(distances, rows[:, 0], folders, videos, rule)
    ]


def _names(table: str, column: str, ids: Sequence[str]) -> list[str]:
    """Returns the cell of `column` of each id."""
    known: Mapping[str, str] = dict(columns.read_columns(table, ["id", column]))
    missing = [each for each in ids if not known.get(each)]
    if missing:
        raise ValueError(
            f"{table}: expected a {column!r} for every crop. Received: none for {len(missing):,} "
            f"({embeddings.few(missing)})"
        )
    return [known[each] for each in ids]


def write_matches(path: str, rows: Sequence[tuple]) -> None:
    """Writes the table of matches."""
    with files.replacing(path) as file:
        csv.writer(file).writerows([HEADER, *rows])


def main(argv: list[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog="python retrieval/match.py",
        description="Finds the video that shows the item of each image folder.",
    )
    add, rule = parser.add_argument, Rule()
    add("--query", required=True, metavar="DIR", help="embeddings of the folders' crops")
    add("--query-table", required=True, metavar="CSV", help="their table")
    add("--video", required=True, metavar="DIR", help="embeddings of the videos' crops")
    add("--video-table", required=True, metavar="CSV", help="their table")
    add("--folder-column", default="folder", help="default: %(default)s")
    add("--video-column", default="source", help="default: %(default)s")
    add("--quantile", type=float, default=rule.quantile, help="default: %(default)s")
    add("--share", type=float, default=rule.share, help="default: %(default)s")
    add("--counted", choices=COUNTED, default=rule.counted, help="default: %(default)s")
    add("--farthest", type=float, default=rule.farthest, help="2 - 2 cos; default: %(default)s")
    add("--output", required=True, metavar="CSV", help=",".join(HEADER))
    options = parser.parse_args(argv)
    try:
        rows = match_embeddings(
            options.query,
            options.video,
            query_table=options.query_table,
            video_table=options.video_table,
            folder_column=options.folder_column,
            video_column=options.video_column,
            rule=Rule(options.quantile, options.share, options.counted, options.farthest),
        )
        write_matches(options.output, rows)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.output}: {len(rows)} matches")
    return 0


if __name__ == "__main__":
    sys.exit(main())
