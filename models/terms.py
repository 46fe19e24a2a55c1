"""What a training step sums: a term is a loss with the layers that it adds to the network.

A term is made from keyword arguments. `layers` says what it adds to which named output of the
network's neck; a call computes its losses from the outputs' values.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import keras
from keras import ops

from models import classifier_losses
from models.cosine_cross_entropy import cosine_cross_entropy
from models.heads import build_head
from models.memory import EmbeddingMemory, replayed_loss

BOTTLENECK = "bottleneck"
FEATURES = "features"  # the backbone's map
Layers = Sequence[tuple[keras.layers.Layer, str]]


@dataclasses.dataclass(frozen=True)
class Batch:
    """One replica's part of a batch, as a term sees it.

    Attributes:
        model: the network.
        values: its named outputs for the images, `(b, …)`.
        labels: `(b,)` int32.
        training: whether this is a training step.
        gather: `(b, …)` → `(R·b, …)` over the replicas; None with one.
        replica_id: this replica's number; None with one.
        sources: of `region_tasks.RegionShuffle`, where the second half of `values` are copies.
    """

    model: keras.Model
    values: Mapping[str, object]
    labels: object
    training: bool
    gather: Callable | None = None
    replica_id: object = None
    sources: object = None


class Term:
    """One summand of the loss.

    Args:
        name: of the term, and the beginning of its layers' names.
        on: the output of the neck that it looks at.
        weight: its factor.

    Attributes:
        classifies: whether it says what class an image is of; such a term is measured on
            held-out images, whose batches hold no pairs.

    Call arguments:
        batch: see `Batch`.

    Returns:
        {"loss": `(b,)` float32}; with `classifies` also "correct" `(b,)`; of a cosine softmax also
        "scale" `()` and "target_cosine" `(b,)`.
    """

    classifies = False

    def __init__(self, name: str, on: str = BOTTLENECK, weight: float = 1.0):
        self.name = name
        self.on = on
        self.weight = weight

    def layers(self, num_classes: int) -> Layers:
        """Returns (layer, name of the output it is called on) pairs."""
        del num_classes
        return []

    def __call__(self, batch: Batch) -> dict:
        raise NotImplementedError


class CosineTerm(Term):
    """Cosine softmax cross entropy, see `cosine_cross_entropy`.

    Args:
        name, on, weight: see `Term`.
        scale, margin, margin_size, sub_centers: see `cosine_cross_entropy`.
        is_global: a dynamic scale is that of the global batch.
        memory: so many embeddings of the batches before are classified as well, 0 for none.
    """

    classifies = True

    def __init__(
        self,
        name: str = "head",
        on: str = BOTTLENECK,
        weight: float = 1.0,
        *,
        scale: str | float = "adacos",
        margin: str = "none",
        margin_size: float | Sequence[float] = 0.0,
        sub_centers: int = 1,
        is_global: bool = False,
        memory: int = 0,
    ):
        super().__init__(name, on, weight)
        self.options = {
            "scale": scale,
            "margin": margin,
            "margin_size": margin_size,
            "sub_centers": sub_centers,
        }
        self.is_global = is_global
        self.memory = memory

    def layers(self, num_classes: int) -> Layers:
        """Returns the head, and the memory if there is one."""
        head = build_head(
            num_classes, "cosine", sub_centers=self.options["sub_centers"], name=self.name
        )
        found = [(head, self.on)]
        if self.memory:
            found.append((EmbeddingMemory(self.memory, name=f"{self.name}_memory"), self.on))
        return found

    def __call__(self, batch: Batch) -> dict:
        """Returns loss, correct, scale and target_cosine."""
        embeddings = batch.values[self.on]  # (b, D)
        centers = batch.model.get_layer(self.name).centers
        gather = batch.gather if self.is_global else None
        found = cosine_cross_entropy(
            embeddings, centers, batch.labels, gather=gather, **self.options
        )
        if self.memory and batch.training:
            found["loss"] += self._replay(batch, embeddings, centers)
        return found

    def _replay(self, batch: Batch, embeddings, centers):
        memory = batch.model.get_layer(f"{self.name}_memory")
        past = memory.read()
        losses = cosine_cross_entropy(past.embeddings, centers, past.labels, **self.options)["loss"]
        memory.enqueue(embeddings, batch.labels, gather=batch.gather)
        return replayed_loss(losses, past.valid, embeddings.shape[0])


class SoftmaxTerm(Term):
    """Cross entropy of a linear classifier with what published systems add to it.

    Args:
        name, on, weight: see `Term`.
        smoothing: label smoothing (Szegedy et al., arXiv:1512.00567).
        gamma: of the focal loss (Lin et al., arXiv:1708.02002); 0 is cross entropy.
        accuracy: factor of the accuracy loss beside it, see `classifier_losses.accuracy_loss`.
        use_bias: whether the classifier has one.
    """

    classifies = True

    def __init__(
        self,
        name: str = "head",
        on: str = BOTTLENECK,
        weight: float = 1.0,
        *,
        smoothing: float = 0.0,
        gamma: float = 0.0,
        accuracy: float = 0.0,
        use_bias: bool = True,
    ):
        super().__init__(name, on, weight)
        if smoothing and gamma:
            raise ValueError(
                f"softmax: expected smoothing or gamma. Received: {smoothing} and {gamma}"
            )
        self.smoothing = smoothing
        self.gamma = gamma
        self.accuracy = accuracy
        self.use_bias = use_bias

    def layers(self, num_classes: int) -> Layers:
        """Returns the classifier."""
        head = build_head(num_classes, "linear", use_bias=self.use_bias, name=self.name)
        return [(head, self.on)]

    def __call__(self, batch: Batch) -> dict:
        """Returns loss and correct."""
        embeddings = ops.cast(batch.values[self.on], "float32")  # (b, D)
        head = batch.model.get_layer(self.name)
        logits = ops.cast(head(embeddings), "float32")  # (b, C)
        if self.gamma:
            loss = classifier_losses.focal_loss(logits, batch.labels, gamma=self.gamma)
        else:
            loss = classifier_losses.softmax_cross_entropy(
                logits, batch.labels, smoothing=self.smoothing
            )
        if self.accuracy and batch.training:
            loss += self.accuracy * classifier_losses.accuracy_loss(logits, batch.labels)
        correct = ops.equal(ops.argmax(logits, axis=1), ops.cast(batch.labels, "int32"))
        return {"loss": loss, "correct": ops.cast(correct, "float32")}
