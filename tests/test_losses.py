"""Heads and losses against the original authors' code, and against hand-derived numbers."""

import math
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from input_pipeline.class_weights import clean_class_weights, total_class_weights
from models import heads
from models.losses import CosineSoftmaxCrossEntropy

GOLDEN = pathlib.Path(__file__).parent / "golden"
CASES = ("small", "odd")


def load(name):
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


def assert_close(received, expected, tolerance=1e-5):
    """Relative to the largest value: a gradient's small entries are differences of large ones."""
    received = keras.ops.convert_to_numpy(received)
    np.testing.assert_allclose(received, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def head_with(weights):
    head = heads.CosineSoftmax(weights.shape[1])
    head.build((None, weights.shape[0]))
    head.centers.assign(weights)
    return head


def weighted_mean(head, loss, x, labels, weights):
    """Returns per-example losses, their mean, and the mean's gradients to x and the centres."""
    x = tf.Variable(x)
    with tf.GradientTape() as tape:
        losses = loss(labels, head(x)) * weights
        mean = tf.reduce_sum(losses) / len(labels)
    return losses, mean, *tape.gradient(mean, [x, head.centers.value])


@pytest.fixture(params=CASES)
def case(request):
    golden = load(f"glr2020_loss_{request.param}")
    golden["W"] = load("glr2020_loss_weights")[request.param]  # see golden/README.md
    return golden


def test_cosines_and_adacos_scale_are_the_winners(case):
    cosines = head_with(case["W"])(case["x"])
    assert_close(cosines, case["cos"])
    np.testing.assert_allclose(heads.adacos_scale(case["cos"], case["y"]), case["scale"], rtol=1e-5)
    np.testing.assert_allclose(heads.adacos_scale(cosines, case["y"]), case["scale"], rtol=1e-5)


def test_clean_loss_and_gradients_are_the_winners(case):
    weights = clean_class_weights(case["counts"])
    np.testing.assert_allclose(weights, case["class_weight"], rtol=1e-5)
    losses, mean, grad_x, grad_w = weighted_mean(
        head_with(case["W"]), CosineSoftmaxCrossEntropy(), case["x"], case["y"], weights[case["y"]]
    )
    np.testing.assert_allclose(losses, case["per_example"], rtol=1e-5)
    np.testing.assert_allclose(mean, case["mean"], rtol=1e-5)
    assert_close(grad_x, case["grad_x"])
    assert_close(grad_w, case["grad_W"])


@pytest.mark.parametrize("noisy_weight", [1.0, 0.5])
def test_total_loss_and_gradient_are_the_winners(case, noisy_weight):
    counts = case["counts"]
    owners = np.repeat(np.arange(len(counts)), counts)
    clean = np.bincount(owners, weights=case["sample_is_clean"], minlength=len(counts))
    weights = total_class_weights(clean, counts - clean, noisy_weight)
    np.testing.assert_allclose(weights, case[f"total_w_{noisy_weight}"], rtol=1e-5)
    per_example = weights[case["y"]] * np.where(case["is_clean"], 1, noisy_weight)
    losses, mean, grad_x, _ = weighted_mean(
        head_with(case["W"]),
        CosineSoftmaxCrossEntropy(),
        case["x"],
        case["y"],
        per_example.astype(np.float32),
    )
    np.testing.assert_allclose(losses, case[f"total_loss_{noisy_weight}"], rtol=1e-5)
    np.testing.assert_allclose(mean, case[f"total_mean_{noisy_weight}"], rtol=1e-5)
    assert_close(grad_x, case[f"total_gx_{noisy_weight}"])


def test_validation_loss_is_the_winners(case):
    losses = CosineSoftmaxCrossEntropy()(case["y"], case["cos"])
    np.testing.assert_allclose(losses, case["valid_per_example"], rtol=1e-5)
    np.testing.assert_allclose(np.mean(losses), case["valid_mean"], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "margin", "size", "scale"),
    [
        ("cosine_softmax_s20", "none", 0.0, 20.0),
        ("arcface_m0.3_s30", "arcface", 0.3, 30.0),
        ("arcface_m0.5_s64", "arcface", 0.5, 64.0),
        ("cosface_m0.3_s30", "cosface", 0.3, 30.0),
        ("cosface_m0.5_s64", "cosface", 0.5, 64.0),
    ],
)
def test_margins_are_those_of_pytorch_metric_learning(name, margin, size, scale):
    golden = load("metric_losses_small")
    losses, mean, grad_x, grad_w = weighted_mean(
        head_with(golden["W"].T.astype(np.float32)),
        CosineSoftmaxCrossEntropy(scale, margin, size),
        golden["x"].astype(np.float32),
        golden["y"],
        1.0,
    )
    assert losses.shape == (12,)
    np.testing.assert_allclose(mean, golden[f"{name}__loss"], rtol=1e-5)
    assert_close(grad_x, golden[f"{name}__grad_x"])
    assert_close(keras.ops.transpose(grad_w), golden[f"{name}__grad_W"])


