"""The losses that a training step sums, each with the layers that it adds to the network.

A term is made from keyword arguments. `layers` says what it adds to which named output of the
network's neck; a call computes its losses from the outputs' values.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import keras
from keras import ops

from models import classifier_losses, object_extent, region_tasks
from models.center_loss import CenterLoss
from models.cosine_cross_entropy import cosine_cross_entropy
from models.heads import build_head
from models.memory import EmbeddingMemory, replayed_loss
from models.pair_losses import PAIR_LOSSES

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
        {"loss": `(b,)` float32}; with `classifies` also "correct" `(b,)`, "scale" `()` and
        "target_cosine" `(b,)`.
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
        """Returns loss, correct, scale (1) and target_cosine."""
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
        own = ops.transpose(ops.take(ops.cast(head.kernel, "float32"), batch.labels, axis=1))
        return {
            "loss": loss,
            "correct": ops.cast(correct, "float32"),
            "scale": ops.ones(()),
            "target_cosine": _cosines(embeddings, own),
        }


class PairTerm(Term):
    """A loss over pairs or triplets of the global batch, or of it and a memory.

    Args:
        name, on, weight: see `Term`.
        memory: compare with so many embeddings of the batches before as well, 0 for none (Wang et
            al., arXiv:1912.06798).
        start: batches before the memory counts.
        options: the loss' own.
    """

    loss = ""  # key of `pair_losses.PAIR_LOSSES`

    def __init__(
        self,
        name: str,
        on: str = BOTTLENECK,
        weight: float = 1.0,
        *,
        memory: int = 0,
        start: int = 0,
        **options,
    ):
        super().__init__(name, on, weight)
        self.memory = memory
        self.start = start
        self.options = options

    def layers(self, num_classes: int) -> Layers:
        """Returns the memory, if there is one."""
        if not self.memory:
            return []
        memory = EmbeddingMemory(self.memory, start=self.start, name=f"{self.name}_memory")
        return [(memory, self.on)]

    def __call__(self, batch: Batch) -> dict:
        """Returns the loss of each image as the anchor."""
        embeddings, loss = batch.values[self.on], PAIR_LOSSES[self.loss]
        where = {"gather": batch.gather, "replica_id": batch.replica_id}
        losses = loss(embeddings, batch.labels, **where, **self.options)
        if self.memory and batch.training:
            memory = batch.model.get_layer(f"{self.name}_memory")
            past = memory.read()
            losses += loss(embeddings, batch.labels, references=past, **where, **self.options)
            memory.enqueue(embeddings, batch.labels, gather=batch.gather)
        return {"loss": losses}


class TripletTerm(PairTerm):
    """Batch-hard triplets; `margin` is a distance, or "soft"."""

    loss = "triplet"

    def __init__(
        self,
        name: str,
        on: str = BOTTLENECK,
        weight: float = 1.0,
        *,
        memory: int = 0,
        start: int = 0,
        margin: float | str = 0.3,
    ):
        options = {"margin": margin}
        super().__init__(name, on, weight, memory=memory, start=start, **options)


class ContrastiveTerm(PairTerm):
    """Contrastive loss; the margins are distances of unit vectors."""

    loss = "contrastive"

    def __init__(
        self,
        name: str,
        on: str = BOTTLENECK,
        weight: float = 1.0,
        *,
        memory: int = 0,
        start: int = 0,
        positive_margin: float = 0.0,
        negative_margin: float = 1.0,
    ):
        options = {"positive_margin": positive_margin, "negative_margin": negative_margin}
        super().__init__(name, on, weight, memory=memory, start=start, **options)


class CircleTerm(PairTerm):
    """Circle loss."""

    loss = "circle"

    def __init__(
        self,
        name: str,
        on: str = BOTTLENECK,
        weight: float = 1.0,
        *,
        memory: int = 0,
        start: int = 0,
        margin: float = 0.4,
        scale: float = 80.0,
    ):
        options = {"margin": margin, "scale": scale}
        super().__init__(name, on, weight, memory=memory, start=start, **options)


class MultiSimilarityTerm(PairTerm):
    """Multi-similarity loss; `epsilon` turns the paper's choice of pairs on."""

    loss = "multi_similarity"

    def __init__(
        self,
        name: str,
        on: str = BOTTLENECK,
        weight: float = 1.0,
        *,
        memory: int = 0,
        start: int = 0,
        alpha: float = 2.0,
        beta: float = 50.0,
        base: float = 0.5,
        epsilon: float | None = None,
    ):
        options = {"alpha": alpha, "beta": beta, "base": base, "epsilon": epsilon}
        super().__init__(name, on, weight, memory=memory, start=start, **options)


