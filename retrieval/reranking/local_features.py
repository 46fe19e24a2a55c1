"""Do two photographs show the same rigid object? SIFT, ratio test and RANSAC, by OpenCV.

Lowe, "Distinctive Image Features from Scale-Invariant Keypoints", IJCV 2004; the descriptors are
compared as RootSIFT (Arandjelović and Zisserman, "Three things everyone should know to improve
object retrieval", CVPR 2012). OpenCV is an extra and is loaded by the first call.
"""

from __future__ import annotations

import dataclasses
from types import ModuleType

import numpy as np

# On the grocery photographs 30 inliers pass 0.07 % of random pairs of different products, 1.2 % of
# the pairs that look most alike (the neighbour on the shelf), and 37 % of those of one product.
INLIERS = 30

MAX_SIDE = 640
_MAX_FEATURES = 1000
_RATIO = 0.8
_PIXELS = 8.0  # largest error of an inlier, at MAX_SIDE
_TRIALS = 1000
_FEWEST = 4  # an affine map of 3 points always fits


@dataclasses.dataclass(frozen=True, slots=True)
class Features:
    """The local features of one image.

    Attributes:
        points: (n, 2) float32, x and y in pixels of the image shrunk to 640.
        descriptors: (n, 128) uint8, OpenCV's SIFT.
    """

    points: np.ndarray
    descriptors: np.ndarray


NONE = Features(np.zeros((0, 2), np.float32), np.zeros((0, 128), np.uint8))


def extract(pixels: np.ndarray) -> Features:
    """Returns at most 1,000 SIFT features of a picture.

    Args:
        pixels: (H, W) uint8 grey values; what is larger than 640 pixels is shrunk first.

    Raises:
        ImportError: without OpenCV.
    """
    cv2 = load_opencv()
    height, width = pixels.shape
    shrink = MAX_SIDE / max(width, height)
    if shrink < 1:
        size = max(1, round(width * shrink)), max(1, round(height * shrink))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    points, descriptors = cv2.SIFT_create(nfeatures=_MAX_FEATURES).detectAndCompute(pixels, None)
    if descriptors is None:
        return NONE
    # SIFT's 128 numbers are integers of 0 to 255 in float32.
    return Features(cv2.KeyPoint_convert(points), descriptors.astype(np.uint8))


def count_inliers(first: Features, second: Features) -> int:
    """Returns how many features of two images match under one affine map; 0 if there is none."""
    cv2 = load_opencv()
    left, right = _match(first.descriptors, second.descriptors)
    if len(left) < _FEWEST:
        return 0
    _, inliers = cv2.estimateAffine2D(
        first.points[left],
        second.points[right],
        method=cv2.RANSAC,
        ransacReprojThreshold=_PIXELS,
        maxIters=_TRIALS,
    )
    return 0 if inliers is None else int(np.count_nonzero(inliers))


def load_opencv() -> ModuleType:
    """Imports OpenCV; ImportError says what to install."""
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            "expected OpenCV, which the geometric check needs: pip install 'waymark[geometry]'. "
            f"Received: {error}"
        ) from error
    return cv2


def _match(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns positions (m), (m) of mutual nearest descriptors that pass Lowe's ratio test."""
    if min(len(first), len(second)) < 2:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    products = _root(first) @ _root(second).T  # (n1, n2)
    rows = np.arange(len(first))
    nearest = products.argmax(axis=1)
    is_mutual = products.argmax(axis=0)[nearest] == rows
    best = products[rows, nearest]
    products[rows, nearest] = -1
    # Distances of unit vectors are sqrt(2 - 2 cos): the test compares their squares.
    passes = 1 - best < _RATIO**2 * (1 - products.max(axis=1))
    left = np.flatnonzero(is_mutual & passes)
    return left, nearest[left]


def _root(descriptors: np.ndarray) -> np.ndarray:
    """Returns RootSIFT, (n, 128) float32 unit vectors."""
    values = descriptors.astype(np.float32)
    return np.sqrt(values / np.maximum(values.sum(axis=1, keepdims=True), 1))
