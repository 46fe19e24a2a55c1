"""The heads: class centres, the scale rules and the margins of a cosine softmax; a linear one."""

import math
from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import ops

# Keeps arccos' argument inside its domain, and its gradient finite, in float32.
COSINE_LIMIT = 1.0 - 1e-7
# Below it a vector is divided by this and not by its norm; the winner's tf.nn.l2_normalize.
SMALLEST_NORM = 1e-6
MARGINS = ("none", "arcface", "cosface", "sphereface")


@keras.saving.register_keras_serializable(package="waymark")
class CosineSoftmax(keras.layers.Layer):
    """Cosines between embeddings and the trained centres of the classes.

    cos_ij = ⟨x_i / ‖x_i‖, W_j / ‖W_j‖⟩, always in float32. Scale and margin belong to the loss,
    `models.losses.CosineSoftmaxCrossEntropy`. With K sub-centres a class is as near as the nearest
    of its K, so that wrongly labelled images can gather around one of their own.

    Args:
        num_classes: number of classes C.
        sub_centers: K. `centers` is `(D, C·K)`, the K columns of a class side by side.

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
        Deng et al., "Sub-center ArcFace: Boosting Face Recognition by Large-scale Noisy Web
        Faces", ECCV 2020.
    """

    def __init__(self, num_classes: int, sub_centers: int = 1, **kwargs):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        if num_classes < 2:
            raise ValueError(f"num_classes: expected at least 2. Received: {num_classes}")
        if sub_centers < 1:
            raise ValueError(f"sub_centers: expected at least 1. Received: {sub_centers}")
        self.num_classes = num_classes
        self.sub_centers = sub_centers

    def build(self, input_shape):
        self.centers = self.add_weight(
            name="centers",
            shape=(input_shape[-1], self.num_classes * self.sub_centers),  # (D, C·K)
            initializer="glorot_uniform",
        )

    def call(self, inputs):
        embeddings = inputs * inverse_norm(inputs, axis=1)  # (B, D)
        cosines = ops.matmul(embeddings, self.centers)  # (B, C·K), so far times ‖W‖
        return nearest_of_class(cosines * inverse_norm(self.centers, axis=0), self.sub_centers)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.num_classes)

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "sub_centers": self.sub_centers,
        }


def build_head(
    num_classes: int,
    kind: str = "cosine",
    *,
    sub_centers: int = 1,
    use_bias: bool = True,
    name: str = "head",
) -> keras.layers.Layer:
    """Returns the layer from embeddings `(B, D)` to cosines or logits `(B, C)`, float32.

    Args:
        num_classes: number of classes C.
        kind: "cosine", see `CosineSoftmax`, or "linear", a plain softmax's logits x·W + b.
        sub_centers: of "cosine".
        use_bias: of "linear".
        name: of the layer.

    Raises:
        ValueError: an unknown kind.
    """
    if kind == "cosine":
        return CosineSoftmax(num_classes, sub_centers, name=name)
    if kind == "linear":
        return keras.layers.Dense(num_classes, use_bias=use_bias, dtype="float32", name=name)
    raise ValueError(f"head: expected 'cosine' or 'linear'. Received: {kind!r}")


def nearest_of_class(cosines, sub_centers: int):
    """Returns the largest cosine to the sub-centres of every class, `(B, C)` of `(B, C·K)`."""
    if sub_centers == 1:
        return cosines
    classes = cosines.shape[-1] // sub_centers
    return ops.max(ops.reshape(cosines, (-1, classes, sub_centers)), axis=2)


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


def arcface(cosines, labels, margin: float | Sequence[float]):
    """Adds `margin` radians to the angle of the own class: cos(θ + m), Deng et al. 1801.07698.

    Where θ + m would pass π the cosine falls on linearly, cos θ − m·sin m, so that the logit
    stays monotonic (the authors' own code does the same).

    Args:
        cosines: `(B, C)` float32.
        labels: `(B,)` integers.
        margin: radians, or `(C,)` of each class.

    Returns:
        `(B, C)` float32.
    """
    return _with_margin(cosines, labels, "arcface", margin)


