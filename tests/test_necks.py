"""Poolings and necks against their formulas in NumPy; batch feature erasing."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from trainers import strategy_of

from models import necks, pooling
from models.erasing import BatchFeatureErasing
from models.necks import NECKS, build_neck
from models.pooling import POOLINGS, RegionalMaxPooling, build_pooling
from training import replicas

NAMES = {
    "bnneck": {"bottleneck", "feature"},
    "cgd": {"bottleneck", "spoc", "mac", "gem"},
    "global_local": {"bottleneck", "global", "local", "global_bn", "local_bn"},
}


@pytest.fixture
def features():
    return np.random.default_rng(0).uniform(0, 2, (3, 6, 4, 8)).astype(np.float32)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def gem(features, p):
    return (features.astype(float) ** p).mean(axis=(1, 2)) ** (1 / p)


def slow_rmac(features, levels=3):
    """By the published rule for a square map: l × l regions of side ⌊2W/(l + 1)⌋, evenly."""
    size, total = features.shape[1], 0
    for level in range(1, levels + 1):
        side = 2 * size // (level + 1)
        starts = np.floor(np.linspace(0, size - side, level)).astype(int)
        for top in starts:
            for left in starts:
                region = features[:, top : top + side, left : left + side]
                total = total + unit(region.max(axis=(1, 2)))
    return total


def neck_model(kind, embedding_dim=12, **options):
    """The neck on maps of 8 channels, with random weights and BatchNorm statistics."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((None, None, 8))
    model = keras.Model(inputs, build_neck(inputs, kind, embedding_dim=embedding_dim, **options))
    rng = np.random.default_rng(1)
    for variable in model.variables:
        if variable.dtype == "float32" and "power" not in variable.path:
            variable.assign(rng.uniform(0.1, 1.0, variable.shape) * rng.choice([-1, 1]))
        if "variance" in variable.path:
            variable.assign(rng.uniform(0.5, 2.0, variable.shape))
    return model


def linear(model, name, values):
    layer = model.get_layer(name)
    values = values @ layer.kernel.numpy()
    return values + layer.bias.numpy() if layer.use_bias else values


def batchnorm(model, name, values):
    layer = model.get_layer(name)
    values = (values - layer.moving_mean) / np.sqrt(layer.moving_variance + 1e-5) * layer.gamma
    return values + layer.beta if layer.center else values


@pytest.mark.parametrize(
    ("kind", "formula"),
    [
        ("gap", lambda x: x.mean(axis=(1, 2))),
        ("spoc", lambda x: x.mean(axis=(1, 2))),
        ("mac", lambda x: x.max(axis=(1, 2))),
        ("gem", lambda x: gem(x, 3)),
        ("gem_fixed", lambda x: gem(x, 3)),
        ("gem_channel", lambda x: gem(x, 3)),
        ("rmac", slow_rmac),
    ],
)
def test_poolings_by_the_formula(kind, formula):
    features = np.random.default_rng(0).uniform(0, 2, (2, 7, 7, 5)).astype(np.float32)
    layer = build_pooling(kind)
    received = tf.function(layer, jit_compile=True)(features)
    np.testing.assert_allclose(received, formula(features), rtol=1e-5)
    assert layer.name == "pooling"
    assert layer(tf.cast(features, tf.bfloat16)).shape == (2, 5)
    again = type(layer).from_config(layer.get_config())
    np.testing.assert_allclose(again(features), received, rtol=1e-5)


def test_powers_of_gem():
    """One trained power, one that is not, and one per channel."""
    shapes = {}
    for kind in ("gem", "gem_fixed", "gem_channel"):
        layer = build_pooling(kind)
        layer.build((None, 7, 7, 5))
        shapes[kind] = [tuple(v.shape) for v in layer.trainable_variables]
    assert shapes == {"gem": [()], "gem_fixed": [], "gem_channel": [(5,)]}


def test_powers_per_channel_by_the_formula(features):
    layer = build_pooling("gem_channel")
    layer.build(features.shape)
    powers = np.linspace(1, 8, 8).astype(np.float32)
    layer.power.assign(powers)
    np.testing.assert_allclose(layer(features), gem(features, powers), rtol=1e-5)


