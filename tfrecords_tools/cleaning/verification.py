"""Spatial verification of doubtful images against their nearest images of the same label.

In GLDv2's clean set an image stays if enough of its neighbours of the same landmark match it
geometrically. Here the check speaks for an image only: a label whose photographs match is right,
whereas fruit, people or a landmark's inside do not match although their labels are right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TextIO

import numpy as np

import files
from progress import Progress, ordered_map
from retrieval.reranking import local_features
from retrieval.reranking.local_features import Features
from tfrecords_tools.conversion import images

NEIGHBORS = 10  # of the same label that an image is compared with
VERIFIED = 2  # of them that have to match

# Images that share neighbours stand beside each other; 352 images' features are 45 MB.
_CHUNK = 32

Candidate = tuple[int, np.ndarray]  # a row and the rows of its neighbours


def verify(
    candidates: Sequence[Candidate],
    paths: Mapping[int, str],
    *,
    workers: int,
    stream: TextIO | None,
) -> tuple[list[int], set[int]]:
    """Finds the candidates that at least VERIFIED of their neighbours match.

    Args:
        candidates: see `neighbors.own_neighbors`.
        paths: of the images by row; an image without a path matches none.
        workers: threads.
        stream: where progress goes; None shows nothing.

    Returns:
        the rows of the verified candidates, and the rows of the images that could not be read.

    Raises:
        ImportError: without OpenCV.
    """
    local_features.load_opencv()
    verified, unreadable = [], set()
    progress = Progress("geometry", len(candidates), stream)

    def run(chunk: Sequence[Candidate]) -> tuple[int, list[int], set[int]]:
        features = _Cache(paths)
        found = [row for row, others in chunk if _is_verified(features, row, others)]
        return len(chunk), found, features.unreadable

    for count, found, failed in ordered_map(run, _chunks(candidates), workers=workers):
        verified += found
        unreadable |= failed
        progress.advance(count)
    progress.close()
    return verified, unreadable


def extract(data: bytes) -> Features:
    """Returns the local features of an encoded image.

    Raises:
        ImportError: without OpenCV.
        images.RejectedImageError: the image is damaged, too large or of no known format.
    """
    cv2 = local_features.load_opencv()
    inspection = images.inspect(data)
    data = images.stored_bytes(data, inspection, quality=images.CONVERTED_QUALITY)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    if pixels is None:
        raise images.RejectedImageError(images.NOT_AN_IMAGE)
    return local_features.extract(pixels)


class _Cache:
    """The features of the images of one chunk, each extracted once."""

    def __init__(self, paths: Mapping[int, str]):
        self._paths = paths
        self._known: dict[int, Features | None] = {}
        self.unreadable: set[int] = set()

    def __getitem__(self, row: int) -> Features | None:
        if row not in self._known:
            try:
                self._known[row] = extract(files.read(self._paths[row]))
            except (KeyError, OSError, ValueError, images.RejectedImageError):
                self._known[row] = None
                self.unreadable.add(row)
        return self._known[row]


def _is_verified(features: _Cache, row: int, others: np.ndarray) -> bool:
    if (image := features[row]) is None:
        return False
    count = 0
    for other in map(features.__getitem__, others.tolist()):
        if other is not None:
            count += local_features.count_inliers(image, other) >= local_features.INLIERS
        if count == VERIFIED:
            return True
    return False


def _chunks(candidates: Sequence[Candidate]) -> Iterator[Sequence[Candidate]]:
    for first in range(0, len(candidates), _CHUNK):
        yield candidates[first : first + _CHUNK]
