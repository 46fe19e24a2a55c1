"""Embeddings of images: against the network called by hand, and the same after every interruption.

The networks are so small that what is tested is everything around them.
"""

import csv
import os
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from PIL import Image

import files
import jobs
from export import embed as command
from export import parts, savedmodel
from export.embed import Counts, embed
from export.images import Folder, Shards, Tables, images_in, places_of
from export.request import OtherRequestError
from input_pipeline import ops, schema
from models.builder import embedding_model
from models.storage import load_model
from retrieval import embeddings

SQUARES = (ops.Square(32), ops.Square(48, antialias=True))
RESULT = ["embeddings.npy", "ids.txt", "manifest.json", "rejects.csv"]


def save_network(path, pooling):
    inputs = keras.Input((None, None, 3))
    features = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    features = keras.layers.Conv2D(8, 3, strides=2, activation="swish")(features)
    embedding = keras.layers.Dense(16, name="bottleneck")(pooling()(features))
    keras.Model(inputs, keras.layers.Dense(5)(embedding)).save(path)


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """Paths of two networks."""
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("members")
    paths = [str(folder / f"{name}.keras") for name in ("mean", "max")]
    save_network(paths[0], keras.layers.GlobalAveragePooling2D)
    save_network(paths[1], keras.layers.GlobalMaxPooling2D)
    return paths


@pytest.fixture(scope="module")
def model(members, tmp_path_factory):
    """The SavedModel of the first network."""
    path = str(tmp_path_factory.mktemp("exported") / "single")
    savedmodel.save(members[:1], SQUARES[:1], path)
    return path


