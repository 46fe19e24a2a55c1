"""Cross entropy over a cosine softmax."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from models import heads

MARGINS = {
    "arcface": heads.arcface,
    "cosface": heads.cosface,
    "sphereface": heads.sphereface,
}


@keras.saving.register_keras_serializable(package="waymark")
class CosineSoftmaxCrossEntropy(keras.losses.Loss):
    """Cross entropy of softmax(s·cos) with an optional margin on the own class.

    Weights per example, w(y_i)·c_i, and the division by the global batch are the trainer's:
    L = (1/global_batch) Σ_i w(y_i)·c_i·CE_i.

    Args:
        scale: "adacos" (dynamic, see `heads.adacos_scale`), "adacos_fixed", or a number.
        margin: "none", "arcface" (`margin_size` in radians), "cosface" (a cosine) or "sphereface"
            (a factor of the angle).
        margin_size: size of the margin, or `(C,)` sizes, one for each class.

    Call arguments:
        y_true: `(B,)` integer labels in [0, C).
        y_pred: `(B, C)` cosines, float32.

    Output shape:
        `(B,)` with the default reduction "none".

    Example:
        >>> loss = CosineSoftmaxCrossEntropy(scale=30.0, margin="arcface", margin_size=0.3)
        >>> loss(labels, cosines).shape
        TensorShape([8])

    Reference:
        AdaCos arXiv:1905.00292; ArcFace arXiv:1801.07698; CosFace arXiv:1801.09414;
        SphereFace arXiv:1704.08063.
    """

    def __init__(
        self,
        scale: str | float = "adacos",
        margin: str = "none",
        margin_size: float | Sequence[float] = 0.0,
        name: str = "cosine_softmax_cross_entropy",
        reduction: str | None = "none",
        **kwargs,
    ):
        super().__init__(name=name, reduction=reduction, **kwargs)
        heads.check_margin(margin, margin_size)
        if isinstance(scale, str) and scale not in ("adacos", "adacos_fixed"):
            raise ValueError(
                f"scale: expected 'adacos', 'adacos_fixed' or a number. Received: {scale!r}"
            )
        self.scale = scale
        self.margin = margin
        self.margin_size = margin_size

    def call(self, y_true, y_pred):
        logits = y_pred
        if self.margin != "none":
            logits = MARGINS[self.margin](y_pred, y_true, self.margin_size)
        logits = self._scale(y_true, y_pred) * logits  # (B, C)
        return ops.sparse_categorical_crossentropy(y_true, logits, from_logits=True)  # (B,)

    def _scale(self, labels, cosines):
        if self.scale == "adacos":
            return heads.adacos_scale(cosines, labels)
        if self.scale == "adacos_fixed":
            return heads.fixed_adacos_scale(cosines.shape[-1])
        return self.scale

    def get_config(self):
        return {
            **super().get_config(),
            "scale": self.scale,
            "margin": self.margin,
            "margin_size": np.asarray(self.margin_size).tolist(),
        }
