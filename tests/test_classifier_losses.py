"""Losses of a softmax classifier, against their formulas and gradients derived by hand."""

import math

import numpy as np
import pytest
import tensorflow as tf

from models.classifier_losses import CLASSIFIER_LOSSES, softmax_cross_entropy

CASES = [
    ("cross_entropy", {}),
    ("cross_entropy", {"smoothing": 0.1}),
    ("focal", {}),
    ("focal", {"gamma": 0.5}),
    ("accuracy", {}),
]


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def slow(name, logits, labels, smoothing=0.0, gamma=2.0):
    """Losses `(B,)` and their gradients to the logits `(B, C)`, float64, by the formulas."""
    p = softmax(logits)
    y = np.eye(logits.shape[1])[labels]
    own = (p * y).sum(axis=1)
    if name == "cross_entropy":
        target = (1 - smoothing) * y + smoothing / logits.shape[1]
        return -(target * np.log(p)).sum(axis=1), p - target
    if name == "accuracy":
        true, false = own, (p * (1 - y)).sum(axis=1)
        loss, slope = 1 - true / (true + false), -np.ones_like(own)
    else:
        loss = -((1 - own) ** gamma) * np.log(own)
        slope = gamma * (1 - own) ** (gamma - 1) * np.log(own) - (1 - own) ** gamma / own
    return loss, (slope * own)[:, None] * (y - p)  # dp_y/dz = p_y·(y − p)


def run(name, logits, labels, **options):
    logits = tf.convert_to_tensor(logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        losses = CLASSIFIER_LOSSES[name](logits, labels, **options)
    return losses, tape.gradient(losses, logits)


@pytest.fixture
def example():
    rng = np.random.default_rng(0)
    return (3 * rng.normal(size=(7, 5))).astype(np.float32), rng.integers(0, 5, 7)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_same_as_the_formula(example, name, options):
    logits, labels = example
    losses, slopes = run(name, logits, labels, **options)
    expected, expected_slopes = slow(name, logits.astype(float), labels, **options)
    assert losses.dtype == tf.float32
    np.testing.assert_allclose(losses, expected, rtol=2e-6, atol=1e-7)
    np.testing.assert_allclose(slopes, expected_slopes, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_compiled_and_bfloat16(example, name, options):
    logits, labels = tf.constant(example[0], tf.bfloat16), tf.constant(example[1])
    compiled = tf.function(run, jit_compile=True, autograph=False)
    losses, slopes = compiled(name, logits, labels, **options)
    expected, expected_slopes = run(name, tf.cast(logits, tf.float32), labels, **options)
    assert (losses.dtype, slopes.dtype) == (tf.float32, tf.bfloat16)
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-7)
    # bfloat16 has 8 bits.
    np.testing.assert_allclose(tf.cast(slopes, tf.float32), expected_slopes, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_sure_and_surely_wrong_are_finite(name, options):
    logits = np.float32([[300, 0, 0], [0, 300, 0], [0, 0, 0], [1e30, 0, 0], [-1e4, 1e4, 0]])
    for values in run(name, logits, np.zeros(5, int), **options):
        assert np.isfinite(values).all()


def test_a_sure_softmax_keeps_its_digits():
    """Of two classes, 30 apart: ln(1 + exp(−30)), and the same as the probability of an error."""
    logits, labels = np.float32([[30, 0]]), np.array([0])
    small = math.log1p(math.exp(-30))
    np.testing.assert_allclose(run("cross_entropy", logits, labels)[0], [small], rtol=1e-5)
    np.testing.assert_allclose(run("accuracy", logits, labels)[0], [small], rtol=1e-5)
    np.testing.assert_allclose(run("focal", logits, labels, gamma=0.5)[0], [small**1.5], rtol=1e-5)


def test_focal_without_power_is_the_cross_entropy(example):
    losses, _ = run("focal", *example, gamma=0.0)
    np.testing.assert_allclose(losses, run("cross_entropy", *example)[0], rtol=1e-6)


def test_smoothing_of_everything_is_refused(example):
    with pytest.raises(ValueError, match=r"Received: 1\.0"):
        softmax_cross_entropy(*example, smoothing=1.0)
