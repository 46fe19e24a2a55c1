"""Puts a member's network together, and takes the embedding out of it again."""

from collections.abc import Mapping, Sequence

import keras

from models.backbones import build_backbone, normalization
from models.heads import CosineSoftmax
from models.necks import build_neck
from models.terms import BOTTLENECK, FEATURES, Layers


def build_model(
    num_classes: int,
    *,
    backbone: str = "efficientnet-b0",
    width: float | None = None,
    depth: float | None = None,
    drop_connect_rate: float = 0.2,
    last_stride: int = 2,
    weights: str | None = None,
    pooling: str = "gap",
    neck: str = "dense_swish",
    neck_options: Mapping[str, object] | None = None,
    embedding_dim: int = 512,
    layers: Layers = (),
    outputs: Sequence[str] = (),
) -> keras.Model:
    """Builds image → normalise → backbone → neck → heads.

    The images stay uint8 until they are on the device and are normalised here, in the one place
    for training and export: a quarter of the bytes go to a TPU.

    Args:
        num_classes: number of classes C.
        backbone, width, depth, drop_connect_rate, last_stride, weights: see `build_backbone`.
        pooling: see `build_pooling`.
        neck, neck_options: see `build_neck`.
        embedding_dim: size D of the embedding.
        layers: (layer, name of the output it is called on) pairs, see `terms.Term.layers`; the
            outputs are the neck's and "features". Left out: `CosineSoftmax` on "bottleneck".
        outputs: names of those that are wanted besides.

    Returns:
        Model of `(B, S, S, 3)` uint8 with the layers "normalize", "backbone", those of the neck,
        "bottleneck" the last of them, and `layers`. With one layer, and it on "bottleneck", its
        output is that layer's, such as `(B, C)` float32 cosines; else a dict of "bottleneck", the
        `outputs`, those that layers are called on, and of what layers make by their names.
    """
    images = keras.Input((None, None, 3), dtype="uint8", name="image")
    sizes = {"width": width, "depth": depth, "last_stride": last_stride}
    network = build_backbone(
        backbone, drop_connect_rate=drop_connect_rate, weights=weights, **sizes
    )
    features = network(_normalize(backbone)(images))  # (B, S/32, S/32, F)
    tensors = {FEATURES: features}
    tensors |= build_neck(
        features, neck, embedding_dim=embedding_dim, pooling=pooling, **(neck_options or {})
    )
    layers = layers or [(CosineSoftmax(num_classes, name="head"), BOTTLENECK)]
    wanted = {BOTTLENECK, *outputs, *(on for _, on in layers)}
    if wanted - tensors.keys():
        raise ValueError(
            f"model.losses: expected on= among the outputs of the neck {neck}: "
            f"{', '.join(tensors)}. Received: {', '.join(sorted(wanted - tensors.keys()))}"
        )
    made = {layer.name: layer(tensors[on]) for layer, on in layers}
    if wanted == {BOTTLENECK} and len(made) == 1:
        return keras.Model(images, *made.values(), name="member")
    return keras.Model(images, {name: tensors[name] for name in wanted} | made, name="member")


def _normalize(backbone: str) -> keras.layers.Layer:
    mean, std = normalization(backbone)
    # float32: bfloat16 would round the scale by up to 0.4 %.
    return keras.layers.Rescaling(
        scale=[1.0 / (255.0 * s) for s in std],
        offset=[-m / s for m, s in zip(mean, std, strict=True)],
        dtype="float32",
        name="normalize",
    )


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
