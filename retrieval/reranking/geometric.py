"""Geometric verification: the first answers ordered by how well they match the query's photograph.

Reference: Philbin, Chum, Isard, Sivic, Zisserman, "Object retrieval with large vocabularies and
fast spatial matching", CVPR 2007: answers that a spatial transform confirms come first, by the
number of their inliers. Features and matching: `retrieval.reranking.local_features`.
"""

from __future__ import annotations

import functools
import io
import sys
import threading
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

import files
from progress import Progress, ordered_map
from retrieval.nearest import cores
from retrieval.reranking import local_features
from retrieval.reranking.local_features import Features
from retrieval.stored.unique_ids import few

MOST_PIXELS = 178_956_970  # Pillow's own limit against decompression bombs
# Features of so many photographs are kept: 132 kB each.
_KEPT = 4096


def rerank(
    query_paths: Sequence[str],
    index_paths: Sequence[str],
    positions: np.ndarray,
    *,
    candidates: int = 20,
    inliers: int = 10,
) -> np.ndarray:
    """Moves the answers that match the query geometrically to the front.

    Args:
        query_paths: Q paths of photographs.
        index_paths: N of them.
        positions: (Q, k) the answers, best first.
        candidates: so many first answers are compared; the others keep their places.
        inliers: of that many on, an answer is verified. Verified ones come first, the one with the
            most inliers at the front, equal ones in their order; then the other candidates.

    Returns:
        (Q, k) int64. A photograph that cannot be read matches none, and a warning names it.

    Raises:
        ImportError: without OpenCV.
        ValueError: if a number is not positive or paths are missing.
    """
    local_features.load_opencv()
    if candidates < 1 or inliers < 1 or len(query_paths) != len(positions):
        raise ValueError(
            "expected candidates and inliers of at least 1, and a path for each of "
            f"{len(positions)} queries. Received: {candidates}, {inliers}, {len(query_paths)} paths"
        )
    candidates = min(candidates, positions.shape[1])
    unreadable: dict[str, str] = {}
    features_of = _reader(unreadable)

    def count(row: int) -> list[int]:
        query = features_of(query_paths[row])
        found = [features_of(index_paths[place]) for place in positions[row, :candidates]]
        return [local_features.count_inliers(query, other) for other in found]

    counts = np.empty((len(positions), candidates), np.int64)
    progress = Progress("geometry", len(positions), sys.stderr, unit="queries")
    counted = ordered_map(count, range(len(positions)), workers=cores.count())
    for row, numbers in enumerate(counted):
        counts[row] = numbers
        progress.advance(1)
    progress.close()
    if unreadable:
        print(
            f"warning: {len(unreadable):,} photographs could not be read and match none: "
            f"{few(sorted(unreadable))}",
            file=sys.stderr,
        )
    return by_inliers(positions, counts, inliers)


def by_inliers(positions: np.ndarray, counts: np.ndarray, inliers: int) -> np.ndarray:
    """Orders the first answers by their inliers, those with fewer than `inliers` as they were.

    Args:
        positions: (Q, k).
        counts: (Q, c) inliers of the first c answers.
        inliers: see `rerank`.

    Returns:
        (Q, k) int64.
    """
    keys = np.where(counts >= inliers, -counts, 0)
    order = np.argsort(keys, axis=1, kind="stable")
    result = positions.astype(np.int64)
    first = positions[:, : counts.shape[1]]
    result[:, : counts.shape[1]] = np.take_along_axis(first, order, axis=1)
    return result


def read_grey(path: str) -> np.ndarray:
    """Reads a photograph as grey values, (H, W) uint8.

    Raises:
        OSError: if it cannot be read or decoded.
        ValueError: if it has more than `MOST_PIXELS` pixels.
    """
    with Image.open(io.BytesIO(files.read(path))) as image:
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(
                f"{path}: expected at most {MOST_PIXELS:,} pixels. "
                f"Received: {image.width} x {image.height}"
            )
        # A JPEG file is decoded at a half, a quarter or an eighth of its size where that will do.
        image.draft("L", (local_features.MAX_SIDE, local_features.MAX_SIDE))
        return np.asarray(image.convert("L"))


def _reader(unreadable: dict[str, str]) -> Callable[[str], Features]:
    """Returns a function from path to features that keeps the latest and notes what fails."""
    lock = threading.Lock()

    @functools.lru_cache(_KEPT)
    def features_of(path: str) -> Features:
        try:
            return local_features.extract(read_grey(path))
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            with lock:
                unreadable[path] = str(error)
            return local_features.NONE

    return features_of
