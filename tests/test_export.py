"""SavedModels against the network that was trained, called by hand."""

import json

import keras
import networks
import numpy as np
import pytest
import tensorflow as tf

from export import savedmodel
from input_pipeline import ops
from models.builder import build_model
from models.storage import load_model

SMALL = {"backbone": "efficientnet", "width": 0.25, "depth": 0.25, "embedding_dim": 16}
SQUARES = (ops.Square(32), ops.Square(48, antialias=True))


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """Paths of two finished models."""
    folder = tmp_path_factory.mktemp("members")
    paths = []
    for seed, pooling in enumerate(["gap", "gem"]):
        keras.utils.set_random_seed(seed)
        paths.append(str(folder / f"{pooling}.keras"))
        build_model(5, pooling=pooling, **SMALL).save(paths[-1])
    return paths


@pytest.fixture(scope="module")
def exported(members, tmp_path_factory):
    """A folder with the SavedModels `single` (first member) and `ensemble` (1.0 and 0.5)."""
    folder = tmp_path_factory.mktemp("exported")
    savedmodel.save(members[:1], SQUARES[:1], str(folder / "single"))
    savedmodel.save(members, SQUARES, str(folder / "ensemble"), weights=[1.0, 0.5])
    return folder


def by_hand(path, square, image):
    """Resize as in training, the trained network up to the bottleneck, unit length."""
    model = load_model(path)
    bottleneck = keras.Model(model.input, model.get_layer("bottleneck").output)
    vector = bottleneck(square(image)[tf.newaxis]).numpy()[0]
    return vector / np.linalg.norm(vector)


@pytest.fixture(scope="module")
def photo(photographs):
    return (photographs / "3-4.jpg").read_bytes()


def test_the_contests_signature(exported, members, photo):
    image = ops.decode_image(tf.constant(photo))
    loaded = tf.saved_model.load(str(exported / "single"))
    signature = loaded.signatures["serving_default"]
    name, spec = next(iter(signature.structured_input_signature[1].items()))
    assert (name, spec.shape.as_list(), spec.dtype) == ("input_image", [None, None, 3], tf.uint8)
    descriptor = signature(input_image=image)["global_descriptor"]
    assert (descriptor.shape, descriptor.dtype) == ((16,), tf.float32)
    np.testing.assert_allclose(descriptor, by_hand(members[0], SQUARES[0], image), atol=1e-5)
    assert (exported / "single" / "saved_model.pb").is_file()
    assert (exported / "single" / "variables").is_dir()


def test_ensemble_is_weighted_and_not_normalised_again(exported, members, photo):
    image = ops.decode_image(tf.constant(photo))
    loaded = tf.saved_model.load(str(exported / "ensemble"))
    descriptor = loaded.signatures["serving_default"](input_image=image)["global_descriptor"]
    parts = [by_hand(path, square, image) for path, square in zip(members, SQUARES, strict=True)]
    expected = np.concatenate([1.0 * parts[0], 0.5 * parts[1]])
    np.testing.assert_allclose(descriptor, expected, atol=1e-5)
    assert np.linalg.norm(descriptor) == pytest.approx(np.sqrt(1.25), abs=1e-5)


def test_batched_signatures_agree_with_the_single_one(exported, photographs):
    loaded = tf.saved_model.load(str(exported / "ensemble"))
    files = [(photographs / f"{label}-0.jpg").read_bytes() for label in range(3)]
    images = tf.stack([ops.decode_image(tf.constant(file)) for file in files])
    single = [
        loaded.signatures["serving_default"](input_image=image)["global_descriptor"]
        for image in images
    ]
    for arguments in ({"images": images}, {"encoded": tf.constant(files)}):
        (name,) = arguments
        batch = loaded.signatures[name](**arguments)["global_descriptor"]
        np.testing.assert_allclose(batch, np.stack(single), atol=1e-5)


def test_info_names_what_decides_the_descriptor(tmp_path_factory, tmp_path):
    members = networks.save_members(tmp_path_factory.mktemp("small"))
    savedmodel.save(members[:1], SQUARES[:1], str(tmp_path / "a"))
    info = json.loads((tmp_path / "a" / "waymark.json").read_text())
    assert (info["dimension"], info["weights"]) == (16, [1.0])
    assert info["squares"] == [{"size": 32, "antialias": False, "fit": "stretch"}]
    same = savedmodel.save(members[:1], SQUARES[:1], str(tmp_path / "a"))
    assert same["model_digest"] == info["model_digest"]
    for other in ((members[1:], SQUARES[:1]), (members[:1], SQUARES[1:])):
        changed = savedmodel.save(*other, str(tmp_path / "a"))
        assert changed["model_digest"] != info["model_digest"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_ensemble_needs_a_weight_for_each_member():
    with pytest.raises(ValueError, match="2 members, 2 resizes, weights"):
        savedmodel.save(["a", "b"], SQUARES, "out", weights=[1.0])


def test_export_of_an_unfinished_stage(tmp_path, capsys):
    argv = ["--recipe", "tiny", "--workdir", str(tmp_path), "--output", str(tmp_path / "out")]
    assert savedmodel.main(argv) == 2
    assert "train that stage first" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
