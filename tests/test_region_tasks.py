"""Destruction and construction learning against slow NumPy versions, and that it learns."""

import fractions
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from input_pipeline import regions as pipeline_regions
from models import region_tasks
from training import replicas


def pictures(batch, height, width):
    return np.random.default_rng(1).integers(0, 256, (batch, height, width, 3)).astype(np.uint8)


def slow_copy(image, source, count):
    height, width = image.shape[0] // count, image.shape[1] // count
    result = np.zeros_like(image)
    for row, column in itertools.product(range(count), range(count)):
        i, j = divmod(int(source[row * count + column]), count)
        part = image[i * height : (i + 1) * height, j * width : (j + 1) * width]
        result[row * height : (row + 1) * height, column * width : (column + 1) * width] = part
    return result


@pytest.mark.parametrize(
    ("count", "distance", "sides"), [(7, 2, (14, 21)), (7, 2, (28, 28)), (4, 3, (8, 4))]
)
def test_copies_are_permuted_within_bounds(count, distance, sides):
    images = pictures(60, *sides)
    pairs, sources = map(np.array, region_tasks.RegionShuffle(count, distance, seed=1)(images))
    assert pairs.dtype == np.uint8
    assert sources.dtype == np.int32
    np.testing.assert_array_equal(pairs[:60], images)
    np.testing.assert_array_equal(sources[:60], np.tile(np.arange(count**2), (60, 1)))
    np.testing.assert_array_equal(np.sort(sources[60:]), sources[:60])
    for image, copy, source in zip(images, pairs[60:], sources[60:], strict=True):
        np.testing.assert_array_equal(copy, slow_copy(image, source, count))
    places = np.mgrid[:count, :count].reshape(2, 1, -1)
    moves = np.abs(np.stack(np.divmod(sources[60:], count)) - places)
    assert moves.max() == min(2 * distance - 1, count - 1)
    assert (moves.max(axis=(0, 1)) > 0).all()  # each place changes in some image


def test_rows_are_shuffled_then_columns():
    """One image's sources, made from the same draws part by part."""
    found = np.array(region_tasks.RegionShuffle(5, 2, seed=3)(pictures(1, 5, 5))[1])[1]
    seed, bound = keras.random.SeedGenerator(3), 2 * 2**20
    draws = keras.random.randint((2, 1, 5, 5), -bound, bound, dtype="int32", seed=seed)
    in_rows, in_columns = (np.arange(5) + np.array(draws) / 2**20)[:, 0]  # (line, place)
    table = np.arange(25).reshape(5, 5)
    for row in range(5):
        table[row] = table[row][np.argsort(in_rows[row])]
    for column in range(5):
        table[:, column] = table[:, column][np.argsort(in_columns[column])]
    np.testing.assert_array_equal(found, table.reshape(-1))


def test_moves_are_distributed_as_in_the_pipeline():
    draws = 1000
    images = np.zeros((draws, 7, 7, 3), np.uint8)
    sources = np.array(region_tasks.RegionShuffle(7, 2, seed=1)(images)[1])
    seeds = tf.data.Dataset.range(draws).map(lambda n: tf.stack([n, n]))
    theirs = seeds.map(lambda seed: pipeline_regions._permutation(seed, 7, 2)).batch(draws)
    counts = [
        np.bincount(np.abs(s % 7 - np.arange(49) % 7).reshape(-1), minlength=7)
        for s in (sources[draws:], next(iter(theirs)).numpy())
    ]
    # 49,000 parts, not independent: 4 times the deviation of independent ones is 450.
    np.testing.assert_allclose(*counts, atol=450)


def test_draws_are_those_of_the_seed_eager_or_compiled():
    images = pictures(3, 14, 14)
    first = region_tasks.RegionShuffle(seed=5)
    again = region_tasks.RegionShuffle(seed=5)
    compiled = tf.function(again, jit_compile=True)
    found = [first(images) for _ in range(3)]
    for expected in found:
        for x, y in zip(expected, compiled(images), strict=True):
            np.testing.assert_array_equal(x, y)
    assert not np.array_equal(found[0][1], found[1][1])
    other = region_tasks.RegionShuffle(seed=6)(images)
    assert not np.array_equal(found[0][1], other[1])


def test_bfloat16_images_are_moved_exactly():
    images = pictures(2, 14, 14)
    layer, half = (region_tasks.RegionShuffle(seed=5, dtype=d) for d in ("float32", "bfloat16"))
    expected, _ = layer(images)
    found, _ = half(ops.cast(images, "bfloat16"))
    assert found.dtype == tf.bfloat16
    np.testing.assert_array_equal(ops.cast(found, "uint8"), expected)


