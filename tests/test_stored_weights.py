"""Weights in half precision: bytes on the disk, what they cost, and the limit."""

import json

import keras
import networks
import numpy as np
import pytest
import tensorflow as tf

from export import savedmodel
from export.descriptor import Member
from export.stored_weights import StoredNetwork
from export.views import parse
from input_pipeline import ops
from models.builder import embedding_model
from models.storage import load_model

SQUARE = ops.Square(32)


def save_wide_network(path, seed):
    """60,000 weights, nearly all of them in kernels, so that the graph's bytes count little."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((None, None, 3), dtype="uint8")
    features = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    features = keras.layers.Conv2D(64, 3, strides=2, activation="swish")(features)
    features = keras.layers.BatchNormalization()(features)
    features = keras.layers.Conv2D(64, 3, strides=2, activation="swish")(features)
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    embedding = keras.layers.Dense(320, name="bottleneck")(pooled)
    model = keras.Model(inputs, keras.layers.Dense(5)(embedding))
    (norm,) = (each for each in model.layers if isinstance(each, keras.layers.BatchNormalization))
    norm.moving_variance.assign(norm.moving_variance + 1e6)  # no number of float16
    model.save(path)


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    folder = tmp_path_factory.mktemp("members")
    paths = [str(folder / f"{seed}.keras") for seed in (1, 2)]
    for seed, path in zip((1, 2), paths, strict=True):
        save_wide_network(path, seed)
    return paths


@pytest.fixture(scope="module")
def exported(members, tmp_path_factory):
    """{precision: (folder, info)} of the same ensemble."""
    folder = tmp_path_factory.mktemp("exported")
    return {
        precision: (
            folder / precision,
            savedmodel.save(
                members,
                [SQUARE] * 2,
                str(folder / precision),
                weights=[1.0, 0.5],
                precision=precision,
            ),
        )
        for precision in ("float32", "float16")
    }


def test_files_are_about_half(exported):
    sizes = {
        precision: sum(path.stat().st_size for path in (folder / "variables").iterdir())
        for precision, (folder, _) in exported.items()
    }
    assert 0.5 <= sizes["float16"] / sizes["float32"] < 0.52
    for precision, (_, info) in exported.items():
        assert sizes[precision] == pytest.approx(sum(info["weight_bytes"]), rel=0.02)


def test_stored_values_are_the_rounded_ones(exported, members):
    """Kernels and matrices are half as large, vectors as they were; the graph has no others."""
    folder, info = exported["float16"]
    reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    stored = [reader.get_tensor(name) for name in reader.get_variable_to_shape_map()]
    kernels = [each for each in stored if isinstance(each, np.ndarray) and each.ndim > 1]
    assert {each.dtype for each in kernels} == {np.dtype(np.float16)}
    assert sum(each.size for each in kernels) == 2 * (27 * 64 + 9 * 64 * 64 + 64 * 320)
    assert info["weight_bytes"] == [2 * (27 * 64 + 576 * 64 + 64 * 320) + 4 * (320 + 6 * 64)] * 2


def test_descriptors_are_those_of_rounded_weights(exported, members):
    """The oracle rounds the trained network's kernels and calls it in float32."""
    rng = np.random.default_rng(1)
    images = tf.constant(rng.integers(0, 256, (3, 40, 30, 3), np.uint8))
    parts = []
    for path, weight in zip(members, (1.0, 0.5), strict=True):
        model = keras.saving.load_model(path)
        for variable in model.variables:
            if len(variable.shape) > 1:
                variable.assign(np.float32(np.float16(variable.numpy())))
        embedding = keras.Model(model.input, model.get_layer("bottleneck").output)
        vectors = embedding(SQUARE(images)).numpy()
        parts.append(weight * vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    loaded = tf.saved_model.load(str(exported["float16"][0]))
    found = loaded.signatures["images"](images=images)["global_descriptor"]
    np.testing.assert_allclose(found, np.hstack(parts), atol=2e-6)


def test_measured_loss_and_digest(exported):
    cosine = exported["float16"][1]["cosine_to_float32"]
    # 11 bits: a relative error of up to 2^-12 per weight, so 1 - cosine of about 1e-8 to 1e-6.
    assert 1 - 1e-5 < cosine < 1
    assert "cosine_to_float32" not in exported["float32"][1]
    digests = {info["model_digest"] for _, info in exported.values()}
    assert len(digests) == 2
    folder, info = exported["float16"]
    assert json.loads((folder / "waymark.json").read_text()) == info


@pytest.mark.parametrize(("limit", "where"), [(0.2, "of weights"), (0.26, "in the folder")])
def test_limit_counts_all_members_and_leaves_nothing(limit, where, members, tmp_path):
    with pytest.raises(savedmodel.TooLargeError, match=rf"at most {limit} MB.* MB {where}"):
        savedmodel.save(
            members, [SQUARE] * 2, str(tmp_path / "m"), precision="float16", limit_mb=limit
        )
    assert list(tmp_path.iterdir()) == []


def test_weight_that_float16_cannot_hold(tmp_path):
    networks.save_network(tmp_path / "n.keras", keras.layers.GlobalMaxPooling2D)
    model = keras.saving.load_model(tmp_path / "n.keras")
    kernel = model.get_layer("bottleneck").kernel
    kernel.assign(kernel + 1e5)
    with pytest.raises(ValueError, match=r"at most 65,504. Received: 1e.05 in bottleneck/kernel"):
        StoredNetwork(model, "float16")
    with pytest.raises(ValueError, match="expected weights in one of"):
        StoredNetwork(model, "int8")


def test_half_weights_with_views_compile_with_xla(members):
    network = StoredNetwork(embedding_model(load_model(members[0])), "float16")
    member = Member(network, SQUARE, parse("horizontal_flip"))
    rng = np.random.default_rng(2)
    images = tf.constant(rng.integers(0, 256, (2, 32, 32, 3), np.uint8))
    compiled = tf.function(lambda images: member([images]), jit_compile=True)(images)
    rows = np.stack([network(images), network(images[:, :, ::-1])]).mean(axis=0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(compiled, rows, atol=2e-6)
