"""Re-ranking by the labels that a labelled training set gives to queries and index images.

Reference: Yokoo, Ozaki, Simo-Serra, Iizuka, "Two-stage Discriminative Re-ranking for Large-scale
Landmark Retrieval", CVPR workshops 2020, arXiv:2003.11211 (the winners of Google Landmark Retrieval
2019): soft voting, the sort step and the insert step.
"""

from __future__ import annotations

import numpy as np

from retrieval.nearest.searchers import Searcher, search_in_pieces
from retrieval.reranking import voting

NO_CLASS = -1


def predict(
    searcher: Searcher,
    classes: np.ndarray,
    vectors: np.ndarray,
    *,
    neighbours: int = 3,
    threshold: float = 0.0,
) -> np.ndarray:
    """Returns the class of every vector by its nearest labelled ones, (N,) int64.

    Args:
        searcher: over the labelled training set.
        classes: (M,) int64 class numbers from 0 of that set.
        vectors: (N, D) float32, queries or index.
        neighbours: how many vote, with their similarities.
        threshold: least sum of the winner's similarities; below it the vector is of `NO_CLASS`.
    """
    positions, similarities = search_in_pieces(searcher.search, vectors, neighbours)
    winners, sums = voting.vote(classes, positions, similarities)
    return np.where(sums >= threshold, winners, NO_CLASS)


def rerank(
    query_classes: np.ndarray,
    index_classes: np.ndarray,
    positions: np.ndarray,
    queries: np.ndarray,
    vectors: np.ndarray,
    *,
    insert: bool = True,
) -> np.ndarray:
    """Moves the images of the query's class to the front.

    Sort step: answers of the query's class come first, both groups in their order. Insert step:
    images of the class that are not among the answers follow the first group, the most similar
    first. The last answers fall out.

    Args:
        query_classes: (Q,) int64; a query of `NO_CLASS` keeps its answers.
        index_classes: (N,) int64.
        positions: (Q, k) the answers, best first.
        queries, vectors: (Q, D) and (N, D) float32, for the similarities of the inserted.
        insert: whether to do the insert step.

    Returns:
        (Q, k) int64.
    """
    by_class = np.argsort(index_classes, kind="stable")
    sizes = np.searchsorted(index_classes[by_class], [query_classes, query_classes + 1])
    result = positions.astype(np.int64)
    for row, (first, last) in enumerate(sizes.T):
        if query_classes[row] == NO_CLASS or first == last:
            continue
        answers = positions[row]
        same = index_classes[answers] == query_classes[row]
        added = np.zeros(0, np.int64)
        if insert:
            added = np.setdiff1d(by_class[first:last], answers[same])
            similarities = np.asarray(vectors[added]) @ queries[row]
            added = added[np.lexsort((added, -similarities))]
        result[row] = np.concatenate([answers[same], added, answers[~same]])[: len(answers)]
    return result