def test_regions_of_a_map_that_is_not_square():
    """4 × 9: 1 + m squares of side 4 overlap by 40 % or nearest to it, m = 2 with 37.5 %."""
    level_1 = [(0, left, 4) for left in (0, 2, 5)]
    level_2 = [(top, left, 2) for top in (0, 2) for left in (0, 2, 4, 7)]
    assert pooling.regions(4, 9, 2) == level_1 + level_2
    turned = {(left, top, side) for top, left, side in pooling.regions(4, 9, 2)}
    assert set(pooling.regions(9, 4, 2)) == turned
    assert len(pooling.regions(7, 7, 3)) == 1 + 4 + 9
    assert pooling.regions(1, 1, 2) == [(0, 0, 1)] * 5


def test_rmac_of_an_empty_map_is_finite():
    zeros = tf.zeros((2, 5, 5, 3))
    with tf.GradientTape() as tape:
        tape.watch(zeros)
        pooled = RegionalMaxPooling()(zeros)
    np.testing.assert_array_equal(pooled, np.zeros((2, 3)))
    assert np.isfinite(tape.gradient(pooled, zeros)).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: build_pooling("median"),
        lambda: RegionalMaxPooling(levels=0),
        lambda: build_neck(keras.Input((7, 7, 8)), "dense", embedding_dim=4),
        lambda: build_neck(keras.Input((7, 7, 8)), "cgd", embedding_dim=10),
        lambda: build_neck(keras.Input((7, 7, 8)), "cgd", embedding_dim=12, descriptors="SS"),
        lambda: build_neck(keras.Input((7, 7, 8)), "cgd", embedding_dim=12, descriptors=""),
        lambda: build_neck(keras.Input((7, 7, 8)), "global_local", embedding_dim=8, global_dim=8),
        lambda: BatchFeatureErasing(1.0, 1.0),
    ],
)
def test_what_cannot_be_is_refused(make):
    with pytest.raises(ValueError, match="Received"):
        make()


def test_simple_necks_by_the_formula(features):
    pooled = features.mean(axis=(1, 2))
    found = {}
    for kind in ("dense_swish", "linear", "linear_bn", "linear_bn_prelu"):
        model = neck_model(kind)
        found[kind] = (model(features)["bottleneck"], model)
    for kind in ("dense_swish", "linear"):
        values = linear(found[kind][1], "bottleneck", pooled)
        swish = values / (1 + np.exp(-values))
        expected = swish if kind == "dense_swish" else values
        np.testing.assert_allclose(found[kind][0], expected, rtol=1e-4, atol=1e-5)
    received, model = found["linear_bn"]
    values = linear(model, "bottleneck_linear", pooled)
    expected = batchnorm(model, "bottleneck", values)
    np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-5)
    received, model = found["linear_bn_prelu"]
    values = linear(model, "bottleneck_linear", pooled)
    values = batchnorm(model, "bottleneck_bn", values)
    assert model.get_layer("bottleneck").alpha.shape == (1,)
    slope = model.get_layer("bottleneck").alpha.numpy()
    expected = np.where(values > 0, values, slope * values)
    np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("embedding_dim", [None, 8, 12])
def test_bnneck_by_the_formula(features, embedding_dim):
    model = neck_model("bnneck", embedding_dim, pooling="gem_fixed")
    outputs, feature = model(features), gem(features, 3)
    if embedding_dim == 12:
        feature = linear(model, "bottleneck_linear", feature)
    np.testing.assert_allclose(outputs["feature"], feature, rtol=1e-4, atol=1e-5)
    expected = batchnorm(model, "bottleneck", feature)
    np.testing.assert_allclose(outputs["bottleneck"], expected, rtol=1e-4, atol=1e-5)
    assert model.get_layer("bottleneck").beta is None


@pytest.mark.parametrize("descriptors", ["SMG", "GM", "M"])
@pytest.mark.parametrize("is_normed", [True, False])
def test_cgd_by_the_formula(features, descriptors, is_normed):
    model = neck_model("cgd", descriptors=descriptors, batchnorm=is_normed)
    pooled = {"S": features.mean((1, 2)), "M": features.max((1, 2)), "G": gem(features, 3)}
    outputs, parts = model(features), []
    for letter in descriptors:
        name = {"S": "spoc", "M": "mac", "G": "gem"}[letter]
        values = linear(model, f"linear_{name}", pooled[letter])
        parts.append(unit(batchnorm(model, f"bn_{name}", values) if is_normed else values))
        np.testing.assert_allclose(outputs[name], parts[-1], rtol=1e-4, atol=1e-5)
    expected = unit(np.concatenate(parts, axis=1))
    np.testing.assert_allclose(outputs["bottleneck"], expected, rtol=1e-4, atol=1e-5)
    assert len(outputs) == len(descriptors) + 1


