"""What a training step computes: from images and labels to the loss and what is told beside it."""

from collections.abc import Callable, Sequence

import keras
from keras import ops

from models import folding, region_tasks, terms
from models.auxiliary_terms import RegionTerm
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
        head = head_of(model)
        return cosine_cross_entropy(
            embeddings,
            head.centers,
            labels,
            sub_centers=head.sub_centers,
            scale=self.loss.scale,
            margin=self.loss.margin,
            margin_size=self.loss.margin_size,
            gather=self.gather,
        )


class SumOfTerms:
    """Weighted sum of several losses on named outputs, of one replica's batch.

    On held-out images only the terms that classify count, or all where none does.

    Args:
        parts: the terms; what is told beside the loss is that of the first that classifies.
        freeze_batchnorm: run the network in inference mode while it trains.
        gather: `(b, …)` → `(R·b, …)` over the replicas.
        replica_id: returns this replica's number, `()` int32.

    Call arguments, returns:
        See `CosineSoftmaxObjective`; the model is one of `builder.build_model` with the layers of
        the terms. Scale and target cosine are there if the first term that classifies is a cosine
        softmax. Without such a term "correct" says whether the nearest other image of the
        replica's batch is of the same class.
    """

    def __init__(
        self,
        parts: Sequence[terms.Term],
        *,
        freeze_batchnorm: bool = False,
        gather: Callable | None = None,
        replica_id: Callable | None = None,
    ):
        self.parts = list(parts)
        self.freeze_batchnorm = freeze_batchnorm
        self.gather = gather
        self.replica_id = replica_id

    def __call__(self, model: keras.Model, images, labels, training: bool) -> dict:
        shuffle = next((p for p in self.parts if isinstance(p, RegionTerm)), None)
        sources = None
        if shuffle and training:
            images, sources = shuffle.shuffle(model, images)  # (2b, S, S, 3)
        values = self._values(model, images, training)
        batch = terms.Batch(
            model,
            values,
            labels if sources is None else ops.concatenate([labels, labels]),
            training,
            gather=self.gather,
            replica_id=self.replica_id() if self.replica_id else None,
            sources=sources,
        )
        counted = [part for part in self.parts if training or part.classifies] or self.parts
        found = [(part, part(batch)) for part in counted]
        losses = [part.weight * _per_image(result["loss"], labels) for part, result in found]
        first = next((result for part, result in found if part.classifies), None)
        told = first or _nearest_in_batch(values[self.parts[0].on], batch.labels)
        size = labels.shape[0]
        outputs = {"loss": sum(losses[1:], losses[0]), "correct": told["correct"][:size]}
        if "scale" not in told:
            return outputs
        return {**outputs, "scale": told["scale"], "target_cosine": told["target_cosine"][:size]}

    def _values(self, model: keras.Model, images, training: bool) -> dict:
        symbolic = model.output
        if not isinstance(symbolic, dict):
            symbolic = {terms.BOTTLENECK: model.get_layer(terms.BOTTLENECK).output}
        wanted = {part.on: symbolic[part.on] for part in self.parts}
        run = keras.Model(model.input, wanted)
        return run(images, training=training and not self.freeze_batchnorm)


def _per_image(losses, labels):
    """Takes the mean over an image and its copy, where there are copies."""
    return losses if losses.shape == labels.shape else region_tasks.mean_of_pairs(losses)


def _nearest_in_batch(embeddings, labels) -> dict:
    unit = ops.normalize(ops.cast(embeddings, "float32"), axis=1)
    cosines = ops.matmul(unit, ops.transpose(unit)) - 3.0 * ops.eye(unit.shape[0])  # (b, b)
    found = ops.take(labels, ops.argmax(cosines, axis=1))
    return {"correct": ops.cast(ops.equal(found, labels), "float32")}


def head_of(model: keras.Model) -> CosineSoftmax | None:
    """Returns the model's cosine softmax, its last layer; None without."""
    last = model.layers[-1]
    return last if isinstance(last, CosineSoftmax) else None