@pytest.fixture(scope="module")
def table(photographs):
    """96 good photographs and three bad files, two of them in one batch of 7."""
    folder = photographs.parent / "with bad ones"
    shutil.copytree(photographs, folder)
    with open(photographs / "train.csv", newline="", encoding="utf-8") as file:
        rows = [(row["id"], row["path"]) for row in csv.DictReader(file)]
    (folder / "empty.jpg").write_bytes(b"")
    rows[5:5] = [("empty", "empty.jpg"), ("missing", "missing.jpg")]
    (folder / "cut.jpg").write_bytes((folder / "0-0.jpg").read_bytes()[:200])
    rows[40:40] = [("cut", "cut.jpg")]
    with open(folder / "t.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "path"), *rows])
    return str(folder / "t.csv")


def run(model, table, output, **options):
    options = {"batch_size": 7, "images_per_part": 14, "stream": None, **options}
    return embed(Tables([str(table)]), model, str(output), **options)


def contents(folder):
    """The bytes of all files, and the names of the folders."""
    return {
        path.relative_to(folder).as_posix(): path.is_file() and path.read_bytes()
        for path in folder.rglob("*")
    }


def changed(folder):
    return {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


@pytest.fixture(scope="module")
def expected(model, table, tmp_path_factory):
    """The contents of the finished embeddings of `table`."""
    folder = tmp_path_factory.mktemp("expected")
    assert run(model, table, folder) == Counts(96, 3)
    assert sorted(contents(folder)) == RESULT
    return contents(folder)


def by_hand(path, square, file):
    image = ops.decode_image(tf.constant(file.read_bytes()))
    return embedding_model(load_model(path))(square(image)[tf.newaxis]).numpy()[0]


def test_embeddings_of_a_table(model, members, photographs, tmp_path, capsys):
    argv = ["--model", model, "--table", str(photographs / "train.csv"), "--batch-size", "7"]
    assert command.main([*argv, "--output", str(tmp_path)]) == 0
    output = capsys.readouterr()
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


def test_a_descriptor_that_is_no_direction_is_rejected(model, table, tmp_path, monkeypatch):
    path = str(tmp_path / "part.npz")
    images = next(Tables([table]).parts(7))
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
    assert texts["ids"] == [ids[0], ids[3], ids[4]]
    assert texts["rejects"][:2] == [
        [ids[1], "descriptor of length nan"],
        [ids[2], "descriptor of length 0"],
    ]
    np.testing.assert_array_equal(parts.read_vectors(path), np.eye(7, 16)[[0, 3, 4]])


def test_a_model_exported_anew_is_noticed(model):
    with pytest.raises(ValueError, match="exported anew"):
        parts.load_model(model, "0" * 64)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,file\na,a.jpg\n", "expected the columns id and path"),
        ("", "expected the columns id and path"),
        ("id,path\n", "expected at least one image"),
        ("id,path\na,../a.jpg\n", "line 2: expected a path inside"),
        ("id,path\na,/etc/passwd\n", "line 2: expected a path inside"),
        ("id,path\na,gs://bucket/a.jpg\n", "line 2: expected a path inside"),
        ("id,path\na\n", "line 2: too few cells"),
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


def test_the_size_of_the_parts_does_not_matter(model, table, expected, tmp_path):
    for size in (1, 49, 4096):
        run(model, table, tmp_path / str(size), images_per_part=size)
        assert contents(tmp_path / str(size)) == expected


def test_a_complete_directory_is_left_alone(model, table, expected, tmp_path, capsys):
    run(model, table, tmp_path)
    before = changed(tmp_path)
    argv = ["--model", model, "--table", table, "--output", str(tmp_path), "--batch-size", "7"]
    for more in ([], ["--overwrite"], ["--runner", "DirectRunner"]):
        assert command.main([*argv, *more]) == 3
        assert "nothing to do: 96 images, 3 rejected" in capsys.readouterr().out
    assert changed(tmp_path) == before
    (tmp_path / "ids.txt").unlink()
    assert run(model, table, tmp_path).is_new
    assert contents(tmp_path) == expected


def test_another_request_is_refused(model, table, photographs, expected, tmp_path, capsys):
    run(model, table, tmp_path)
    before = changed(tmp_path)
    other = ["--model", model, "--table", str(photographs / "train.csv")]
    other += ["--output", str(tmp_path)]
    assert command.main(other) == 1
    assert "which holds other embeddings" in capsys.readouterr().err
    with pytest.raises(OtherRequestError):
        run(model, table, tmp_path, batch_size=8)
    assert changed(tmp_path) == before
    assert command.main([*other, "--overwrite"]) == 0
    assert len(embeddings.load(str(tmp_path)).ids) == 96
    (tmp_path / "manifest.json").unlink()
    shutil.rmtree(tmp_path)
    (tmp_path / "parts").mkdir(parents=True)
    (tmp_path / "parts" / "request.json").write_text('{"request": "another"}')
    with pytest.raises(OtherRequestError):
        run(model, table, tmp_path)
    run(model, table, tmp_path, overwrite=True)
    assert contents(tmp_path) == expected


def interrupted(model, table, output, monkeypatch, name, calls):
    """Runs until the function `name` of os is called for the `calls`-th time, and stops there."""
    original, count = getattr(os, name), 0

    def stop(*args, **kwargs):
        nonlocal count
        count += 1
        if count == calls:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, name, stop)
        with pytest.raises(KeyboardInterrupt):
            run(model, table, output)


@pytest.mark.parametrize("renames", range(1, 14))
def test_stopped_before_any_renaming(model, table, expected, tmp_path, monkeypatch, renames):
    """request.json, eight parts, rejects.csv, embeddings.npy, ids.txt, manifest.json."""
    interrupted(model, table, tmp_path, monkeypatch, "replace", renames)
    (tmp_path / "embeddings.npy.partial").write_bytes(b"left by kill -9")
    written = {path: stat for path, stat in changed(tmp_path).items() if path.suffix == ".npz"}
    assert len(written) == min(renames - 2, 8) if renames > 1 else not written
    seen = []
    original = parts._save

    def save(path, *arguments):
        seen.append(path)
        original(path, *arguments)

    monkeypatch.setattr(parts, "_save", save)
    assert run(model, table, tmp_path) == Counts(96, 3)
    assert len(seen) == 8 - len(written)
    assert contents(tmp_path) == expected


def test_stopped_while_the_parts_are_removed(model, table, expected, tmp_path, monkeypatch):
    interrupted(model, table, tmp_path, monkeypatch, "unlink", 3)
    assert (tmp_path / "manifest.json").is_file()
    assert run(model, table, tmp_path) == Counts(96, 3, is_new=False)
    assert contents(tmp_path) == expected


def test_beam_gives_the_same_bytes(model, table, expected, tmp_path, capsys):
    pytest.importorskip("apache_beam")
    argv = ["--model", model, "--table", table, "--output", str(tmp_path), "--batch-size", "7"]
    argv += ["--images-per-part", "28", "--runner", "DirectRunner"]
    assert command.main(argv) == 3
    assert "96 images, 3 rejected" in capsys.readouterr().out
    assert contents(tmp_path) == expected


def test_beam_and_this_process_take_over_from_each_other(
    model, table, expected, tmp_path, monkeypatch
):
    pytest.importorskip("apache_beam")
    beam = jobs.Beam("DirectRunner")
    interrupted(model, table, tmp_path / "a", monkeypatch, "replace", 5)
    run(model, table, tmp_path / "a", beam=beam)
    assert contents(tmp_path / "a") == expected

    def fail(pipeline):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("apache_beam.Pipeline.run", fail)
        with pytest.raises(KeyboardInterrupt):
            run(model, table, tmp_path / "b", beam=beam)
    assert any((tmp_path / "b" / "tasks").iterdir())
    run(model, table, tmp_path / "b")
    assert contents(tmp_path / "b") == expected


def test_parts_are_tasks_of_a_cluster(model, table):
    pytest.importorskip("apache_beam")
    for runner in ("DataflowRunner", "FlinkRunner", "SparkRunner"):
        options = ["--project=museum-data", "--region=europe-west1"]
        options += ["--temp_location=gs://museum-data/tmp"] if runner == "DataflowRunner" else []
        beam = jobs.Beam(runner, tuple(options), "gs://museum-data/out/tasks")
        pipeline = jobs.make_pipeline(parts.embed_part, [f"{beam.folder}/a.json"], beam)
        steps = pipeline.to_runner_api().components.transforms.values()
        assert "embed_part" in {step.unique_name for step in steps}


def test_an_output_in_a_bucket(model, table, expected):
    """ram:// is TensorFlow's file system in memory; it stands for a bucket."""
    run(model, table, "ram://bucket/out", images_per_part=28)
    assert {name: files.read(f"ram://bucket/out/{name}") for name in RESULT} == expected
    assert list(files.walk("ram://bucket/out")) == [("ram://bucket/out", RESULT)]
    assert run(model, table, "ram://bucket/out") == Counts(96, 3, is_new=False)


KILLER = """
import os, pathlib, random, signal, sys, time
from export import embed
folder, argv = pathlib.Path(sys.argv[1]), sys.argv[2:]
for parts in (0, 1, 5, 10, 15, 15):
    child = os.fork()  # nothing of TensorFlow has run yet
    if child == 0:
        os._exit(embed.main(argv))
    ended = 0
    while not ended and len(list(folder.glob("parts/*.npz"))) < parts:
        time.sleep(0.001)
        ended = os.waitpid(child, os.WNOHANG)[0]
    time.sleep(random.random() / 200)
    if not ended:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    print("kept", len(list(folder.glob("parts/*.npz"))), flush=True)
"""


def test_killed_at_several_moments(model, table, expected, tmp_path):
    argv = ["--model", model, "--table", table, "--output", str(tmp_path / "out")]
    argv += ["--batch-size", "7", "--images-per-part", "7"]
    killer = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path / "out"), *argv],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert killer.returncode == 0, killer.stderr
    lines = [line.split() for line in killer.stdout.splitlines()]
    kept = [int(words[1]) for words in lines if words[0] == "kept"]
    assert len(kept) == 6
    assert 0 < kept[1] <= kept[2] < 15
    run(model, table, tmp_path / "out", images_per_part=7)
    assert contents(tmp_path / "out") == expected
