"""Approximate nearest neighbours by inner product with ScaNN.

Reference: Guo et al., "Accelerating Large-Scale Inference with Anisotropic Vector Quantization",
ICML 2020, arXiv:1908.10396.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from types import ModuleType

import numpy as np

from retrieval import exact

# Fewer vectors than this give no meaningful partition: ScaNN then compares with all of them.
_SMALLEST_TREE = 1000
# Quantised scores of this many vectors cost less than 0.3 ms per query; looking into all leaves
# of small indexes keeps recall@100 above 0.99 even for vectors without any clusters.
_LEAST_VECTORS_SEARCHED = 50_000


class ScannSearcher:
    """ScaNN over the rows of one matrix: partition, quantised scores, exact re-scoring.

    Below about 20,000 vectors `exact.ExactSearcher` is faster and misses nothing; below 1,000 this
    class uses ScaNN's own brute force. Training draws on all vectors up to 250,000: with 40,000 of
    200,000 the same recall needs half again as many leaves.

    Args:
        vectors: (N, D) float32, finite.
        k: the number of neighbours to be asked for, which sizes the re-scoring (10 k candidates).
        leaves: parts of the partition; about 2 sqrt(N) if absent.
        leaves_to_search: parts looked into per query; more raises recall and time. An eighth of the
            leaves if absent, and at least as many as hold 50,000 and 10 k vectors.

    Training is not deterministic: two searchers of the same vectors may differ in a few answers.

    Raises:
        ImportError: if scann is not installed.
        ValueError: if `vectors` is not a finite float32 matrix or a number does not fit.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        *,
        k: int = 100,
        leaves: int | None = None,
        leaves_to_search: int | None = None,
    ) -> None:
        exact.check_matrix("vectors", vectors)
        if k < 1:
            raise ValueError(f"expected k of at least 1. Received: {k}")
        self.vectors = np.ascontiguousarray(vectors)
        count = len(vectors)
        self.k = min(k, count)
        self.leaves = leaves or round(2 * math.sqrt(count))
        enough = math.ceil(max(10 * self.k, _LEAST_VECTORS_SEARCHED) * self.leaves / count)
        self.leaves_to_search = leaves_to_search or max(math.ceil(self.leaves / 8), enough)
        self.leaves_to_search = min(self.leaves_to_search, self.leaves)
        self._scann = self._build()

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns about the k most similar vectors of every query.

        Args:
            queries: (Q, D) float32, finite.
            k: how many; more than N gives N.

        Returns:
            positions (Q, min(k, N)) int64 and similarities (Q, min(k, N)) float32 (the exact inner
            products), the most similar first; equal similarities by position, ascending. A query
            for which the searched leaves hold fewer than k vectors is answered exactly.

        Raises:
            ValueError: if `queries` does not fit the vectors, or k is not positive.
        """
        exact.check_queries(queries, self.vectors, k)
        k = min(k, len(self.vectors))
        # ScaNN hands out batches to its threads: fewer batches than cores leave cores idle.
        batch_size = min(256, math.ceil(len(queries) / (os.cpu_count() or 1)))
        positions, similarities = self._scann.search_batched_parallel(
            np.ascontiguousarray(queries),
            final_num_neighbors=k,
            pre_reorder_num_neighbors=min(10 * k, len(self.vectors)),
            leaves_to_search=self.leaves_to_search,
            batch_size=batch_size,
        )
        positions, similarities = positions.astype(np.int64), np.asarray(similarities)
        short = np.isnan(similarities).any(axis=1)
        if short.any():
            searcher = exact.ExactSearcher(self.vectors)
            positions[short], similarities[short] = searcher.search(queries[short], k)
        order = np.lexsort((positions, -similarities))  # by row
        return (
            np.take_along_axis(positions, order, axis=1),
            np.take_along_axis(similarities, order, axis=1),
        )

    def _build(self):
        count = len(self.vectors)
        builder = _scann_ops().builder(self.vectors, self.k, "dot_product")
        if count < _SMALLEST_TREE:
            return builder.score_brute_force().build()
        builder = builder.tree(
            num_leaves=self.leaves,
            num_leaves_to_search=self.leaves_to_search,
            training_sample_size=min(count, 250_000),
        )
        # Blocks of two dimensions and the threshold 0.2 are the paper's choice for unit vectors.
        builder = builder.score_ah(
            2, anisotropic_quantization_threshold=0.2, training_sample_size=min(count, 250_000)
        )
        return builder.reorder(10 * self.k).build()


def _scann_ops() -> ModuleType:
    """Imports ScaNN, without the TensorFlow that it would load if it is installed."""
    try:
        with _tensorflow_hidden():
            from scann.scann_ops.py import scann_ops_pybind
    except ImportError as error:
        raise ImportError(
            "expected the package scann (pip install scann==1.4.2), which approximate search "
            f"needs; exact search does without. Received: {error}"
        ) from error
    return scann_ops_pybind


@contextlib.contextmanager
def _tensorflow_hidden() -> Iterator[None]:
    """Makes `import tensorflow` fail inside the block unless it is loaded already.

    scann's package imports TensorFlow if it can, only for its TensorFlow operations: 4 seconds and
    300 MB for nothing here. None in sys.modules is Python's way to say "not there".
    """
    if "tensorflow" in sys.modules or "scann" in sys.modules:
        yield
        return
    sys.modules["tensorflow"] = None
    try:
        yield
    finally:
        del sys.modules["tensorflow"]
