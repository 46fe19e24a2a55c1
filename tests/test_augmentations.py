"""A recipe's augmentation: texts become the ops they name, in their order."""

import numpy as np
import pytest
import tensorflow as tf

from input_pipeline import augmentations, crops, geometry, ops, photometric

SIZE = 14


@pytest.fixture(scope="module")
def features():
    pixels = np.random.default_rng(0).integers(0, 256, (30, 24, 3), dtype=np.uint8)
    return {"image": tf.constant(pixels), "seed": tf.constant([3, 5], tf.int64)}


def applied(chain, features):
    for op in [*([chain.before] if chain.before else []), chain.sizing, *chain.after]:
        features = op(features)
    return features["image"].numpy()


def test_texts_are_the_ops_in_order(features):
    texts = (
        "random_crop:smallest_area=0.4",
        "resize",
        "random_flip",
        "color_jitter:brightness=0.2,contrast=0.2,saturation=0.2",
    )
    found = applied(augmentations.build(texts, size=SIZE, antialias=True), features)
    expected = features
    for op in (
        crops.random_crop(0.4),
        ops.resize(ops.Square(SIZE, True)),
        geometry.random_flip(),
        photometric.color_jitter(0.2, 0.2, 0.2),
    ):
        expected = op(expected)
    np.testing.assert_array_equal(found, expected["image"])


@pytest.mark.parametrize("name", augmentations.SIZING)
def test_each_sizing_makes_a_square(name, features):
    assert applied(augmentations.build((name,), size=SIZE), features).shape == (SIZE, SIZE, 3)


def test_an_op_may_have_a_probability(features):
    def build(*texts):
        return applied(augmentations.build(("resize", *texts), size=SIZE), features)

    text = "random_erasing:area=(0.2,0.4)"
    assert (build() != build(text)).any()
    np.testing.assert_array_equal(build(f"{text},p=0"), build())
    np.testing.assert_array_equal(build(f"{text},p=1"), build(text))
    # A quarter of the side: 14 pixels have a square of 4, cut off at most on two sides.
    changed = (build("cutout") != build()).any(axis=2).sum()
    assert 0 < changed <= 16


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ((), "exactly one of resize"),
        (("resize", "square_crop"), "exactly one of resize"),
        (("resize:p=0.5",), "not with resize"),
        (("resize", "blur:p=0.5,p=0.5,sigma=(1.0,2.0)"), "p at most once"),
        (("resize", "blur"), "expected sigma for blur"),
        (("resize", "mirror"), "expected an op among random_crop"),
        (("resize", "cutout:size=3"), "cutout with each of share, fill"),
        (("resize", "random_flip:p=often"), "random_flip:p: expected float"),
    ],
)
def test_wrong_texts_are_explained(texts, message):
    with pytest.raises(ValueError, match=message):
        augmentations.build(texts, size=SIZE)


def test_scales_and_buckets_want_the_plain_resize():
    augmentations.build(("resize",), size=SIZE).expect_resize("stage.scales")
    chain = augmentations.build(("square_crop",), size=SIZE)
    with pytest.raises(ValueError, match=r"'resize' with stage\.scales\. Received: 'square_crop'"):
        chain.expect_resize("stage.scales")
