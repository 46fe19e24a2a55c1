"""Retrieval among held-out images: each one is searched for among all others."""

from collections.abc import Callable, Iterable

import keras
import numpy as np
import tensorflow as tf

from training.trainer import Trainer

LIMIT = 10_000  # images: 40 MB of cosines at a time, some 10 s of one core at 512 dimensions
DEPTH = 100
_ROWS = 1024


def make_measure(trainer: Trainer, limit: int = LIMIT) -> Callable[[Iterable], dict[str, float]]:
    """Returns batches of (image, label, weight) → what `measure` says of the first `limit` images.

    The embeddings are those of the layer "bottleneck" with the averaged weights, if there are
    any, computed on all replicas; images of weight 0 are left out.

    Args:
        trainer: whose model it is.
        limit: images that are taken; the order of the validation shards is random, so that it is
            a sample.
    """
    model = trainer.model
    embedder = keras.Model(model.input, model.get_layer("bottleneck").output)

    @tf.function
    def embed(images):
        return trainer.strategy.run(lambda x: embedder(x, training=False), args=(images,))

    def measure_batches(batches: Iterable) -> dict[str, float]:
        found, count = [], 0
        with trainer.averaged_weights():
            for images, *rest in batches:
                parts = (embed(images), *rest)
                vectors, labels, weights = (_whole(trainer.strategy, part) for part in parts)
                found.append((vectors[weights > 0], labels[weights > 0]))
                count += len(found[-1][1])
                if count >= limit:
                    break
        vectors, labels = (np.concatenate(parts)[:limit] for parts in zip(*found, strict=True))
        return measure(vectors, labels)

    return measure_batches


def _whole(strategy: tf.distribute.Strategy, values) -> np.ndarray:
    """Returns the values of all replicas of all hosts, in their order."""
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return strategy.gather(values, axis=0).numpy()
    return np.concatenate([x.numpy() for x in strategy.experimental_local_results(values)])


def measure(vectors: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Searches each image among all others by cosine; exact.

    AP@100 of a query with m others of its class: Σ over the ranks k ≤ 100 that hold one of them
    of precision at k, divided by min(m, 100), as in Google Landmark Retrieval. Ties go to the
    smaller position. Images without another one of their class are no queries.

    Args:
        vectors: `(N, D)`, of any length.
        labels: `(N,)` integers.

    Returns:
        recall_at_1 and map_at_100, means over the queries (0 without any); queries; images;
        mean_cosine of all pairs of different images.
    """
    vectors = np.asarray(vectors, np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors / np.maximum(lengths, 1e-12)
    labels = np.asarray(labels)
    images = len(labels)
    values, inverse = np.unique(labels, return_inverse=True)
    others = np.bincount(inverse, minlength=len(values))[inverse] - 1  # (N,)
    queries = np.flatnonzero(others > 0)
    first = precision = 0.0
    for start in range(0, len(queries), _ROWS):
        rows = queries[start : start + _ROWS]
        hits = labels[_nearest(vectors, rows)] == labels[rows, None]  # (Q, K)
        first += hits[:, 0].sum()
        precision += _average_precision(hits, others[rows]).sum()
    total = np.square(vectors.sum(axis=0, dtype=np.float64)).sum()  # over all pairs
    pairs = max(images * (images - 1), 1)
    return {
        "recall_at_1": float(first / max(len(queries), 1)),
        "map_at_100": float(precision / max(len(queries), 1)),
        "queries": len(queries),
        "images": images,
        "mean_cosine": float((total - np.square(vectors).sum(dtype=np.float64)) / pairs),
    }


def _nearest(vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns the positions of the `DEPTH` nearest others of some rows, `(Q, K)`."""
    distances = -(vectors[rows] @ vectors.T)  # (Q, N)
    distances[np.arange(len(rows)), rows] = np.inf
    depth = min(DEPTH, len(vectors) - 1)
    limits = np.partition(distances, depth - 1, axis=1)[:, depth - 1]
    nearest = np.empty((len(rows), depth), np.int64)
    for i, limit in enumerate(limits):
        near = np.flatnonzero(distances[i] <= limit)  # in order of position, with all ties
        nearest[i] = near[np.argsort(distances[i, near], kind="stable")][:depth]
    return nearest


def _average_precision(hits: np.ndarray, others: np.ndarray) -> np.ndarray:
    precisions = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    return (precisions * hits).sum(axis=1) / np.minimum(others, DEPTH)
