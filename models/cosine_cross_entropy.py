"""Cross entropy over a cosine softmax in one operation with a gradient of its own.

The D × C matrix of class centres W decides what this costs: 0.4 GB for 203,094 classes, against
13 MB for the cosines of 16 images. So W is never normalised into a copy: the columns of x·W are
divided by the centres' norms after the product.
"""

from collections.abc import Callable

from keras import ops

from models import heads

EXCLUDED = -1e30  # logit of a class that is left out


def cosine_cross_entropy(
    embeddings,
    centers,
    labels,
    *,
    scale: str | float,
    margin: str = "none",
    margin_size: float = 0.0,
    gather: Callable | None = None,
) -> dict:
    """Returns loss, accuracy, scale and target cosine of a batch; the loss has a gradient.

    With φ the margin, CE_i = softplus(ln Σ_{j≠y} exp(s·cos_ij) − s·φ(cos_iy)): the own class is
    not in the sum, so nothing cancels however sure the softmax is.

    Args:
        embeddings: `(B, D)`, any float.
        centers: `(D, C)` float32, the class centres W.
        labels: `(B,)` integers in [0, C).
        scale, margin, margin_size: see `models.losses.CosineSoftmaxCrossEntropy`.
        gather: see `heads.adacos_scale`.

    Returns:
        {"loss": `(B,)`, "correct": `(B,)` 1 or 0, "scale": `()`, "target_cosine": `(B,)`},
        float32. Correct is an image whose own class alone has the largest cosine, without margin.
    """
    labels = ops.cast(labels, "int32")

    @ops.custom_gradient
    def head(embeddings, centers):
        lengths = heads.inverse_norm(embeddings, axis=1)  # (B, 1) 1/‖x‖
        center_lengths = heads.inverse_norm(centers, axis=0)  # (1, C) 1/‖W‖
        units = embeddings * lengths  # (B, D)
        cosines = ops.matmul(units, centers) * center_lengths  # (B, C)
        own = heads.is_own_class(labels, cosines.shape[-1])  # (B, C)
        target = heads.own_cosines(cosines, labels)  # (B,)
        number = heads.scale_of(scale, cosines, labels, gather)  # ()
        shifted, slope = heads.own_class_margin(target, margin, margin_size)  # (B,), (B,)
        rest = ops.logsumexp(ops.where(own, EXCLUDED, number * cosines), axis=1)  # (B,)
        lead = number * shifted - rest  # (B,)
        losses = ops.softplus(-lead)  # (B,)
        best = ops.max(ops.where(own, -2.0, cosines), axis=1)  # (B,)

        def gradient(*args, upstream=None):
            weight = number * _of_losses(args if upstream is None else upstream)  # (B,)
            pull = _column(-ops.sigmoid(-lead) * slope)  # (B, 1)
            total = _column(rest + ops.softplus(lead))  # (B, 1) ln Σ_j exp(logit)
            push = ops.exp(number * cosines - total)  # (B, C) softmax
            slopes = _column(weight) * ops.where(own, pull, push)  # (B, C) d loss / d cosine
            return (
                _embedding_gradient(units, lengths, slopes * center_lengths, centers),
                _center_gradient(units, centers, center_lengths, cosines, slopes),
            )

        return (losses, ops.cast(target > best, "float32"), number, target), gradient

    outputs = head(ops.cast(embeddings, "float32"), ops.cast(centers, "float32"))
    outputs = (outputs[0], *(ops.stop_gradient(output) for output in outputs[1:]))
    return dict(zip(("loss", "correct", "scale", "target_cosine"), outputs, strict=True))


def _embedding_gradient(units, lengths, slopes, centers):
    """Returns d/dx, `(B, D)`, of what has the gradient `slopes`, `(B, C)`, to x·W / ‖x‖."""
    # W·slopesᵀ takes half the time of slopes·Wᵀ on a CPU.
    gradient = ops.transpose(ops.matmul(centers, ops.transpose(slopes)))  # (B, D)
    along = ops.sum(gradient * units, axis=1, keepdims=True)  # (B, 1)
    return (gradient - _above_floor(lengths) * along * units) * lengths


def _center_gradient(units, centers, center_lengths, cosines, slopes):
    """Returns d/dW, `(D, C)`, of what has the gradient `slopes`, `(B, C)`, to the cosines."""
    along = ops.sum(slopes * cosines, axis=0, keepdims=True)  # (1, C)
    along = along * _above_floor(center_lengths) * ops.square(center_lengths)
    across = ops.matmul(ops.transpose(units), slopes * center_lengths)  # (D, C)
    return across - centers * along


def _above_floor(lengths):
    """Returns 0 where a norm is below the floor, and x/‖x‖ so a multiple of x; else 1."""
    return ops.cast(lengths < 0.999 / heads.SMALLEST_NORM, "float32")


def _of_losses(upstream):
    """Returns the gradient to the first output; backends hand over one tuple or several values."""
    while isinstance(upstream, (tuple, list)):
        upstream = upstream[0]
    return upstream


def _column(values):
    return ops.expand_dims(values, 1)  # (B, 1)
