"""The vision transformer against timm's, of random weights."""

import backbone_checks as checks
import keras
import numpy as np
import pytest
import tensorflow as tf

from models.backbones.conversion import CLASSIFIERS
from models.backbones.vit import Attention, PositionedTokens, build_vit


def build():
    return build_vit(patch=8, dim=24, depth=2, heads=3, grid=4)


@pytest.fixture(scope="module")
def reference():
    return checks.golden("vit")


@pytest.fixture(scope="module")
def model(reference):
    return checks.converted(build(), reference, CLASSIFIERS)


def test_features_are_those_of_timm(model, reference):
    """At 64 × 96 pixels, where 4 × 4 learned positions become 8 × 12."""
    checks.assert_close(model(reference.images, training=False), reference.features)


def test_without_norms_to_fold(model, reference):
    checks.check_folded(model, reference)


def test_xla_computes_the_same(model, reference):
    checks.check_compiled(model, reference)


def test_sizes_that_are_known_at_run_time_only(model, reference):
    run = tf.function(
        lambda images: model(images, training=False),
        input_signature=[tf.TensorSpec((None, None, None, 3))],
    )
    checks.assert_close(run(reference.images), reference.features)


def test_bfloat16_saved_and_reloaded(reference, tmp_path):
    model = checks.in_bfloat16(build, reference, CLASSIFIERS)
    checks.check_direction(checks.reloaded(model, tmp_path / "model.keras"), reference)


def test_positions_at_their_own_size_are_used_as_they_are():
    layer = PositionedTokens(3)
    tokens = layer(np.zeros((2, 3, 3, 5), np.float32))
    expected = layer.positions.numpy().copy()
    expected[:, 0] += layer.class_token.numpy()[:, 0]
    np.testing.assert_allclose(tokens, np.repeat(expected, 2, axis=0), atol=1e-7)


def test_positions_on_fewer_patches_keep_their_mean():
    """All rows of the interpolation sum to 1, so a constant stays one."""
    layer = PositionedTokens(5)
    layer.build((None, 2, 3, 4))
    layer.positions.assign(np.full((1, 26, 4), 0.75))
    tokens = layer(np.zeros((1, 2, 3, 4), np.float32))
    np.testing.assert_allclose(tokens[:, 1:], np.full((1, 6, 4), 0.75), rtol=1e-6)


def test_attention_by_the_formula():
    tensor = np.random.default_rng(1).normal(size=(2, 5, 12)).astype(np.float32)
    query, key, value = np.split(tensor.astype(float), 3, axis=-1)
    expected = np.empty((2, 5, 4))
    for image, head in np.ndindex(2, 2):
        part = (image, slice(None), slice(2 * head, 2 * head + 2))
        shares = np.exp(query[part] @ key[part].T / 2**0.5)
        expected[part] = shares / shares.sum(axis=1, keepdims=True) @ value[part]
    np.testing.assert_allclose(Attention(2)(tensor), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layer", [Attention(3), PositionedTokens(7)])
def test_config(layer):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.get_config() == layer.get_config()


def test_heads_divide_the_channels():
    with pytest.raises(ValueError, match=r"multiple of heads=5. Received: 24"):
        build_vit(dim=24, heads=5)
