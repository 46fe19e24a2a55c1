"""DLA against timm's, of random weights."""

import backbone_checks as checks
import numpy as np
import pytest

from models.backbones import dla
from models.backbones.conversion import load_torch_weights


def build():
    return dla.deep_layer_aggregation(
        (4, 6, 8, 12, 16, 16), (1, 2, 1, 3, 2, 1), groups=2, base_width=32
    )


@pytest.fixture(scope="module")
def reference():
    return checks.golden("dla")


@pytest.fixture(scope="module")
def model(reference):
    return checks.converted(build(), reference, dla.IGNORED)


def test_features_are_those_of_timm(model, reference):
    assert model.name == "backbone"
    checks.assert_close(model(reference.images, training=False), reference.features)


def test_xla_computes_the_same(model, reference):
    checks.check_compiled(model, reference)


def test_batchnorm_folds(reference):
    # Smaller: TensorFlow compiles the gradient of each shape of grouped convolution.
    model = dla.deep_layer_aggregation((4, 4, 8, 8), (1, 1, 1, 1), groups=2, base_width=32)
    checks.randomized(model)
    checks.check_folded(model, checks.on_itself(model, reference.images))


def test_bfloat16_saved_and_reloaded(reference, tmp_path):
    model = checks.in_bfloat16(build, reference, dla.IGNORED)
    checks.check_direction(checks.reloaded(model, tmp_path / "model.keras"), reference)


def test_full_size_has_the_published_parameters():
    model = checks.without_values(dla.build_dla102x)
    # As published, 26.3 million with the classifier of 1000 classes.
    assert checks.trainable(model) + 1024 * 1000 + 1000 == 26_309_272
    assert model.output_shape[-1] == 1024


def test_projections_that_nothing_uses_are_ignored(model, reference):
    """The authors' module has one in every tree of trees whose channels change."""
    state = reference.state | {"level3.tree1.project.0.weight": np.zeros((12, 8, 1, 1))}
    load_torch_weights(model, state, dla.IGNORED)
    with pytest.raises(ValueError, match=r"level3\.tree1\.project\.0\.weight"):
        load_torch_weights(model, state, ("fc.",))
