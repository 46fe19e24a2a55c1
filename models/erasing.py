"""Batch feature erasing: the same rectangle of every feature map of a batch is set to zero."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="waymark")
class BatchFeatureErasing(keras.layers.Layer):
    """Zeroes one random rectangle, the same in all images of the batch, in training.

    Erased alike, all images must be told apart by the same other part, which dropout of
    single places does not ask for. With several replicas each draws a rectangle of its own once
    `training.replicas.fold_replica_id` has folded their numbers into the seed, as the authors' GPUs
    do; without that, all draw the same.

    Args:
        height, width: size of the rectangle in shares of the map's. A third of the height and the
            whole width suit upright persons, a half of both other images.
        seed: of the places.

    Call arguments:
        inputs: feature map.
        training: nothing is erased unless True.

    Input shape:
        `(B, H, W, F)`.

    Output shape:
        `(B, H, W, F)`.

    Example:
        >>> layer = BatchFeatureErasing(0.5, 0.5)
        >>> layer(keras.ops.ones((2, 8, 8, 4)), training=True)[:, :, :, 0].numpy().sum()
        96.0

    Reference:
        Dai et al., "Batch DropBlock Network for Person Re-identification and Beyond",
        arXiv:1811.07130.
    """

    def __init__(
        self, height: float = 1 / 3, width: float = 1.0, seed: int | None = None, **kwargs
    ):
        super().__init__(**kwargs)
        if not (0 <= height <= 1 and 0 <= width <= 1 and height * width < 1):
            raise ValueError(
                "erasing: expected shares from 0 (nothing is erased) to 1, not both 1. "
                f"Received: {height}, {width}"
            )
        self.height = height
        self.width = width
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs, training=None):
        if not training:
            return inputs
        height, width = ops.shape(inputs)[1:3]
        draws = keras.random.uniform((2,), dtype="float32", seed=self.seed_generator)
        rows = _erased(height, self.height, draws[0])  # (H,)
        columns = _erased(width, self.width, draws[1])  # (W,)
        erased = ops.expand_dims(rows, 1) & columns  # (H, W)
        kept = ops.cast(~erased, inputs.dtype)
        return inputs * ops.expand_dims(kept, (0, 3))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "height": self.height,
            "width": self.width,
            "seed": self.seed,
        }


def _erased(length, share: float, draw):
    """Returns which of `length` places lie in a range of that share, put by a draw of [0, 1)."""
    length = ops.cast(length, "float32")
    size = ops.round(share * length)
    start = ops.floor(draw * (length - size + 1.0))
    places = ops.arange(ops.cast(length, "int32"), dtype="float32")
    return (places >= start) & (places < start + size)
