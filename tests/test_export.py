"""SavedModels and embeddings against the network that was trained, called by hand."""

import csv
import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from export import embed as embedding
from export import savedmodel
from input_pipeline import ops, schema
from models.builder import build_model, embedding_model
from models.storage import load_model
from retrieval import embeddings

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


def test_info_names_what_decides_the_descriptor(exported, members, tmp_path):
    info = json.loads((exported / "single" / "waymark.json").read_text())
    assert (info["dimension"], info["weights"]) == (16, [1.0])
    assert info["squares"] == [{"size": 32, "antialias": False}]
    same = savedmodel.save(members[:1], SQUARES[:1], str(tmp_path / "a"))
    assert same["model_digest"] == info["model_digest"]
    for other in ((members[1:], SQUARES[:1]), (members[:1], SQUARES[1:])):
        changed = savedmodel.save(*other, str(tmp_path / "a"))
        assert changed["model_digest"] != info["model_digest"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_ensemble_needs_a_weight_for_each_member():
    with pytest.raises(ValueError, match="2 members, weights"):
        savedmodel.Descriptor([(None, SQUARES[0])] * 2, [1.0])


def test_export_of_an_unfinished_stage(tmp_path, capsys):
    argv = ["--recipe", "tiny", "--workdir", str(tmp_path), "--output", str(tmp_path / "out")]
    assert savedmodel.main(argv) == 2
    assert "train that stage first" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def table_of(photographs):
    with open(photographs / "train.csv", newline="", encoding="utf-8") as file:
        return [(row["id"], row["path"]) for row in csv.DictReader(file)]


def test_embeddings_of_a_table(exported, members, photographs, tmp_path, capsys):
    output = str(tmp_path / "out")
    argv = ["--model", str(exported / "single"), "--table", str(photographs / "train.csv")]
    assert embedding.main([*argv, "--output", output, "--batch-size", "7"]) == 0
    assert "96 images, 0 rejected" in capsys.readouterr().out
    found = embeddings.load(output)
    rows = table_of(photographs)
    assert found.ids == tuple(image_id for image_id, _ in rows)
    encoder = embedding_model(load_model(members[0]))
    for vector, (_, path) in zip(found.vectors, rows, strict=True):
        image = ops.decode_image(tf.constant((photographs / path).read_bytes()))
        expected = encoder(SQUARES[0](image)[tf.newaxis]).numpy()[0]
        np.testing.assert_allclose(vector, expected, atol=1e-5)
    info = json.loads((exported / "single" / "waymark.json").read_text())
    assert found.manifest["model_digest"] == info["model_digest"]


def test_shards_and_files_give_the_same_embeddings(exported, photographs, shards, tmp_path):
    model = str(exported / "single")
    tables = ["--model", model, "--table", str(photographs / "train.csv")]
    assert embedding.main([*tables, "--output", str(tmp_path / "files")]) == 0
    files = embeddings.load(str(tmp_path / "files"))
    by_id = dict(zip(files.ids, files.vectors, strict=True))
    for split in ("train_clean", "validation"):
        output = str(tmp_path / split)
        argv = ["--model", model, "--data", shards, "--split", split, "--output", output]
        assert embedding.main(argv) == 0
        found = embeddings.load(output)
        assert len(found.ids) == schema.Manifest.load(shards).images(split)
        for image_id, vector in zip(found.ids, found.vectors, strict=True):
            np.testing.assert_allclose(vector, by_id[image_id], atol=1e-5)


def test_a_folder_gives_the_embeddings_of_its_files(exported, photographs, tmp_path):
    model = str(exported / "single")
    shutil.copytree(photographs, tmp_path / "in" / "deeper")
    argv = ["--model", model, "--images", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    assert embedding.main(argv) == 0
    found = embeddings.load(str(tmp_path / "out"))
    files = sorted(path.name for path in photographs.glob("*.jpg"))
    assert found.ids == tuple(f"deeper/{name}" for name in files)
    image = ops.decode_image(tf.constant((photographs / files[5]).read_bytes()))
    signature = tf.saved_model.load(model).signatures["serving_default"]
    expected = signature(input_image=image)["global_descriptor"]
    np.testing.assert_allclose(found.vectors[5], expected, atol=1e-5)


def test_ensemble_embeddings_are_stored_with_unit_length(exported, photographs, tmp_path):
    argv = ["--model", str(exported / "ensemble"), "--table", str(photographs / "train.csv")]
    assert embedding.main([*argv, "--output", str(tmp_path)]) == 0
    vectors = embeddings.load(str(tmp_path)).vectors
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors[:, 16:], axis=1), np.sqrt(0.2), atol=1e-5)


def test_bad_images_are_listed_and_the_run_goes_on(exported, photographs, tmp_path, capsys):
    shutil.copy(photographs / "0-0.jpg", tmp_path / "good.jpg")
    (tmp_path / "cut.jpg").write_bytes((photographs / "0-0.jpg").read_bytes()[:200])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("not an image")
    Image.new("1", (20_000, 9_000)).save(tmp_path / "huge.png")
    names = ["good.jpg", "cut.jpg", "empty.jpg", "text.jpg", "missing.jpg", "huge.png"]
    lines = ["id,path", *(f"{name[:-4]},{name}" for name in names)]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    argv = ["--model", str(exported / "single"), "--table", str(tmp_path / "t.csv")]
    assert embedding.main([*argv, "--output", str(tmp_path / "out")]) == 3
    assert "1 images, 5 rejected" in capsys.readouterr().out
    found = embeddings.load(str(tmp_path / "out"))
    assert (found.ids, found.manifest["rejected"]) == (("good",), 5)
    with open(tmp_path / "out" / "rejects.csv", newline="", encoding="utf-8") as file:
        reasons = {row["id"]: row["reason"] for row in csv.DictReader(file)}
    assert set(reasons) == {"cut", "empty", "text", "missing", "huge"}
    assert "pixels" in reasons["huge"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("id,file\na,a.jpg\n", "expected the columns id and path"),
        ("id,path\na,../a.jpg\n", "expected a path inside"),
        ("id,path\na,/etc/passwd\n", "expected a path inside"),
    ],
)
def test_wrong_tables_are_explained(exported, tmp_path, capsys, table, message):
    (tmp_path / "t.csv").write_text(table)
    argv = ["--model", str(exported / "single"), "--table", str(tmp_path / "t.csv")]
    assert embedding.main([*argv, "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_is_no_export(photographs, tmp_path, capsys):
    argv = ["--model", str(tmp_path), "--table", str(photographs / "train.csv")]
    assert embedding.main([*argv, "--output", str(tmp_path / "out")]) == 2
    assert "export/savedmodel.py" in capsys.readouterr().err
