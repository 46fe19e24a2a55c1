"""From a feature map to one vector."""

import keras
from keras import ops

from models import heads

POOLINGS = ("gap", "spoc", "mac", "rmac", "gem", "gem_fixed", "gem_channel")


@keras.saving.register_keras_serializable(package="waymark")
class GeneralizedMeanPooling(keras.layers.Layer):
    """GeM: the p-th root of the mean of the p-th powers over the positions.

    p = 1 is the mean, p → ∞ the maximum. The powers are taken in float32, since bfloat16 has
    8 bits of them.

    Args:
        p: the power at the start.
        trainable_p: whether p is trained.
        per_channel: whether every channel has a p of its own.
        epsilon: smallest activation, so that the root has a gradient.

    Call arguments:
        inputs: feature map.

    Input shape:
        `(B, H, W, F)`.

    Output shape:
        `(B, F)`.

    Example:
        >>> GeneralizedMeanPooling()(keras.ops.ones((2, 7, 7, 1280))).shape
        TensorShape([2, 1280])

    Reference:
        Radenović, Tolias and Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation",
        arXiv:1711.02512.
    """

    def __init__(
        self,
        p: float = 3.0,
        trainable_p: bool = True,
        epsilon: float = 1e-6,
        per_channel: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if p <= 0:
            raise ValueError(f"p: expected a number above 0. Received: {p}")
        self.p = p
        self.trainable_p = trainable_p
        self.epsilon = epsilon
        self.per_channel = per_channel

    def build(self, input_shape):
        self.power = self.add_weight(
            name="power",
            shape=(input_shape[3],) if self.per_channel else (),
            dtype="float32",
            initializer=keras.initializers.Constant(self.p),
            trainable=self.trainable_p,
        )

    def call(self, inputs):
        power = ops.cast(self.power, "float32")
        features = ops.maximum(ops.cast(inputs, "float32"), self.epsilon)  # (B, H, W, F)
        mean = ops.mean(ops.power(features, power), axis=(1, 2))  # (B, F)
        return ops.cast(ops.power(mean, 1.0 / power), self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[3])

    def get_config(self):
        return {
            **super().get_config(),
            "p": self.p,
            "trainable_p": self.trainable_p,
            "epsilon": self.epsilon,
            "per_channel": self.per_channel,
        }


@keras.saving.register_keras_serializable(package="waymark")
class RegionalMaxPooling(keras.layers.Layer):
    """R-MAC: the sum of the L2-normalised maxima of square regions on a grid of several scales.

    Level l = 1 … L has regions of side ⌊2·min(H, W)/(l + 1)⌋, l along the shorter side and l + m
    along the longer, evenly spread. m is 0 for a square map, else that of 1 … 6 whose overlap at
    level 1 is nearest to 40 %. The paper whitens each region's vector in between, which a trained
    layer after the pooling takes the place of; the sum's own length is left to the export.

    Args:
        levels: number of scales L.

    Call arguments:
        inputs: feature map.

    Input shape:
        `(B, H, W, F)`, H and W known when the layer runs.

    Output shape:
        `(B, F)`.

    Example:
        >>> RegionalMaxPooling()(keras.ops.ones((2, 7, 7, 1280))).shape
        TensorShape([2, 1280])

    Reference:
        Tolias, Sicre and Jégou, "Particular Object Retrieval with Integral Max-Pooling of CNN
        Activations", arXiv:1511.05879.
    """

    def __init__(self, levels: int = 3, **kwargs):
        super().__init__(**kwargs)
        if levels < 1:
            raise ValueError(f"levels: expected at least 1. Received: {levels}")
        self.levels = levels

    def call(self, inputs):
        features = ops.cast(inputs, "float32")  # (B, H, W, F)
        height, width = features.shape[1:3]
        if height is None or width is None:
            raise ValueError(
                f"R-MAC: expected images of a fixed size. Received: a map of {features.shape}"
            )
        total = 0.0
        for top, left, side in regions(height, width, self.levels):
            region = features[:, top : top + side, left : left + side]
            maxima = ops.max(region, axis=(1, 2))  # (B, F)
            total = total + maxima * heads.inverse_norm(maxima, axis=1)
        return ops.cast(total, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[3])

    def get_config(self):
        return {**super().get_config(), "levels": self.levels}


def regions(height: int, width: int, levels: int) -> list[tuple[int, int, int]]:
    """Returns R-MAC's regions of a map, (top, left, side) in cells, see `RegionalMaxPooling`."""
    short, long = min(height, width), max(height, width)
    more = 0
    if long > short:
        # Overlap of neighbours at level 1, where 1 + m regions share the longer side.
        overlaps = [1 - (long - short) / (m * short) for m in range(1, 7)]
        more = min(range(6), key=lambda i: abs(overlaps[i] - 0.4)) + 1
    found = []
    for level in range(1, levels + 1):
        side = max(1, 2 * short // (level + 1))
        rows = _starts(height, side, level + (more if height > width else 0))
        columns = _starts(width, side, level + (more if width > height else 0))
        found += [(top, left, side) for top in rows for left in columns]
    return found


def _starts(length: int, side: int, count: int) -> list[int]:
    """Returns where `count` regions of a side begin, evenly from one end to the other."""
    if count == 1:
        return [(length - side) // 2]
    return [i * (length - side) // (count - 1) for i in range(count)]


def build_pooling(kind: str, name: str = "pooling") -> keras.layers.Layer:
    """Returns the pooling layer of that kind, `(B, H, W, F)` → `(B, F)`.

    Args:
        kind: "gap", "spoc" (mean, by its two names), "mac" (maximum), "rmac" (regional maxima),
            "gem" (generalized mean with a trained p), "gem_fixed" (p = 3) or "gem_channel" (a
            trained p for each channel).
        name: of the layer.

    Raises:
        ValueError: another kind.
    """
    if kind in ("gap", "spoc"):
        return keras.layers.GlobalAveragePooling2D(name=name)
    if kind == "mac":
        return keras.layers.GlobalMaxPooling2D(name=name)
    if kind == "rmac":
        return RegionalMaxPooling(name=name)
    if kind in ("gem", "gem_fixed", "gem_channel"):
        return GeneralizedMeanPooling(
            trainable_p=kind != "gem_fixed", per_channel=kind == "gem_channel", name=name
        )
    raise ValueError(f"pooling: expected one of {', '.join(POOLINGS)}. Received: {kind!r}")
