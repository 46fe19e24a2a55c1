"""The residual networks in PyTorch's form against timm's, of random weights."""

import backbone_checks as checks
import keras
import numpy as np
import pytest
import tensorflow as tf

from models.backbones.conversion import CLASSIFIERS
from models.backbones.resnet import build_resnet
from models.objectives import Embedder

SMALL = {"blocks": (1, 2, 1, 1), "widths": (16, 16, 32, 32)}
FAMILIES = {
    "resnet": {},
    "ibn": {"ibn": True},
    "se_resnext": {"groups": 4, "base_width": 16, "squeeze": True},
    "res2net": {"base_width": 26, "scales": 4},
}
TINY = {"blocks": (1, 1, 2, 1), "widths": (16, 16, 16, 32), "stem": 8}


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_those_of_pytorch(family):
    reference = checks.golden(family)
    model = checks.converted(build_resnet(**SMALL, **FAMILIES[family]), reference, CLASSIFIERS)
    assert model.name == "backbone"
    checks.assert_close(model(reference.images, training=False), reference.features)


@pytest.fixture(scope="module")
def model():
    """One network with all that the families have."""
    # Of some other weights, a sum so near 0 that its ReLU opens or not by the rounding.
    keras.utils.set_random_seed(1)
    kind = {"groups": 2, "base_width": 64, "squeeze": True, "scales": 2, "ibn": True}
    return checks.randomized(build_resnet(**TINY, **kind))


@pytest.fixture(scope="module")
def reference(model):
    images = np.random.default_rng(1).normal(size=(1, 32, 64, 3)).astype(np.float32)
    return checks.on_itself(model, images)


def test_batchnorm_folds(model, reference):
    checks.check_folded(model, reference)


def test_batchnorm_folds_for_a_tpu(model, reference):
    """With blocks that are computed again, and convolutions over packed pixels where they fit."""
    embed = Embedder(freeze_batchnorm=True, vmem=2**27)
    received = embed(model, tf.constant(reference.images), training=True)
    checks.assert_close(received, reference.features)


def test_xla_computes_the_same(model, reference):
    checks.check_compiled(model, reference)


def test_bfloat16_saved_and_reloaded(tmp_path):
    def build():
        return build_resnet(**SMALL, ibn=True)

    reference = checks.golden("ibn")
    model = checks.in_bfloat16(build, reference, CLASSIFIERS)
    checks.check_direction(checks.reloaded(model, tmp_path / "model.keras"), reference)


def test_last_stride():
    """With 1 the last stage has the same weights and sees twice as fine a map."""
    coarse, fine = (
        checks.without_values(lambda stride=stride: build_resnet(**TINY, last_stride=stride))
        for stride in (2, 1)
    )
    assert coarse.compute_output_shape((1, 64, 96, 3)) == (1, 2, 3, 128)
    assert fine.compute_output_shape((1, 64, 96, 3)) == (1, 4, 6, 128)
    assert [w.shape for w in coarse.weights] == [w.shape for w in fine.weights]


def test_last_stride_is_1_or_2():
    with pytest.raises(ValueError, match=r"expected 1 or 2. Received: 4"):
        build_resnet(last_stride=4)
