"""Networks with folded BatchNorm against the same networks called plainly."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from models import activations, folding, graph
from models.builder import build_model
from models.heads import CosineSoftmax
from models.objectives import Embedder

SMALL = {"backbone": "efficientnet", "width": 0.25, "depth": 0.25, "embedding_dim": 16}


def randomized(model, seed=0):
    """Gives every BatchNorm statistics, γ and β as after training, and none of them 0 or 1."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        name = weight.path.rpartition("/")[2]
        if name in ("gamma", "moving_variance"):
            weight.assign(rng.uniform(0.5, 2.0, weight.shape))
        elif name in ("beta", "moving_mean", "bias"):
            weight.assign(rng.normal(0.0, 0.3, weight.shape))
    return model


def block(x, filters, expansion=1, stride=1, kernel=3):
    """An inverted residual block with squeeze and excite, as EfficientNet has them."""
    layers, before = keras.layers, x
    if expansion > 1:
        x = layers.Conv2D(expansion * x.shape[-1], 1, padding="same", use_bias=False)(x)
        x = layers.Activation("swish")(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(kernel, stride, padding="same", use_bias=False)(x)
    x = layers.Activation("swish")(layers.BatchNormalization()(x))
    squeezed = layers.GlobalAveragePooling2D(keepdims=True)(x)
    squeezed = layers.Conv2D(4, 1, activation="swish")(squeezed)
    x = layers.multiply([x, layers.Conv2D(x.shape[-1], 1, activation="sigmoid")(squeezed)])
    x = layers.Conv2D(filters, 1, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    if stride == 1 and before.shape[-1] == filters:
        x = layers.add([layers.Dropout(0.5, noise_shape=(None, 1, 1, 1))(x), before])
    return x


def build():
    """A network of all kinds of blocks of EfficientNet, one of each."""
    images = keras.Input((None, None, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 128, -1, dtype="float32")(images)
    x = keras.layers.Conv2D(8, 3, 2, padding="same", use_bias=False)(x)
    x = keras.layers.Activation("swish")(keras.layers.BatchNormalization()(x))
    x = block(block(x, 8), 8, kernel=5)
    x = block(block(x, 8, expansion=4, stride=2, kernel=5), 8, expansion=4)
    embedding = keras.layers.Dense(6)(keras.layers.GlobalAveragePooling2D()(x))
    return randomized(keras.Model(images, CosineSoftmax(7)(embedding)))


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return build()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)


def outputs_and_gradients(model, function, images, compiled=True, jit_compile=False):
    """Returns the outputs, and the gradients of a weighted sum of them to all weights."""

    def run(images):
        with tf.GradientTape() as tape:
            outputs = tf.cast(function(images), tf.float32)
            factors = tf.range(1.0, tf.size(outputs, tf.float32) + 1)
            total = tf.reduce_sum(outputs * tf.reshape(factors, outputs.shape)) / factors[-1]
        trained = [v.value for v in model.trainable_variables]
        return outputs, tape.gradient(total, trained, unconnected_gradients="zero")

    if compiled:
        run = tf.function(run, autograph=False, jit_compile=jit_compile)
    return run(tf.constant(images))


def assert_same(received, expected, tolerance):
    """Relative to the largest value of each array."""
    for a, b in zip(tf.nest.flatten(received), tf.nest.flatten(expected), strict=True):
        limit = tolerance * max(np.abs(b).max(), 1e-30)
        np.testing.assert_allclose(a, b, rtol=0, atol=limit)


def plain(model):
    part = keras.Model(model.input, model.layers[-1].input)
    return lambda images: part(images, training=False)


def folded(model, **kwargs):
    return lambda images: folding.embed(model, model.layers[-1].input, images, **kwargs)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rematerialize": 1},
        {"rematerialize": 100},
        {"vmem": 0},
        {"vmem": 0, "rematerialize": 2},
        {"vmem": 2**27},
    ],
)
def test_outputs_and_every_gradient_are_those_of_the_plain_call(model, images, options):
    received = outputs_and_gradients(model, folded(model, **options), images)
    expected = outputs_and_gradients(model, plain(model), images)
    assert all(np.abs(gradient).max() > 0 for gradient in expected[1][:-1])
    assert_same(received, expected, 1e-5)


def test_eager_is_the_plain_call(model, images):
    expected = outputs_and_gradients(model, plain(model), images)
    options = {"rematerialize": 1, "vmem": 0}
    eager = outputs_and_gradients(model, folded(model, **options), images, compiled=False)
    assert_same(eager, expected, 1e-5)


def test_efficientnet_is_the_plain_call():
    keras.utils.set_random_seed(0)
    model = randomized(build_model(7, **SMALL))
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    function = folded(model, rematerialize=2, vmem=20_000)
    received = outputs_and_gradients(model, function, images)
    expected = outputs_and_gradients(model, plain(model), images)
    assert_same(received, expected, 3e-5)  # 80 layers of float32


