"""Approximate nearest neighbours by inner product with ScaNN.

References: Guo et al., "Accelerating Large-Scale Inference with Anisotropic Vector Quantization",
ICML 2020, arXiv:1908.10396; Sun et al., "SOAR: Improved Indexing for Approximate Nearest Neighbor
Search", NeurIPS 2023, arXiv:2404.00774.
"""

from __future__ import annotations

import contextlib
import math
import os
import pathlib
import sys
from collections.abc import Iterator
from types import ModuleType

import numpy as np

from retrieval.nearest import cores, exact
from retrieval.nearest.scann_parameters import SMALLEST_TREE, Parameters, suggest

# More than this at a time only costs memory, fewer leave ScaNN's batched kernels idle.
_BATCH = 256
# A build takes this many times the bytes of its float32 rows, and of those it is trained on
# (measured: 40,000 x 2048 with shares of 0.05 to 0.33).
_TIMES_ROWS, _TIMES_TRAINING = 2.0, 2.2
_PIECE = 16384  # rows added at a time
_ORDER_NAME = "order.npy"


class ScannSearcher:
    """ScaNN over the rows of one matrix: partition, quantised scores, rescoring.

    Below about 20,000 vectors `exact.ExactSearcher` is faster and misses nothing; below 1,000 there
    is no meaningful partition, and this class uses ScaNN's own brute force.

    Rows can be added, and removed ones are left out of the answers; the partition stays that of the
    first rows, so that a new build is due after a fifth of them has changed. Removing is our own:
    ScaNN 1.4.2's `delete` corrupts memory where SOAR is on.

    Args:
        vectors: (N, D) float32, finite; a memory map stays one, ScaNN makes copies of its own.
        k: the number of neighbours to be asked for, where `parameters` are left to `suggest`.
        parameters: what `tuning.tune` has found; `suggest` if absent.
        searcher: a ScaNN searcher of these vectors that `load` has read; built if absent.
        threads: how many build and search; one for each core if absent.
        memory_mb: what the build may take in MiB besides the vectors and what stays: ScaNN needs 2
            to 4 times the vectors. Where it is less, a sample that fits is built, and the other
            rows are added to it. What stays is the rescoring copy (half of the float32 bytes with
            bfloat16) and the codes (an eighth of that, twice with SOAR).

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
        parameters: Parameters | None = None,
        searcher: object | None = None,
        threads: int | None = None,
        memory_mb: int = 8192,
    ) -> None:
        if k < 1:
            raise ValueError(f"expected k of at least 1. Received: {k}")
        if searcher is None:
            exact.check_matrix("vectors", vectors)
        self.vectors = np.ascontiguousarray(vectors)
        self.parameters = parameters or suggest(*self.vectors.shape, min(k, len(vectors)))
        self._is_removed = np.zeros(len(self.vectors), bool)
        self.threads = threads or cores.count()
        self._order: np.ndarray | None = None  # ScaNN's number -> row, where they differ
        self._scann = searcher or self._build(memory_mb << 20)
        self._scann.set_num_threads(self.threads)

    def __len__(self) -> int:
        """The number of vectors that can be answers."""
        return len(self.vectors) - int(np.count_nonzero(self._is_removed))

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns about the k most similar vectors of every query.

        Args:
            queries: (Q, D) float32, finite.
            k: how many; more than there are gives all.

        Returns:
            positions (Q, min(k, N)) int64 and similarities (Q, min(k, N)) float32, the most similar
            first; equal similarities by position, ascending. The similarities are the inner
            products with the rows, or with the rows rounded to bfloat16 (each number by 1/512 of
            itself at most) if that is what rescores. A query for which the searched leaves hold
            fewer than k vectors is answered exactly.

        Raises:
            ValueError: if `queries` does not fit the vectors, or k is not positive.
        """
        exact.check_queries(queries, self.vectors, k)
        k = min(k, len(self))
        if k == 0:
            return np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
        queries = np.ascontiguousarray(queries)
        positions = np.empty((len(queries), k), np.int64)
        similarities = np.empty((len(queries), k), np.float32)
        open_rows = np.arange(len(queries))
        for asked in self._numbers_to_ask(k):
            found = self._ask(queries[open_rows], asked)
            is_short, *answers = self._best(*found, k)
            done = open_rows[~is_short]
            positions[done], similarities[done] = (part[~is_short] for part in answers)
            open_rows = open_rows[is_short]
            if not open_rows.size:
                break
        else:
            answers = self._search_exactly(queries[open_rows], k)
            positions[open_rows], similarities[open_rows] = answers
        _order_ties(positions, similarities)
        return positions, similarities

    def add(self, vectors: np.ndarray) -> None:
        """Adds rows; 0.03 to 0.1 ms each.

        Args:
            vectors: (N + n, D) float32: the rows there are, with those to be added behind them.
        """
        added = np.ascontiguousarray(vectors[len(self.vectors) :])
        if len(added):
            exact.check_matrix("vectors", added)
            if len(self.vectors) < SMALLEST_TREE:
                raise ValueError(
                    f"expected at least {SMALLEST_TREE} vectors to add to. "
                    f"Received: {len(self.vectors)}"
                )
            _upsert(self._scann, added)
            if self._order is not None:
                new = np.arange(len(self.vectors), len(vectors))
                self._order = np.concatenate([self._order, new])
        self.vectors = np.ascontiguousarray(vectors)
        self._is_removed = np.concatenate([self._is_removed, np.zeros(len(added), bool)])

    def remove(self, rows: np.ndarray) -> None:
        """Leaves rows, by their positions, out of all answers."""
        self._is_removed[rows] = True

    def save(self, folder: str) -> None:
        """Writes ScaNN's files, without the vectors and the removals, into a new folder."""
        os.makedirs(folder)
        self._scann.serialize(folder, relative_path=True)
        if self._order is not None:
            np.save(os.path.join(folder, _ORDER_NAME), self._order)

    @classmethod
    def load(cls, folder: str, vectors: np.ndarray, parameters: Parameters) -> ScannSearcher:
        """Reads what `save` has written.

        Args:
            folder: of `save`.
            vectors: the rows of the searcher that was saved; rows added since come by `add`.
            parameters: those of the searcher that was saved.

        Raises:
            ValueError: if the folder does not hold a ScaNN index of that many rows.
        """
        if not (pathlib.Path(folder) / "scann_assets.pbtxt").is_file():
            raise ValueError(f"expected ScaNN's files. Received: {folder}")
        try:
            searcher = _scann_ops().load_searcher(folder)
        except RuntimeError as error:
            raise ValueError(
                f"expected ScaNN's files, whole. Received: {folder}: {error}"
            ) from error
        if searcher.size() != len(vectors):
            raise ValueError(
                f"expected {len(vectors)} rows in {folder}. Received: {searcher.size()}"
            )
        loaded = cls(vectors, parameters=parameters, searcher=searcher)
        if os.path.exists(path := os.path.join(folder, _ORDER_NAME)):
            loaded._order = np.load(path, allow_pickle=False)
            if not np.array_equal(np.sort(loaded._order), np.arange(len(vectors))):
                raise ValueError(f"expected every row once. Received: {path}")
        return loaded

    def with_parameters(self, parameters: Parameters) -> ScannSearcher:
        """Returns a searcher of the same build that looks into other leaves or candidates."""
        other = ScannSearcher(
            self.vectors, parameters=parameters, searcher=self._scann, threads=self.threads
        )
        other._is_removed, other._order = self._is_removed, self._order
        return other

    def _build(self, memory: int):
        """Returns ScaNN's searcher over all rows."""
        count, row = len(self.vectors), self.vectors.shape[1] * 4
        training = min(count, self.parameters.training)
        if row * (_TIMES_ROWS * count + _TIMES_TRAINING * training) <= memory:
            return _build(self.vectors, self.parameters, self.threads)
        fitting = math.ceil(memory / (row * (_TIMES_ROWS + _TIMES_TRAINING)))
        size = min(count, max(fitting, 2 * SMALLEST_TREE))
        sample = np.sort(np.random.default_rng(0).choice(count, size, replace=False))
        rest = np.setdiff1d(np.arange(count), sample, assume_unique=True)
        self._order = np.concatenate([sample, rest])
        searcher = _build(self.vectors[sample], self.parameters, self.threads)
        searcher.set_num_threads(self.threads)
        for first in range(0, len(rest), _PIECE):
            _upsert(searcher, self.vectors[rest[first : first + _PIECE]])
        return searcher

    def _numbers_to_ask(self, k: int) -> list[int]:
        """How many answers to ask for, in turn, until k of them have not been removed."""
        removed = len(self.vectors) - len(self)
        if not removed:
            return [k]
        first = math.ceil(1.5 * k * len(self.vectors) / len(self)) + 16
        return [min(factor * first, len(self.vectors)) for factor in (1, 8)]

    def _ask(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns ScaNN's (positions, similarities), (Q, k); NaN where the leaves held fewer."""
        # ScaNN hands out batches to its threads: fewer batches than cores leave cores idle.
        batch_size = max(1, min(_BATCH, math.ceil(len(queries) / self.threads)))
        positions, similarities = self._scann.search_batched_parallel(
            queries,
            final_num_neighbors=k,
            pre_reorder_num_neighbors=min(
                math.ceil(self.parameters.candidates * k), len(self.vectors)
            ),
            leaves_to_search=min(self.parameters.leaves_to_search, self.parameters.leaves),
            batch_size=batch_size,
        )
        similarities = np.asarray(similarities)
        if self._order is not None:
            positions = self._order[np.where(np.isnan(similarities), 0, positions)]
        return positions, similarities

    def _best(
        self, positions: np.ndarray, similarities: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns which queries have fewer than k answers left, and the first k of each."""
        is_lost = np.isnan(similarities)
        if not self._is_removed.any():
            return is_lost.any(axis=1), positions, similarities
        is_lost |= self._is_removed[np.where(is_lost, 0, positions)]
        kept = np.argsort(is_lost, axis=1, kind="stable")[:, :k]
        return (
            np.count_nonzero(~is_lost, axis=1) < k,
            np.take_along_axis(positions, kept, axis=1),
            np.take_along_axis(similarities, kept, axis=1),
        )

    def _search_exactly(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        searcher = exact.ExactSearcher(self.vectors)
        asked = k
        while True:
            found = searcher.search(queries, asked)
            is_short, *answers = self._best(*found, k)
            if not is_short.any():
                return tuple(answers)
            asked = min(2 * asked, len(self.vectors))


def _order_ties(positions: np.ndarray, similarities: np.ndarray) -> None:
    """Sorts, in place, the rows whose equal similarities are not in the order of positions."""
    gain = np.diff(similarities, axis=1)
    is_wrong = (gain > 0) | ((gain == 0) & (np.diff(positions, axis=1) < 0))
    rows = np.flatnonzero(is_wrong.any(axis=1))
    order = np.lexsort((positions[rows], -similarities[rows]))  # by row
    for answers in (positions, similarities):
        answers[rows] = np.take_along_axis(answers[rows], order, axis=1)


def _build(vectors: np.ndarray, parameters: Parameters, threads: int):
    """Returns ScaNN's searcher over vectors (N, D)."""
    ops = _scann_ops()
    count = len(vectors)
    builder = ops.builder(vectors, min(100, count), "dot_product").set_n_training_threads(threads)
    with _no_log():
        if count < SMALLEST_TREE:
            return builder.score_brute_force().build()
        threshold = parameters.anisotropic
        builder = builder.tree(
            num_leaves=min(parameters.leaves, count),
            num_leaves_to_search=min(parameters.leaves_to_search, parameters.leaves),
            training_sample_size=min(count, parameters.training),
            **({"soar_lambda": 1.5, "overretrieve_factor": 2.0} if parameters.soar else {}),
        ).score_ah(
            min(parameters.block, vectors.shape[1]),
            anisotropic_quantization_threshold=math.nan if threshold is None else threshold,
            training_sample_size=min(count, parameters.training),
        )
        kind = ops.scann_builder.ReorderType[parameters.rescoring.upper()]
        return builder.reorder(min(1000, count), quantize=kind).build()


def _upsert(searcher, rows: np.ndarray) -> None:
    """Adds rows (n, D) to a ScaNN searcher, numbered on; its own wrapper would ask for names."""
    searcher.searcher.upsert([None] * len(rows), rows, _BATCH)


@contextlib.contextmanager
def _no_log() -> Iterator[None]:
    """Keeps the lines that ScaNN's build logs, from C++, off stderr; its errors are raised."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


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
