"""The cosine softmax head: class centres, the scale rules and the margins."""

import math
from collections.abc import Callable

import keras
from keras import ops

# Keeps arccos' argument inside its domain, and its gradient finite, in float32.
COSINE_LIMIT = 1.0 - 1e-7
# Below it a vector is divided by this and not by its norm; the winner's tf.nn.l2_normalize.
SMALLEST_NORM = 1e-6


@keras.saving.register_keras_serializable(package="waymark")
class CosineSoftmax(keras.layers.Layer):
    """Cosines between embeddings and one trained centre per class.

    cos_ij = ⟨x_i / ‖x_i‖, W_j / ‖W_j‖⟩, always in float32. Scale and margin belong to the loss,
    `models.losses.CosineSoftmaxCrossEntropy`.

    Args:
        num_classes: number of classes C.

    Call arguments:
        inputs: embeddings.

    Input shape:
        `(B, D)`.

    Output shape:
        `(B, C)`, cosines in [−1, 1].

    Example:
        >>> CosineSoftmax(1000)(keras.ops.ones((8, 512))).shape
        TensorShape([8, 1000])

    Reference:
        Wang et al., "NormFace: L2 Hypersphere Embedding for Face Verification", arXiv:1704.06369.
    """

    def __init__(self, num_classes: int, **kwargs):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        if num_classes < 2:
            raise ValueError(f"num_classes: expected at least 2. Received: {num_classes}")
        self.num_classes = num_classes

    def build(self, input_shape):
        self.centers = self.add_weight(
            name="centers",
            shape=(input_shape[-1], self.num_classes),  # (D, C)
            initializer="glorot_uniform",
        )

    def call(self, inputs):
        embeddings = inputs * inverse_norm(inputs, axis=1)  # (B, D)
        cosines = ops.matmul(embeddings, self.centers)  # (B, C), so far times ‖W‖
        return cosines * inverse_norm(self.centers, axis=0)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.num_classes)

    def get_config(self):
        return {**super().get_config(), "num_classes": self.num_classes}


def fixed_adacos_scale(num_classes: int) -> float:
    """Returns √2·ln(C − 1), AdaCos' fixed scale (arXiv:1905.00292): 15.99 for C = 81,313.

    Raises:
        ValueError: fewer than 3 classes, where the scale is 0 or undefined.
    """
    if num_classes < 3:
        raise ValueError(f"AdaCos: expected at least 3 classes. Received: {num_classes}")
    return math.sqrt(2.0) * math.log(num_classes - 1)


def adacos_scale(cosines, labels, gather: Callable | None = None):
    """Returns the dynamic AdaCos scale of one batch, without state and without gradient.

    s = ln(B) / cos(min(π/4, θ_med)), where B is the mean over the batch of the sum over the
    other classes of exp(s0·cos), s0 the fixed scale, and θ_med the median angle to the own
    class ("nearest" rule, ties to even).

    Args:
        cosines: `(B, C)` float32.
        labels: `(B,)` integers in [0, C).
        gather: `(b,)` → `(R·b,)`, the values of all replicas. With it the scale is the global
            batch's, the same however many replicas share it; without it, it is that of the
            cosines given: under tf.distribute the replica's own, the winner's rule.

    Returns:
        Scalar, float32.

    Reference:
        Zhang et al., "AdaCos: Adaptively Scaling Cosine Logits for Effectively Learning Deep Face
        Representations", arXiv:1905.00292, as the winner of Google Landmark Retrieval 2020
        computes it.
    """
    cosines = ops.stop_gradient(cosines)
    fixed = fixed_adacos_scale(cosines.shape[-1])
    own = is_own_class(labels, cosines.shape[-1])  # (B, C)
    sums = ops.sum(ops.where(own, 0.0, ops.exp(fixed * cosines)), axis=1)  # (B,)
    target = own_cosines(cosines, labels)  # (B,)
    if gather is not None:
        sums, target = gather(sums), gather(target)  # (R·B,)
    return adacos_from_sums(sums, target)