class CenterTerm(Term):
    """Centre loss, see `CenterLoss`.

    Args:
        name, on, weight: see `Term`.
        rate: of the centres.
    """

    def __init__(
        self, name: str = "centers", on: str = BOTTLENECK, weight: float = 1.0, *, rate: float = 0.5
    ):
        super().__init__(name, on, weight)
        self.rate = rate

    def layers(self, num_classes: int) -> Layers:
        """Returns the centres."""
        return [(CenterLoss(num_classes, rate=self.rate, name=self.name), self.on)]

    def __call__(self, batch: Batch) -> dict:
        """Returns half the squared distances to the own centres."""
        loss = batch.model.get_layer(self.name).losses_of(
            batch.values[self.on], batch.labels, training=batch.training, gather=batch.gather
        )
        return {"loss": loss}


class RegionTerm(Term):
    """DCL: was the image shuffled, and where did its regions come from; see `region_tasks`.

    The step's batch is then the images and their shuffled copies; other terms take the mean over
    both.

    Args:
        name, weight: see `Term`; it looks at the backbone's map.
        regions: per side.
        distance: how far a region may go.
        construction: weight of the second question, 0.01 for rigid objects.
    """

    def __init__(
        self,
        name: str = "regions",
        weight: float = 1.0,
        *,
        regions: int = 7,
        distance: int = 2,
        construction: float = 1.0,
    ):
        super().__init__(name, FEATURES, weight)
        self.sizes = {"regions": regions, "distance": distance}
        self.construction = construction

    def layers(self, num_classes: int) -> Layers:
        """Returns the heads, with the shuffle inside."""
        return [(region_tasks.RegionHeads(**self.sizes, name=self.name), FEATURES)]

    def shuffle(self, model: keras.Model, images):
        """Returns the images with their shuffled copies behind, and where regions came from."""
        return model.get_layer(self.name).shuffle(images)

    def __call__(self, batch: Batch) -> dict:
        """Returns the sum of both losses."""
        logits, positions = batch.model.get_layer(self.name)(batch.values[FEATURES])
        loss = region_tasks.shuffled_loss(logits)
        loss += self.construction * region_tasks.construction_loss(positions, batch.sources)
        return {"loss": loss}


class ExtentTerm(Term):
    """LIO: where the object is and how its parts lie, see `object_extent`.

    Args:
        name, weight: see `Term`; it looks at the backbone's map.
        images_per_class: K of the P×K batches.
        regions: per side.
        extent, context: weights of the two questions.
    """

    def __init__(
        self,
        name: str = "extent",
        weight: float = 1.0,
        *,
        images_per_class: int = 4,
        regions: int = 7,
        extent: float = 0.1,
        context: float = 0.1,
    ):
        super().__init__(name, FEATURES, weight)
        self.images_per_class = images_per_class
        self.regions = regions
        self.extent = extent
        self.context = context

    def layers(self, num_classes: int) -> Layers:
        """Returns the head."""
        return [(object_extent.ObjectExtent(self.regions, name=self.name), FEATURES)]

    def __call__(self, batch: Batch) -> dict:
        """Returns the weighted sum of both losses."""
        head = batch.model.get_layer(self.name)
        regions, mask, coordinates, reference = head(batch.values[FEATURES])
        loss = self.extent * object_extent.object_extent_loss(
            regions, mask, batch.labels, images_per_class=self.images_per_class
        )
        loss += self.context * object_extent.spatial_context_loss(coordinates, mask, reference)
        return {"loss": loss}


def _cosines(first, second):
    unit = (ops.normalize(values, axis=1) for values in (first, second))
    return ops.sum(ops.multiply(*unit), axis=1)  # (b,)