def test_bad_shuffles_are_refused():
    with pytest.raises(ValueError, match=r"multiples of 7 pixels.*Received: \(1, 27, 28, 3\)"):
        region_tasks.RegionShuffle()(pictures(1, 27, 28))
    with pytest.raises(ValueError, match=r"expected 1 to 6. Received: 7"):
        region_tasks.RegionShuffle(7, 7)
    with pytest.raises(ValueError, match=r"expected 2 to 32 per side. Received: 33"):
        region_tasks.RegionHeads(33)
    with pytest.raises(ValueError, match=r"even number. Received: 3"):
        region_tasks.shuffled_loss(np.zeros((3, 2)))


def overlap(place, side, number, count):
    """The length that pixel `place` of `side` and part `number` of `count` share, in pixels."""
    begin = max(fractions.Fraction(place), fractions.Fraction(number * side, count))
    end = min(fractions.Fraction(place + 1), fractions.Fraction((number + 1) * side, count))
    return max(end - begin, 0)


def slow_means(features, count):
    batch, height, width, channels = features.shape
    result = np.zeros((batch, count, count, channels))
    for i, j in itertools.product(range(count), range(count)):
        for y, x in itertools.product(range(height), range(width)):
            area = overlap(y, height, i, count) * overlap(x, width, j, count)
            result[:, i, j] += float(area) * features[:, y, x]
    return (result * count**2 / (height * width)).reshape(batch, count**2, channels)


@pytest.mark.parametrize("sides", [(14, 14), (7, 7), (16, 12), (1, 1), (3, 9)])
def test_regions_are_means_by_area(sides):
    features = np.random.default_rng(1).normal(size=(2, *sides, 3)).astype(np.float32)
    np.testing.assert_allclose(
        region_tasks.pool_regions(features, 7), slow_means(features, 7), rtol=0, atol=1e-6
    )
    if sides == (14, 14):
        plain = features.reshape(2, 7, 2, 7, 2, 3).mean((2, 4)).reshape(2, 49, 3)
        np.testing.assert_allclose(slow_means(features, 7), plain, rtol=0, atol=1e-6)


def test_heads():
    features = np.random.default_rng(1).normal(size=(4, 6, 6, 5)).astype(np.float32)
    heads = region_tasks.RegionHeads(3, 1, seed=1)
    logits, positions = heads(features)
    swap, kernel = (np.array(layer.kernel.value) for layer in (heads.swap, heads.construction))
    np.testing.assert_allclose(logits, features.mean((1, 2)) @ swap, rtol=0, atol=1e-6)
    places = np.tanh(slow_means(features @ kernel, 3))[..., 0]
    np.testing.assert_allclose(positions, places, rtol=0, atol=1e-6)
    half = region_tasks.RegionHeads(3, 1, dtype="mixed_bfloat16")
    half.build(features.shape)
    for old, new in zip(heads.trainable_variables, half.trainable_variables, strict=True):
        new.assign(old)
    compiled = tf.function(half, jit_compile=True)(ops.cast(features, "bfloat16"))
    symbols = half(keras.Input((6, 6, 5)))
    for found, symbol, expected in zip(compiled, symbols, (logits, positions), strict=True):
        assert found.dtype == symbol.dtype == tf.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=0.02)  # 8 bits


def test_losses():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(6, 2)).astype(np.float32)
    positions = np.tanh(rng.normal(size=(6, 9))).astype(np.float32)
    sources = np.stack([rng.permutation(9) for _ in range(6)]).astype(np.int32)
    swap, construction = np.zeros(3), np.zeros(3)
    for n in range(6):
        shuffled = n >= 3
        probabilities = np.exp(logits[n]) / np.exp(logits[n]).sum()
        swap[n % 3] -= np.log(probabilities[0 if shuffled else 1]) / 2
        for place in range(9):
            target = (sources[n, place] - 4) / 9
            construction[n % 3] += abs(positions[n, place] - target) / 9 / 2
    np.testing.assert_allclose(region_tasks.shuffled_loss(logits), swap, rtol=1e-5)
    found = region_tasks.construction_loss(positions, sources)
    np.testing.assert_allclose(found, construction, rtol=1e-5)
    assert found.shape == (3,)
    assert found.dtype == tf.float32
    half = region_tasks.shuffled_loss(ops.cast(logits, "bfloat16"))
    assert half.dtype == tf.float32
    np.testing.assert_allclose(half, swap, rtol=0.01)
    extreme = region_tasks.shuffled_loss(np.float32([[1e4, -1e4], [1e4, -1e4]]))
    np.testing.assert_allclose(extreme, [1e4], rtol=1e-6)