def adacos_from_sums(sums, target_cosines):
    """Returns `adacos_scale` of a batch from what it needs of each image.

    Args:
        sums: `(B,)` float32, Σ over the other classes of exp(s0·cos).
        target_cosines: `(B,)` float32, cosines to the own classes.

    Returns:
        Scalar, float32.
    """
    batch_size = ops.shape(sums)[0]
    angles = ops.sort(angles_of(target_cosines))  # (B,)
    middle = ops.cast(ops.round(0.5 * ops.cast(batch_size - 1, "float32")), "int32")
    median = ops.take(angles, middle)
    return ops.log(ops.mean(sums)) / ops.cos(ops.minimum(median, math.pi / 4))


def scale_of(rule: str | float, cosines, labels, gather: Callable | None = None):
    """Returns the scale by a rule: "adacos" (dynamic), "adacos_fixed", or a number.

    Args:
        rule: which.
        cosines, labels, gather: see `adacos_scale`.

    Returns:
        Scalar, float32.
    """
    if rule == "adacos":
        return adacos_scale(cosines, labels, gather)
    if rule == "adacos_fixed":
        rule = fixed_adacos_scale(cosines.shape[-1])
    return ops.convert_to_tensor(rule, "float32")


def arcface(cosines, labels, margin: float):
    """Adds `margin` radians to the angle of the own class: cos(θ + m), Deng et al. 1801.07698.

    Where θ + m would pass π the cosine falls on linearly, cos θ − m·sin m, so that the logit
    stays monotonic (the authors' own code does the same).

    Args:
        cosines: `(B, C)` float32.
        labels: `(B,)` integers.
        margin: radians.

    Returns:
        `(B, C)` float32.
    """
    return _with_margin(cosines, labels, "arcface", margin)


def cosface(cosines, labels, margin: float):
    """Subtracts `margin` from the cosine of the own class: cos θ − m, Wang et al. 1801.09414.

    Args:
        cosines: `(B, C)` float32.
        labels: `(B,)` integers.
        margin: a cosine.

    Returns:
        `(B, C)` float32.
    """
    return _with_margin(cosines, labels, "cosface", margin)


def own_class_margin(target_cosines, margin: str, size: float):
    """Returns the cosines to the own classes after the margin, and the derivative of that.

    Args:
        target_cosines: `(B,)` float32.
        margin: "none", "arcface" or "cosface".
        size: radians for "arcface", a cosine for "cosface".

    Returns:
        `(B,)` and `(B,)`, float32.
    """
    one = ops.ones_like(target_cosines)
    if margin == "none":
        return target_cosines, one
    if margin == "cosface":
        return target_cosines - size, one
    if margin != "arcface":
        raise ValueError(f"margin: expected 'none', 'arcface' or 'cosface'. Received: {margin!r}")
    angles = angles_of(target_cosines)
    inside = target_cosines > -math.cos(size)
    shifted = ops.where(inside, ops.cos(angles + size), target_cosines - size * math.sin(size))
    slope = ops.sin(angles + size) / ops.sin(angles)
    slope = ops.where(ops.abs(target_cosines) < COSINE_LIMIT, slope, 0.0)  # of the limited angle
    return shifted, ops.where(inside, slope, one)


def is_own_class(labels, num_classes: int):
    """Returns whether a column is an image's own class, `(B, C)`."""
    classes = ops.arange(num_classes, dtype="int32")
    return ops.expand_dims(ops.cast(labels, "int32"), 1) == classes


def own_cosines(cosines, labels):
    """Returns the cosine of every image to its own class, `(B,)`."""
    column = ops.expand_dims(ops.cast(labels, "int32"), 1)  # (B, 1)
    return ops.squeeze(ops.take_along_axis(cosines, column, axis=1), axis=1)


def angles_of(cosines):
    """Returns arccos of cosines that rounding may have taken past 1."""
    return ops.arccos(ops.clip(cosines, -COSINE_LIMIT, COSINE_LIMIT))


def inverse_norm(vectors, axis: int):
    """Returns 1 / max(‖v‖, `SMALLEST_NORM`) along `axis`, which stays with size 1."""
    squares = ops.sum(ops.square(vectors), axis=axis, keepdims=True)
    return ops.rsqrt(ops.maximum(squares, SMALLEST_NORM**2))


def _with_margin(cosines, labels, margin: str, size: float):
    shifted, _ = own_class_margin(own_cosines(cosines, labels), margin, size)  # (B,)
    own = is_own_class(labels, cosines.shape[-1])
    return ops.where(own, ops.expand_dims(shifted, 1), cosines)