def test_global_and_local_branch_by_the_formula(features):
    model = neck_model("global_local", global_dim=5)
    outputs = model(features)
    values = features
    for number in (1, 2, 3):
        values = batchnorm(
            model,
            f"local_{number}_bn",
            tf.nn.conv2d(values, model.get_layer(f"local_{number}_conv").kernel, 1, "SAME"),
        )
        values = np.maximum(values, 0) if number < 3 else values
    pooled = {
        "global": features.mean((1, 2)),
        "local": np.maximum(values + features, 0).max((1, 2)),
    }
    for name, size in (("global", 5), ("local", 7)):
        reduced = linear(model, f"{name}_reduction", pooled[name])
        feature = np.maximum(batchnorm(model, f"{name}_reduction_bn", reduced), 0)
        assert feature.shape == (3, size)
        np.testing.assert_allclose(outputs[name], feature, rtol=1e-4, atol=1e-4)
        expected = batchnorm(model, f"{name}_bn", feature)
        np.testing.assert_allclose(outputs[f"{name}_bn"], expected, rtol=1e-4, atol=1e-4)
    both = np.concatenate([outputs["global"], outputs["local"]], axis=1)
    np.testing.assert_array_equal(outputs["bottleneck"], both)


@pytest.mark.parametrize("kind", NECKS)
def test_saved_and_in_bfloat16(tmp_path, features, kind):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = neck_model(kind)
    finally:
        keras.config.set_dtype_policy("float32")
    model.save(tmp_path / "neck.keras")
    again = keras.saving.load_model(tmp_path / "neck.keras", safe_mode=True)
    outputs, others = model(features), again(features)
    assert outputs.keys() == NAMES.get(kind, {"bottleneck"})
    for name, values in outputs.items():
        np.testing.assert_array_equal(
            tf.cast(values, tf.float32), tf.cast(others[name], tf.float32)
        )
    assert model.get_layer("bottleneck").output is model.output["bottleneck"]


def test_all_kinds_are_there():
    assert set(NECKS) == {*necks.POOLED, *necks.BRANCHED}
    assert len(POOLINGS) == 7


def erased_rectangles(layer, count=40, shape=(3, 6, 4, 2)):
    """Which rectangles a layer has erased, (top, bottom, left, right), checked to be such."""
    compiled = tf.function(lambda x: layer(x, training=True), jit_compile=True)
    found = []
    for _ in range(count):
        kept = compiled(tf.ones(shape)).numpy()
        assert set(np.unique(kept)) == {0, 1}
        assert (kept == kept[:1, :, :, :1]).all()
        rows, columns = np.nonzero(kept[0, :, :, 0] == 0)
        rectangle = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
        assert len(rows) == (rectangle[1] - rectangle[0]) * (rectangle[3] - rectangle[2])
        found.append(tuple(map(int, rectangle)))
    return found


def test_one_rectangle_for_all_images_anywhere():
    found = erased_rectangles(BatchFeatureErasing(0.5, 0.5, seed=1), 60)
    assert {bottom - top for top, bottom, _, _ in found} == {3}
    assert {right - left for _, _, left, right in found} == {2}
    assert {top for top, *_ in found} == {0, 1, 2, 3}
    assert {left for _, _, left, _ in found} == {0, 1, 2}
    found = erased_rectangles(BatchFeatureErasing(seed=2), 10)
    assert {(b - t, left, right) for t, b, left, right in found} == {(2, 0, 4)}


def test_nothing_is_erased_outside_of_training(features):
    layer = BatchFeatureErasing()
    for training in (False, None):
        np.testing.assert_array_equal(layer(features, training=training), features)
    half = BatchFeatureErasing(dtype="bfloat16")(features, training=True)
    assert half.dtype == tf.bfloat16
    again = BatchFeatureErasing.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()


def test_replicas_draw_rectangles_of_their_own():
    strategy = strategy_of(2)
    with strategy.scope():
        inputs = keras.Input((30, 30, 1))
        model = keras.Model(inputs, BatchFeatureErasing(0.2, 0.2, seed=3)(inputs))
    replicas.fold_replica_id(model)

    @tf.function(autograph=False)
    def run():
        return strategy.run(lambda: model(tf.ones((2, 30, 30, 1)), training=True))

    first, second = strategy.experimental_local_results(run())
    assert not np.array_equal(first, second)
    assert np.sum(first) == np.sum(second) == 2 * (900 - 36)
