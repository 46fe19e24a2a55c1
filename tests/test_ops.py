"""Every op alone and inside tf.data.map; chains, probabilities and parsing."""

import numpy as np
import pytest
import tensorflow as tf
from op_examples import features, picture, seeds

from input_pipeline import (
    crops,
    erasing,
    geometry,
    ops,
    photometric,
    policies,
    regions,
    schema,
    sizes,
)

# name: (op, static shape of the image it gives for one of (28, 28, 3))
SAME = (28, 28, 3)
OPS = {
    "random_crop": (crops.random_crop(0.3), (None, None, 3)),
    "random_resized_crop": (crops.random_resized_crop(16), (16, 16, 3)),
    "random_crop_of": (crops.random_crop_of(20, 12), (20, 12, 3)),
    "center_crop": (crops.center_crop(20, 12), (20, 12, 3)),
    "ten_crop": (crops.ten_crop(20, 12), (10, 20, 12, 3)),
    "resize": (ops.resize(ops.Square(17)), (17, 17, 3)),
    "resize_to": (sizes.resize_to(17, 19), (17, 19, 3)),
    "resize_shortest": (sizes.resize_shortest(20), (20, 20, 3)),
    "resize_longest": (sizes.resize_longest(20), (20, 20, 3)),
    "pad_to": (sizes.pad_to(40, 30), (40, 30, 3)),
    "random_flip": (geometry.random_flip(), SAME),
    "random_vertical_flip": (geometry.random_vertical_flip(), SAME),
    "random_turn": (geometry.random_turn(), SAME),
    "random_rotation": (geometry.random_rotation(40.0), SAME),
    "random_affine": (geometry.random_affine(0.3), SAME),
    "random_perspective": (geometry.random_perspective(0.5), SAME),
    "color_jitter": (photometric.color_jitter(0.4, 0.4, 0.4, 0.1), SAME),
    "blur": (photometric.blur((0.5, 2.0)), SAME),
    "noise": (photometric.noise((0.0, 20.0)), SAME),
    "jpeg_quality": (photometric.jpeg_quality(30, 90), SAME),
    "cutout": (erasing.cutout(9), SAME),
    "random_erasing": (erasing.random_erasing(), SAME),
    "rand_augment": (policies.rand_augment(1), SAME),
    "auto_augment": (policies.auto_augment(), SAME),
    "shuffle_regions": (regions.shuffle_regions(7, 2), SAME),
    "maybe": (ops.maybe(geometry.random_affine(0.3), 0.5), SAME),
    "chain": (ops.chain(geometry.random_flip(), photometric.noise((1.0, 9.0))), SAME),
}


@pytest.mark.parametrize("name", OPS)
def test_alone_and_inside_a_map(name):
    op, shape = OPS[name]
    image, traces = picture(), []

    def mapped(seed):
        traces.append(seed)
        return op({"image": tf.ensure_shape(image, SAME), "seed": seed})

    count = 4
    dataset = seeds(count).map(mapped, num_parallel_calls=2)
    assert tuple(dataset.element_spec["image"].shape) == shape
    assert len(traces) == 1
    for seed, found in zip(seeds(count), dataset, strict=True):
        alone = op({"image": tf.constant(image), "seed": seed})
        assert found.keys() == alone.keys() >= {"image", "seed"}
        assert found["image"].dtype == tf.uint8
        np.testing.assert_array_equal(found["seed"], seed)
        for key in found:
            np.testing.assert_array_equal(found[key], alone[key])


DYNAMIC = sorted(OPS.keys() - {"shuffle_regions"})


@pytest.mark.parametrize("name", DYNAMIC)
def test_images_of_any_size_in_one_trace(name):
    """As decoded photographs come: one graph, sizes unknown to it."""
    op, _ = OPS[name]
    traces, seed = [], features(picture(), 2)["seed"]

    @tf.function(input_signature=[tf.TensorSpec((None, None, 3), tf.uint8)])
    def traced(image):
        traces.append(name)
        return op({"image": image, "seed": seed})["image"]

    for height, width in ((28, 28), (30, 29)):
        image = picture(height, width)
        np.testing.assert_array_equal(traced(image), op(features(image, 2))["image"])
    assert len(traces) == 1


RANDOM = sorted(
    OPS.keys()
    - {"center_crop", "ten_crop", "resize", "resize_to", "resize_shortest", "resize_longest"}
    - {"pad_to", "shuffle_regions"}
)


@pytest.mark.parametrize("name", RANDOM)
def test_the_seed_decides(name):
    op, _ = OPS[name]
    image = picture()
    results = [op(features(image, seed))["image"].numpy().tobytes() for seed in range(8)]
    assert len(set(results)) > 1
    assert results[3] == op(features(image, 3))["image"].numpy().tobytes()


def test_maybe_applies_with_the_probability():
    black = np.zeros((4, 4, 3), np.uint8)

    def mean(seed, probability):
        op = ops.maybe(erasing.random_erasing(fill=255), probability)
        return tf.reduce_max(op({"image": tf.constant(black), "seed": seed})["image"])

    for probability, low, high in ((0.0, 0, 0), (0.3, 109, 191), (1.0, 500, 500)):
        values = np.array(list(seeds(500).map(lambda s, p=probability: mean(s, p))))
        assert low <= (values == 255).sum() <= high  # 4 standard deviations of 10.2
    with pytest.raises(ValueError, match=r"from 0 to 1.*Received: 1.5"):
        ops.maybe(geometry.random_flip(), 1.5)


def test_coins_of_different_ops_and_of_places_in_a_chain_are_independent():
    def mark(channel):
        def op(example):
            one = tf.one_hot(channel, 3, dtype=tf.uint8)
            return {**example, "image": example["image"] + one}

        return op

    def other(example):
        return {**example, "image": example["image"] + tf.constant([0, 1, 0], tf.uint8)}

    first = ops.maybe(mark(0), 0.5)
    for chain in (
        lambda example: ops.maybe(other, 0.5)(first(example)),
        ops.chain(first, ops.maybe(mark(1), 0.5)),  # two of the same name
    ):
        start = tf.zeros((3,), tf.uint8)
        found = [
            example["image"][:2].numpy().tolist()
            for example in seeds(800).map(lambda s, c=chain: c({"image": start, "seed": s}))  # noqa: B023
        ]
        counts = [found.count(pair) for pair in ([0, 0], [0, 1], [1, 0], [1, 1])]
        assert sum(counts) == 800
        assert all(150 < count < 250 for count in counts)  # 200 ± 4 standard deviations of 12


def test_parse_gives_what_was_encoded():
    record = schema.encode_example(
        encoded=b"bytes",
        image_format="png",
        height=5,
        width=6,
        label=7,
        image_id="é",
        is_clean=True,
    )
    parsed = ops.parse()({"serialized": tf.constant(record)})
    assert parsed["serialized"].numpy() == record
    assert {key: parsed[key].numpy() for key in schema.FEATURES} == {
        schema.ENCODED: b"bytes",
        schema.FORMAT: b"png",
        schema.HEIGHT: 5,
        schema.WIDTH: 6,
        schema.LABEL: 7,
        schema.ID: "é".encode(),
        schema.IS_CLEAN: 1,
    }
    assert ops.FEATURES.keys() == schema.FEATURES.keys()
