"""The detector's network: a backbone, a feature pyramid, and one head for all its levels.

FCOS (Tian, Shen, Chen and He, "FCOS: A Simple and Strong Anchor-free Object Detector",
arXiv:2006.09214): every point of a level says the class of the object it lies in, the distances to
its four sides, and how well they fit. There are no anchors to tune and no step whose shape depends
on the image.

keras-cv 0.9's RetinaNet trains and predicts under Keras 3.15, but only through its own `fit`, which
fails on two replicas; its heads have 6.4 million weights. Another detector takes this one's place
with a function like `build_detector`, an objective like `objective.DetectionObjective` and a
`predict.decode`.
"""

import math

import keras
import numpy as np

from models import graph
from models.backbones import build_backbone, normalization
from models.storage import load_model

FIRST_STRIDE = 8
BOX_VALUES = 5  # four distances and the quality

_RARE = 0.01  # probability that a point of a fresh network sees in an object, as for RetinaNet


def build_detector(
    num_classes: int,
    *,
    image_size: int = 512,
    backbone: str = "efficientnet-b0",
    width: float | None = None,
    depth: float | None = None,
    drop_connect_rate: float = 0.2,
    weights: str | None = None,
    channels: int = 256,
    convolutions: int = 4,
    levels: int = 5,
) -> keras.Model:
    """Builds the detector.

    Args:
        num_classes: number of classes C.
        image_size: side S of the images; a multiple of the largest stride, 8 · 2^(levels − 1).
        backbone: a name, see `models.backbones.build_backbone`; or the path of a finished model of
            train.py (`.keras`), whose trained backbone and normalisation are taken.
        width, depth, drop_connect_rate, weights: see `build_backbone`; of no use with a path.
        channels: of the pyramid and the head.
        convolutions: 3×3, in the head before each of its two outputs.
        levels: of the pyramid, with strides 8, 16, 32, …; at least 3.

    Returns:
        Model `(B, S, S, 3)` uint8 → `(B, P, C + 5)` float32: logits of the classes; distances in
        pixels from the point to the left, upper, right and lower side, at least 0; a logit of the
        quality, the overlap (IoU) of that box with the object's. The points are those of `points`.

    Raises:
        ValueError: the size does not fit the levels, or the backbone has no pyramid.
    """
    strides = strides_of(levels)
    if levels < 3 or image_size % strides[-1]:
        raise ValueError(
            f"image_size: expected a multiple of {strides[-1]}, and at least 3 levels. "
            f"Received: {image_size}, {levels} levels"
        )
    images = keras.Input((image_size, image_size, 3), dtype="uint8", name="image")
    if backbone.endswith(".keras"):
        normalize, body = _trained(backbone)
    else:
        normalize = _normalize(backbone)
        options = {"width": width, "depth": depth, "drop_connect_rate": drop_connect_rate}
        body = build_backbone(backbone, weights=weights, **options)
    features = feature_maps(body, image_size)(normalize(images))
    head = _head(num_classes, channels, convolutions)
    outputs = []
    for stride, values in zip(strides, _pyramid(features, channels, levels), strict=True):
        classes, distances, quality = head(values)
        distances = keras.layers.Rescaling(float(stride), dtype="float32")(distances)
        joined = keras.layers.Concatenate(dtype="float32")([classes, distances, quality])
        outputs.append(
            keras.layers.Reshape((-1, num_classes + BOX_VALUES), dtype="float32")(joined)
        )
    every = keras.layers.Concatenate(axis=1, dtype="float32")(outputs)
    return keras.Model(images, every, name="detector")


def _normalize(backbone: str) -> keras.layers.Layer:
    mean, std = normalization(backbone)
    return keras.layers.Rescaling(
        scale=[1.0 / (255.0 * value) for value in std],
        offset=[-middle / value for middle, value in zip(mean, std, strict=True)],
        dtype="float32",
        name="normalize",
    )


def _trained(path: str) -> tuple[keras.layers.Layer, keras.Model]:
    """Returns the normalisation and the backbone of a finished model."""
    model = load_model(path)
    names = {layer.name for layer in model.layers}
    if not {"normalize", "backbone"} <= names:
        raise ValueError(
            f"backbone: expected a model with the layers 'normalize' and 'backbone'. Received: "
            f"{path}, whose layers are {sorted(names)[:20]}"
        )
    return model.get_layer("normalize"), model.get_layer("backbone")


def strides_of(levels: int) -> list[int]:
    """Returns the strides of the pyramid's levels in pixels."""
    return [FIRST_STRIDE * 2**level for level in range(levels)]


