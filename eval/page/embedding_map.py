"""A map of the embeddings: t-SNE of a sample, the same for the same embeddings.

Reference: van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 2008; initialised by PCA
as Kobak and Berens, "The art of using t-SNE for single-cell transcriptomics", 2019, advise.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from eval.page.classes import Classes
from eval.page.run import Run

IMAGES, QUERIES = 1500, 500  # of the sample
PER_CLASS = 20
_FEWEST = 10
_DIMENSION = 50  # t-SNE looks for neighbours in the first principal components
_PERPLEXITY = 30.0
_EXTENT = 10_000  # coordinates are integers from 0 to this


@dataclasses.dataclass(frozen=True)
class Map:
    """Points of the map, images of the index first.

    Attributes:
        positions: (n,) int64 in the index.
        queries: (m,) int64, rows of `Run.query_ids`.
        points: (n + m, 2) int64 from 0 to 10,000.
        sample: in words, which images these are.
    """

    positions: np.ndarray
    queries: np.ndarray
    points: np.ndarray
    sample: str


def draw(run: Run, classes: Classes) -> Map | None:
    """Returns the map of an index and its queries; None if there are fewer than ten images."""
    positions = sample(classes.index, IMAGES)
    rows = _sample_queries(run, classes, np.unique(classes.index[positions]))
    if len(positions) + len(rows) < _FEWEST:
        return None
    vectors = [run.vectors[positions], run.queries[run.query_rows[rows]]]
    points = project(np.concatenate([np.asarray(part, np.float32) for part in vectors]))
    return Map(positions, rows, points, _in_words(run, classes, positions, rows))


def _sample_queries(run: Run, classes: Classes, shown: np.ndarray) -> np.ndarray:
    """Returns at most 500 rows of queries: of the classes shown, a quarter without right images."""
    rows = np.arange(len(run.query_ids))
    if len(rows) <= QUERIES:
        return rows
    judged = run.judged_rows() >= 0
    without = rows[~judged]
    without = without[sample(classes.query[without], QUERIES // 4)]
    fits = rows[judged & np.isin(classes.query, shown[shown >= 0])]
    fits = fits if len(fits) else rows[judged]
    drawn = fits[sample(classes.query[fits], QUERIES - len(without))]
    return np.sort(np.concatenate([drawn, without]))


def sample(codes: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Returns at most `count` rows (n,) int64, ascending: whole classes rather than strays.

    More than `count` images are drawn class by class, the classes in random order and at most 20
    images of each, so that neighbours of the same class are seen. An image whose class is not known
    (-1) is a class of its own.
    """
    if len(codes) <= count:
        return np.arange(len(codes))
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(codes))
    unknown = codes < 0
    groups = np.where(unknown, codes.max(initial=0) + 1 + np.arange(len(codes)), codes)
    _, group = np.unique(groups, return_inverse=True)
    group = group[shuffled]
    order = np.argsort(rng.permutation(group.max() + 1)[group], kind="stable")
    ordered = group[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    rank = np.arange(len(ordered)) - np.repeat(starts, np.diff(np.append(starts, len(ordered))))
    drawn = order[rank < PER_CLASS][:count]
    return np.sort(shuffled[drawn])


def project(vectors: np.ndarray) -> np.ndarray:
    """Returns t-SNE coordinates (n, 2) int64 in [0, 10,000] of vectors (n, D) float32.

    One thread: the order of sums is the same in every run, and on a machine that is busy many
    threads that wait for each other took 20 times as long.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    count, dimension = vectors.shape
    vectors = vectors.astype(np.float64)
    with threadpool_limits(1):
        components = min(_DIMENSION, count, dimension)
        pca = PCA(components, svd_solver="randomized", random_state=0)
        reduced = pca.fit_transform(vectors) if vectors.var(axis=0).any() else vectors * 0
        start = np.zeros((count, 2))
        start[:, : reduced.shape[1]] = reduced[:, :2]
        start *= 1e-4 / (start[:, 0].std() or 1.0)
        tsne = TSNE(
            init=start.astype(np.float32),
            perplexity=min(_PERPLEXITY, (count - 1) / 3),
            random_state=0,
        )
        points = tsne.fit_transform(reduced.astype(np.float32)).astype(np.float64)
    points -= points.min(axis=0)
    extent = float(points.max()) or 1.0
    points += (extent - points.max(axis=0)) / 2  # the shorter side in the middle
    return np.rint(points / extent * _EXTENT).astype(np.int64)


def _in_words(run: Run, classes: Classes, positions: np.ndarray, rows: np.ndarray) -> str:
    images, queries = len(run.index_ids), len(run.query_ids)
    known = np.unique(classes.index[positions])
    text = f"all {images:,} images of the index"
    if len(positions) < images:
        text = f"{len(positions):,} of {images:,} images of the index"
        if (known >= 0).any():
            count = np.count_nonzero(known >= 0)
            text += f" (up to {PER_CLASS} of each of {count:,} classes drawn at random)"
    text += f" and all {queries:,} queries"
    if len(rows) < queries:
        text = text.replace(f"all {queries:,} queries", f"{len(rows):,} of {queries:,} queries")
    return text