def slow_adacos(cosines, labels):
    """The formula of the paper and the winner, one example and one class at a time."""
    fixed = math.sqrt(2) * math.log(cosines.shape[1] - 1)
    total, angles = 0.0, []
    for row, label in zip(cosines.astype(float), labels, strict=True):
        total += sum(math.exp(fixed * c) for j, c in enumerate(row) if j != label)
        angles.append(math.acos(min(max(row[label], -1 + 1e-7), 1 - 1e-7)))
    median = sorted(angles)[round(0.5 * (len(angles) - 1))]  # Python rounds ties to even
    return math.log(total / len(labels)) / math.cos(min(math.pi / 4, median))


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 6, 7, 8])
def test_adacos_median_below_45_degrees(batch):
    """All batch parities, with own angles between 0 and 60 degrees, where the median decides."""
    rng = np.random.default_rng(batch)
    cosines = rng.uniform(-0.4, 0.4, (batch, 9)).astype(np.float32)
    labels = rng.integers(0, 9, batch)
    cosines[np.arange(batch), labels] = rng.uniform(0.5, 1.0, batch)
    scale = heads.adacos_scale(cosines, labels)
    np.testing.assert_allclose(scale, slow_adacos(cosines, labels), rtol=1e-5)


def test_fixed_scale_is_the_papers():
    assert heads.fixed_adacos_scale(81_313) == pytest.approx(15.99, abs=0.005)
    assert heads.fixed_adacos_scale(203_094) == pytest.approx(17.28, abs=0.005)
    with pytest.raises(ValueError, match="Received: 2"):
        heads.fixed_adacos_scale(2)


def test_scale_has_no_gradient():
    cosines = tf.Variable([[0.9, 0.1, -0.2], [0.3, 0.2, 0.5]])
    with tf.GradientTape() as tape:
        scale = heads.adacos_scale(cosines, np.array([0, 1]))
    assert tape.gradient(scale, cosines) is None


def test_arcface_stays_monotonic_beyond_pi():
    own = np.cos(np.linspace(0, np.pi, 50)).astype(np.float32)  # falling
    cosines = np.stack([own, np.zeros(50, np.float32)], axis=1)
    logits = keras.ops.convert_to_numpy(heads.arcface(cosines, np.zeros(50, int), 0.5))[:, 0]
    assert (np.diff(logits) < 0).all()


def test_sphereface_by_the_formula_for_four_times_the_angle():
    """cos 4θ = 8c⁴ − 8c² + 1, in the quarters of the half turn with falling sign and offset."""
    own = np.cos(np.linspace(0.01, np.pi - 0.01, 50)).astype(np.float32)  # falling
    cosines = np.stack([own, np.zeros(50, np.float32)], axis=1)
    received = keras.ops.convert_to_numpy(heads.sphereface(cosines, np.zeros(50, int), 4.0))[:, 0]
    quarter = np.floor(4 * np.arccos(own) / np.pi)
    expected = (-1) ** quarter * (8 * own**4 - 8 * own**2 + 1) - 2 * quarter
    np.testing.assert_allclose(received, expected, atol=1e-5)
    assert (np.diff(received) < 0).all()


