"""Centre loss: embeddings are drawn to a running centre of their class."""

from collections.abc import Callable

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="waymark")
class CenterLoss(keras.layers.Layer):
    """Holds a centre per class, and the loss ½·‖x − c_y‖².

    As a layer it hands on the embeddings unchanged, so that it stands in the model's graph and
    its centres are saved, handed over and averaged with the other weights.

    The centres are not trained by the optimizer. In training, `losses_of` moves those of the
    batch's classes by the paper's rule, c_j ← c_j − α·Σ_{i of class j} (c_j − x_i) / (1 + n_j),
    with n_j the number of images of class j in the global batch, after the loss has used them. So
    neither the loss's weight, nor the optimizer's rate, its decay or its clipping touch them,
    and all replicas, which see the same global batch, hold the same centres.

    The loss is per image; the paper adds up over the batch, so that its weight λ = 0.003 at 256
    images is 0.77 of the mean here.

    Args:
        num_classes: number of classes C.
        rate: α, the share of the way to the mean.

    Call arguments:
        inputs: embeddings.

    Input shape:
        `(B, D)`.

    Output shape:
        `(B, D)`, the input.

    Example:
        >>> layer = CenterLoss(1000)
        >>> embeddings = layer(keras.ops.ones((8, 512)))
        >>> layer.losses_of(embeddings, labels, training=True).shape
        TensorShape([8])

    Reference:
        Wen et al., "A Discriminative Feature Learning Approach for Deep Face Recognition",
        ECCV 2016.
    """

    def __init__(self, num_classes: int, rate: float = 0.5, **kwargs):
        super().__init__(autocast=False, **kwargs)  # the input is handed on as it is
        if not 0 < rate <= 1:
            raise ValueError(f"rate: expected above 0, at most 1. Received: {rate}")
        self.num_classes = num_classes
        self.rate = rate

    def build(self, input_shape):
        self.centers = self.add_weight(
            name="centers",
            shape=(self.num_classes, input_shape[-1]),  # (C, D)
            dtype="float32",
            initializer="zeros",
            trainable=False,
            autocast=False,
        )

    def call(self, inputs):
        return inputs

    def losses_of(
        self, embeddings, labels, *, training: bool = False, gather: Callable | None = None
    ):
        """Returns the losses, and in training moves the centres.

        Args:
            embeddings: `(b, D)`, any float.
            labels: `(b,)` integers in [0, C).
            training: whether the centres move.
            gather: `(b, …)` → `(R·b, …)`, the rows of all replicas.

        Returns:
            `(b,)` float32, with a gradient to the embeddings alone.
        """
        embeddings = ops.cast(embeddings, "float32")
        labels = ops.cast(labels, "int32")
        centers = ops.take(self.centers, labels, axis=0)  # (b, D)
        losses = 0.5 * ops.sum(ops.square(embeddings - ops.stop_gradient(centers)), axis=1)
        if training:
            rows, classes = ops.stop_gradient(embeddings), labels
            if gather is not None:
                rows, classes = gather(rows), gather(classes)  # (R·b, D), (R·b,)
            self._move(rows, classes)
        return losses

    def _move(self, rows, labels):
        before = ops.take(self.centers, labels, axis=0)  # (B, D)
        same = ops.cast(ops.expand_dims(labels, 1) == labels, "float32")  # (B, B)
        counts = 1.0 + ops.sum(same, axis=1, keepdims=True)  # (B, 1)
        steps = self.rate * (before - rows) / counts
        self.centers.assign(
            ops.scatter_update(self.centers, ops.expand_dims(labels, 1), -steps, reduction="add")
        )

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "num_classes": self.num_classes, "rate": self.rate}
