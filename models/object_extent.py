"""Look into object: a network also learns where the object is and how its parts lie.

Where: regions that look like some region of other images of the class. How: distance and angle of
each region of the object from its most salient one. Both are branches for training alone.

Reference: Zhou et al., "Look-into-Object: Self-supervised Structure Modeling for Object
Recognition", CVPR 2020, arXiv:2003.14142. Where the paper and its authors' code differ, this
follows the code, but for two things in `spatial_context_loss`.
"""

import math

import keras
from keras import ops

from models.region_tasks import pool_regions


@keras.saving.register_keras_serializable(package="waymark")
class ObjectExtent(keras.layers.Layer):
    """Predicts of each region how much it is the object, and where it lies from the middle one.

    The middle one, the reference, is that with the strongest features among the regions whose
    mask is above the image's mean. Distance and angle are ReLU(W·[reference, region] + b).

    Args:
        regions: N, regions per side.
        context_dim: channels of the features for distance and angle. Default: half of F.

    Call arguments:
        features: feature map.

    Input shape:
        `(B, H, W, F)`, any H and W.

    Output shape:
        Region features `(B, N², F)`, mask `(B, N²)`, distance and angle `(B, N², 2)`, all float32;
        number of the reference, `(B,)` int32.

    Example:
        >>> layer = ObjectExtent()
        >>> features, mask, coordinates, reference = layer(keras.ops.ones((8, 14, 14, 2048)))
        >>> features.shape, mask.shape, coordinates.shape
        (TensorShape([8, 49, 2048]), TensorShape([8, 49]), TensorShape([8, 49, 2]))

    Reference:
        Zhou et al., "Look-into-Object", arXiv:2003.14142, sections 3.1 and 3.2.
    """

    def __init__(self, regions: int = 7, context_dim: int | None = None, **kwargs):
        kwargs.setdefault("dtype", "float32")  # the branch is small
        super().__init__(**kwargs)
        if regions < 2:
            raise ValueError(f"regions: expected at least 2 per side. Received: {regions}")
        self.regions = regions
        self.context_dim = context_dim

    def build(self, input_shape):
        channels = input_shape[-1]
        width = self.context_dim or max(channels // 2, 1)
        self.mask = self._dense(1, channels, name="mask")
        self.structure = self._dense(width, channels, name="structure", activation="relu")
        small = keras.initializers.RandomNormal(stddev=0.01)
        # Near the middle of the angles at first. With Glorot's kernels and no bias, 18 % of the
        # outputs are 0 for every region of an image, where the ReLU has no gradient.
        start = {"kernel_initializer": small, "bias_initializer": keras.initializers.Constant(0.5)}
        self.relation = self._dense(2, width, name="relation", use_bias=False, **start)
        self.position = self._dense(2, width, name="position", **start)

    def _dense(self, units: int, channels: int, **kwargs):
        layer = keras.layers.Dense(units, dtype=self.dtype_policy, **kwargs)
        layer.build((None, channels))
        return layer

    def call(self, features):
        features = pool_regions(features, self.regions)  # (B, N², F)
        positive = ops.relu(features)
        mask = ops.squeeze(self.mask(positive), axis=2)  # (B, N²)
        structure = self.structure(positive)  # (B, N², F')
        strength = ops.where(inside(mask), ops.mean(structure, axis=2), 0.0)
        reference = ops.cast(ops.argmax(strength, axis=1), "int32")  # (B,)
        chosen = ops.one_hot(reference, self.regions**2, dtype=structure.dtype)  # (B, N²)
        middle = ops.sum(structure * ops.expand_dims(chosen, 2), axis=1, keepdims=True)
        coordinates = ops.relu(self.relation(middle) + self.position(structure))  # (B, N², 2)
        return features, mask, coordinates, reference

    def compute_output_spec(self, features):
        batch, channels, count = features.shape[0], features.shape[-1], self.regions**2
        return (
            keras.KerasTensor((batch, count, channels), "float32"),
            keras.KerasTensor((batch, count), "float32"),
            keras.KerasTensor((batch, count, 2), "float32"),
            keras.KerasTensor((batch,), "int32"),
        )

    def get_config(self):
        config = {"regions": self.regions, "context_dim": self.context_dim}
        return {**super().get_config(), **config}


def inside(mask):
    """Returns whether a region's mask is above the mean of its image, `(B, N²)` → bool."""
    return mask > ops.mean(mask, axis=1, keepdims=True)


def object_extent_loss(features, mask, labels, *, images_per_class: int = 4):
    """Returns the squared error of the mask, against how much regions look like the class.

    M_i of a region = the mean over the positives p of max over their regions j of ⟨f_i, f_pj⟩ / F;
    the loss is the mean over the regions of (mask − M)². M passes gradients on, as in the authors'
    code: images of a class grow alike somewhere.

    Args:
        features: `(B, N², F)`.
        mask: `(B, N²)`.
        labels: `(B,)` integers.
        images_per_class: K. The batch is groups of K images side by side; the positives of an
            image are those of its group with its label.

    Returns:
        `(B,)` float32; 0 for an image without a positive.

    Raises:
        ValueError: B is no multiple of K, or K below 2.
    """
    batch, count, channels = features.shape
    if images_per_class < 2 or batch is None or batch % images_per_class:
        raise ValueError(
            f"expected groups of {images_per_class} images, at least 2, of each class side by "
            f"side. Received: a batch of {batch}"
        )
    groups = (batch // images_per_class, images_per_class)
    features = ops.reshape(ops.cast(features, "float32"), (*groups, count, channels))
    labels = ops.reshape(labels, groups)
    same = ops.expand_dims(labels, 2) == ops.expand_dims(labels, 1)  # (P, K, K)
    other = 1.0 - ops.eye(images_per_class, dtype="float32")
    positives = ops.cast(same, "float32") * other
    relations = ops.einsum("pisf,pjtf->pijst", features, features) / channels
    relations = ops.max(relations, axis=4)  # (P, K, K, N²)
    number = ops.sum(positives, axis=2)  # (P, K)
    extent = ops.einsum("pij,pijs->pis", positives, relations)
    extent = extent / ops.expand_dims(ops.maximum(number, 1.0), 2)
    error = ops.square(ops.cast(mask, "float32") - ops.reshape(extent, (batch, count)))
    return ops.where(ops.reshape(number, (batch,)) > 0, ops.mean(error, axis=1), 0.0)


def spatial_context_loss(coordinates, mask, reference):
    """Returns the squared errors of distance and angle over the regions inside the mask.

    The angles' errors, in turns, count from their mean in the image: which way is up does not
    matter. The sum is divided by N², as in the authors' code, so a small object has a small loss.
    Other than there, that mean is over the regions inside the mask, as in the paper, and the
    reference, which has no angle, is left out.

    Args:
        coordinates: `(B, N², 2)`, predicted distance and angle.
        mask: `(B, N²)`; passes no gradient on.
        reference: `(B,)` integers, numbers of the reference regions.

    Returns:
        `(B,)` float32.
    """
    count = mask.shape[1]
    coordinates = ops.cast(coordinates, "float32")
    targets = polar_coordinates(reference, math.isqrt(count))  # (B, N², 2)
    away = ops.expand_dims(reference, 1) != ops.arange(count, dtype="int32")
    counted = ops.cast(ops.logical_and(inside(ops.cast(mask, "float32")), away), "float32")
    distances = coordinates[..., 0] - targets[..., 0]  # (B, N²)
    turns = coordinates[..., 1] - targets[..., 1]
    turns = ops.where(turns < 0, turns + 1.0, turns)
    number = ops.maximum(ops.sum(counted, axis=1, keepdims=True), 1.0)
    turns = turns - ops.sum(counted * turns, axis=1, keepdims=True) / number
    return ops.sum(counted * (ops.square(distances) + ops.square(turns)), axis=1) / count


def polar_coordinates(reference, regions: int):
    """Returns where the regions of an image lie from its reference.

    Args:
        reference: `(B,)` integers in [0, N²), row by row.
        regions: N.

    Returns:
        `(B, N², 2)` float32: the distance in sides of the image, in [0, √2); the angle in turns
        from "up", in (0, 1], and 1/2 at the reference.
    """
    places = ops.arange(regions**2, dtype="int32")
    reference = ops.expand_dims(ops.cast(reference, "int32"), 1)  # (B, 1)
    down = ops.cast(places // regions - reference // regions, "float32") / regions
    right = ops.cast(places % regions - reference % regions, "float32") / regions
    distances = ops.sqrt(ops.square(down) + ops.square(right))
    angles = (ops.arctan2(right, down) / math.pi + 1.0) / 2.0
    return ops.stack([distances, angles], axis=2)
