"""Test-time views in SavedModels against the trained network called view by view."""

import json

import keras
import networks
import numpy as np
import pytest
import tensorflow as tf

import recipes
from export import embed, savedmodel
from export.views import parse
from input_pipeline import crops, ops
from models.storage import load_model
from retrieval import embeddings

SQUARE = ops.Square(32, antialias=True)
TEXTS = [
    "plain",
    "flips",
    "flips:combine=mean,normalize=True",
    "horizontal_flip",
    "center_crop:crop=25",
    "ten_crop:crop=27",
    "multi_scale",
    "multi_scale:scales=(0.5,1),combine=max",
]


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """Paths of two finished networks."""
    return networks.save_members(tmp_path_factory.mktemp("members"))


def views_by_hand(text, image):
    """The uint8 pictures (S, S, 3) of an image (H, W, 3), made one at a time."""
    square = SQUARE(image).numpy()
    name = text.split(":")[0]
    if name == "ten_crop":
        return list(crops.ten_crop(27, 27)({"image": tf.constant(square)})["image"].numpy())
    if name == "center_crop":
        return [square[3:28, 3:28]]
    if name == "multi_scale":
        sides = (16, 32) if "0.5" in text else (23, 32, 45)
        return [ops.Square(side, antialias=True)(image).numpy() for side in sides]
    mirror = square[:, ::-1]
    return {
        "plain": [square],
        "horizontal_flip": [square, mirror],
        "flips": [square, mirror, square[::-1], mirror[::-1]],
    }[name]


def by_hand(path, text, image):
    model = load_model(path)
    bottleneck = keras.Model(model.input, model.get_layer("bottleneck").output)
    vectors = [bottleneck(view[None]).numpy()[0] for view in views_by_hand(text, image)]
    if text != "flips":
        vectors = [vector / np.linalg.norm(vector) for vector in vectors]
    reduce = np.max if text == "flips" or "max" in text else np.mean
    vector = reduce(vectors, axis=0)
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("text", TEXTS)
def test_every_signature_gives_what_the_views_give_by_hand(text, members, photographs, tmp_path):
    encoded = [(photographs / f"{label}-3.jpg").read_bytes() for label in range(2)]
    images = [ops.decode_image(tf.constant(each)) for each in encoded]
    info = savedmodel.save(members[:1], [SQUARE], str(tmp_path / "m"), views=[text])
    assert parse(info["views"][0]) == parse(text)
    expected = np.stack([by_hand(members[0], text, image) for image in images])
    found = tf.saved_model.load(str(tmp_path / "m")).signatures
    name = "global_descriptor"
    one = found["serving_default"](input_image=images[0])[name]
    np.testing.assert_allclose(one, expected[0], atol=2e-6)
    for arguments in ({"images": tf.stack(images)}, {"encoded": tf.constant(encoded)}):
        (signature,) = arguments
        np.testing.assert_allclose(found[signature](**arguments)[name], expected, atol=2e-6)
    squares = {ops.Square(**each) for each in info["squares"]}
    resized = {square.name: square(tf.stack(images)) for square in squares}
    np.testing.assert_allclose(found["resized"](**resized)[name], expected, atol=2e-6)


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_image_that_is_no_square(fit, members, photographs, tmp_path):
    """21 × 30 pixels: the middle 21 × 21, or 22 × 32 between black; embed.py takes it over."""
    square = ops.Square(32, fit=fit)
    savedmodel.save(members[:1], [square], str(tmp_path / "m"))
    image = ops.decode_image(tf.constant((photographs / "0-1.jpg").read_bytes()))
    assert image.shape == (21, 30, 3)
    if fit == "crop":
        picture = ops.Square(32)(image[:, 4:25]).numpy()
    else:
        picture = np.zeros((32, 32, 3), np.uint8)
        picture[5:27] = ops.bilinear(image, (22, 32))
    np.testing.assert_array_equal(square(image), picture)
    np.testing.assert_array_equal(square(image[tf.newaxis])[0], picture)
    model = load_model(members[0])
    bottleneck = keras.Model(model.input, model.get_layer("bottleneck").output)
    expected = bottleneck(picture[None]).numpy()[0]
    expected /= np.linalg.norm(expected)
    signature = tf.saved_model.load(str(tmp_path / "m")).signatures["serving_default"]
    found = signature(input_image=image)["global_descriptor"]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    source = embed.Tables([str(photographs / "train.csv")])
    embed.embed(source, str(tmp_path / "m"), str(tmp_path / "e"), stream=None)
    stored = embeddings.load(str(tmp_path / "e")).vectors[1]
    np.testing.assert_allclose(stored, expected, atol=2e-6)


