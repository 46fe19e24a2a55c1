"""Weights of the classes in the loss: rare classes count more, by the logarithm of their size."""

import numpy as np


def clean_class_weights(counts: np.ndarray) -> np.ndarray:
    """Weights of the clean set, w(k) = A / ln n_k with A = 1 / mean over images of 1 / ln n_y.

    The mean weight of an image is 1. A class of one image would divide by zero: it gets the
    weight of a class of two, the largest finite one. An empty class gets 0.

    Args:
        counts: `(C,)` integers, training images per class.

    Returns:
        `(C,)` float32.

    Raises:
        ValueError: no images at all, or a negative count.

    Reference:
        Jeon, "1st Place Solution to Google Landmark Retrieval 2020", arXiv:2009.05132.
    """
    counts = _checked(counts)
    return _normalized(np.log(np.maximum(counts, 2)), counts, counts)


def total_class_weights(
    clean_counts: np.ndarray, noisy_counts: np.ndarray, noisy_weight: float = 1.0
) -> np.ndarray:
    """Weights of the total set, w(k) = A' / ln(n_k + 1).

    A' = 1 / mean over images of c / ln(n_y + 1). n_k counts clean and noisy images; c is 1 for a
    clean image, else `noisy_weight`. The mean of w(y)·c over the images is 1. An empty class
    gets 0.

    Args:
        clean_counts, noisy_counts: `(C,)` integers, training images per class.
        noisy_weight: loss weight c of a noisy image.

    Returns:
        `(C,)` float32.

    Raises:
        ValueError: no images at all, or a negative count.

    Reference:
        Jeon, "1st Place Solution to Google Landmark Retrieval 2020", arXiv:2009.05132.
    """
    clean_counts, noisy_counts = _checked(clean_counts), _checked(noisy_counts)
    counts = clean_counts + noisy_counts
    weighted = clean_counts + noisy_weight * noisy_counts  # Σ c over the images of each class
    return _normalized(np.log(np.maximum(counts, 1) + 1), counts, weighted)


def _checked(counts: np.ndarray) -> np.ndarray:
    counts = np.asarray(counts, np.float64)
    if counts.ndim != 1 or (counts < 0).any():
        raise ValueError(f"counts: expected one number >= 0 per class. Received: {counts!r}")
    return counts


def _normalized(logs: np.ndarray, counts: np.ndarray, weighted: np.ndarray) -> np.ndarray:
    if not weighted.sum() > 0:
        raise ValueError("class weights: expected at least one training image. Received: none")
    weights = np.where(counts > 0, 1.0 / logs, 0.0)  # (C,)
    mean = (weighted * weights).sum() / counts.sum()
    return (weights / mean).astype(np.float32)
