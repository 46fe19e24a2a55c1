"""The training objective in its plainest form: all cosines, all logits, one after the other."""

import math
from collections.abc import Callable

import keras
from keras import ops

from models import heads
from models.losses import MARGINS, CosineSoftmaxCrossEntropy


class PlainObjective:
    """Loss, accuracy, scale and target cosine of one replica's batch.

    It holds `(B, C)` cosines and logits whole and lets the backend find the gradients: the slow
    and obvious counterpart of an objective that does not.

    Args:
        loss: see there.
        freeze_batchnorm: run the model in inference mode while it trains: BatchNorm uses and
            keeps its stored statistics and stochastic depth is off.
        gather: `(b, …)` → `(R·b, …)`, the values of all replicas. With it the dynamic scale
            "adacos" is the global batch's, the same however many replicas share it; without it,
            it is the replica's own, as the winner of Google Landmark Retrieval 2020 has it.

    Call arguments:
        model: `(B, S, S, 3)` → `(B, C)` cosines.
        images: `(B, S, S, 3)` uint8.
        labels: `(B,)` integers.
        training: whether this is a training step.

    Returns:
        {"loss": `(B,)`, "correct": `(B,)` 1 or 0, "scale": `()`, "target_cosine": `(B,)`}, float32.
    """

    def __init__(
        self,
        loss: CosineSoftmaxCrossEntropy,
        *,
        freeze_batchnorm: bool = True,
        gather: Callable | None = None,
    ):
        self.loss = loss
        self.freeze_batchnorm = freeze_batchnorm
        self.gather = gather

    def __call__(self, model: keras.Model, images, labels, training: bool) -> dict:
        cosines = model(images, training=training and not self.freeze_batchnorm)  # (B, C)
        own = ops.expand_dims(ops.cast(labels, "int32"), 1)  # (B, 1)
        own_cosines = ops.squeeze(ops.take_along_axis(cosines, own, axis=1), axis=1)  # (B,)
        scale = self._scale(cosines, own_cosines, labels)
        logits = cosines
        if self.loss.margin != "none":
            logits = MARGINS[self.loss.margin](cosines, labels, self.loss.margin_size)
        best = ops.cast(ops.argmax(cosines, axis=1), labels.dtype)
        return {
            "loss": ops.sparse_categorical_crossentropy(labels, scale * logits, from_logits=True),
            "correct": ops.cast(best == labels, "float32"),
            "scale": ops.cast(scale, "float32"),
            "target_cosine": own_cosines,
        }

    def _scale(self, cosines, own_cosines, labels):
        num_classes = cosines.shape[-1]
        if self.loss.scale == "adacos_fixed":
            return heads.fixed_adacos_scale(num_classes)
        if self.loss.scale != "adacos":
            return self.loss.scale
        if self.gather is None:
            return heads.adacos_scale(cosines, labels)
        # The rows that adacos_scale needs of all replicas, without the (B, C) cosines.
        fixed = heads.fixed_adacos_scale(num_classes)
        other = ops.expand_dims(labels, 1) != ops.arange(num_classes, dtype=labels.dtype)
        sums = ops.sum(ops.where(other, ops.exp(fixed * cosines), 0.0), axis=1)  # (B,)
        return adacos_from_sums(
            self.gather(ops.stop_gradient(sums)), self.gather(ops.stop_gradient(own_cosines))
        )


def adacos_from_sums(sums, own_cosines):
    """Returns the dynamic AdaCos scale, see `heads.adacos_scale`, of a batch.

    Args:
        sums: `(B,)` float32, Σ over the other classes of exp(s0·cos).
        own_cosines: `(B,)` float32.

    Returns:
        Scalar, float32.
    """
    batch_size = own_cosines.shape[0]
    limited = ops.clip(own_cosines, -heads.COSINE_LIMIT, heads.COSINE_LIMIT)
    angles = ops.sort(ops.arccos(limited))
    median = angles[round(0.5 * (batch_size - 1))]  # ties to even, as ops.round
    return ops.log(ops.mean(sums)) / ops.cos(ops.minimum(median, math.pi / 4))
