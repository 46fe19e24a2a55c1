"""The objective of a training step against the winner's code and against the plain way."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from input_pipeline.class_weights import clean_class_weights, total_class_weights
from models import heads
from models.builder import build_model
from models.cosine_cross_entropy import cosine_cross_entropy
from models.losses import CosineSoftmaxCrossEntropy
from models.objectives import CosineSoftmaxObjective, Embedder

GOLDEN = pathlib.Path(__file__).parent / "golden"
RULES = [
    ("adacos", "none", 0.0),
    ("adacos_fixed", "none", 0.0),
    (20.0, "none", 0.0),
    (30.0, "arcface", 0.3),
    (64.0, "arcface", 0.5),
    (64.0, "cosface", 0.35),
    ("adacos", "arcface", 0.2),
    (1.0, "sphereface", 4.0),
    (20.0, "sphereface", 1.7),
]
OUTPUTS = ("loss", "correct", "scale", "target_cosine")


def load(name):
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


def assert_close(received, expected, tolerance=1e-5):
    """Relative to the largest value: a gradient's small entries are differences of large ones."""
    received, expected = np.asarray(received), np.asarray(expected)
    limit = tolerance * max(np.abs(expected).max(), 1e-30)
    np.testing.assert_allclose(received, expected, rtol=0, atol=limit)


def run(function, x, centers, weights):
    """Returns the outputs, the weighted mean loss, and its gradients to x and the centres."""
    x, centers = tf.convert_to_tensor(x), tf.convert_to_tensor(centers)
    with tf.GradientTape() as tape:
        tape.watch([x, centers])
        outputs = function(x, centers)
        mean = tf.reduce_mean(outputs["loss"] * weights)
    return outputs, mean, *tape.gradient(mean, [x, centers])


def ours(labels, rule, **kwargs):
    scale, margin, size = rule
    return lambda x, centers: cosine_cross_entropy(
        x, centers, labels, scale=scale, margin=margin, margin_size=size, **kwargs
    )


def plain(labels, rule):
    """All cosines and logits, the gradient by TensorFlow."""

    def function(x, centers):
        x = tf.math.l2_normalize(tf.cast(x, tf.float32), axis=1)
        cosines = x @ tf.math.l2_normalize(centers, axis=0)
        loss = CosineSoftmaxCrossEntropy(*rule)
        return {
            "loss": loss(labels, cosines),
            "correct": tf.cast(tf.argmax(cosines, 1) == labels, tf.float32),
            "scale": heads.scale_of(rule[0], cosines, labels),
            "target_cosine": tf.gather(cosines, labels, batch_dims=1),
        }

    return function


