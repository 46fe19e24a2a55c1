"""Schedules by their formulas; optimizers and weight decay against plain NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from training import replicas, updates
from training.optimizers import build_optimizer, build_schedule


def values(schedule, steps):
    return [float(schedule(step)) for step in steps]


def test_schedules_by_their_formulas():
    inverse = build_schedule("inverse_time", learning_rate=1e-3, total_steps=1, decay=1e-5)
    assert float(inverse(100_000)) == pytest.approx(5.0e-4)
    cosine = build_schedule("cosine", learning_rate=2.0, total_steps=110, warmup_steps=10)
    np.testing.assert_allclose(values(cosine, (0, 5, 10, 60, 110)), [0, 1, 2, 1, 0], atol=1e-6)
    plain = build_schedule("cosine", learning_rate=2.0, total_steps=100)
    assert float(plain(50)) == pytest.approx(1.0)
    assert build_schedule("constant", learning_rate=0.3, total_steps=1) == 0.3


def test_a_milestone_is_the_first_step_of_the_new_rate():
    steps = build_schedule("step", learning_rate=1.0, total_steps=9, milestones=(3, 6), factor=0.1)
    expected = [1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01]
    np.testing.assert_allclose(values(steps, range(8)), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["constant", "inverse_time", "step"])
def test_every_schedule_can_warm_up(name):
    options = {"learning_rate": 2.0, "total_steps": 100, "decay": 0.1}
    options |= {"milestones": (8,)} if name == "step" else {}
    plain = build_schedule(name, **options)
    warm = build_schedule(name, **options, warmup_steps=10)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(warm))
    for step in (0, 4, 9, 10, 50):
        rate = float(plain(step)) if callable(plain) else plain
        assert float(warm(step)) == pytest.approx(rate * min(1, step / 10))
        assert float(again(step)) == float(warm(step))


@pytest.mark.parametrize(
    ("schedule", "options", "message"),
    [
        ("linear", {}, "Received: 'linear'"),
        ("step", {}, r"rising steps from 1 on\. Received: \(\)"),
        ("step", {"milestones": (5, 3)}, r"Received: \(5, 3\)"),
    ],
)
def test_wrong_schedules_are_explained(schedule, options, message):
    with pytest.raises(ValueError, match=message):
        build_schedule(schedule, learning_rate=1.0, total_steps=9, **options)


def steps_of(name, gradients, rate=0.1, **options):
    """Kernel and bias after steps from ones with these gradients (of both)."""
    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    layer.set_weights([np.full((3, 2), 2.0), np.full(2, 2.0)])
    own = {key: options.pop(key) for key in ("momentum", "nesterov") if key in options}
    optimizer = build_optimizer(name, rate, **own)
    update = updates.Update([(optimizer, layer.trainable_variables)], **options)
    for gradient in gradients:
        update([[tf.fill((3, 2), gradient), tf.fill((2,), gradient)]], tf.constant(True))
    assert int(optimizer.iterations) == len(gradients)
    return [weights.flat[0] for weights in layer.get_weights()]


GRADIENTS = (0.5, -1.0, 2.0)


def sgd(decay, coupled, nesterov):
    weight, velocity = 2.0, 0.0
    for plain in GRADIENTS:
        gradient = plain + (decay * weight if coupled else 0.0)
        if not coupled:
            weight -= 0.1 * decay * weight
        velocity = 0.9 * velocity - 0.1 * gradient
        weight += 0.9 * velocity - 0.1 * gradient if nesterov else velocity
    return weight


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("coupled", [False, True])
def test_sgd_with_both_kinds_of_weight_decay(coupled, nesterov):
    """Coupled, this is torch.optim.SGD(weight_decay=…) with the rate moved into the velocity."""
    kernel, bias = steps_of(
        "sgd", GRADIENTS, momentum=0.9, nesterov=nesterov, weight_decay=0.3, coupled_decay=coupled
    )
    assert kernel == pytest.approx(sgd(0.3, coupled, nesterov), rel=1e-6)
    assert bias == pytest.approx(sgd(0.0, coupled, nesterov), rel=1e-6)


def adam(decay, coupled):
    weight, first, second = 2.0, 0.0, 0.0
    for step, plain in enumerate(GRADIENTS, start=1):
        gradient = plain + (decay * weight if coupled else 0.0)
        if not coupled:
            weight -= 0.1 * decay * weight
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        mean, variance = first / (1 - 0.9**step), second / (1 - 0.999**step)
        weight -= 0.1 * mean / (np.sqrt(variance) + 1e-7)
    return weight


@pytest.mark.parametrize(("name", "coupled"), [("adam", True), ("adamw", False)])
def test_adam_with_both_kinds_of_weight_decay(name, coupled):
    kernel, bias = steps_of(name, GRADIENTS, weight_decay=0.3, coupled_decay=coupled)
    # 1e-4: 1 − 0.999^step loses digits in float32.
    assert kernel == pytest.approx(adam(0.3, coupled), rel=1e-4)
    assert bias == pytest.approx(adam(0.0, coupled), rel=1e-4)


def test_lamb_steps_by_the_norm_of_the_weights():
    """The first step is lr·‖w‖ in the direction of the gradient's sign, arXiv:1904.00962."""
    kernel, bias = steps_of("lamb", GRADIENTS[:1])
    assert (kernel, bias) == (pytest.approx(2.0 - 0.1 * 2.0), pytest.approx(2.0 - 0.1 * 2.0))


@pytest.mark.parametrize("one_program", [False, True])
def test_a_step_left_out_changes_nothing(monkeypatch, one_program):
    """By a conditional, and by selects as on a TPU."""
    monkeypatch.setattr(replicas, "is_one_program", lambda: one_program)
    variable, kept = tf.Variable([1.0, 2.0]), tf.Variable(5.0)
    optimizer = build_optimizer("adam", 0.1)
    update = updates.Update([(optimizer, [variable])], weight_decay=0.1)
    before = [v.numpy() for v in optimizer.variables]
    step = tf.function(lambda g, apply: update([[g]], apply, [(kept, tf.constant(4.0))]))
    step(tf.constant([np.nan, 1.0]), tf.constant(False))
    np.testing.assert_array_equal(variable, [1.0, 2.0])
    for value, old in zip(optimizer.variables, before, strict=True):
        np.testing.assert_array_equal(value.numpy(), old)
    assert float(kept) == 4.0
    step(tf.constant([1.0, 1.0]), tf.constant(True))
    assert int(optimizer.iterations) == 1
    assert float(kept) == 4.0


def test_unknown_optimizers_are_explained():
    with pytest.raises(ValueError, match="Received: 'rmsprop'"):
        build_optimizer("rmsprop", 0.1)
