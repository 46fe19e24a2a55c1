"""Destruction and construction learning: a network also sees images in shuffled parts.

It learns whether an image was shuffled, and where each part came from. The images are shuffled on
the device: half of the bytes go there, and any sampler will do. For 32 images of 448 × 448 and a
map of 14 × 14 × 2048, shuffling reads and writes 0.7 GB on a v5e, and the heads with their
gradients 0.6; a step of the network alone takes some tens.

Reference: Chen et al., "Destruction and Construction Learning for Fine-grained Image
Recognition", CVPR 2019.
"""

import keras
import numpy as np
from keras import ops

_STEPS = 2**20  # of a move by one part


@keras.saving.register_keras_serializable(package="waymark")
class RegionShuffle(keras.layers.Layer):
    """Adds to a batch a copy of it in which the N × N parts of each image change places nearby.

    Part i of a row goes where i + u ranks in the row, u uniform in (−distance, distance); then the
    same in every column. So each coordinate changes by less than 2·distance.

    Args:
        regions: N, parts per side, at most 32.
        distance: bound of the moves, in parts, from 1 to N − 1.
        seed: an integer, or None for a random one. Its state advances with each call and is one of
            the model's variables, so that a run that goes on draws what it would have drawn.

    Call arguments:
        images: uint8, or whole numbers up to 255 of another dtype.

    Input shape:
        `(B, H, W, 3)`, H and W known multiples of N.

    Output shape:
        `(2B, H, W, 3)`, the images and then their copies, and `(2B, N²)` int32: for each place, row
        by row, the place of its part in the image.

    Example:
        >>> pairs, sources = RegionShuffle(seed=1)(keras.ops.zeros((8, 448, 448, 3), "uint8"))
        >>> pairs.shape, sources.shape
        (TensorShape([16, 448, 448, 3]), TensorShape([16, 49]))

    Reference:
        Chen et al., "Destruction and Construction Learning", CVPR 2019, section 3.1. (The text
        moves rows and columns at once, which can give two parts one place.)
    """

    def __init__(self, regions: int = 7, distance: int = 2, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        if not 2 <= regions <= 32:  # more would overflow the keys
            raise ValueError(f"regions: expected 2 to 32 per side. Received: {regions}")
        if not 1 <= distance < regions:
            raise ValueError(f"distance: expected 1 to {regions - 1}. Received: {distance}")
        self.regions = regions
        self.distance = distance
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.built = True

    def call(self, images):
        _, height, width, _ = images.shape
        if not height or not width or height % self.regions or width % self.regions:
            raise ValueError(
                f"expected images of known sides, multiples of {self.regions} pixels. "
                f"Received: {tuple(images.shape)}"
            )
        batch = ops.shape(images)[0]
        sources = self._sources(batch)  # (B, N²)
        places = ops.arange(self.regions**2, dtype="int32")
        unmoved = ops.broadcast_to(places, (batch, self.regions**2))
        pairs = ops.concatenate([images, _rearranged(images, sources, self.regions)])
        return pairs, ops.concatenate([unmoved, sources])

    def _sources(self, batch):
        """Returns `(B, N²)` int32: place → source, shuffled within rows, then within columns."""
        count, bound = self.regions, self.distance * _STEPS
        # Integers, which are the same bits compiled by XLA or not; floats are not.
        moves = keras.random.randint(
            (2, batch, count, count), -bound, bound, dtype="int32", seed=self.seed_generator
        )
        places = ops.arange(count, dtype="int32")
        keys = (places * _STEPS + moves) * count + places  # no two of a line are equal
        order = ops.argsort(keys)  # (2, B, line, place)
        columns, rows = ops.cast(order[0], "int32"), ops.cast(order[1], "int32")
        rows = ops.transpose(rows, (0, 2, 1))  # (B, row, column): the row a part came from
        # `columns` at those rows: a sum, since single numbers are slow to gather on a TPU.
        chosen = ops.expand_dims(rows, 3) == places  # (B, N, N, N)
        candidates = ops.expand_dims(ops.transpose(columns, (0, 2, 1)), 1)  # (B, 1, column, row)
        columns = ops.sum(ops.where(chosen, candidates, 0), axis=3)  # (B, row, column)
        return ops.reshape(rows * count + columns, (-1, count**2))

    def compute_output_spec(self, images):
        batch, *rest = images.shape
        twice = None if batch is None else 2 * batch
        return (
            keras.KerasTensor((twice, *rest), images.dtype),
            keras.KerasTensor((twice, self.regions**2), "int32"),
        )

    def get_config(self):
        config = {"regions": self.regions, "distance": self.distance, "seed": self.seed}
        return {**super().get_config(), **config}


def _rearranged(images, sources, regions: int):
    """Returns the images `(B, H, W, 3)` with their parts from `sources`, `(B, N²)`."""
    _, height, width, channels = images.shape
    high, wide = height // regions, width // regions * channels  # of a part
    dtype = images.dtype
    parts = ops.reshape(images, (-1, regions, high, regions, wide))
    parts = ops.reshape(ops.transpose(parts, (0, 1, 3, 2, 4)), (-1, regions**2, high * wide))
    # A product and no gather, which a TPU does with another pass over the images. It is exact:
    # bfloat16 holds every integer up to 256. On a CPU both take 1.2 ms per 448 × 448 image.
    chosen = ops.one_hot(sources, regions**2, dtype="bfloat16")  # (B, place, source)
    parts = ops.cast(ops.matmul(chosen, ops.cast(parts, "bfloat16")), dtype)
    parts = ops.reshape(parts, (-1, regions, regions, high, wide))
    return ops.reshape(ops.transpose(parts, (0, 1, 3, 2, 4)), (-1, height, width, channels))


@keras.saving.register_keras_serializable(package="waymark")
class RegionHeads(keras.layers.Layer):
    """Says of a feature map whether its image was shuffled, and where each part came from.

    A branch of the model beside the embedding, for training alone. Whoever trains shuffles the
    images first, with `heads.shuffle`; nothing in the model's graph does, so that a model cut at
    the embedding has nothing of it.

    Args:
        regions, distance, seed: see `RegionShuffle`.

    Call arguments:
        features: feature map.

    Input shape:
        `(B, H, W, F)`, any H and W.

    Output shape:
        Logits `(B, 2)`: shuffled, not shuffled; and positions `(B, N²)` in (−1, 1), see
        `construction_loss`. float32.

    Attributes:
        shuffle: the `RegionShuffle`.

    Example:
        >>> logits, positions = RegionHeads()(keras.ops.ones((16, 14, 14, 2048)))
        >>> logits.shape, positions.shape
        (TensorShape([16, 2]), TensorShape([16, 49]))

    Reference:
        Chen et al., "Destruction and Construction Learning", CVPR 2019, sections 3.2 and 3.3.
    """

    def __init__(self, regions: int = 7, distance: int = 2, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.regions = regions
        self.distance = distance
        self.seed = seed
        self.shuffle = RegionShuffle(regions, distance, seed, name="shuffle")
        self.swap = keras.layers.Dense(2, use_bias=False, dtype=self.dtype_policy, name="swap")
        self.construction = keras.layers.Dense(1, dtype=self.dtype_policy, name="construction")

    def build(self, input_shape):
        self.swap.build((input_shape[0], input_shape[-1]))
        self.construction.build(input_shape)

    def call(self, features):
        logits = self.swap(ops.mean(features, axis=(1, 2)))  # (B, 2)
        places = ops.cast(self.construction(features), "float32")  # (B, H, W, 1)
        places = ops.squeeze(pool_regions(places, self.regions), axis=2)  # (B, N²)
        return ops.cast(logits, "float32"), ops.tanh(places)

    def compute_output_spec(self, features):
        return (
            keras.KerasTensor((features.shape[0], 2), "float32"),
            keras.KerasTensor((features.shape[0], self.regions**2), "float32"),
        )

    def get_config(self):
        config = {"regions": self.regions, "distance": self.distance, "seed": self.seed}
        return {**super().get_config(), **config}


def shuffled_loss(logits):
    """Returns the cross entropy of "was it shuffled".

    Args:
        logits: `(2B, 2)`, the images' and then their copies'.

    Returns:
        `(B,)` float32, the mean over an image and its copy.
    """
    logits = ops.cast(logits, "float32")
    lead = logits[:, 0] - logits[:, 1]  # of "shuffled"
    originals, copies = _halves(lead)
    return 0.5 * (ops.softplus(originals) + ops.softplus(-copies))


def construction_loss(positions, sources):
    """Returns the mean distance between predicted and true sources of the parts.

    The target of a part is (source − (N² − 1) / 2) / N², in (−1/2, 1/2).

    Args:
        positions: `(2B, N²)`, the images' and then their copies'.
        sources: `(2B, N²)` integers from `RegionShuffle`.

    Returns:
        `(B,)` float32, the mean over an image and its copy.
    """
    count = sources.shape[-1]
    targets = (ops.cast(sources, "float32") - (count - 1) / 2) / count
    return mean_of_pairs(ops.mean(ops.abs(ops.cast(positions, "float32") - targets), axis=1))


def mean_of_pairs(values):
    """Returns `(B, …)` float32: the mean of an image's value and its copy's, of `(2B, …)`."""
    originals, copies = _halves(ops.cast(values, "float32"))
    return 0.5 * (originals + copies)


def _halves(values):
    if values.shape[0] is not None and values.shape[0] % 2:
        raise ValueError(
            f"expected images and then their copies, an even number. Received: {values.shape[0]}"
        )
    return ops.split(values, 2)


def pool_regions(features, regions: int):
    """Returns the means of a feature map over N × N equal regions.

    A position that lies in two regions counts in each by its share, so that any sides will do:
    14 × 14 gives 7 × 7 the means of 2 × 2, and 7 × 7 stays.

    Args:
        features: `(B, H, W, F)`, H and W known.
        regions: N.

    Returns:
        `(B, N², F)`, row by row, in the dtype of `features`.
    """
    _, height, width, channels = features.shape
    if height is None or width is None:
        raise ValueError(
            f"expected a feature map of known sides. Received: {tuple(features.shape)}"
        )
    if (height, width) != (regions, regions):
        down, right = (ops.cast(_shares(regions, side), features.dtype) for side in (height, width))
        features = ops.einsum("nh,bhwf,mw->bnmf", down, features, right)
    return ops.reshape(features, (-1, regions**2, channels))


def _shares(regions: int, side: int) -> np.ndarray:
    """Returns `(regions, side)` float32: how much of a region each position is; rows sum to 1."""
    edges = np.arange(regions + 1)[:, np.newaxis] * side / regions
    places = np.arange(side)
    overlap = np.minimum(edges[1:], places + 1) - np.maximum(edges[:-1], places)
    return (np.maximum(overlap, 0.0) * regions / side).astype(np.float32)