def test_targets_are_the_pipelines():
    sources = np.stack([np.random.default_rng(n).permutation(49) for n in range(4)])
    targets = pipeline_regions.region_targets(tf.constant(sources, tf.int32))
    np.testing.assert_array_less(
        region_tasks.construction_loss(targets, sources.astype(np.int32)), 1e-7
    )


def network(side=28, count=7):
    """A small one with the branch: `(B, 28, 28, 3)` → `(B, 8)`, logits and positions."""
    images = keras.Input((None, None, 3), dtype="uint8")
    scaled = keras.layers.Rescaling(1 / 127.5, -1.0)(images)
    features = keras.layers.Conv2D(16, side // count, side // count, activation="relu")(scaled)
    features = keras.layers.Conv2D(24, 3, padding="same", activation="relu")(features)
    features = keras.layers.Conv2D(24, 3, padding="same", activation="relu")(features)
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    embedding = keras.layers.Dense(8, name="bottleneck")(pooled)
    branch = region_tasks.RegionHeads(count, 2, seed=1, name="regions")(features)
    return keras.Model(images, [embedding, *branch])


def test_branch_is_saved_and_leaves_the_embedding_alone(tmp_path):
    model, images = network(), pictures(2, 28, 28)
    heads = model.get_layer("regions")
    heads.shuffle(images)
    path = str(tmp_path / "model.keras")
    model.save(path)
    loaded = keras.saving.load_model(path, safe_mode=True)
    for x, y in zip(model(images), loaded(images), strict=True):
        np.testing.assert_array_equal(x, y)
    # A file of Keras leaves the generator out, a list of the variables has it.
    for old, new in zip(model.variables, loaded.variables, strict=True):
        new.assign(old)
    again = loaded.get_layer("regions").shuffle(images)
    for x, y in zip(heads.shuffle(images), again, strict=True):
        np.testing.assert_array_equal(x, y)
    assert any(v is heads.shuffle.seed_generator.state for v in model.variables)
    embedding = keras.Model(model.input, model.get_layer("bottleneck").output)
    names = [layer.name for layer in embedding._flatten_layers()]
    assert not {"regions", "shuffle", "swap", "construction"} & set(names)
    assert not any(v is heads.shuffle.seed_generator.state for v in embedding.variables)


def test_replicas_draw_differently():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = network()
    replicas.fold_replica_id(model)
    heads = model.get_layer("regions")

    @tf.function
    def sources():
        return strategy.run(lambda: heads.shuffle(tf.zeros((1, 7, 7, 3), tf.uint8))[1])

    first, second = (part.numpy()[1] for part in strategy.experimental_local_results(sources()))
    assert sorted(first) == sorted(second) == list(range(49))
    assert not np.array_equal(first, second)


def drawn(batch, side=28):
    """Smooth pictures: brightness grows down, red to the right, with a disc somewhere."""
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:side, :side] / (side - 1)
    images = np.stack([y, x, 1 - y], 2)[np.newaxis] * np.ones((batch, 1, 1, 1))
    for image in images:
        center = rng.uniform(0.2, 0.8, 2)
        image[np.hypot(y - center[0], x - center[1]) < 0.12] += rng.uniform(-0.2, 0.2, 3)
    images += rng.normal(0, 0.02, images.shape)
    return np.clip(images * 255, 0, 255).astype(np.uint8)


def test_learns_what_was_shuffled_and_from_where():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        keras.utils.set_random_seed(1)
        model, images = network(), tf.constant(drawn(12))
    finally:
        keras.config.set_dtype_policy(before)
    heads, optimizer = model.get_layer("regions"), keras.optimizers.Adam(0.01)

    variables = [v for v in model.trainable_variables if "bottleneck" not in v.path]

    @tf.function(jit_compile=True)
    def step():
        pairs, sources = heads.shuffle(images)
        with tf.GradientTape() as tape:
            _, logits, positions = model(pairs, training=True)
            swap = region_tasks.shuffled_loss(logits)
            construction = region_tasks.construction_loss(positions, sources)
            loss = tf.reduce_mean(swap + construction)
        optimizer.apply(tape.gradient(loss, variables), variables)
        return tf.reduce_mean(swap), tf.reduce_mean(construction)

    found = np.array([step() for _ in range(40)])
    assert found[0, 0] > 0.5
    assert found[-5:, 0].mean() < 0.2
    assert found[0, 1] > 0.2
    assert found[-5:, 1].mean() < 0.12
