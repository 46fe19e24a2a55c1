"""Losses of a softmax classifier, from logits; each returns one float32 value per example.

With z_y the logit of the own class and r = ln Σ_{j≠y} exp z_j, the softmax's p_y is σ(z_y − r).
The own class is not in the sum, so neither p_y nor 1 − p_y loses digits however sure the softmax
is.
"""

from keras import ops

from models import heads

EXCLUDED = -1e30  # logit of a class that is left out


def softmax_cross_entropy(logits, labels, *, smoothing: float = 0.0):
    """Returns the cross entropy to labels smoothed by ε: 1 − ε on the own class, ε/C on each.

    Args:
        logits: `(B, C)`, any float.
        labels: `(B,)` integers in [0, C).
        smoothing: ε, 0 for the plain cross entropy.

    Returns:
        `(B,)` float32.

    Raises:
        ValueError: ε outside of [0, 1).

    Reference:
        Szegedy et al., "Rethinking the Inception Architecture for Computer Vision",
        arXiv:1512.00567.
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing: expected at least 0, below 1. Received: {smoothing}")
    logits = ops.cast(logits, "float32")
    lead = _lead(logits, labels)  # (B,)
    losses = ops.softplus(-lead)
    if smoothing:
        # −ε·(mean of ln p − ln p_y): only differences of logits, none of which is large alone.
        own = ops.expand_dims(heads.own_cosines(logits, labels), 1)  # (B, 1)
        losses = losses + smoothing * ops.mean(own - logits, axis=1)
    return losses


def focal_loss(logits, labels, *, gamma: float = 2.0):
    """Returns −(1 − p_y)^γ · ln p_y, which leaves out what is sure already.

    Args:
        logits: `(B, C)`, any float.
        labels: `(B,)` integers in [0, C).
        gamma: γ, 0 for the plain cross entropy.

    Returns:
        `(B,)` float32.

    Reference:
        Lin et al., "Focal Loss for Dense Object Detection", arXiv:1708.02002, over a softmax.
    """
    lead = _lead(ops.cast(logits, "float32"), labels)  # (B,)
    # The power by its logarithm: its gradient is finite where 1 − p is 0, for γ < 1 as well.
    return ops.exp(-gamma * ops.softplus(lead)) * ops.softplus(-lead)


def accuracy_loss(logits, labels):
    """Returns 1 − tp/(tp + fp), with tp = p_y and fp the sum of the other classes' p.

    Over a softmax tp + fp is 1, so this is 1 − p_y: the expected error of a guess drawn from the
    softmax. Unlike the cross entropy it has next to no gradient where an image is far on the wrong
    side, and so follows wrong labels less.

    Args:
        logits: `(B, C)`, any float.
        labels: `(B,)` integers in [0, C).

    Returns:
        `(B,)` float32 in [0, 1].

    Reference:
        First place of the AliProducts challenge (CVPR 2020).
    """
    return ops.sigmoid(-_lead(ops.cast(logits, "float32"), labels))


CLASSIFIER_LOSSES = {
    "cross_entropy": softmax_cross_entropy,
    "focal": focal_loss,
    "accuracy": accuracy_loss,
}


def _lead(logits, labels):
    """Returns z_y − ln Σ_{j≠y} exp z_j, `(B,)`."""
    own = heads.is_own_class(labels, logits.shape[-1])  # (B, C)
    rest = ops.logsumexp(ops.where(own, EXCLUDED, logits), axis=1)  # (B,)
    return heads.own_cosines(logits, labels) - rest
