"""Puts a member's network together, and takes the embedding out of it again."""

import keras

from models.backbones import build_backbone
from models.heads import CosineSoftmax
from models.pooling import build_pooling

# ImageNet's channel statistics of pixels in [0, 1].
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def build_model(
    num_classes: int,
    *,
    backbone: str = "efficientnet-b0",
    width: float | None = None,
    depth: float | None = None,
    drop_connect_rate: float = 0.2,
    weights: str | None = None,
    pooling: str = "gap",
    embedding_dim: int = 512,
) -> keras.Model:
    """Builds image → normalise → backbone → pooling → Dense(D, swish) → cosines.

    The images stay uint8 until they are on the device and are normalised here, in the one place
    for training and export: a quarter of the bytes go to a TPU.

    Args:
        num_classes: number of classes C.
        backbone, width, depth, drop_connect_rate, weights: see `build_backbone`.
        pooling: "gap" or "gem".
        embedding_dim: size D of the embedding.

    Returns:
        Model `(B, S, S, 3)` uint8 → `(B, C)` float32 cosines, with the layers "normalize",
        "backbone", "pooling", "bottleneck" and "head".
    """
    images = keras.Input((None, None, 3), dtype="uint8", name="image")
    # float32: bfloat16 would round the scale by up to 0.4 %.
    normalize = keras.layers.Rescaling(
        scale=[1.0 / (255.0 * std) for std in STD],
        offset=[-mean / std for mean, std in zip(MEAN, STD, strict=True)],
        dtype="float32",
        name="normalize",
    )
    features = build_backbone(
        backbone, width=width, depth=depth, drop_connect_rate=drop_connect_rate, weights=weights
    )(normalize(images))  # (B, S/32, S/32, F)
    pooled = build_pooling(pooling)(features)  # (B, F)
    embedding = keras.layers.Dense(embedding_dim, activation="swish", name="bottleneck")(pooled)
    cosines = CosineSoftmax(num_classes, name="head")(embedding)  # (B, C)
    return keras.Model(images, cosines, name="member")


def embedding_model(model: keras.Model) -> keras.Model:
    """Returns the part of `model` from the image to the L2-normalised embedding.

    Args:
        model: what `build_model` returned, or the same loaded from a file.

    Returns:
        Model `(B, S, S, 3)` uint8 → `(B, D)` float32, rows of length 1.
    """
    embedding = model.get_layer("bottleneck").output
    unit = keras.layers.UnitNormalization(axis=-1, dtype="float32", name="descriptor")(embedding)
    return keras.Model(model.input, unit, name="embedding")