def example(batch=6, size=8, classes=11, seed=0, sure=0.0):
    """Embeddings, centres and labels; `sure` moves the embeddings towards their centres."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, batch)
    centers = rng.normal(size=(size, classes))
    x = rng.normal(size=(batch, size)) + sure * centers[:, labels].T
    return x.astype(np.float32), centers.astype(np.float32), labels


@pytest.fixture(params=["small", "odd"])
def case(request):
    golden = load(f"glr2020_loss_{request.param}")
    golden["W"] = load("glr2020_loss_weights")[request.param]  # see golden/README.md
    return golden


def test_clean_loss_is_the_winners(case):
    weights = clean_class_weights(case["counts"])[case["y"]]
    outputs, mean, grad_x, grad_w = run(
        ours(case["y"], RULES[0]), case["x"], case["W"], weights.astype(np.float32)
    )
    np.testing.assert_allclose(outputs["scale"], case["scale"], rtol=1e-5)
    np.testing.assert_allclose(outputs["loss"] * weights, case["per_example"], rtol=1e-5)
    np.testing.assert_allclose(mean, case["mean"], rtol=1e-5)
    assert_close(grad_x, case["grad_x"])
    assert_close(grad_w, case["grad_W"])
    own = case["cos"][np.arange(len(case["y"])), case["y"]]
    assert_close(outputs["target_cosine"], own)
    np.testing.assert_array_equal(outputs["correct"], case["cos"].argmax(axis=1) == case["y"])


@pytest.mark.parametrize("noisy_weight", [1.0, 0.5])
def test_total_loss_is_the_winners(case, noisy_weight):
    counts = case["counts"]
    owners = np.repeat(np.arange(len(counts)), counts)
    clean = np.bincount(owners, weights=case["sample_is_clean"], minlength=len(counts))
    weights = total_class_weights(clean, counts - clean, noisy_weight)[case["y"]]
    weights = (weights * np.where(case["is_clean"], 1, noisy_weight)).astype(np.float32)
    outputs, mean, grad_x, _ = run(ours(case["y"], RULES[0]), case["x"], case["W"], weights)
    losses = case[f"total_loss_{noisy_weight}"]
    np.testing.assert_allclose(outputs["loss"] * weights, losses, rtol=1e-5)
    np.testing.assert_allclose(mean, case[f"total_mean_{noisy_weight}"], rtol=1e-5)
    assert_close(grad_x, case[f"total_gx_{noisy_weight}"])


def test_validation_loss_is_the_winners(case):
    outputs = ours(case["y"], RULES[0])(case["x"], case["W"])
    np.testing.assert_allclose(outputs["loss"], case["valid_per_example"], rtol=1e-5)
    np.testing.assert_allclose(np.mean(outputs["loss"]), case["valid_mean"], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("cosine_softmax_s20", RULES[2]),
        ("arcface_m0.3_s30", RULES[3]),
        ("arcface_m0.5_s64", RULES[4]),
        ("cosface_m0.3_s30", (30.0, "cosface", 0.3)),
        ("cosface_m0.5_s64", (64.0, "cosface", 0.5)),
    ],
)
def test_margins_are_those_of_pytorch_metric_learning(name, rule):
    golden = load("metric_losses_small")
    _, mean, grad_x, grad_w = run(
        ours(golden["y"], rule),
        golden["x"].astype(np.float32),
        golden["W"].T.astype(np.float32),
        1.0,
    )
    np.testing.assert_allclose(mean, golden[f"{name}__loss"], rtol=1e-5)
    assert_close(grad_x, golden[f"{name}__grad_x"])
    assert_close(tf.transpose(grad_w), golden[f"{name}__grad_W"])


def test_sub_centers_are_those_of_pytorch_metric_learning():
    golden = load("metric_losses_small")
    name = "subcenter3_arcface_m0.3_s30"
    _, mean, grad_x, grad_w = run(
        ours(golden["y"], RULES[3], sub_centers=3),
        golden["x"].astype(np.float32),
        golden["W_subcenter"].T.astype(np.float32),
        1.0,
    )
    np.testing.assert_allclose(mean, golden[f"{name}__loss"], rtol=1e-5)
    assert_close(grad_x, golden[f"{name}__grad_x"])
    assert_close(tf.transpose(grad_w), golden[f"{name}__grad_W"])


@pytest.mark.parametrize(
    ("margin", "loss", "norms", "first"),
    [
        (4, 9.7243452, (0.74276423, 0.7500898), (0.01700038, 0.03689536, 0.01462796, -0.04799278)),
        (3, 7.5206683, (0.71064407, 0.8563408), (0.0557922, 0.04627472, 0.01880598, -0.0693876)),
    ],
)
def test_sphereface_is_that_of_pytorch_metric_learning(margin, loss, norms, first):
    """Typed from its version 2.9.0: SphereFaceLoss(20, 16, margin, scale=1) on the golden x, W."""
    golden = load("metric_losses_small")
    outputs, mean, grad_x, grad_w = run(
        ours(golden["y"], ("norm", "sphereface", margin)),
        golden["x"].astype(np.float32),
        golden["W"].T.astype(np.float32),
        1.0,
    )
    np.testing.assert_allclose(mean, loss, rtol=1e-5)
    np.testing.assert_allclose([np.linalg.norm(g) for g in (grad_x, grad_w)], norms, rtol=1e-5)
    np.testing.assert_allclose(grad_x[0, :4], first, rtol=1e-5)
    lengths = np.linalg.norm(golden["x"], axis=1)
    np.testing.assert_allclose(outputs["scale"], lengths.mean(), rtol=1e-5)


@pytest.mark.parametrize("margin", ["arcface", "cosface", "sphereface"])
@pytest.mark.parametrize("sub_centers", [1, 3])
def test_margins_per_class_and_sub_centers_are_those_of_the_plain_way(margin, sub_centers):
    """With gradients, against the layer and the loss by TensorFlow; one size a class."""
    x, centers, labels = example(classes=11, sure=0.5)
    sizes = np.linspace(0.1, 0.6, 11) + (margin == "sphereface")
    rng = np.random.default_rng(5)
    centers = np.repeat(centers, sub_centers, axis=1)
    centers += 0.5 * rng.normal(size=centers.shape).astype(np.float32)
    head = heads.CosineSoftmax(11, sub_centers)
    head.build((None, 8))
    head.centers.assign(centers)
    loss = CosineSoftmaxCrossEntropy(20.0, margin, sizes)

    def layers(x, _):
        return {"loss": loss(labels, head(x))}

    variable = head.centers.value
    with tf.GradientTape() as tape:
        embeddings = tf.Variable(x)
        expected = tf.reduce_mean(layers(embeddings, None)["loss"])
    slopes = tape.gradient(expected, [embeddings, variable])
    _, mean, *received = run(
        ours(labels, (20.0, margin, sizes), sub_centers=sub_centers), x, centers, 1.0
    )
    np.testing.assert_allclose(mean, expected, rtol=1e-5)
    for a, b in zip(received, slopes, strict=True):
        assert_close(a, b)
    one = run(ours(labels, (20.0, margin, sizes[3]), sub_centers=sub_centers), x, centers, 1.0)
    own = labels == 3
    both = run(ours(labels, (20.0, margin, sizes), sub_centers=sub_centers), x, centers, 1.0)
    np.testing.assert_allclose(one[0]["loss"][own], both[0]["loss"][own], rtol=1e-6)


def test_sub_centers_compiled_in_bfloat16_and_with_zeros_are_finite():
    x, centers, labels = example(size=6, classes=12)
    x[0], centers[:, 3] = 0, 0
    compiled = tf.function(
        lambda x, w: run(ours(labels % 4, ("norm", "sphereface", 4), sub_centers=3), x, w, 1.0),
        jit_compile=True,
        autograph=False,
    )
    outputs, _, grad_x, grad_w = compiled(tf.cast(x, tf.bfloat16), tf.constant(centers))
    for values in (*outputs.values(), tf.cast(grad_x, tf.float32), grad_w):
        assert np.isfinite(values).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("sure", [0.0, 0.7])
def test_same_as_the_plain_way(rule, sure):
    x, centers, labels = example(sure=sure)
    weights = np.random.default_rng(1).uniform(0.1, 3, len(labels)).astype(np.float32)
    received = run(ours(labels, rule), x, centers, weights)
    expected = run(plain(labels, rule), x, centers, weights)
    for name in OUTPUTS:
        assert received[0][name].dtype == tf.float32
        assert_close(received[0][name], expected[0][name])
    for a, b in zip(received[1:], expected[1:], strict=True):
        assert_close(a, b)


def test_bfloat16_embeddings_get_the_gradient_of_their_float32_values():
    x, centers, labels = example()
    x = tf.cast(x, tf.bfloat16)
    received = run(ours(labels, RULES[0]), x, centers, 1.0)
    expected = run(ours(labels, RULES[0]), tf.cast(x, tf.float32), centers, 1.0)
    assert received[2].dtype == tf.bfloat16
    np.testing.assert_array_equal(received[2], tf.cast(expected[2], tf.bfloat16))
    np.testing.assert_array_equal(received[3], expected[3])
    np.testing.assert_array_equal(received[0]["loss"], expected[0]["loss"])


@pytest.mark.parametrize("jit_compile", [False, True])
def test_compiled_is_eager(jit_compile):
    x, centers, labels = example()

    @tf.function(jit_compile=jit_compile, autograph=False)
    def compiled(x, centers):
        return run(ours(labels, RULES[0]), x, centers, 1.0)

    received = compiled(tf.constant(x), tf.constant(centers))
    expected = run(ours(labels, RULES[0]), x, centers, 1.0)
    for a, b in zip(tf.nest.flatten(received), tf.nest.flatten(expected), strict=True):
        assert_close(a, b, 1e-6)


def test_a_sure_softmax_keeps_its_digits():
    """Two classes: CE = ln(1 + exp(s·(cos_other − cos_own))), here of about 1e-13."""
    x, centers = np.float32([[1, 0]]), np.float32([[1, 0], [0, 1]])
    outputs = ours(np.array([0]), (30.0, "none", 0.0))(x, centers)
    np.testing.assert_allclose(outputs["loss"], [np.log1p(np.exp(-30.0))], rtol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_degenerate_batches_are_finite(rule):
    """One class in the batch; embeddings of zero, on a centre and opposite of it; a zero centre."""
    _, centers, _ = example(size=4, classes=3)
    own = centers[:, 1]
    centers[:, 2] = 0
    x = np.stack([np.zeros(4), own, -own, 1e-20 * own, 1e15 * own]).astype(np.float32)
    outputs, _, grad_x, grad_w = run(ours(np.ones(5, int), rule), x, centers, 1.0)
    for values in (*outputs.values(), grad_x, grad_w):
        assert np.isfinite(values).all()
    # A zero embedding has equal cosines to all: no class alone is the nearest.
    np.testing.assert_array_equal(outputs["correct"], [0, 1, 0, 1, 1])


def test_gathered_scale_is_that_of_the_whole_batch():
    """Two halves, each told what the other holds, against the whole batch in one."""
    x, centers, labels = example(batch=8, sure=0.5)
    whole = run(ours(labels, RULES[0]), x, centers, 1.0)
    rows = []

    def gather(values):
        rows.append(values)
        return values

    ours(labels, RULES[0], gather=gather)(x, centers)  # what the replicas would send each other
    for half in (slice(0, 4), slice(4, 8)):
        sent = iter(rows)

        def gather_both(values, half=half, sent=sent):
            both = next(sent)
            np.testing.assert_allclose(values, both[half], rtol=1e-6)
            return both

        outputs, _, grad_x, _ = run(
            ours(labels[half], RULES[0], gather=gather_both), x[half], centers, 1.0
        )
        np.testing.assert_allclose(outputs["scale"], whole[0]["scale"], rtol=1e-6)
        assert_close(outputs["loss"], whole[0]["loss"][half])
        assert_close(0.5 * grad_x, whole[2][half])


def test_on_replicas_with_their_own_and_with_the_global_scale():
    x, centers, labels = example(batch=8, sure=0.5)
    devices = ["CPU:0", "CPU:1"]
    strategy = tf.distribute.MirroredStrategy(devices)
    with strategy.scope():
        variable = tf.Variable(centers)

    def gather(values):
        return tf.distribute.get_replica_context().all_gather(values, axis=0)

    def replica(gather):
        i = tf.distribute.get_replica_context().replica_id_in_sync_group
        part = [tf.reshape(tf.constant(v), (2, 4, *v.shape[1:]))[i] for v in (x, labels)]
        with tf.GradientTape() as tape:
            outputs = ours(part[1], RULES[0], gather=gather)(part[0], variable)
            loss = tf.reduce_sum(outputs["loss"]) / 8
        gradient = tape.gradient(loss, variable)
        context = tf.distribute.get_replica_context()
        return outputs["scale"], context.all_reduce(tf.distribute.ReduceOp.SUM, gradient)

    @tf.function(autograph=False)
    def step(gather):
        return strategy.run(replica, args=(gather,))

    scales, gradients = step(gather)
    whole = run(ours(labels, RULES[0]), x, centers, 1.0)
    for i in range(2):
        scale = strategy.experimental_local_results(scales)[i]
        np.testing.assert_allclose(scale, whole[0]["scale"], rtol=1e-6)
        assert_close(strategy.experimental_local_results(gradients)[i], whole[3])
    scales, _ = step(None)
    for i in range(2):
        part = slice(4 * i, 4 * i + 4)
        expected = ours(labels[part], RULES[0])(x[part], centers)["scale"]
        scale = strategy.experimental_local_results(scales)[i]
        np.testing.assert_allclose(scale, expected, rtol=1e-6)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("freeze_batchnorm", [False, True])
def test_objective_is_loss_of_the_models_cosines(freeze_batchnorm, training):
    keras.utils.set_random_seed(1)
    model = build_model(
        7,
        backbone="efficientnet",
        width=0.25,
        depth=0.25,
        embedding_dim=16,
        drop_connect_rate=0.0,
    )
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8), rng.integers(0, 7, 4)
    loss = CosineSoftmaxCrossEntropy("adacos_fixed")
    objective = CosineSoftmaxObjective(loss, freeze_batchnorm=freeze_batchnorm)
    before = [w.numpy().copy() for w in model.weights]
    outputs = objective(model, images, labels, training)
    moved = any((a != b.numpy()).any() for a, b in zip(before, model.weights, strict=True))
    assert moved == (training and not freeze_batchnorm)
    for weight, value in zip(model.weights, before, strict=True):
        weight.assign(value)
    cosines = model(images, training=training and not freeze_batchnorm)
    assert_close(outputs["loss"], loss(labels, cosines), 1e-4)  # 80 layers of float32
    np.testing.assert_array_equal(outputs["correct"], np.argmax(cosines, axis=1) == labels)


def test_rematerialisation_needs_frozen_batchnorm():
    with pytest.raises(ValueError, match=r"twice\. Received: 2"):
        Embedder(freeze_batchnorm=False, rematerialize=2)
