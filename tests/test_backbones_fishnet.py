"""FishNet against the authors' public code, of random weights."""

import backbone_checks as checks
import numpy as np
import pytest

from models.backbones import fishnet


def build():
    return fishnet.fish_net(
        (8, 8, 16, 32, 32, 32, 24, 16, 20, 24, 28),
        (2, 1, 1, 1, 2, 1, 2, 1, 1, 1),
        (1, 1, 1, 1, 2, 1),
    )


@pytest.fixture(scope="module")
def reference():
    return checks.golden("fishnet")


@pytest.fixture(scope="module")
def model(reference):
    return checks.converted(build(), reference, fishnet.IGNORED)


def test_features_are_those_of_the_authors(model, reference):
    assert model.name == "backbone"
    checks.assert_close(model(reference.images, training=False), reference.features)


def test_xla_computes_the_same(model, reference):
    checks.check_compiled(model, reference)


def test_batchnorm_folds(model, reference):
    checks.check_folded(model, reference)


def test_bfloat16_saved_and_reloaded(reference, tmp_path):
    model = checks.in_bfloat16(build, reference, fishnet.IGNORED)
    checks.check_direction(checks.reloaded(model, tmp_path / "model.keras"), reference)


def test_full_size_has_the_published_parameters():
    model = checks.without_values(fishnet.build_fishnet99)
    # As published, 16.62 million with the classifier of 1000 classes.
    assert checks.trainable(model) + 1056 * 1000 + 1000 == 16_628_904
    assert model.output_shape[-1] == 1056


def test_channel_sum_adds_neighbours():
    inputs = np.arange(12.0).reshape(1, 1, 2, 6)
    expected = [[[[3.0, 12.0], [21.0, 30.0]]]]  # 0 + 1 + 2, 3 + 4 + 5, …
    np.testing.assert_array_equal(fishnet.ChannelSum(2)(inputs), expected)


def test_channel_sum_needs_a_multiple():
    with pytest.raises(ValueError, match=r"multiples of 4. Received: .*6"):
        fishnet.ChannelSum(4)(np.zeros((1, 1, 1, 6)))
