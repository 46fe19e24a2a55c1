"""The label that labelled neighbours give: soft voting."""

from __future__ import annotations

import numpy as np


def vote(
    classes: np.ndarray, positions: np.ndarray, similarities: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sums the similarities of each query's neighbours by class; the largest sum wins.

    Args:
        classes: (N,) int64 class numbers from 0 of the vectors searched.
        positions: (Q, k) the neighbours that vote, all of them.
        similarities: (Q, k) float32.

    Returns:
        classes (Q,) int64 and sums (Q,) float64. Of equal sums the smallest class wins.
    """
    codes = classes[positions]
    size = int(codes.max()) + 1
    keys = codes + size * np.arange(len(codes))[:, None]  # one number per (row, class)
    pairs, which = np.unique(keys, return_inverse=True)
    sums = np.bincount(which.ravel(), weights=similarities.ravel().astype(np.float64))
    order = np.lexsort((pairs % size, -sums, pairs // size))
    first = order[np.unique(pairs[order] // size, return_index=True)[1]]
    return pairs[first] % size, sums[first]
