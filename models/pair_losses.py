"""Losses that compare the images of a batch with each other, or with a memory of earlier ones.

Every loss takes the embeddings `(b, D)` of one replica and returns `(b,)` float32, one value per
anchor, such that their mean over the global batch is the published value. All pairs are held as
one `(b, n)` matrix with masks, so shapes are static; norms, cosines and distances are float32.

These keyword arguments are the same for all:

- `gather`: `(b, …)` → `(R·b, …)`, the rows of all R replicas in their order, differentiable. With
  it the anchors are compared with the global batch, and the sum of the replicas' gradients is that
  of one device with the whole batch.
- `replica_id`: `()` int32, the place of this replica's rows in what `gather` returns, by which an
  anchor knows itself. Needed with `gather`.
- `references`: a `memory.References` to compare the anchors with, instead of with the batch:
  cross-batch memory (Wang et al., arXiv:1912.06798). No gradient goes to it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from keras import ops

from models import heads

EXCLUDED = -1e30  # exponent of a pair that is left out
# Squared distances below are those of equal vectors, and rounding: the root's gradient is cut off.
SMALLEST_SQUARE = 1e-12


def contrastive_loss(
    embeddings,
    labels,
    *,
    positive_margin: float = 0.0,
    negative_margin: float = 1.0,
    gather: Callable | None = None,
    replica_id=None,
    references=None,
):
    """Pulls images of a class together, pushes others apart to `negative_margin`.

    On Euclidean distances d of the L2-normalised embeddings: the mean of max(0, d −
    positive_margin) over the pairs of one class where it is not 0, plus the mean of max(0,
    negative_margin − d) over the other pairs where that is not 0. Not squared, as
    pytorch-metric-learning has it.

    Args:
        embeddings: `(b, D)`, any float.
        labels: `(b,)` integers.
        positive_margin, negative_margin: distances, of 0 … 2.
        gather, replica_id, references: see the module.

    Returns:
        `(b,)` float32.

    Reference:
        Hadsell, Chopra and LeCun, "Dimensionality Reduction by Learning an Invariant Mapping",
        CVPR 2006.
    """
    pairs = _make_pairs(embeddings, labels, gather, replica_id, references).normalized()
    distances = _root(pairs.squared_distances())  # (b, n)
    too_far = ops.relu(distances - positive_margin)
    too_near = ops.relu(negative_margin - distances)
    return _mean_where_positive(ops.where(pairs.positive, too_far, 0.0), gather) + (
        _mean_where_positive(ops.where(pairs.negative, too_near, 0.0), gather)
    )


def circle_loss(
    embeddings,
    labels,
    *,
    margin: float = 0.4,
    scale: float = 80.0,
    gather: Callable | None = None,
    replica_id=None,
    references=None,
):
    """Circle loss on all pairs, each weighted by how far its cosine is from its optimum.

    With s_p, s_n the cosines to images of the same and of other classes, m the margin and γ the
    scale: softplus(ln Σ exp(−γ·[1 + m − s_p]₊·(s_p − 1 + m)) + ln Σ exp(γ·[s_n + m]₊·(s_n − m))),
    the brackets without gradient. The mean is over the anchors with a loss above 0, as
    pytorch-metric-learning takes it; anchors without a positive or without a negative have 0.

    Args:
        embeddings: `(b, D)`, any float.
        labels: `(b,)` integers.
        margin: m.
        scale: γ.
        gather, replica_id, references: see the module.

    Returns:
        `(b,)` float32.

    Reference:
        Sun et al., "Circle Loss: A Unified Perspective of Pair Similarity Optimization",
        arXiv:2002.10857.
    """
    pairs = _make_pairs(embeddings, labels, gather, replica_id, references).normalized()
    cosines = pairs.products()  # (b, n)
    constant = ops.stop_gradient(cosines)
    pull = -scale * ops.relu(1.0 + margin - constant) * (cosines - (1.0 - margin))
    push = scale * ops.relu(constant + margin) * (cosines - margin)
    losses = ops.softplus(_log_sum(pull, pairs.positive) + _log_sum(push, pairs.negative))  # (b,)
    complete = ops.any(pairs.positive, axis=1) & ops.any(pairs.negative, axis=1)
    losses = ops.where(complete, losses, 0.0)
    return _mean_where_positive(ops.expand_dims(losses, 1), gather)


def multi_similarity_loss(
    embeddings,
    labels,
    *,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
    epsilon: float | None = None,
    gather: Callable | None = None,
    replica_id=None,
    references=None,
):
    """Multi-similarity loss: ln(1 + Σ exp(α(λ − s_p)))/α + ln(1 + Σ exp(β(s_n − λ)))/β.

    s_p and s_n are the cosines to images of the same and of other classes; λ is `base`.

    Args:
        embeddings: `(b, D)`, any float.
        labels: `(b,)` integers.
        alpha, beta, base: α, β and λ.
        epsilon: None takes all pairs. A number mines as the paper does: negatives with a cosine
            above the smallest s_p − epsilon, positives with one below the largest s_n + epsilon.
        gather, replica_id, references: see the module.

    Returns:
        `(b,)` float32.

    Reference:
        Wang et al., "Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning",
        arXiv:1904.06627.
    """
    pairs = _make_pairs(embeddings, labels, gather, replica_id, references).normalized()
    cosines = pairs.products()  # (b, n)
    positive, negative = pairs.positive, pairs.negative
    if epsilon is not None:
        least = ops.min(ops.where(positive, cosines, -EXCLUDED), axis=1, keepdims=True)  # (b, 1)
        most = ops.max(ops.where(negative, cosines, EXCLUDED), axis=1, keepdims=True)
        positive = positive & (cosines < most + epsilon)
        negative = negative & (cosines > least - epsilon)
    pull = ops.softplus(_log_sum(alpha * (base - cosines), positive)) / alpha
    push = ops.softplus(_log_sum(beta * (cosines - base), negative)) / beta
    return pull + push


def batch_hard_triplet_loss(
    embeddings,
    labels,
    *,
    margin: float | str = 0.3,
    gather: Callable | None = None,
    replica_id=None,
    references=None,
):
    """Triplet loss of every anchor with its farthest positive and its nearest negative.

    max(0, margin + d_ap − d_an) or, with the margin "soft", softplus(d_ap − d_an); d is the
    Euclidean distance of the embeddings as given, not normalised. Anchors without a positive or
    without a negative have 0, and the mean is over all anchors.

    The matrix of distances, by |a|² + |c|² − 2⟨a, c⟩, only selects. The distances of the selected
    are those of the differences, so that their digits do not cancel, and they alone have a
    gradient.

    Args:
        embeddings: `(b, D)`, any float.
        labels: `(b,)` integers.
        margin: a distance, or "soft".
        gather, replica_id, references: see the module.

    Returns:
        `(b,)` float32.

    Raises:
        ValueError: another word for the margin.

    Reference:
        Hermans, Beyer and Leibe, "In Defense of the Triplet Loss for Person Re-Identification",
        arXiv:1703.07737.
    """
    if isinstance(margin, str) and margin != "soft":
        raise ValueError(f"margin: expected a number or 'soft'. Received: {margin!r}")
    pairs = _make_pairs(embeddings, labels, gather, replica_id, references)
    squares = ops.stop_gradient(pairs.centered().squared_distances())  # (b, n)
    farthest = ops.argmax(ops.where(pairs.positive, squares, EXCLUDED), axis=1)  # (b,)
    nearest = ops.argmin(ops.where(pairs.negative, squares, -EXCLUDED), axis=1)
    difference = pairs.distances_to(farthest) - pairs.distances_to(nearest)  # (b,)
    losses = ops.softplus(difference) if margin == "soft" else ops.relu(difference + margin)
    complete = ops.any(pairs.positive, axis=1) & ops.any(pairs.negative, axis=1)
    return ops.where(complete, losses, 0.0)


PAIR_LOSSES = {
    "contrastive": contrastive_loss,
    "circle": circle_loss,
    "multi_similarity": multi_similarity_loss,
    "triplet": batch_hard_triplet_loss,
}


@dataclasses.dataclass(frozen=True)
class _Pairs:
    """Anchors and what they are compared with.

    Attributes:
        anchors: `(b, D)` float32.
        candidates: `(n, D)` float32.
        positive: `(b, n)` bool, whether a candidate is another image of the anchor's class.
        negative: `(b, n)` bool, whether it is of another class.
    """

    anchors: Any
    candidates: Any
    positive: Any
    negative: Any

    def normalized(self) -> "_Pairs":
        """Returns the pairs of the vectors at length 1; zeros stay zeros."""
        units = [v * heads.inverse_norm(v, axis=1) for v in (self.anchors, self.candidates)]
        return _Pairs(*units, self.positive, self.negative)

    def centered(self) -> "_Pairs":
        """Returns the pairs with the same distances and shorter vectors, to lose fewer digits."""
        mean = ops.mean(self.candidates, axis=0, keepdims=True)  # (1, D)
        return _Pairs(self.anchors - mean, self.candidates - mean, self.positive, self.negative)

    def products(self):
        """Returns ⟨a, c⟩, `(b, n)`."""
        return ops.matmul(self.anchors, ops.transpose(self.candidates))

    def squared_distances(self):
        """Returns |a|² + |c|² − 2⟨a, c⟩, `(b, n)`."""
        anchors = ops.sum(ops.square(self.anchors), axis=1, keepdims=True)  # (b, 1)
        candidates = ops.sum(ops.square(self.candidates), axis=1)  # (n,)
        return anchors + candidates - 2.0 * self.products()

    def distances_to(self, chosen):
        """Returns every anchor's distance to one candidate, `(b,)`, of their numbers `(b,)`."""
        differences = self.anchors - _rows(self.candidates, chosen)  # (b, D)
        return _root(ops.sum(ops.square(differences), axis=1))


