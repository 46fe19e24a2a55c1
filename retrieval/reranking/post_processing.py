"""The steps between embeddings and answers, each a function from a state to a state.

`retrieval.reranking.steps` runs a list of them in the order that a recipe states. A step that
changes vectors forgets the answers; a step that needs answers searches if there are none. So query
expansion behind re-ranking takes its neighbours from the re-ranked answers. While the vectors are
those of an index that was built with ScaNN, it finds the answers and the neighbour lists.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from retrieval.nearest import neighbors, searchers
from retrieval.projecting import covariance, transforms
from retrieval.projecting.projections import Transform
from retrieval.reranking import diffusion, expansion, geometric, k_reciprocal, label_aware

RULES = ("average", "decaying", "alpha", "logarithmic")


@dataclasses.dataclass(frozen=True)
class Reference:
    """A labelled set beside queries and index: the training set.

    Attributes:
        vectors: (M, D) float32, of the same model.
        classes: (M,) int64 class numbers from 0.
    """

    vectors: np.ndarray
    classes: np.ndarray


@dataclasses.dataclass(frozen=True)
class State:
    """What a step takes and gives.

    Attributes:
        queries: (Q, D) float32.
        vectors: (N, D) float32, the index.
        depth: answers per query that steps hand on.
        search: "auto", "exact" or "scann", where a step searches.
        built: the ScaNN of an index that `vectors` are of; None if there is none.
        searcher: what finds the nearest of `vectors`; None until a step needs it.
        reference: the labelled set, for the steps that need one.
        photographs: paths of the queries' and of the index' images, for geometric verification.
        positions: (Q, depth) int64, best first; None if vectors have changed since the last search.
        scores: (Q, depth) float32, larger is better, of the step that has ranked last.
    """

    queries: np.ndarray
    vectors: np.ndarray
    depth: int = 100
    search: str = "auto"
    built: searchers.Searcher | None = None
    searcher: searchers.Searcher | None = None
    reference: Reference | None = None
    photographs: tuple[Sequence[str], Sequence[str]] | None = None
    positions: np.ndarray | None = None
    scores: np.ndarray | None = None

    def searching(self) -> State:
        """Returns the state with a searcher of its vectors."""
        if self.searcher is not None:
            return self
        searcher = self.built
        if searcher is None:
            searcher = searchers.make_searcher(self.search, self.vectors, self.depth)
        return dataclasses.replace(self, searcher=searcher)

    def lists(self, length: int) -> neighbors.Neighbors | None:
        """Returns the neighbour lists that an index finds; None without one, for exact lists."""
        if self.built is None:
            return None
        return neighbors.of_searcher(self.built, self.vectors, length)

    def ranked(self) -> State:
        """Returns the state with answers."""
        if self.positions is not None:
            return self
        state = self.searching()
        found = searchers.search_in_pieces(state.searcher.search, self.queries, self.depth)
        return state.answered(*found)

    def answered(self, positions: np.ndarray, scores: np.ndarray) -> State:
        """Returns the state with these answers."""
        return dataclasses.replace(self, positions=positions, scores=scores)

    def moved(self, **changed: np.ndarray | Reference | None) -> State:
        """Returns the state with other vectors and without answers."""
        if "vectors" in changed:
            changed |= {"built": None, "searcher": None}
        return dataclasses.replace(self, positions=None, scores=None, **changed)

    def labelled(self) -> Reference:
        """Returns the labelled set, or says that it is missing."""
        if self.reference is None:
            raise ValueError("expected a labelled set (--reference and --labels). Received: none")
        return self.reference


def transform(state: State, *, path: str) -> State:
    """Applies a saved transform of retrieval/transform.py."""
    return _transformed(state, Transform.load(path))


def pca(state: State, *, dimension: int, whiten: float = 0.0, fit_on: str = "index") -> State:
    """PCA to `dimension`, fitted on the "index", the "queries" or the "reference"."""
    sets = {
        "index": lambda: state.vectors,
        "queries": lambda: state.queries,
        "reference": lambda: state.labelled().vectors,
    }
    _check_choice("fit_on", fit_on, tuple(sets))
    return _transformed(state, transforms.fit_pca(sets[fit_on](), dimension, whiten=whiten))


def learned_whitening(state: State, *, dimension: int, shrinkage: float = 0.0) -> State:
    """Whitening to `dimension`, learned from the pairs of one class in the labelled set."""
    reference = state.labelled()
    pairs = covariance.within_class_pairs(reference.classes)
    fitted = transforms.fit_learned_whitening(
        reference.vectors, *pairs, dimension, shrinkage=shrinkage
    )
    return _transformed(state, fitted)


def power(state: State, *, exponent: float = 0.5) -> State:
    """Signed power of every coordinate, then L2."""
    return _transformed(state, transforms.power(state.queries.shape[1], exponent))


def expand_queries(
    state: State, *, rule: str = "alpha", top: int = 10, alpha: float = 3.0
) -> State:
    """Query expansion by the present answers; see `expansion.Weights` for the rules."""
    weights, state = _weights(rule, top, alpha), state.ranked()
    scores = state.scores if weights.alpha else None
    expanded = expansion.expand(
        state.queries, state.vectors, state.positions, scores, weights=weights
    )
    return state.moved(queries=expanded)


def expand_index(
    state: State, *, rule: str = "decaying", top: int = 10, alpha: float = 3.0
) -> State:
    """Database augmentation by every index vector's neighbours in the index."""
    weights, state = _weights(rule, top, alpha), state.searching()
    positions, similarities = searchers.search_in_pieces(
        state.searcher.search, state.vectors, top + 1
    )
    expanded = expansion.augment_database(
        state.vectors, positions, similarities if weights.alpha else None, weights=weights
    )
    return state.moved(vectors=expanded)