def test_dynamic_margins_by_hand():
    """16^(−1/4) is 1/2, 10,000^(−1/4) is 1/10; a class without images is taken for one of one."""
    received = heads.dynamic_margins([1, 16, 10_000, 0])
    np.testing.assert_allclose(received, [0.55, 0.3, 0.1, 0.55], rtol=1e-6)
    assert received.dtype == np.float32
    np.testing.assert_allclose(heads.dynamic_margins([4], a=0.4, b=0.1, power=0.5), [0.3])


def test_sub_center_head_is_the_nearest_of_each_class():
    weights = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    x = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    head = heads.CosineSoftmax(3, sub_centers=2)
    head.build((None, 4))
    head.centers.assign(weights)
    each = head_with(weights)(x)
    expected = np.maximum(each[:, 0::2], each[:, 1::2])
    np.testing.assert_array_equal(head(x), expected)
    assert head.compute_output_shape((5, 4)) == (5, 3)
    again = heads.CosineSoftmax.from_config(head.get_config())
    assert again.sub_centers == 2


def test_heads_by_name():
    x = np.ones((2, 4), np.float32)
    cosine, linear = (heads.build_head(5, kind, name="a") for kind in ("cosine", "linear"))
    assert isinstance(cosine, heads.CosineSoftmax)
    logits = linear(x)
    assert (logits.shape, logits.dtype, linear.name) == ((2, 5), "float32", "a")
    np.testing.assert_allclose(logits, x @ linear.kernel.numpy(), rtol=1e-5)
    with pytest.raises(ValueError, match="Received: 'prototype'"):
        heads.build_head(5, "prototype")
    with pytest.raises(ValueError, match="Received: 0"):
        heads.CosineSoftmax(5, sub_centers=0)


def test_uniform_cosines_give_log_of_the_number_of_classes():
    losses = CosineSoftmaxCrossEntropy("adacos_fixed")(np.array([0, 3]), np.full((2, 7), 0.25))
    np.testing.assert_allclose(losses, math.log(7), rtol=1e-6)


@pytest.mark.parametrize("make", [clean_class_weights, lambda n: total_class_weights(n, 0 * n)])
def test_class_weights_of_tiny_and_empty_classes_are_finite(make):
    weights = make(np.array([1, 2, 0, 50]))
    assert np.isfinite(weights).all()
    assert weights[2] == 0
    assert weights[0] >= weights[1] > weights[3] > 0


def test_clean_class_weights_by_hand():
    # ln 4 = 2 ln 2: classes of 4 and 16 weigh 2 to 1; mean (4·2a + 16·a)/20 = 1 → a = 5/6.
    np.testing.assert_allclose(clean_class_weights(np.array([4, 16])), [5 / 3, 5 / 6], rtol=1e-6)


def test_class_weights_refuse_an_empty_set():
    with pytest.raises(ValueError, match="at least one training image"):
        clean_class_weights(np.zeros(3))


@pytest.mark.parametrize(
    "arguments",
    [
        {"scale": "dynamic"},
        {"margin": "curricular"},
        {"margin": "sphereface"},
        {"margin": "sphereface", "margin_size": [4.0, 0.5]},
    ],
)
def test_unknown_words_are_refused(arguments):
    with pytest.raises(ValueError, match="Received"):
        CosineSoftmaxCrossEntropy(**arguments)


def test_loss_round_trip():
    loss = CosineSoftmaxCrossEntropy(30.0, "arcface", 0.3)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert again.get_config() == loss.get_config()


def test_loss_round_trip_with_a_margin_per_class():
    loss = CosineSoftmaxCrossEntropy(30.0, "arcface", np.float32([0.25, 0.5]))
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert again.margin_size == [0.25, 0.5]