def test_embed_needs_no_option_and_members_may_differ(members, photographs, tmp_path):
    """Member 1 with flips, member 2 at two scales, one of them the square of member 1."""
    texts = ["flips", "multi_scale:scales=(1,1.5)"]
    model = str(tmp_path / "model")
    info = savedmodel.save(members, [SQUARE] * 2, model, weights=[1.0, 0.5], views=texts)
    assert [square["size"] for square in info["squares"]] == [32, 32, 48]
    source = embed.Tables([str(photographs / "train.csv")])
    embed.embed(source, model, str(tmp_path / "e"), batch_size=50, stream=None)
    stored = embeddings.load(str(tmp_path / "e"))
    image = ops.decode_image(tf.constant((photographs / "0-0.jpg").read_bytes()))
    signature = tf.saved_model.load(model).signatures["serving_default"]
    expected = signature(input_image=image)["global_descriptor"] / np.sqrt(1.25)
    np.testing.assert_allclose(stored.vectors[0], expected, atol=2e-6)


def test_views_are_part_of_the_digest(members, tmp_path):
    output = str(tmp_path / "model")
    texts = ["plain", "flips", "flips:normalize=True"]
    digests = {
        savedmodel.save(members[:1], [SQUARE], output, views=[text])["model_digest"]
        for text in texts
    }
    assert len(digests) == 3
    told = json.loads((tmp_path / "model" / "waymark.json").read_text())
    assert told["views"] == ["flips:normalize=True"]


@pytest.mark.parametrize("text", TEXTS)
def test_views_compile_with_xla(text, members):
    """Static shapes: the compiled outputs are those of the graph."""
    model, views = load_model(members[0]), parse(text)
    network = keras.Model(model.input, model.get_layer("bottleneck").output)
    rng = np.random.default_rng(0)
    images = [
        tf.constant(rng.integers(0, 256, (2, square.size, square.size, 3), np.uint8))
        for square in views.squares(SQUARE)
    ]

    def run(*images):
        return views.combined(views.outputs(network, images, 16))

    compiled = tf.function(run, jit_compile=True)(*images)
    assert compiled.shape == (2, 16)
    np.testing.assert_allclose(compiled, tf.function(run)(*images), atol=1e-5)


@pytest.mark.parametrize("text", TEXTS)
def test_text_and_back(text):
    views = parse(text)
    assert parse(str(views)) == views


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mirror", "expected views among plain, flips"),
        ("flips:combine=sum", "expected combine among"),
        ("flips:normalize=yes", "flips:normalize: expected bool. Received: 'yes'"),
        ("flips:size=3", "expected flips with each of combine, normalize"),
        ("ten_crop", "expected crop for ten_crop"),
        ("plain:crop=20", "expected plain with each of"),
        ("ten_crop:crop=0", "a crop of at least 1 pixel. Received: 0"),
        ("multi_scale:scales=(0,1)", "expected scales above 0"),
        ("multi_scale:scales=()", "expected scales above 0"),
        ("multi_scale:scales=1", "multi_scale:scales: expected"),
    ],
)
def test_wrong_texts(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)


@pytest.mark.parametrize("name", recipes.NAMES)
def test_views_of_the_recipes(name):
    """They are read at the export, days after the training has begun: here they are read now."""
    recipe = recipes.load(name)
    for member, stage in savedmodel.members_of(recipe, None, None):
        square = savedmodel.square_of(member, stage, None, None)
        assert parse(member.model.views).squares(square)


def test_crop_larger_than_the_image():
    with pytest.raises(ValueError, match=r"at most the 32 pixels.*Received: 33"):
        parse("ten_crop:crop=33").squares(SQUARE)