def _make_pairs(embeddings, labels, gather, replica_id, references) -> _Pairs:
    if gather is not None and replica_id is None:
        raise ValueError(
            "replica_id: expected the number of this replica, since with gather an anchor would "
            "not know which row is itself. Received: None"
        )
    anchors = ops.cast(embeddings, "float32")  # (b, D)
    labels = ops.cast(labels, "int32")  # (b,)
    if references is None:
        candidates, classes = anchors, labels
        if gather is not None:
            candidates, classes = gather(anchors), gather(labels)  # (R·b, D), (R·b,)
        size = ops.shape(labels)[0]
        first = 0 if gather is None else ops.cast(replica_id, "int32") * size
        rows = first + ops.arange(size, dtype="int32")  # (b,)
        columns = ops.arange(ops.shape(classes)[0], dtype="int32")
        valid = ops.expand_dims(rows, 1) != columns  # (b, n)
    else:
        candidates = ops.stop_gradient(ops.cast(references.embeddings, "float32"))
        classes = ops.cast(references.labels, "int32")
        valid = ops.expand_dims(ops.cast(references.valid, "bool"), 0)  # (1, n)
    same = ops.expand_dims(labels, 1) == classes  # (b, n)
    return _Pairs(anchors, candidates, same & valid, ~same & valid)


