"""Cross entropy over a cosine softmax in one operation with a gradient of its own.

The D × C matrix of class centres W decides what this costs: 0.4 GB for 203,094 classes, against
13 MB for the cosines of 16 images. So W is never normalised into a copy: the columns of x·W are
divided by the centres' norms after the product.
"""

from collections.abc import Callable, Sequence

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
    margin_size: float | Sequence[float] = 0.0,
    sub_centers: int = 1,
    gather: Callable | None = None,
) -> dict:
    """Returns loss, accuracy, scale and target cosine of a batch; the loss has a gradient.

    With φ the margin, CE_i = softplus(ln Σ_{j≠y} exp(s·cos_ij) − s·φ(cos_iy)): the own class is
    not in the sum, so nothing cancels however sure the softmax is.

    Args:
        embeddings: `(B, D)`, any float.
        centers: `(D, C·K)` float32, the class centres W.
        labels: `(B,)` integers in [0, C).
        scale, margin, margin_size: see `models.losses.CosineSoftmaxCrossEntropy`. The scale can be
            "norm" as well, the length of each embedding, as SphereFace has it (arXiv:1704.08063).
        sub_centers: K, see `heads.CosineSoftmax`; only the nearest one of a class has a gradient.
        gather: see `heads.adacos_scale`.

    Returns:
        {"loss": `(B,)`, "correct": `(B,)` 1 or 0, "scale": `()`, "target_cosine": `(B,)`},
        float32. Correct is an image whose own class alone has the largest cosine, without margin;
        the scale by "norm" is the mean length.

    Raises:
        ValueError: an unknown margin, or a size that it cannot have.
    """
    heads.check_margin(margin, margin_size)
    labels = ops.cast(labels, "int32")
    sizes = heads.class_margins(margin_size, labels)  # () or (B,)

    @ops.custom_gradient
    def head(embeddings, centers):
        lengths = heads.inverse_norm(embeddings, axis=1)  # (B, 1) 1/‖x‖
        center_lengths = heads.inverse_norm(centers, axis=0)  # (1, C) 1/‖W‖
        units = embeddings * lengths  # (B, D)
        each = ops.matmul(units, centers) * center_lengths  # (B, C·K)
        cosines = heads.nearest_of_class(each, sub_centers)  # (B, C)
        own = heads.is_own_class(labels, cosines.shape[-1])  # (B, C)
        target = heads.own_cosines(cosines, labels)  # (B,)
        number = _scale(scale, cosines, labels, gather, lengths)  # (1, 1), or (B, 1) by "norm"
        shifted, slope = heads.own_class_margin(target, margin, sizes)  # (B,), (B,)
        rest = ops.logsumexp(ops.where(own, EXCLUDED, number * cosines), axis=1)  # (B,)
        lead = number[:, 0] * shifted - rest  # (B,)

        def gradient(*args, upstream=None):
            upstream = _column(_of_losses(args if upstream is None else upstream))  # (B, 1)
            doubt = -ops.sigmoid(-lead)  # (B,)
            push = ops.exp(number * cosines - _column(rest + ops.softplus(lead)))  # (B, C) softmax
            slopes = number * upstream * ops.where(own, _column(doubt * slope), push)  # (B, C)
            slopes = _to_nearest(slopes, each, sub_centers)  # (B, C·K) d loss / d cosine
            to_embeddings = _embedding_gradient(units, lengths, slopes * center_lengths, centers)
            if scale == "norm":
                stretch = ops.sum(ops.where(own, _column(doubt * shifted), push * cosines), axis=1)
                to_embeddings += _above_floor(lengths) * upstream * _column(stretch) * units
            return to_embeddings, _center_gradient(units, centers, center_lengths, each, slopes)

        correct = ops.cast(target > ops.max(ops.where(own, -2.0, cosines), axis=1), "float32")
        return (ops.softplus(-lead), correct, ops.mean(number), target), gradient

    return _named(*head(ops.cast(embeddings, "float32"), ops.cast(centers, "float32")))


def _named(loss, *others) -> dict:
    others = (ops.stop_gradient(output) for output in others)
    names = ("correct", "scale", "target_cosine")
    return {"loss": loss, **dict(zip(names, others, strict=True))}


def _scale(rule, cosines, labels, gather, lengths):
    """Returns what the cosines are multiplied by, `(1, 1)`, or `(B, 1)` by the rule "norm"."""
    if rule == "norm":
        return 1.0 / lengths
    return ops.reshape(heads.scale_of(rule, cosines, labels, gather), (1, 1))


def _to_nearest(slopes, cosines, sub_centers):
    """Returns the gradient to `(B, C·K)` cosines of what has `slopes` to the largest of each K."""
    if sub_centers == 1:
        return slopes
    grouped = ops.reshape(cosines, (-1, slopes.shape[1], sub_centers))  # (B, C, K)
    nearest = ops.one_hot(ops.argmax(grouped, axis=2), sub_centers)
    return ops.reshape(ops.expand_dims(slopes, 2) * nearest, (-1, cosines.shape[1]))


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
