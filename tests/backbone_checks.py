"""What holds for every backbone that is converted from PyTorch, against its reference values."""

import dataclasses

import keras
import numpy as np
import tensorflow as tf
from conftest import ROOT

from models.backbones.conversion import load_torch_weights
from models.objectives import Embedder


@dataclasses.dataclass(frozen=True)
class Golden:
    """What a tiny PyTorch network made of an image: see tools/backbone_golden.py."""

    images: np.ndarray
    features: np.ndarray
    state: dict


def golden(name):
    with np.load(ROOT / "tests" / "golden" / f"backbone_{name}.npz", allow_pickle=False) as file:
        arrays = dict(file)
    images, features = arrays.pop("images"), arrays.pop("features")
    state = {key.removeprefix("state/"): value for key, value in arrays.items()}
    return Golden(images.astype(np.float32), features, state)


def converted(model, reference, ignored):
    """The model with the weights of the PyTorch network."""
    load_torch_weights(model, reference.state, ignored)
    return model


def randomized(model):
    """The model with statistics, γ and β as after training."""
    rng = np.random.default_rng(1)
    for weight in model.weights:
        if weight.name in ("gamma", "moving_variance"):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif weight.name in ("beta", "moving_mean"):
            weight.assign(rng.normal(0.0, 0.3, weight.shape))
    return model


def trainable(model):
    """Number of the weights that PyTorch counts, which are those that are trained."""
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


def without_values(build, *args):
    """Builds a network of full size in a second, with the shapes of its weights alone."""
    with keras.StatelessScope(initialize_variables=False):
        return build(*args)


def assert_close(received, expected, tolerance=1e-4):
    """Relative to the largest value: a sum of thousands of products is rounded by its size."""
    limit = tolerance * max(np.abs(expected).max(), 1e-30)
    np.testing.assert_allclose(received, expected, rtol=0, atol=limit)


def outputs_and_gradients(model, function, images):
    """The features, and the gradients of a weighted sum of them to all weights; eager, which is
    faster than to trace and compile a network that is run once.
    """
    with tf.GradientTape() as tape:
        outputs = function(images)
        factors = np.random.default_rng(1).normal(size=outputs.shape)
        total = tf.reduce_sum(outputs * tf.constant(factors, tf.float32))
    return outputs, tape.gradient(total, [v.value for v in model.trainable_variables])


def on_itself(model, images):
    """A reference for a network that PyTorch has not: what the plain call makes of the images."""
    return Golden(images, model(images, training=False).numpy(), {})


def check_compiled(model, reference):
    run = tf.function(lambda x: model(x, training=False), jit_compile=True, autograph=False)
    assert_close(run(tf.constant(reference.images)), reference.features)


def check_folded(model, reference):
    """Trained with frozen BatchNorm, in the form in which that is done."""
    embed = Embedder(freeze_batchnorm=True)
    outputs, gradients = outputs_and_gradients(
        model, lambda images: embed(model, images, training=True), reference.images
    )
    _, expected = outputs_and_gradients(
        model, lambda images: model(images, training=False), reference.images
    )
    assert_close(outputs, reference.features)
    for received, wanted in zip(gradients, expected, strict=True):
        assert_close(received, wanted, 1e-3)


def in_bfloat16(build, reference, ignored):
    """The network with mixed precision and the weights of the PyTorch network."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        return converted(build(), reference, ignored)
    finally:
        keras.config.set_dtype_policy(before)


def check_direction(model, reference):
    """In bfloat16, the features point where PyTorch's do."""
    features = model(reference.images, training=False)
    assert features.dtype == tf.bfloat16
    received, wanted = np.float32(features).ravel(), reference.features.ravel()
    cosine = received @ wanted / np.linalg.norm(received) / np.linalg.norm(wanted)
    assert cosine > 0.999  # 8 bits a number


def check_bfloat16(build, reference, ignored):
    check_direction(in_bfloat16(build, reference, ignored), reference)


def reloaded(model, path):
    model.save(path)
    return keras.saving.load_model(path, safe_mode=True)


def check_reloaded(model, reference, path):
    loaded = reloaded(model, path)
    np.testing.assert_array_equal(
        loaded(reference.images, training=False), model(reference.images, training=False)
    )