def test_bfloat16_is_no_further_from_float32_than_the_plain_call(model, images):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = build()
    finally:
        keras.config.set_dtype_policy("float32")
    mixed.set_weights(model.get_weights())
    exact = outputs_and_gradients(model, plain(model), images)

    def error(function):
        # XLA as on a TPU; TensorFlow's own kernels round after every operation.
        outputs = outputs_and_gradients(mixed, function(mixed), images, jit_compile=True)
        pairs = zip(tf.nest.flatten(outputs), tf.nest.flatten(exact), strict=True)
        pairs = [(np.asarray(a), np.asarray(b)) for a, b in pairs if np.abs(b).max() > 0]
        return np.mean([np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in pairs])

    assert error(folded) < 1.1 * error(plain)


def test_model_is_left_as_it_was(model, images, tmp_path):
    model.save(tmp_path / "before.keras")
    embedding = plain(model)(images)
    config, paths = model.get_config(), [w.path for w in model.weights]
    values = model.get_weights()
    Embedder(rematerialize=2, vmem=0)(model, images, training=True)
    assert model.get_config() == config
    assert [w.path for w in model.weights] == paths
    assert all(np.array_equal(a, b) for a, b in zip(values, model.get_weights(), strict=True))
    model.save(tmp_path / "after.keras")
    again = keras.saving.load_model(tmp_path / "after.keras")
    np.testing.assert_array_equal(plain(again)(images), embedding)
    received = outputs_and_gradients(again, folded(again), images)
    assert_same(received, outputs_and_gradients(model, folded(model), images), 0)


def convolutional(convolution, rank=2, **norm):
    inputs = keras.Input((*[9] * rank, 6))
    x = convolution(inputs)
    x = keras.layers.BatchNormalization(**norm)(x)
    return randomized(keras.Model(inputs, keras.layers.Flatten()(x)))


@pytest.mark.parametrize(
    ("convolution", "rank", "norm", "is_folded"),
    [
        (keras.layers.Conv2D(8, 3, strides=2, use_bias=False), 2, {}, True),
        (keras.layers.Conv2D(8, 3, padding="same", groups=2), 2, {}, True),
        (keras.layers.Conv2D(8, 3, dilation_rate=2), 2, {"scale": False}, True),
        (keras.layers.Conv2D(8, 1), 2, {"center": False, "epsilon": 0.1}, True),
        (keras.layers.Conv1D(8, 3), 1, {}, True),
        (keras.layers.DepthwiseConv2D(3, use_bias=False), 2, {}, True),
        (keras.layers.DepthwiseConv2D(3, depth_multiplier=2), 2, {}, True),
        (keras.layers.Conv2D(8, 3, activation="relu"), 2, {}, False),
        (keras.layers.Conv2D(8, 3), 2, {"axis": 1}, False),
        (keras.layers.SeparableConv2D(8, 3), 2, {}, False),
        (keras.layers.Conv2DTranspose(8, 3), 2, {}, False),
    ],
)
def test_kinds_of_convolutions(convolution, rank, norm, is_folded):
    model = convolutional(convolution, rank, **norm)
    _, calls, _ = graph.calls_between(model, model.output)
    assert isinstance(folding.fold(calls)[0], folding.FoldedCall) == is_folded
    x = np.random.default_rng(0).normal(size=model.input_shape[1:]).astype(np.float32)[None]
    received = outputs_and_gradients(
        model, lambda x: folding.embed(model, model.output, x), x, compiled=False
    )
    expected = outputs_and_gradients(model, lambda x: model(x, training=False), x, compiled=False)
    assert_same(received, expected, 1e-5)


def test_a_convolution_used_twice_is_not_folded():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    output = keras.layers.add([keras.layers.BatchNormalization()(x), x])
    model = randomized(keras.Model(inputs, output))
    _, calls, _ = graph.calls_between(model, output)
    assert len(folding.fold(calls)) == 3
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(folding.embed(model, output, x), model(x), atol=1e-5)


def test_b0_has_49_folded_convolutions_and_blocks_as_in_the_paper():
    """Stem, top, and 16 blocks of which the first has no expansion: 2 + 3·16 - 1 convolutions."""
    model = build_model(3)
    _, calls, _ = graph.calls_between(model, model.layers[-1].input)
    calls = folding.fold(calls)
    assert sum(isinstance(call, folding.FoldedCall) for call in calls) == 49
    ends = [block[-1].layer.name for block in folding.blocks(calls)]
    assert ends[:3] == ["block1a_project_conv", "block2a_project_conv", "block2b_add"]
    assert len(ends) == 16


def test_swish_and_its_gradient():
    x = tf.constant([-1e4, -30.0, -1.5, 0.0, 1e-3, 2.0, 30.0, 1e4])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        received, expected = activations.swish(x), keras.activations.silu(x)
    np.testing.assert_allclose(received, expected, rtol=1e-6)
    gradient = tape.gradient(received, x)
    np.testing.assert_allclose(gradient, tape.gradient(expected, x), rtol=1e-5, atol=1e-10)
