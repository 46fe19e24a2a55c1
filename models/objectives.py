"""What a training step computes: from images and labels to the loss, accuracy, scale and cosine."""

from collections.abc import Callable

import keras

from models import folding
from models.cosine_cross_entropy import cosine_cross_entropy
from models.heads import CosineSoftmax
from models.losses import CosineSoftmaxCrossEntropy


class Embedder:
    """Runs a model up to its embedding, for training or evaluation.

    Args:
        freeze_batchnorm: run the model in inference mode while it trains: BatchNorm uses and
            keeps its stored statistics and stochastic depth is off. It is then folded into the
            convolutions, see `models.folding`.
        rematerialize: the first so many blocks of the network keep only their input for the
            gradient and are computed twice; needs `freeze_batchnorm`.
        vmem: see `models.folding.embed`.

    Call arguments:
        model: `(B, S, S, 3)` → `(B, C)` cosines, or → `(B, D)` without a `CosineSoftmax`.
        images: `(B, S, S, 3)` uint8.
        training: whether this is a training step.

    Returns:
        `(B, D)` embeddings, not normalised.

    Raises:
        ValueError: rematerialisation with BatchNorm in training mode, whose statistics would
            move twice a step.
    """

    def __init__(
        self, *, freeze_batchnorm: bool = True, rematerialize: int = 0, vmem: int | None = None
    ):
        if rematerialize and not freeze_batchnorm:
            raise ValueError(
                "rematerialize: expected 0 where freeze_batchnorm is False, since blocks run twice "
                f"would move BatchNorm's statistics twice. Received: {rematerialize}"
            )
        self.freeze_batchnorm = freeze_batchnorm
        self.rematerialize = rematerialize
        self.vmem = vmem

    def __call__(self, model: keras.Model, images, training: bool):
        head = head_of(model)
        output = model.output if head is None else head.input
        if training and self.freeze_batchnorm:
            return folding.embed(
                model, output, images, rematerialize=self.rematerialize, vmem=self.vmem
            )
        return keras.Model(model.input, output)(images, training=training)


class CosineSoftmaxObjective:
    """Loss, accuracy, scale and target cosine of one replica's batch, for a cosine softmax.

    Args:
        loss: scale and margin.
        freeze_batchnorm, rematerialize, vmem: see `Embedder`.
        gather: see `models.heads.adacos_scale`.

    Call arguments:
        model: `(B, S, S, 3)` → `(B, C)` cosines, the last layer a `CosineSoftmax`.
        images: `(B, S, S, 3)` uint8.
        labels: `(B,)` integers.
        training: whether this is a training step.

    Returns:
        {"loss": `(B,)`, "correct": `(B,)` 1 or 0, "scale": `()`, "target_cosine": `(B,)`}, float32.

    Example:
        >>> objective = CosineSoftmaxObjective(CosineSoftmaxCrossEntropy("adacos"))
        >>> objective(model, images, labels, training=True)["loss"].shape
        TensorShape([8])
    """

    def __init__(
        self,
        loss: CosineSoftmaxCrossEntropy,
        *,
        freeze_batchnorm: bool = True,
        rematerialize: int = 0,
        vmem: int | None = None,
        gather: Callable | None = None,
    ):
        self.loss = loss
        self.gather = gather
        self.freeze_batchnorm = freeze_batchnorm
        self.embed = Embedder(
            freeze_batchnorm=freeze_batchnorm, rematerialize=rematerialize, vmem=vmem
        )

    def __call__(self, model: keras.Model, images, labels, training: bool) -> dict:
        embeddings = self.embed(model, images, training)  # (B, D)
        return cosine_cross_entropy(
            embeddings,
            head_of(model).centers,
            labels,
            scale=self.loss.scale,
            margin=self.loss.margin,
            margin_size=self.loss.margin_size,
            gather=self.gather,
        )


def head_of(model: keras.Model) -> CosineSoftmax | None:
    """Returns the model's cosine softmax, its last layer; None without."""
    last = model.layers[-1]
    return last if isinstance(last, CosineSoftmax) else None