def points(image_size: int, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the points' places `(P, 2)` x, y in pixels and strides `(P,)`, both float32.

    Level after level, row after row; a point lies in the middle of its cell.
    """
    places, strides = [], []
    for stride in strides_of(levels):
        middles = (np.arange(image_size // stride, dtype=np.float32) + 0.5) * stride
        y, x = np.meshgrid(middles, middles, indexing="ij")
        places.append(np.stack([x.ravel(), y.ravel()], axis=1))
        strides.append(np.full(len(places[-1]), stride, np.float32))
    return np.concatenate(places), np.concatenate(strides)


def feature_maps(backbone: keras.Model, image_size: int) -> keras.Model:
    """Returns the backbone with three outputs, of strides 8, 16 and 32.

    A stride's output is the last tensor of that size that all later ones depend on: the end of a
    residual stage, not a branch inside the next.

    Raises:
        ValueError: it has no such tensors; a vision transformer has one size only.
    """
    layers = _necks(backbone)
    sizes = keras.Model(backbone.input, [layer.output for layer in layers]).compute_output_shape(
        (1, image_size, image_size, 3)
    )
    sizes = [sizes] if len(layers) == 1 else sizes
    chosen = {
        shape[1]: layer.output
        for layer, shape in zip(layers, sizes, strict=True)
        if len(shape) == 4 and shape[1] == shape[2]
    }
    wanted = [image_size // stride for stride in (8, 16, 32)]
    if not chosen.keys() >= set(wanted):
        raise ValueError(
            f"expected a backbone with feature maps of strides 8, 16 and 32. Received: maps of "
            f"{sorted(chosen, reverse=True)} pixels from images of {image_size}"
        )
    return keras.Model(backbone.input, [chosen[size] for size in wanted], name="backbone")


def _necks(backbone: keras.Model) -> list[keras.layers.Layer]:
    """Returns the layers that every path from the input to the output goes through, in order."""
    _, calls, _ = graph.calls_between(backbone, backbone.output)
    maker = {number: place for place, call in enumerate(calls) for number in call.outputs}
    needed = list(range(len(calls)))  # the last call that needs each one's values
    for place, call in enumerate(calls):
        for number in call.inputs:
            if number in maker:
                needed[maker[number]] = place
    necks, open_until = [], 0
    for place, call in enumerate(calls):
        if open_until <= place:
            necks.append(call.layer)
        open_until = max(open_until, needed[place])
    return necks


def _pyramid(features, channels: int, levels: int) -> list:
    """Returns `(B, S/stride, S/stride, channels)` of each level (Lin et al., arXiv:1612.03144)."""

    def convolve(values, size: int, name: str, strides: int = 1):
        return keras.layers.Conv2D(channels, size, strides, padding="same", name=name)(values)

    merged = []
    for number in (2, 1, 0):
        values = convolve(features[number], 1, f"lateral_{number}")
        if merged:
            larger = keras.layers.UpSampling2D(2, name=f"enlarge_{number}")(merged[0])
            values = keras.layers.Add(name=f"merge_{number}")([values, larger])
        merged.insert(0, values)
    maps = [convolve(values, 3, f"smooth_{number}") for number, values in enumerate(merged)]
    while len(maps) < levels:
        maps.append(convolve(maps[-1], 3, f"coarse_{len(maps)}", strides=2))
    return maps


def _head(num_classes: int, channels: int, convolutions: int) -> keras.Model:
    """Returns `(B, H, W, channels)` → logits `(…, C)`, distances in strides `(…, 4)`, quality."""

    def tower(values, name: str):
        for number in range(convolutions):
            layer = keras.layers.Conv2D(
                channels, 3, padding="same", use_bias=False, name=f"{name}_{number}"
            )
            norm = keras.layers.GroupNormalization(
                math.gcd(channels, 32), name=f"{name}_norm_{number}"
            )
            values = keras.layers.Activation("relu")(norm(layer(values)))
        return values

    def output(values, size: int, name: str, bias: float = 0.0, activation: str | None = None):
        return keras.layers.Conv2D(
            size,
            3,
            padding="same",
            activation=activation,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
            bias_initializer=keras.initializers.Constant(bias),
            dtype="float32",
            name=name,
        )(values)

    values = keras.Input((None, None, channels))
    sides = tower(values, "box")
    outputs = [
        output(tower(values, "class"), num_classes, "classes", -math.log((1 - _RARE) / _RARE)),
        output(sides, 4, "distances", 2.0, "softplus"),
        output(sides, 1, "quality"),
    ]
    return keras.Model(values, outputs, name="head")