def cosface(cosines, labels, margin: float | Sequence[float]):
    """Subtracts `margin` from the cosine of the own class: cos θ − m, Wang et al. 1801.09414.

    Args:
        cosines: `(B, C)` float32.
        labels: `(B,)` integers.
        margin: a cosine, or `(C,)` of each class.

    Returns:
        `(B, C)` float32.
    """
    return _with_margin(cosines, labels, "cosface", margin)


def sphereface(cosines, labels, margin: float | Sequence[float]):
    """Multiplies the angle of the own class: (−1)^k·cos(mθ) − 2k, Liu et al. 1704.08063.

    k = ⌊mθ/π⌋ keeps it monotonic. The paper's m is 4, and its scale the length of the embedding,
    "norm" in `cosine_cross_entropy`.

    Args:
        cosines: `(B, C)` float32.
        labels: `(B,)` integers.
        margin: m, at least 1, or `(C,)` of each class.

    Returns:
        `(B, C)` float32.
    """
    return _with_margin(cosines, labels, "sphereface", margin)


def dynamic_margins(
    counts: Sequence[int], *, a: float = 0.5, b: float = 0.05, power: float = 0.25
) -> np.ndarray:
    """Returns a margin for each class, a·n^(−λ) + b: larger for classes of few images.

    Args:
        counts: `(C,)` training images of each class; 0 counts as 1.
        a, b: as above; the margins lie between b and a + b.
        power: λ.

    Returns:
        `(C,)` float32.

    Reference:
        Ha, Liu, Liu and Liao, "Google Landmark Recognition 2020 Competition Third Place Solution",
        arXiv:2010.05350.
    """
    return (a * np.maximum(counts, 1.0) ** -power + b).astype(np.float32)


def class_margins(size: float | Sequence[float], labels):
    """Returns the margin of every image, `()` or `(B,)` float32, of one for all or `(C,)`."""
    sizes = ops.convert_to_tensor(size, "float32")
    return ops.take(sizes, ops.cast(labels, "int32"), axis=0) if len(sizes.shape) else sizes


def check_margin(margin: str, size: float | Sequence[float]) -> None:
    """Raises ValueError for a margin or a size that none can have."""
    if margin not in MARGINS:
        raise ValueError(f"margin: expected one of {', '.join(MARGINS)}. Received: {margin!r}")
    if margin == "sphereface" and np.min(size) < 1:
        raise ValueError(f"sphereface: expected a margin of at least 1. Received: {np.min(size)}")


def own_class_margin(target_cosines, margin: str, size):
    """Returns the cosines to the own classes after the margin, and the derivative of that.

    Args:
        target_cosines: `(B,)` float32.
        margin: "none", "arcface", "cosface" or "sphereface".
        size: `()` or `(B,)`: radians for "arcface", a cosine for "cosface", a factor of the angle
            for "sphereface".

    Returns:
        `(B,)` and `(B,)`, float32.

    Raises:
        ValueError: another margin.
    """
    one = ops.ones_like(target_cosines)
    if margin == "none":
        return target_cosines, one
    size = ops.convert_to_tensor(size, "float32")
    if margin == "cosface":
        return target_cosines - size, one
    if margin not in MARGINS:
        raise ValueError(f"margin: expected one of {', '.join(MARGINS)}. Received: {margin!r}")
    angles = angles_of(target_cosines)
    has_slope = ops.abs(target_cosines) < COSINE_LIMIT  # where the angle is not the limited one
    if margin == "sphereface":
        turns = ops.floor(size * angles / math.pi)  # k
        sign = 1.0 - 2.0 * (turns % 2.0)
        slope = sign * size * ops.sin(size * angles) / ops.sin(angles)
        return sign * ops.cos(size * angles) - 2.0 * turns, ops.where(has_slope, slope, 0.0)
    inside = target_cosines > -ops.cos(size)
    beyond = target_cosines - size * ops.sin(size)
    slope = ops.where(has_slope, ops.sin(angles + size) / ops.sin(angles), 0.0)
    return ops.where(inside, ops.cos(angles + size), beyond), ops.where(inside, slope, one)


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


def _with_margin(cosines, labels, margin: str, size):
    size = class_margins(size, labels)
    shifted, _ = own_class_margin(own_cosines(cosines, labels), margin, size)  # (B,)
    own = is_own_class(labels, cosines.shape[-1])
    return ops.where(own, ops.expand_dims(shifted, 1), cosines)
