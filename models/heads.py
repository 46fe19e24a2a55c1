"""The cosine softmax head: class centres, the scale rules and the margins."""

import math

import keras
from keras import ops

# Keeps arccos' argument inside its domain, and its gradient finite, in float32.
COSINE_LIMIT = 1.0 - 1e-7


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
        embeddings = ops.normalize(inputs, axis=-1, epsilon=1e-12)  # (B, D)
        centers = ops.normalize(self.centers, axis=0, epsilon=1e-12)  # (D, C)
        return ops.matmul(embeddings, centers)  # (B, C)

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


def adacos_scale(cosines, labels):
    """Returns the dynamic AdaCos scale of one batch, without state and without gradient.

    s = ln(B) / cos(min(π/4, θ_med)), where B is the mean over the batch of the sum over the
    other classes of exp(s0·cos), s0 the fixed scale, and θ_med the median angle to the own
    class ("nearest" rule, ties to even). Under tf.distribute the batch is the replica's own.

    Args:
        cosines: `(B, C)` float32.
        labels: `(B,)` integers in [0, C).

    Returns:
        Scalar, float32.

    Reference:
        Zhang et al., "AdaCos: Adaptively Scaling Cosine Logits for Effectively Learning Deep Face
        Representations", arXiv:1905.00292, as the winner of Google Landmark Retrieval 2020
        computes it.
    """
    cosines = ops.stop_gradient(cosines)
    batch_size, num_classes = ops.shape(cosines)
    fixed = fixed_adacos_scale(cosines.shape[-1])
    own = _is_own_class(labels, num_classes)  # (B, C)
    log_sum = ops.logsumexp(ops.where(own, -math.inf, fixed * cosines))  # ()
    log_mean = log_sum - ops.log(ops.cast(batch_size, "float32"))
    angles = ops.sort(_angles(_own_cosines(cosines, labels)))  # (B,)
    middle = ops.cast(ops.round(0.5 * ops.cast(batch_size - 1, "float32")), "int32")
    median = ops.take(angles, middle)
    return log_mean / ops.cos(ops.minimum(median, math.pi / 4))


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
    own_cosines = _own_cosines(cosines, labels)  # (B,)
    shifted = ops.cos(_angles(own_cosines) + margin)
    linear = own_cosines - margin * math.sin(margin)
    shifted = ops.where(own_cosines > -math.cos(margin), shifted, linear)
    own = _is_own_class(labels, cosines.shape[-1])
    return ops.where(own, ops.expand_dims(shifted, 1), cosines)


def cosface(cosines, labels, margin: float):
    """Subtracts `margin` from the cosine of the own class: cos θ − m, Wang et al. 1801.09414.

    Args:
        cosines: `(B, C)` float32.
        labels: `(B,)` integers.
        margin: a cosine.

    Returns:
        `(B, C)` float32.
    """
    return ops.where(_is_own_class(labels, cosines.shape[-1]), cosines - margin, cosines)


def _is_own_class(labels, num_classes):
    classes = ops.arange(num_classes, dtype="int32")
    return ops.expand_dims(ops.cast(labels, "int32"), 1) == classes  # (B, C)


def _own_cosines(cosines, labels):
    column = ops.expand_dims(ops.cast(labels, "int32"), 1)  # (B, 1)
    return ops.squeeze(ops.take_along_axis(cosines, column, axis=1), axis=1)  # (B,)


def _angles(cosines):
    return ops.arccos(ops.clip(cosines, -COSINE_LIMIT, COSINE_LIMIT))
