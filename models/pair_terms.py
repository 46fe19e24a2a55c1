"""Terms that compare images with each other or with the centres of their classes."""

import dataclasses
from typing import ClassVar

from models.center_loss import CenterLoss
from models.memory import EmbeddingMemory
from models.pair_losses import PAIR_LOSSES
from models.terms import BOTTLENECK, Batch, Layers, Term


@dataclasses.dataclass(eq=False)
class PairTerm(Term):
    """A loss over pairs or triplets of the global batch, or of it and a memory.

    What a subclass has besides are the options of its loss.

    Attributes:
        name, on, weight: see `Term`.
        memory: compare with so many embeddings of the batches before as well, 0 for none (Wang et
            al., arXiv:1912.06798).
        start: batches before the memory counts.
        loss: key of `pair_losses.PAIR_LOSSES`.
    """

    loss: ClassVar[str]
    name: str
    on: str = BOTTLENECK
    weight: float = 1.0
    memory: int = 0
    start: int = 0

    def layers(self, num_classes: int) -> Layers:
        """Returns the memory, if there is one."""
        if not self.memory:
            return []
        memory = EmbeddingMemory(self.memory, start=self.start, name=f"{self.name}_memory")
        return [(memory, self.on)]

    def __call__(self, batch: Batch) -> dict:
        """Returns the loss of each image as the anchor."""
        embeddings, loss = batch.values[self.on], PAIR_LOSSES[self.loss]
        own = dataclasses.fields(self)[len(dataclasses.fields(PairTerm)) :]
        options = {field.name: getattr(self, field.name) for field in own}
        options |= {"gather": batch.gather, "replica_id": batch.replica_id}
        losses = loss(embeddings, batch.labels, **options)
        if self.memory and batch.training:
            memory = batch.model.get_layer(f"{self.name}_memory")
            past = memory.read()
            losses += loss(embeddings, batch.labels, references=past, **options)
            memory.enqueue(embeddings, batch.labels, gather=batch.gather)
        return {"loss": losses}


@dataclasses.dataclass(eq=False)
class TripletTerm(PairTerm):
    """Batch-hard triplets; `margin` is a distance, or "soft"."""

    loss: ClassVar[str] = "triplet"
    margin: float | str = 0.3


@dataclasses.dataclass(eq=False)
class ContrastiveTerm(PairTerm):
    """Contrastive loss; the margins are distances of unit vectors."""

    loss: ClassVar[str] = "contrastive"
    positive_margin: float = 0.0
    negative_margin: float = 1.0


@dataclasses.dataclass(eq=False)
class CircleTerm(PairTerm):
    """Circle loss."""

    loss: ClassVar[str] = "circle"
    margin: float = 0.4
    scale: float = 80.0


@dataclasses.dataclass(eq=False)
class MultiSimilarityTerm(PairTerm):
    """Multi-similarity loss; `epsilon` turns the paper's choice of pairs on."""

    loss: ClassVar[str] = "multi_similarity"
    alpha: float = 2.0
    beta: float = 50.0
    base: float = 0.5
    epsilon: float | None = None


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
