"""An index in a directory, opened: searched, compared with exact search, described."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

import numpy as np

from retrieval import embeddings, ensemble
from retrieval.indexing import index_files
from retrieval.indexing.questions import prepare
from retrieval.indexing.recall_curve import Point
from retrieval.nearest import exact
from retrieval.nearest.approximate import ScannSearcher
from retrieval.stored import precision


class Index:
    """An opened index; opening reads the ids, the search is read with the first use.

    Args:
        directory: of `build`.

    Attributes:
        directory: the same.
        manifest: what `manifest.json` says.
        ids: N ids; rows point into them. Removed rows still have theirs.
        vectors: (N, D) float32, a read-only memory map.
        removed: the rows that are no answers any more, int64, ascending.
        rows: the rows that can be answers, likewise; None if all can.

    Raises:
        FileNotFoundError: if there is no index.
        ValueError: if it is damaged or of a later version.
    """

    def __init__(self, directory: str) -> None:
        self.directory = os.fspath(directory)
        self.manifest = index_files.read_manifest(self.directory)
        self.ids = index_files.read_ids(self.directory, self.manifest)
        self.vectors = index_files.open_vectors(self.directory, self.manifest)
        self.removed = index_files.read_removed(self.directory, self.manifest)
        kept = np.ones(len(self.ids), bool)
        kept[self.removed] = False
        self.rows = np.flatnonzero(kept) if self.removed.size else None

    def __len__(self) -> int:
        """The number of vectors that can be answers."""
        return self.manifest.count - self.manifest.removed

    @functools.cached_property
    def scann(self) -> ScannSearcher | None:
        """ScaNN over all rows, with those added since the build; None for exact search."""
        manifest = self.manifest
        if manifest.parameters is None:
            return None
        folder = os.path.join(self.directory, manifest.folder, index_files.SCANN_NAME)
        searcher = ScannSearcher.load(folder, self.vectors[: manifest.built], manifest.parameters)
        searcher.add(self.vectors)
        searcher.remove(self.removed)
        return searcher

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns rows (Q, min(k, N)) int64 and similarities; see `ScannSearcher.search`."""
        if self.scann is None:
            return self.search_exactly(queries, k)
        return self.scann.search(queries, k)

    def search_exactly(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The same by exact search, see `exact.ExactSearcher.search`."""
        if not len(self):
            return np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
        if self.rows is None:
            return exact.ExactSearcher(self.vectors).search(queries, k)
        positions, similarities = exact.ExactSearcher(self.kept_vectors()).search(queries, k)
        return self.rows[positions], similarities

    def read_queries(
        self, directories: Sequence[str]
    ) -> tuple[tuple[str, ...], np.ndarray | precision.Rows]:
        """Reads queries, joined with the weights of the index.

        Args:
            directories: embeddings, one directory for each member of the ensemble.

        Returns:
            ids (Q) and vectors (Q, D) float32.

        Raises:
            ValueError: if another model, or not as many, made them.
        """
        members = [embeddings.load(directory) for directory in directories]
        manifest = self.manifest
        ensemble.check_models(manifest.models, members, directories)
        return ensemble.join(members, manifest.weights, combine=manifest.combine)

    def rankings(self, query_ids: Sequence[str], rows: np.ndarray) -> dict[str, list[str]]:
        """Returns the ids of rows (Q, k) by query id, best first."""
        ids = np.array(self.ids, object)
        return dict(zip(query_ids, ids[rows].tolist(), strict=True))

    def check(self, queries: np.ndarray | None = None, k: int | None = None) -> Point:
        """Compares all files with their digests, and the search with exact search.

        Args:
            queries: (Q, D) float32; a thousand sampled rows, left out of their answers, if None.
            k: answers per query; what the index is tuned for if absent.

        Raises:
            ValueError: if a file was damaged.
        """
        index_files.verify(self.directory, self.manifest)
        questions = prepare(self.vectors, k or self.manifest.k, queries, rows=self.rows)
        self.search(questions.queries[:1], questions.k)  # reading ScaNN's files is not searching
        return questions.measure(self, self.manifest.parameters)

    def kept_vectors(self) -> np.ndarray | precision.Rows:
        """Returns the vectors that can be answers, in the order of `rows`."""
        if self.rows is None:
            return self.vectors
        return ensemble.ConcatenatedRows([self.vectors], [self.rows], [1.0])


def is_index(directory: str) -> bool:
    """Whether a directory is an index, and not one of embeddings."""
    return os.path.isfile(
        os.path.join(directory, index_files.MANIFEST_NAME)
    ) and not os.path.exists(os.path.join(directory, embeddings.VECTORS_NAME))
