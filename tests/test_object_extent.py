"""Look into object against slow NumPy versions, and that it learns."""

import itertools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from models import object_extent
from models.region_tasks import pool_regions


def slow_extent(features, labels, size):
    """Of each region the mean over the positives of the largest product; None without positives."""
    result = []
    for i, regions in enumerate(features):
        group = range(i // size * size, i // size * size + size)
        positives = [j for j in group if j != i and labels[j] == labels[i]]
        if not positives:
            result.append(None)
            continue
        largest = [
            [max(region @ other for other in features[j]) for region in regions] for j in positives
        ]
        result.append(np.mean(largest, axis=0) / features.shape[2])
    return result


@pytest.mark.parametrize(
    ("size", "labels"),
    [
        (4, [3, 3, 3, 3, 5, 5, 5, 5]),
        (4, [3, 3, 7, 3, 5, 6, 8, 9]),  # one undecodable; a group of four classes
        (2, [3, 3, 3, 3, 5, 5, 1, 2]),
    ],
)
def test_mask_is_compared_with_its_class(size, labels):
    rng = np.random.default_rng(1)
    features = rng.normal(size=(8, 9, 6)).astype(np.float32)
    mask = rng.normal(size=(8, 9)).astype(np.float32)
    extents = slow_extent(features, labels, size)
    expected = [
        0.0 if extent is None else np.mean((m - extent) ** 2)
        for m, extent in zip(mask, extents, strict=True)
    ]
    labels = tf.constant(labels)

    def loss(features, mask):
        return object_extent.object_extent_loss(features, mask, labels, images_per_class=size)

    for function in (loss, tf.function(loss, jit_compile=True)):
        found = function(tf.constant(features), tf.constant(mask))
        assert found.dtype == tf.float32
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    half = loss(tf.cast(features, tf.bfloat16), tf.cast(mask, tf.bfloat16))
    assert half.dtype == tf.float32
    np.testing.assert_allclose(half, expected, rtol=0.03)  # of inputs to 8 bits


def test_one_image_as_its_own_positives():
    """A class with one image stands in a batch K times: the mask should be the squared lengths."""
    features = np.repeat(np.random.default_rng(1).normal(size=(1, 9, 6)), 4, axis=0)
    features /= np.linalg.norm(features, axis=2, keepdims=True)
    mask = tf.fill((4, 9), 1 / 6)
    found = object_extent.object_extent_loss(features.astype(np.float32), mask, np.zeros(4, int))
    np.testing.assert_allclose(found, np.zeros(4), atol=1e-12)


@pytest.mark.parametrize(("batch", "size"), [(6, 4), (4, 1), (None, 4)])
def test_batches_of_whole_groups_are_expected(batch, size):
    features, mask = keras.Input((9, 6), batch_size=batch), keras.Input((9,), batch_size=batch)
    with pytest.raises(ValueError, match=f"groups of {size} images.*a batch of {batch}"):
        object_extent.object_extent_loss(features, mask, None, images_per_class=size)


def test_polar_coordinates():
    found = object_extent.polar_coordinates(tf.range(25), 5).numpy()
    for reference, place in itertools.product(range(25), range(25)):
        (i, j), (y, x) = divmod(reference, 5), divmod(place, 5)
        distance, angle = math.hypot(y - i, x - j) / 5, math.atan2(x - j, y - i)
        expected = (distance, (angle / math.pi + 1) / 2)
        np.testing.assert_allclose(found[reference, place], expected, rtol=0, atol=1e-6)
    # From the middle: above, left, below, right; a quarter turn each.
    np.testing.assert_allclose(found[12, [7, 11, 17, 13], 1], [1, 0.25, 0.5, 0.75], atol=1e-6)


def slow_context(coordinates, mask, reference, side):
    losses = []
    for predicted, values, middle in zip(coordinates, mask, reference, strict=True):
        distances, turns = [], []
        for place in np.flatnonzero(values > values.mean()):
            if place == middle:
                continue
            down, right = np.subtract(divmod(place, side), divmod(middle, side))
            distances.append(predicted[place, 0] - math.hypot(down, right) / side)
            turn = predicted[place, 1] - (math.atan2(right, down) / math.pi + 1) / 2
            turns.append(turn + 1 if turn < 0 else turn)
        total = np.sum(np.square(distances)) + len(turns) * np.var(turns) if turns else 0.0
        losses.append(total / side**2)
    return losses


def test_spatial_context():
    rng = np.random.default_rng(1)
    coordinates = rng.uniform(0, 1.2, size=(6, 25, 2)).astype(np.float32)
    mask = rng.normal(size=(6, 25)).astype(np.float32)
    mask[4] = 0.0  # no region is above the mean
    mask[5] = np.arange(25) == 7  # the reference alone is
    reference = np.array([0, 12, 24, 3, 0, 7], np.int32)
    expected = slow_context(coordinates, mask, reference, 5)
    assert expected[4:] == [0, 0]
    loss = tf.function(object_extent.spatial_context_loss, jit_compile=True)
    found = loss(tf.constant(coordinates), tf.constant(mask), tf.constant(reference))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-9)
    half = object_extent.spatial_context_loss(
        ops.cast(coordinates, "bfloat16"), mask.astype(np.float32), reference
    )
    assert half.dtype == tf.float32
    # 1/256 of a turn more or less can make an error of nearly 0 one of nearly 1.
    np.testing.assert_allclose(half, expected, rtol=0, atol=0.1)


