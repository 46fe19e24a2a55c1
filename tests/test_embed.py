"""Embeddings of images against the network called by hand, and what is said of bad ones."""

import csv
import shutil

import numpy as np
import pytest
import tensorflow as tf
from networks import SQUARES, run, save_members, save_model
from PIL import Image

from export import device, parts, savedmodel
from export import embed as command
from export.embed import embed
from export.images import Folder, Shards, Tables, images_in, places_of
from input_pipeline import ops, schema
from models.builder import embedding_model
from models.storage import load_model
from retrieval import embeddings


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """Paths of two networks."""
    return save_members(tmp_path_factory.mktemp("members"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The SavedModel of the first network."""
    return save_model(tmp_path_factory.mktemp("model"))


def by_hand(path, square, file):
    image = ops.decode_image(tf.constant(file.read_bytes()))
    return embedding_model(load_model(path))(square(image)[tf.newaxis]).numpy()[0]


def test_embeddings_of_a_table(model, members, photographs, tmp_path, capsys):
    argv = ["--model", model, "--table", str(photographs / "train.csv"), "--batch-size", "7"]
    assert command.main([*argv, "--output", str(tmp_path)]) == 0
    output = capsys.readouterr()
    assert output.out.startswith(f"embeddings: {device.describe()}\n")
    assert "96 images, 0 rejected" in output.out
    assert "embed: 96/96" in output.err
    found = embeddings.load(str(tmp_path))
    with open(photographs / "train.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert found.ids == tuple(row["id"] for row in rows)
    for row in (0, 6, 7, 95):
        expected = by_hand(members[0], SQUARES[0], photographs / rows[row]["path"])
        np.testing.assert_allclose(found.vectors[row], expected, atol=1e-5)
    assert found.manifest["model_digest"] == parts.load_info(model)["model_digest"]


def test_ensemble_embeddings_are_stored_with_unit_length(members, photographs, tmp_path):
    savedmodel.save(members, SQUARES, str(tmp_path / "model"), weights=[1.0, 0.5])
    run(str(tmp_path / "model"), photographs / "train.csv", tmp_path / "out")
    vectors = embeddings.load(str(tmp_path / "out")).vectors
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors[:, 16:], axis=1), np.sqrt(0.2), atol=1e-5)
    image = photographs / "0-0.jpg"
    pieces = [by_hand(path, square, image) for path, square in zip(members, SQUARES, strict=True)]
    expected = np.concatenate([pieces[0], 0.5 * pieces[1]]) / np.sqrt(1.25)
    np.testing.assert_allclose(vectors[0], expected, atol=1e-5)


def test_a_folder_gives_the_embeddings_of_its_files(model, members, photographs, tmp_path):
    shutil.copytree(photographs, tmp_path / "in" / "deeper")
    shutil.copy(photographs / "0-0.jpg", tmp_path / "in" / "a name.JPG")
    (tmp_path / "in" / ".hidden.jpg").write_text("no photograph")
    embed(Folder(str(tmp_path / "in")), model, str(tmp_path / "out"), stream=None)
    found = embeddings.load(str(tmp_path / "out"))
    names = sorted(path.name for path in photographs.glob("*.jpg"))
    assert found.ids == ("a_name.JPG", *(f"deeper/{name}" for name in names))
    expected = by_hand(members[0], SQUARES[0], photographs / names[5])
    np.testing.assert_allclose(found.vectors[6], expected, atol=1e-5)


def test_shards_and_files_give_the_same_embeddings(model, photographs, shards, tmp_path):
    run(model, photographs / "train.csv", tmp_path / "files")
    found = embeddings.load(str(tmp_path / "files"))
    by_id = dict(zip(found.ids, found.vectors, strict=True))
    for split in ("train_clean", "validation"):
        argv = ["--model", model, "--data", shards, "--split", split]
        argv += ["--batch-size", "8", "--images-per-part", "24"]
        assert command.main([*argv, "--output", str(tmp_path / split)]) == 0
        found = embeddings.load(str(tmp_path / split))
        assert len(found.ids) == schema.Manifest.load(shards).images(split)
        for image_id, vector in zip(found.ids, found.vectors, strict=True):
            np.testing.assert_allclose(vector, by_id[image_id], atol=1e-5)


def test_parts_of_shards_are_ranges_of_records(shards):
    manifest = schema.Manifest.load(shards)
    sizes = [shard.images for shard in manifest.splits["train_clean"]]
    source = Shards(shards, "train_clean")
    assert source.survey().images == 56 == sum(sizes)
    places = {}
    for size in (56, 24, 1):
        members = list(source.parts(size))
        assert [images_in(part) for part in members[:-1]] == [size] * (len(members) - 1)
        places[size] = [place for part in members for place in places_of(part)]
    assert places[56] == places[24] == places[1]
    assert len(places[56]) == 56
    wrong = {"records": [[manifest.shard_paths("train_clean")[0], 3, sizes[0]]]}
    with pytest.raises(ValueError, match=f"expected {sizes[0] + 3} records"):
        list(places_of(wrong))


def test_bad_images_are_listed_and_the_run_goes_on(model, photographs, tmp_path, capsys):
    shutil.copy(photographs / "0-0.jpg", tmp_path / "good.jpg")
    whole = (photographs / "0-0.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) * 9 // 10])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "folder.jpg").mkdir()
    Image.new("1", (20_000, 9_000)).save(tmp_path / "huge.png")
    names = ["good", "cut", "empty", "text", "missing", "folder"]
    lines = ["id,path", *(f"{name},{name}.jpg" for name in names), "huge,huge.png"]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    argv = ["--model", model, "--table", str(tmp_path / "t.csv")]
    assert command.main([*argv, "--output", str(tmp_path / "out")]) == 3
    assert "1 images, 6 rejected" in capsys.readouterr().out
    found = embeddings.load(str(tmp_path / "out"))
    assert (found.ids, found.manifest["rejected"]) == (("good",), 6)
    with open(tmp_path / "out" / "rejects.csv", newline="", encoding="utf-8") as file:
        reasons = {row["id"]: row["reason"] for row in csv.DictReader(file)}
    assert list(reasons) == ["cut", "empty", "text", "missing", "folder", "huge"]
    assert reasons["empty"] == reasons["text"] == parts.NOT_AN_IMAGE
    assert reasons["missing"] == "No such file or directory"
    assert reasons["huge"] == parts.TOO_MANY_PIXELS
    assert "jpeg" in reasons["cut"].lower()
    assert not any("{{" in reason or "0x" in reason for reason in reasons.values())


def test_a_descriptor_that_is_no_direction_is_rejected(model, photographs, tmp_path, monkeypatch):
    path = str(tmp_path / "part.npz")
    images = next(Tables([str(photographs / "train.csv")]).parts(7))
    digest = parts.load_info(model)["model_digest"]
    task = {"path": path, "images": images, "model": model, "model_digest": digest, "batch_size": 7}

    def describe(**batch):
        vectors = np.eye(7, 16, dtype=np.float32)
        vectors[1], vectors[2] = np.nan, 0
        return {"global_descriptor": tf.constant(vectors)}

    loaded = parts.Model(SQUARES[:1], describe, 1.0, 16)
    monkeypatch.setattr(parts, "load_model", lambda *_: loaded)
    assert parts.embed_part(task) == {"images": 7}
    ids = [image_id for image_id, _ in images["files"]]
    texts = parts.read_texts(path)
    assert texts["ids"] == [ids[0], *ids[3:]]
    assert texts["rejects"] == [
        [ids[1], "descriptor of length nan"],
        [ids[2], "descriptor of length 0"],
    ]
    np.testing.assert_array_equal(parts.read_vectors(path), np.eye(7, 16)[[0, 3, 4, 5, 6]])


def test_a_model_exported_anew_is_noticed(model):
    with pytest.raises(ValueError, match="exported anew"):
        parts.load_model(model, "0" * 64)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,file\na,a.jpg\n", "expected the columns"),
        ("", "expected the columns"),
        ("id,path\n", "expected at least one image"),
        ("id,path\na,../a.jpg\n", "row 1: expected a path inside"),
        ("id,path\na,/etc/passwd\n", "row 1: expected a path inside"),
        ("id,path\na,gs://bucket/a.jpg\n", "row 1: expected a path inside"),
        ("id,path\na\n", "expected a path"),
        ("id,path\na b,a.jpg\n", "ids without white space. Received: 'a b' (row 1, "),
        ("id,path\n,a.jpg\n", "ids without white space. Received: ''"),
        ("id,path\na,a.jpg\nb,b.jpg\na,c.jpg\n", "more than once: 'a' (row 1, /"),
        ("id,path\na,a.jpg\nb,b.jpg\na,c.jpg\n", "c.jpg)"),
        ("id,path\n" + "a,a.jpg\n" * 3 + "b,b.jpg\n" * 2, "'a' (row 1, "),
        ("id,path\n" + "\n".join(f"{i % 9},x" for i in range(18)), "and 4 more"),
    ],
)
def test_wrong_tables_are_explained_before_any_work(model, tmp_path, capsys, text, message):
    (tmp_path / "t.csv").write_text(text)
    argv = ["--model", model, "--table", str(tmp_path / "t.csv")]
    assert command.main([*argv, "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_ids_of_one_hash_are_not_taken_for_one(tmp_path, monkeypatch):
    import export.images

    monkeypatch.setattr(export.images, "hash", lambda image_id: 1, raising=False)
    (tmp_path / "t.csv").write_text("\ufeffid,path\na,a.jpg\nb,b.jpg\nc,c.jpg\n")
    source = Tables([str(tmp_path / "t.csv")])
    assert source.survey().images == 3
    (tmp_path / "u.csv").write_text("path,id\nd.jpg,b\n")
    with pytest.raises(ValueError, match=r"'b' \(row 2, .*b.jpg and row 4, .*d.jpg\)$"):
        Tables([*source.paths, str(tmp_path / "u.csv")]).survey()


def test_wrong_arguments_are_explained(model, photographs, shards, tmp_path, capsys):
    output = ["--output", str(tmp_path / "out")]
    table = ["--table", str(photographs / "train.csv")]
    for argv, message in (
        (["--model", str(tmp_path), *table], "export/savedmodel.py"),
        (["--model", model, "--table", "none.csv"], "none.csv"),
        (["--model", model, "--images", "none"], "folder of images"),
        (["--model", model, "--data", shards, "--split", "none"], "expected one of the splits"),
        (["--model", model, *table, "--batch-size", "0"], "batch_size of at least 1"),
    ):
        assert command.main([*argv, *output]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