def _rows(matrix, numbers):
    """Returns rows of an `(n, D)` matrix, with a dense gradient, as all-gathers expect it."""

    @ops.custom_gradient
    def take(matrix):
        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            return ops.scatter(ops.expand_dims(numbers, 1), upstream, ops.shape(matrix))

        return ops.take(matrix, numbers, axis=0), gradient

    return take(matrix)


def _log_sum(exponents, mask):
    """Returns ln Σ exp over the pairs of a mask, `(b,)`; about −1e30 where there is none."""
    return ops.logsumexp(ops.where(mask, exponents, EXCLUDED), axis=1)


def _mean_where_positive(values, gather):
    """Returns `(b,)` whose mean over the global batch is the mean of all `(b, n)` values above 0.

    0 where none is.
    """
    counts = ops.sum(ops.cast(values > 0, "float32"), axis=1)  # (b,)
    counts = ops.stop_gradient(counts if gather is None else gather(counts))  # (R·b,)
    size = ops.cast(ops.shape(counts)[0], "float32")
    return ops.sum(values, axis=1) * (size / ops.maximum(ops.sum(counts), 1.0))


def _root(squares):
    """Returns the square root, 0 and without gradient where there is only rounding."""
    above = squares > SMALLEST_SQUARE
    return ops.where(above, ops.sqrt(ops.where(above, squares, 1.0)), 0.0)
