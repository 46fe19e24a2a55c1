"""HRNet against timm's, of random weights."""

import backbone_checks as checks
import pytest

from models.backbones import hrnet


def build(modules=(1, 2, 1)):
    return hrnet.high_resolution_net(
        (3, 4, 5, 6),
        stem=(6, 64),
        bottleneck=4,
        blocks=1,
        modules=modules,
        head=(2, 3, 4, 5),
        features=10,
    )


@pytest.fixture(scope="module")
def reference():
    return checks.golden("hrnet")


@pytest.fixture(scope="module")
def model(reference):
    return checks.converted(build(), reference, hrnet.IGNORED)


def test_features_are_those_of_timm(model, reference):
    assert model.name == "backbone"
    checks.assert_close(model(reference.images, training=False), reference.features)


def test_xla_computes_the_same(reference):
    smaller = build((1, 1, 1))
    checks.check_compiled(smaller, checks.on_itself(smaller, reference.images))


def test_batchnorm_folds(model, reference):
    checks.check_folded(model, reference)


def test_bfloat16_saved_and_reloaded(reference, tmp_path):
    model = checks.in_bfloat16(build, reference, hrnet.IGNORED)
    checks.check_direction(checks.reloaded(model, tmp_path / "model.keras"), reference)


def test_full_size_has_the_published_parameters():
    """W30's; W18's are counted in test_backbones_table."""
    model = checks.without_values(hrnet.build_hrnet, 30)
    # As published, 37.7 million with the classifier of 1000 classes.
    assert checks.trainable(model) + 2048 * 1000 + 1000 == 37_712_220
    assert model.output_shape[-1] == 2048


def test_an_unknown_width_is_refused():
    with pytest.raises(ValueError, match=r"width: expected one of .* Received: 20"):
        hrnet.build_hrnet(20)
