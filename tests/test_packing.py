"""Convolutions over rows of several pixels against the same convolutions over pixels."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from models import fused, packing

LAYERS = keras.layers


def gradients(function, layer, x):
    """Returns the result, and the gradients of a weighted sum of it to the input and kernel."""
    kernel, x = layer.kernel.value, tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        result = function(x)
        weights = np.random.default_rng(1).normal(size=result.shape).astype(np.float32)
        total = tf.reduce_sum(result * weights)
    return [result, *tape.gradient(total, [x, kernel])]


def layer_and_norm(layer, shape, seed=0):
    norm = LAYERS.BatchNormalization()
    norm.build(layer.compute_output_shape(shape))
    layer.build(shape)
    rng = np.random.default_rng(seed)
    for weight in norm.weights:
        weight.assign(rng.uniform(0.5, 2.0, weight.shape))
    return layer, norm


@pytest.mark.parametrize(
    ("layer", "channels", "width", "factor", "expected"),
    [
        (LAYERS.Conv2D(64, 3, 2, padding="same"), 3, 16, None, (4, 2)),
        (LAYERS.Conv2D(32, 3, padding="same", use_bias=False), 3, 16, None, (4, 4)),
        (LAYERS.DepthwiseConv2D(3, padding="same"), 32, 16, 4, (4, 4)),
        (LAYERS.DepthwiseConv2D(5, padding="same"), 64, 16, 2, (2, 2)),
        (LAYERS.DepthwiseConv2D(5, 2, padding="same"), 32, 32, 8, (8, 4)),
        (LAYERS.DepthwiseConv2D(3, 2, padding="same"), 32, 32, 4, (4, 4)),
        (LAYERS.Conv2D(32, 1), 64, 16, 2, None),  # "valid"
        (LAYERS.Conv2D(32, 1, padding="same"), 64, 16, 2, (2, 4)),
        (LAYERS.Conv2D(24, 3, padding="same"), 24, 16, 4, (4, 4)),
        (LAYERS.Conv2D(192, 1, padding="same"), 32, 16, 4, None),  # wide enough by itself
        (LAYERS.Conv2D(32, 3, padding="same", dilation_rate=2), 32, 16, 4, None),
        (LAYERS.Conv2D(32, 3, padding="same", groups=2), 32, 16, 4, None),
        (LAYERS.Conv2D(32, 3, padding="same"), 3, 14, None, (2, 2)),
        (LAYERS.Conv2D(32, 3, padding="same"), 3, 15, None, None),
    ],
)
def test_packed_convolution_is_the_convolution(layer, channels, width, factor, expected):
    """`expected`: pixels in a position of the input and of the output; None is not packed."""
    layer, norm = layer_and_norm(layer, (2, 6, width, channels))
    x = np.random.default_rng(0).normal(size=(2, 6, width, channels)).astype(np.float32)

    def packed(x):
        value = x
        if factor:
            value = packing.Packed(
                tf.reshape(x, (2, 6, width // factor, factor * channels)), factor
            )
        result = packing.convolution(layer, norm, value)
        if expected is None:
            assert result is None
            return fused.convolution(layer, norm, x)
        assert result.factor == expected[1]
        return packing.unpack(result)

    received = gradients(packed, layer, x)
    plain = gradients(lambda x: norm(layer(x), training=False), layer, x)
    for a, b in zip(received, plain, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


def test_per_pixel_and_per_channel():
    x = np.random.default_rng(0).normal(size=(2, 3, 8, 5)).astype(np.float32)
    value = packing.Packed(tf.reshape(x, (2, 3, 2, 20)), 4)
    assert value.shape == x.shape
    np.testing.assert_array_equal(packing.unpack(value), x)
    assert packing.unpack(x) is x
    means = packing.mean_over_pixels(value)
    np.testing.assert_allclose(means, x.mean(axis=(1, 2)), rtol=1e-5, atol=1e-7)
    gate = np.random.default_rng(1).uniform(size=(2, 1, 1, 5)).astype(np.float32)
    scaled = value.like(value.tensor * packing.per_channel(value, gate))
    np.testing.assert_array_equal(packing.unpack(scaled), x * gate)


@pytest.mark.parametrize("for_tpu", [False, True])
@pytest.mark.parametrize("side", [2, 7])  # fewer and more pixels than channels
def test_excited_convolution_is_product_and_convolution(side, for_tpu):
    layer, norm = layer_and_norm(LAYERS.Conv2D(4, 1), (3, side, side, 10))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, side, side, 10)).astype(np.float32)
    gate = tf.constant(rng.uniform(size=(3, 1, 1, 10)).astype(np.float32))

    def excited(x):
        return fused.excited_convolution(layer, norm, x, gate, for_tpu=for_tpu)

    received = gradients(excited, layer, x)
    plain = gradients(lambda x: norm(layer(x * gate), training=False), layer, x)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(gate)
        sums = [
            tf.reduce_sum(excited(x) ** 2),
            tf.reduce_sum(norm(layer(x * gate), training=False) ** 2),
        ]
    received.append(tape.gradient(sums[0], gate))
    plain.append(tape.gradient(sums[1], gate))
    for a, b in zip(received, plain, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())
