"""From a feature map to one vector."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="waymark")
class GeneralizedMeanPooling(keras.layers.Layer):
    """GeM: the p-th root of the mean of the p-th powers over the positions.

    p = 1 is the mean, p → ∞ the maximum. The powers are taken in float32, since bfloat16 has
    8 bits of them.

    Args:
        p: the power at the start.
        trainable_p: whether p is trained.
        epsilon: smallest activation, so that the root has a gradient.

    Call arguments:
        inputs: feature map.

    Input shape:
        `(B, H, W, F)`.

    Output shape:
        `(B, F)`.

    Example:
        >>> GeneralizedMeanPooling()(keras.ops.ones((2, 7, 7, 1280))).shape
        TensorShape([2, 1280])

    Reference:
        Radenović, Tolias and Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation",
        arXiv:1711.02512.
    """

    def __init__(self, p: float = 3.0, trainable_p: bool = True, epsilon: float = 1e-6, **kwargs):
        super().__init__(**kwargs)
        if p <= 0:
            raise ValueError(f"p: expected a number above 0. Received: {p}")
        self.p = p
        self.trainable_p = trainable_p
        self.epsilon = epsilon

    def build(self, input_shape):
        self.power = self.add_weight(
            name="power",
            shape=(),
            dtype="float32",
            initializer=keras.initializers.Constant(self.p),
            trainable=self.trainable_p,
        )

    def call(self, inputs):
        power = ops.cast(self.power, "float32")
        features = ops.maximum(ops.cast(inputs, "float32"), self.epsilon)  # (B, H, W, F)
        mean = ops.mean(ops.power(features, power), axis=(1, 2))  # (B, F)
        return ops.cast(ops.power(mean, 1.0 / power), self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[3])

    def get_config(self):
        return {
            **super().get_config(),
            "p": self.p,
            "trainable_p": self.trainable_p,
            "epsilon": self.epsilon,
        }


def build_pooling(name: str) -> keras.layers.Layer:
    """Returns the pooling layer "gap" (mean) or "gem" (generalized mean), named "pooling"."""
    if name == "gap":
        return keras.layers.GlobalAveragePooling2D(name="pooling")
    if name == "gem":
        return GeneralizedMeanPooling(name="pooling")
    raise ValueError(f"pooling: expected 'gap' or 'gem'. Received: {name!r}")