def k_reciprocal_step(
    state: State, *, k1: int = 20, k2: int = 6, lambda_value: float = 0.3
) -> State:
    """k-reciprocal re-ranking of the whole index."""
    positions, distances = k_reciprocal.rerank(
        state.queries,
        state.vectors,
        k1=k1,
        k2=k2,
        lambda_value=lambda_value,
        k=state.depth,
        neighbours=state.lists(max(k1 + 1, k2)),
    )
    return state.answered(positions, -distances)


def diffusion_step(
    state: State,
    *,
    neighbours: int = 50,
    query_neighbours: int = 10,
    gamma: float = 3.0,
    alpha: float = 0.99,
    truncation: int = 0,
) -> State:
    """Diffusion on the graph of the index; truncation 0 is none."""
    graph = diffusion.Diffusion(
        state.vectors,
        neighbours=neighbours,
        gamma=gamma,
        alpha=alpha,
        lists=state.lists(neighbours + 1),
    )
    found = graph.rerank(
        state.queries,
        k=state.depth,
        query_neighbours=query_neighbours,
        truncation=truncation or None,
    )
    return state.answered(*found)


def label_aware_step(
    state: State, *, neighbours: int = 3, threshold: float = 0.0, insert: bool = True
) -> State:
    """Answers of the class that the labelled set gives to the query come first."""
    reference, state = state.labelled(), state.ranked()
    searcher = searchers.make_searcher(state.search, reference.vectors, neighbours)
    query_classes, index_classes = (
        label_aware.predict(
            searcher, reference.classes, vectors, neighbours=neighbours, threshold=threshold
        )
        for vectors in (state.queries, state.vectors)
    )
    positions = label_aware.rerank(
        query_classes, index_classes, state.positions, state.queries, state.vectors, insert=insert
    )
    return state.answered(positions, _by_rank(positions))


def geometric_step(state: State, *, candidates: int = 20, inliers: int = 10) -> State:
    """The first candidates are ordered by how many local features match under one affine map."""
    if state.photographs is None:
        raise ValueError(
            "expected the photographs (--query-table and --index-table). Received: none"
        )
    state = state.ranked()
    positions = geometric.rerank(
        *state.photographs, state.positions, candidates=candidates, inliers=inliers
    )
    return state.answered(positions, _by_rank(positions))


STEPS: dict[str, Callable[..., State]] = {
    "transform": transform,
    "pca": pca,
    "learned_whitening": learned_whitening,
    "power": power,
    "expand_queries": expand_queries,
    "expand_index": expand_index,
    "k_reciprocal": k_reciprocal_step,
    "diffusion": diffusion_step,
    "label_aware": label_aware_step,
    "geometric": geometric_step,
}


def _transformed(state: State, change: Transform) -> State:
    reference = state.reference
    if reference is not None:
        vectors = change.apply(reference.vectors)
        reference = dataclasses.replace(reference, vectors=vectors)
    return state.moved(
        queries=change.apply(state.queries),
        vectors=change.apply(state.vectors),
        reference=reference,
    )


def _weights(rule: str, top: int, alpha: float) -> expansion.Weights:
    _check_choice("rule", rule, RULES)
    if rule == "alpha":
        return expansion.Weights.alpha_weighted(top, alpha)
    return getattr(expansion.Weights, rule)(top)


def _check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"expected {name} among {', '.join(allowed)}. Received: {value!r}")


def _by_rank(positions: np.ndarray) -> np.ndarray:
    """Returns minus the rank as the score, for steps that only order."""
    ranks = np.arange(1, positions.shape[1] + 1, dtype=np.float32)
    return np.broadcast_to(-ranks, positions.shape)
