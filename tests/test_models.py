"""The networks: sizes, layers, save and load, and the hand-over between stages."""

import keras
import numpy as np
import pytest

from models import backbones
from models.builder import build_model, embedding_model
from models.pooling import GeneralizedMeanPooling
from models.storage import load_model
from models.transfer import transfer

SMALL = {"backbone": "efficientnet", "width": 0.25, "depth": 0.25, "embedding_dim": 16}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), dtype=np.uint8)


def test_b6_has_the_published_number_of_parameters():
    """40,960,136 + 1,180,160 + 512·C: the winner's B6, here over 1,000 of the 203,094 classes."""
    model = build_model(1000, backbone="efficientnet-b6")
    counts = {layer.name: layer.count_params() for layer in model.layers if layer.weights}
    assert counts == {"backbone": 40_960_136, "bottleneck": 1_180_160, "head": 512_000}


@pytest.mark.parametrize("pooling", ["gap", "gem"])
def test_save_and_load_give_the_same_cosines(tmp_path, images, pooling):
    model = build_model(7, pooling=pooling, **SMALL)
    model.save(tmp_path / "model.keras")
    again = load_model(str(tmp_path / "model.keras"))
    np.testing.assert_array_equal(again(images), model(images))
    embedding = embedding_model(again)
    assert embedding.output_shape == (None, 16)
    np.testing.assert_allclose(np.linalg.norm(embedding(images), axis=1), 1, rtol=1e-5)


def test_missing_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"stage-1.model\.keras"):
        load_model(str(tmp_path / "stage-1" / "model.keras"))


def test_normalisation_is_imagenets(images):
    model = build_model(7, **SMALL)
    mean, std = np.array([(0.485, 0.456, 0.406), (0.229, 0.224, 0.225)])
    expected = (images - 255.0 * mean) / (255.0 * std)
    np.testing.assert_allclose(model.get_layer("normalize")(images), expected, atol=1e-5)


def test_mixed_precision_keeps_cosines_in_float32(images):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build_model(7, pooling="gem", **SMALL)
    finally:
        keras.config.set_dtype_policy("float32")
    cosines = model(images)
    assert cosines.dtype == "float32"
    assert model.get_layer("bottleneck").compute_dtype == "bfloat16"
    assert np.abs(cosines).max() <= 1 + 1e-6


@pytest.mark.parametrize("p", [1.0, 3.0, 20.0])
def test_gem_by_the_formula(p):
    features = np.random.default_rng(1).uniform(0, 2, (2, 3, 4, 5)).astype(np.float32)
    layer = GeneralizedMeanPooling(p=p)
    expected = (features.astype(float) ** p).mean(axis=(1, 2)) ** (1 / p)
    np.testing.assert_allclose(layer(features), expected, rtol=1e-5)
    again = GeneralizedMeanPooling.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()


def test_frozen_batchnorm_is_the_call_without_training(images):
    model = build_model(7, **SMALL)
    statistics = [w for w in model.weights if "moving" in w.path]
    before = [w.numpy().copy() for w in statistics]
    model(images, training=False)
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(before, statistics, strict=True))
    model(images, training=True)
    assert not all(np.array_equal(a, b.numpy()) for a, b in zip(before, statistics, strict=True))


def test_failed_download_names_file_and_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setitem(backbones.ADDRESSES, "imagenet", "http://127.0.0.1:9/")
    with pytest.raises(
        FileNotFoundError, match=rf"efficientnet-b0_.*notop\.h5.*put it in {tmp_path}"
    ):
        backbones.build_backbone("efficientnet-b0", weights="imagenet")


def test_weights_from_a_file(tmp_path):
    sizes = {"width": 0.25, "depth": 0.25}
    source = backbones.build_backbone("efficientnet", **sizes)
    path = str(tmp_path / "backbone.weights.h5")
    source.save_weights(path)
    target = backbones.build_backbone("efficientnet", weights=path, **sizes)
    for a, b in zip(source.weights, target.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(FileNotFoundError, match="no such file"):
        backbones.build_backbone("efficientnet", weights=str(tmp_path / "none.h5"), **sizes)
    with pytest.raises(ValueError, match=r"efficientnet-b7.* only.*Received: 'efficientnet'"):
        backbones.build_backbone("efficientnet", weights="imagenet", **sizes)


def test_transfer_of_the_backbone_alone():
    source, target = build_model(5, **SMALL), build_model(9, **SMALL)
    new = target.get_layer("bottleneck").get_weights()
    copied = transfer(source, target, skip=("bottleneck", "head"))
    assert copied
    assert all(name.startswith("backbone/") for name in copied)
    pairs = zip(
        source.get_layer("backbone").weights, target.get_layer("backbone").weights, strict=True
    )
    assert all(np.array_equal(a, b) for a, b in pairs)
    kept = zip(new, target.get_layer("bottleneck").get_weights(), strict=True)
    assert all(np.array_equal(a, b) for a, b in kept)


def test_transfer_of_everything(images):
    source, target = build_model(5, **SMALL), build_model(5, **SMALL)
    transfer(source, target)
    np.testing.assert_array_equal(source(images), target(images))


@pytest.mark.parametrize(
    ("change", "skip", "message"),
    [
        ({}, (), r"head: shapes .*5.* before, .*9"),
        ({"pooling": "gem"}, ("head",), "pooling: only in the new stage"),
        ({"depth": 0.6}, ("head",), "backbone/.*: only in the new stage"),
        ({}, ("head", "neck"), "neck: to be skipped, but in neither"),
    ],
)
def test_transfer_refuses_what_is_unexplained(change, skip, message):
    source, target = build_model(5, **SMALL), build_model(9, **{**SMALL, **change})
    before = [w.numpy().copy() for w in target.weights]
    with pytest.raises(ValueError, match=message):
        transfer(source, target, skip=skip)
    assert all(np.array_equal(a, b) for a, b in zip(before, target.weights, strict=True))
