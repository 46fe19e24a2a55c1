"""Terms of auxiliary tasks on the backbone's feature map: DCL and LIO."""

import keras

from models import object_extent, region_tasks
from models.terms import FEATURES, Batch, Layers, Term


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