def test_turning_all_angles_changes_nothing():
    reference, mask = np.array([12], np.int32), np.float32(np.arange(25) % 2)[np.newaxis]
    coordinates = object_extent.polar_coordinates(reference, 5).numpy()
    coordinates[..., 1] += 0.2
    found = object_extent.spatial_context_loss(coordinates, mask, reference)
    np.testing.assert_allclose(found, [0.0], atol=1e-12)


def kernels(dense):
    return np.array(dense.kernel.value), 0.0 if dense.bias is None else np.array(dense.bias.value)


def test_layer():
    features = np.random.default_rng(1).normal(size=(3, 6, 9, 8)).astype(np.float32)
    layer = object_extent.ObjectExtent(3, context_dim=5)
    found = [np.array(output) for output in layer(features)]
    regions = np.array(pool_regions(features, 3))
    weights = {n: kernels(getattr(layer, n)) for n in ("mask", "structure", "relation", "position")}
    for i in range(3):
        positive = np.maximum(regions[i], 0)
        mask = (positive @ weights["mask"][0] + weights["mask"][1])[:, 0]
        structure = np.maximum(positive @ weights["structure"][0] + weights["structure"][1], 0)
        strength = [
            s.mean() if m > mask.mean() else 0 for s, m in zip(structure, mask, strict=True)
        ]
        middle = structure[np.argmax(strength)]
        kernel = np.concatenate([weights["relation"][0], weights["position"][0]])  # (2·F', 2)
        together = [np.concatenate([middle, s]) for s in structure]
        coordinates = np.maximum(together @ kernel + weights["position"][1], 0)
        expected = (regions[i], mask, coordinates, np.argmax(strength))
        for output, value in zip(found, expected, strict=True):
            np.testing.assert_allclose(output[i], value, rtol=0, atol=1e-6)


def test_layer_is_saved(tmp_path):
    inputs = keras.Input((None, None, 8))
    model = keras.Model(inputs, object_extent.ObjectExtent(3, name="extent")(inputs))
    path = str(tmp_path / "model.keras")
    model.save(path)
    loaded = keras.saving.load_model(path, safe_mode=True)
    features = np.random.default_rng(1).normal(size=(2, 4, 5, 8))
    for x, y, symbol in zip(model(features), loaded(features), model.outputs, strict=True):
        np.testing.assert_array_equal(x, y)
        assert (symbol.shape[1:], symbol.dtype) == (x.shape[1:], x.dtype.name)
    with pytest.raises(ValueError, match=r"known sides. Received: \(None, None, None, 8\)"):
        tf.function(model, input_signature=[tf.TensorSpec((None, None, None, 8))])(features)
    with pytest.raises(ValueError, match=r"at least 2.*Received: 1"):
        object_extent.ObjectExtent(1)


def losses_of(layer, features, labels):
    regions, mask, coordinates, reference = layer(features)
    return (
        object_extent.object_extent_loss(regions, mask, labels),
        object_extent.spatial_context_loss(coordinates, mask, reference),
    )


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 1e4])
def test_images_of_one_value_have_finite_gradients(value):
    layer = object_extent.ObjectExtent(3)
    features = tf.Variable(tf.fill((4, 3, 3, 6), value))
    with tf.GradientTape() as tape:
        losses = losses_of(layer, features, tf.zeros(4, tf.int32))
        total = tf.reduce_sum(losses)
    variables = [features, *layer.trainable_variables]
    gradients = tape.gradient(total, variables, unconnected_gradients="zero")
    assert np.isfinite(losses).all()
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def drawn(side=28):
    """Four discs of each of three colours on grey, and which of the 7 × 7 regions they fill."""
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:side, :side] / (side - 1)
    images = rng.normal(0.5, 0.03, (12, side, side, 3)).astype(np.float32)
    discs = []
    for number, image in enumerate(images):
        center = rng.uniform(0.3, 0.7, 2)
        discs.append(np.hypot(y - center[0], x - center[1]) < 0.3)
        image[discs[-1]] = np.eye(3)[number // 4]
    return images, np.array(pool_regions(np.float32(discs)[..., np.newaxis], 7))[..., 0] > 0.5


def network(policy):
    images = keras.Input((28, 28, 3))
    features = images
    for width, stride in ((4, 4), (3, 1), (3, 1)):
        features = keras.layers.Conv2D(
            16, width, stride, padding="same", activation="relu", dtype=policy
        )(features)
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    logits = keras.layers.Dense(3, dtype="float32")(pooled)
    return keras.Model(images, [logits, *object_extent.ObjectExtent(7)(features)])


def test_learns_extent_and_context():
    keras.utils.set_random_seed(1)
    model, optimizer = network("mixed_bfloat16"), keras.optimizers.Adam(0.01)
    (images, discs), labels = drawn(), tf.repeat(tf.range(3), 4)
    optimizer.build(model.trainable_variables)

    @tf.function(jit_compile=True)
    def step():
        with tf.GradientTape() as tape:
            logits, features, mask, coordinates, reference = model(images, training=True)
            losses = (
                ops.sparse_categorical_crossentropy(labels, logits, from_logits=True),
                object_extent.object_extent_loss(features, mask, labels),
                object_extent.spatial_context_loss(coordinates, mask, reference),
            )
            loss = tf.reduce_mean(sum(losses))
        optimizer.apply(tape.gradient(loss, model.trainable_variables))
        return [tf.reduce_mean(each) for each in losses], object_extent.inside(mask)

    found, inside = zip(*(step() for _ in range(80)), strict=True)
    assert (np.mean(found[-5:], axis=0) < np.multiply(found[0], (0.1, 0.2, 0.7))).all()
    inside = inside[-1].numpy()
    union, both = (discs | inside).sum(1), (discs & inside).sum(1)
    assert (both / union).mean() > 0.4  # half of the regions at random would have 0.2
