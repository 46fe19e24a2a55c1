"""The table of backbones: sizes, options, and what keras.applications' own normalisation is."""

import backbone_checks as checks
import keras
import numpy as np
import pytest

from models import backbones
from models.backbones import applications

# `python benchmarks/backbones.py` counts all of them.
SOME = (
    "efficientnet-b0", "efficientnetv2-b0", "convnext-tiny", "resnet50-v1", "resnet50",
    "resnet50-ibn-a", "se-resnext50", "res2net101", "vit-b16",
)  # fmt: skip

NORMALIZING = (keras.layers.Rescaling, keras.layers.Normalization)


@pytest.mark.parametrize("name", SOME)
def test_parameters_are_the_published(name):
    model = checks.without_values(backbones.build_backbone, name)
    features = model.output_shape[-1]
    classifier = 1000 * features + 1000
    assert checks.trainable(model) + classifier == backbones.TABLE[name].parameters
    stride = 16 if name == "vit-b16" else 32
    expected = (2, 96 // stride, 128 // stride, features)
    assert model.compute_output_shape((2, 96, 128, 3)) == expected
    assert model.name == "backbone"
    assert not [layer for layer in model.layers if isinstance(layer, NORMALIZING)]


def test_every_backbone_is_of_a_known_kind():
    kinds = {"efficientnet", "efficientnetv2", "convnext", "resnet50", "resnet101", "resnet152",
             "se", "res2net101", "hrnet", "dla102x", "fishnet99", "vit"}  # fmt: skip
    assert {name.partition("-")[0] for name in backbones.NAMES} == kinds
    assert len(backbones.NAMES) == 37


def test_sizes_are_multiplied():
    model = backbones.build_backbone("se-resnext50", width=0.25, depth=0.3, last_stride=1)
    assert model.compute_output_shape((1, 64, 64, 3)) == (1, 4, 4, 512)
    convolutions = [layer.name for layer in model.layers if layer.name.endswith(".conv2")]
    assert [name[:8] for name in convolutions] == [
        "layer1.0", "layer2.0", "layer3.0", "layer3.1", "layer4.0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet51",), "backbone: expected one of .*'resnet50'.*Received: 'resnet51'"),
        (("efficientnet",), "expected a width and a depth. Received: None and None"),
        (("efficientnet-b0", {"last_stride": 1}), "last_stride=1: 'efficientnet-b0' has no such"),
        (("dla102x", {"width": 0.5}), "width=0.5: 'dla102x' has no such choice.*'resnet50'"),
        (("resnet50", {"last_stride": 3}), "last_stride: expected 1 or 2. Received: 3"),
        (("resnet50", {"weights": "imagenet"}), "convnext-tiny.*take a file.*Received: 'resnet50'"),
        (("convnext-tiny", {"weights": "noisy-student"}), "published for efficientnet-b0, "),
    ],
)
def test_refused(arguments, message):
    name, options = (*arguments, {})[:2]
    with pytest.raises(ValueError, match=message):
        backbones.build_backbone(name, **options)


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("efficientnetv2-b0", keras.applications.EfficientNetV2B0),
        ("efficientnetv2-s", keras.applications.EfficientNetV2S),
        ("convnext-tiny", keras.applications.ConvNeXtTiny),
    ],
)
def test_normalization_is_what_keras_applications_does_itself(name, build):
    model = checks.without_values(lambda: build(weights=None, include_top=False))
    pixels = np.linspace(0, 255, 7 * 3, dtype=np.float32).reshape(1, 7, 1, 3)
    expected = pixels
    for layer in model.layers:
        if isinstance(layer, NORMALIZING):
            expected = layer(expected)
    mean, std = backbones.normalization(name)
    np.testing.assert_allclose((pixels / 255 - mean) / std, expected, rtol=1e-5, atol=1e-5)


def test_normalization_of_resnet_v1_is_caffes():
    """With the first kernel turned round, as its weights are on loading."""
    rng = np.random.default_rng(1)
    pixels = rng.uniform(0, 255, (2, 8, 8, 3)).astype(np.float32)
    layer = keras.layers.Conv2D(4, 3)
    expected = layer(keras.applications.resnet.preprocess_input(pixels.copy()))
    applications.reverse_channels(layer)
    mean, std = backbones.normalization("resnet50-v1")
    received = layer((pixels / 255 - np.float32(mean)) / np.float32(std))
    # Sums of 27 products of values up to 152.
    np.testing.assert_allclose(received, expected, atol=1e-3)


@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_stochastic_depth_of_efficientnet_v2(rate):
    model = checks.without_values(
        lambda: backbones.build_backbone("efficientnetv2-b0", drop_connect_rate=rate)
    )
    rates = [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    # The first of 21 blocks has none, and two others no way around them.
    assert max(rates) == pytest.approx(rate * 20 / 21)
    assert rates == sorted(rates)
