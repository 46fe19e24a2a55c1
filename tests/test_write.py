"""From pictures on disk to shards."""

import collections
import csv
import os
import subprocess
import sys

import google_crc32c
import pytest
import tensorflow as tf
from conftest import ROOT
from conversions import (
    folder_bytes,
    quiet,
    read_reject_paths,
    read_rejects,
    read_split,
    shard_bytes,
)
from image_files import encode, jpeg, picture, write_photos, write_table

import files
from input_pipeline import schema
from tfrecords_tools.check import check
from tfrecords_tools.conversion import steps
from tfrecords_tools.write import main


def test_shards_hold_the_files_bytes(tmp_path):
    rows = write_photos(tmp_path, 30)
    table = write_table(tmp_path / "t.csv", rows)
    summary = quiet(tmp_path / "out", table=table, images_per_shard=10)
    records = {split: read_split(tmp_path / "out", split) for split in summary.manifest.splits}
    assert {split: len(members) for split, members in records.items()} == {
        "train_clean": 27,
        "validation": 3,
    }
    found = {record["id"].decode(): record for members in records.values() for record in members}
    assert found == {
        image_id: {
            "encoded": (tmp_path / path).read_bytes(),
            "format": b"jpeg",
            "width": 24,
            "height": 16,
            "class/label": int(label) // 10,
            "id": image_id.encode(),
            "is_clean": 1,
        }
        for image_id, label, path in rows
    }
    assert [record["id"] for record in records["train_clean"]] != sorted(found)


def test_the_manifest_describes_the_shards(tmp_path):
    table = write_table(tmp_path / "t.csv", write_photos(tmp_path, 30))
    returned = quiet(tmp_path / "out", table=table, images_per_shard=10).manifest
    manifest = schema.Manifest.load(str(tmp_path / "out"))
    assert manifest == returned
    assert manifest.class_ids == ("0", "10", "20")
    assert manifest.clean_counts == (9, 9, 9)
    assert manifest.options["images_per_shard"] == 10
    shards = [shard for members in manifest.splits.values() for shard in members]
    assert [shard.name for shard in shards] == [
        "train_clean-00000-of-00003.tfrec",
        "train_clean-00001-of-00003.tfrec",
        "train_clean-00002-of-00003.tfrec",
        "validation-00000-of-00001.tfrec",
    ]
    for shard in shards:
        data = (tmp_path / "out" / shard.name).read_bytes()
        assert (len(data), f"{google_crc32c.value(data):08x}") == (shard.bytes, shard.crc32c)
    others = folder_bytes(tmp_path / "out").keys() - {shard.name for shard in shards}
    assert {"copies.csv", "manifest.json", "plan.json", "rejects.csv"} <= others
    assert not any(name.endswith((".partial", ".sqlite3", "-journal")) for name in others)


def test_clean_and_noisy_images(tmp_path):
    clean = {"id000", "id003", "id001"}
    rows = [(*row, int(row[0] in clean)) for row in write_photos(tmp_path, 9)]
    table = write_table(tmp_path / "t.csv", rows, ("id", "label", "path", "is_clean"))
    manifest = quiet(tmp_path / "out", table=table).manifest
    assert list(manifest.splits) == ["train_clean", "train_noisy"]
    assert (manifest.clean_counts, manifest.noisy_counts) == ((2, 1, 0), (1, 2, 3))
    for split, expected in (("train_clean", 1), ("train_noisy", 0)):
        records = read_split(tmp_path / "out", split)
        assert {record["is_clean"] for record in records} == {expected}
        assert len(records) == manifest.images(split)


def test_bad_rows_are_listed_and_the_rest_is_written(tmp_path, capsys):
    rows = write_photos(tmp_path, 8, classes=2)
    broken = {
        "cut": jpeg(1)[:-30],
        "empty": b"",
        "text": b"This is a text file.\n",
        "cut_png": encode(picture(1), "PNG")[:-20],
    }
    for name, data in broken.items():
        (tmp_path / f"{name}.jpg").write_bytes(data)
        rows.append((name, "77", f"{name}.jpg"))  # a class that is left without an image
    (tmp_path / "folder.jpg").mkdir()
    rows += [("gone", "0", "gone.jpg"), ("folder", "0", "folder.jpg"), rows[0]]
    rows += [("nameless", "", rows[0][2]), ("escape", "0", "/etc/hostname")]
    table = write_table(tmp_path / "t.csv", rows)
    assert main(["--table", table, "--output", str(tmp_path / "out")]) == 3
    expected = {
        "cut": "truncated",
        "empty": "zero bytes",
        "text": "not an image",
        "cut_png": "truncated",
        "gone": "missing",
        "folder": "not a file",
        "id000": "duplicate id",
        "nameless": "no label",
        "escape": "path outside the images folder",
    }
    assert read_rejects(tmp_path / "out") == expected
    paths = read_reject_paths(tmp_path / "out")
    assert paths["gone"] == str(tmp_path / "gone.jpg")  # where it was looked for
    assert paths["escape"] == "/etc/hostname"
    manifest = schema.Manifest.load(str(tmp_path / "out"))
    assert manifest.rejected == len(expected)
    assert manifest.class_ids == ("0", "10")
    splits = (read_split(tmp_path / "out", split) for split in manifest.splits)
    found = {record["id"].decode() for records in splits for record in records}
    assert found == {row[0] for row in rows[:8]}
    output = capsys.readouterr().out
    counts = collections.Counter(expected.values())
    assert all(f"{count} {reason}" in output for reason, count in counts.items())


def test_no_usable_row_is_an_error(tmp_path, capsys):
    table = write_table(tmp_path / "t.csv", [("a", "1", "a.jpg"), ("b", "", "b.jpg")])
    assert main(["--table", table, "--output", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert "expected at least one usable image" in message
    assert "2 (1 missing, 1 no label)" in message
    assert not (tmp_path / "out" / "plan.json").exists()
    assert read_rejects(tmp_path / "out") == {"a": "missing", "b": "no label"}
    (tmp_path / "a.jpg").write_bytes(jpeg(1))  # mended
    assert main(["--table", table, "--output", str(tmp_path / "out")]) == 3
    assert read_rejects(tmp_path / "out") == {"b": "no label"}


def test_processes_and_order_do_not_change_the_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "_ROWS_PER_WORKER", 8)
    rows = write_photos(tmp_path, 40)
    (tmp_path / rows[7][2]).write_bytes((tmp_path / rows[3][2]).read_bytes())  # a copy
    (tmp_path / rows[9][2]).write_bytes(jpeg(9)[:-5])
    table = write_table(tmp_path / "t.csv", rows)
    for workers in (1, 2, 4):
        quiet(tmp_path / str(workers), table=table, workers=workers, images_per_shard=7)
    expected = folder_bytes(tmp_path / "1")
    assert len(shard_bytes(tmp_path / "1")) == 7
    assert folder_bytes(tmp_path / "2") == folder_bytes(tmp_path / "4") == expected
    write_table(tmp_path / "t.csv", rows[::-1])
    quiet(tmp_path / "backwards", table=table, images_per_shard=7, workers=1)
    assert folder_bytes(tmp_path / "backwards") == expected
    quiet(tmp_path / "seed", table=table, images_per_shard=7, workers=1, seed=1)
    assert shard_bytes(tmp_path / "seed") != shard_bytes(tmp_path / "1")


def test_one_split_for_an_index(tmp_path):
    rows = [(image_id, path) for image_id, _, path in write_photos(tmp_path, 9)]
    table = write_table(tmp_path / "t.csv", rows, ("id", "path"))
    manifest = quiet(tmp_path / "out", table=table, split="index").manifest
    assert list(manifest.splits) == ["index"]
    assert manifest.class_ids == ()
    records = read_split(tmp_path / "out", "index")
    assert len(records) == 9
    assert {record["class/label"] for record in records} == {schema.NO_LABEL}


def test_some_labels_of_an_index(tmp_path):
    rows = write_photos(tmp_path, 4, classes=2)
    rows[1] = (rows[1][0], "", rows[1][2])
    table = write_table(tmp_path / "t.csv", rows)
    manifest = quiet(tmp_path / "out", table=table, split="query").manifest
    assert manifest.class_ids == ("0", "10")
    assert manifest.clean_counts == (0, 0)
    labels = {
        record["id"]: record["class/label"] for record in read_split(tmp_path / "out", "query")
    }
    assert labels == {b"id000": 0, b"id001": -1, b"id002": 0, b"id003": 1}


def test_a_tree_of_classes_and_larger_images(tmp_path):
    tree = tmp_path / "tree"
    for label in ("Bridge", "Tower"):
        (tree / label).mkdir(parents=True)
        for number, side in enumerate((20, 40, 80, 81)):
            data = encode(picture(number, (side, side // 2)), "WEBP" if number == 0 else "PNG")
            (tree / label / f"{label}{number}.img").write_bytes(data)
    summary = quiet(tmp_path / "out", folder=str(tree), max_side=40, validation="none")
    assert summary.manifest.class_ids == ("Bridge", "Tower")
    assert summary.findings.changes == {"converted": 2, "shrunk": 4}
    sizes = collections.defaultdict(set)
    for record in read_split(tmp_path / "out", "train_clean"):
        image = tf.io.decode_image(record["encoded"], channels=3, expand_animations=False)
        assert tuple(image.shape[:2]) == (record["height"], record["width"])
        sizes[record["id"][-1:]].add((record["format"], record["width"]))
    assert sizes == {
        b"0": {(b"jpeg", 20)},
        b"1": {(b"png", 40)},
        b"2": {(b"jpeg", 40)},
        b"3": {(b"jpeg", 40)},
    }
    text = str(summary)
    assert "converted            2 to JPEG" in text
    assert "shrunk               4 to JPEG" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sources": []}, "expected a table, a folder or another source"),
        ({"sources": ["t.csv"]}, r"form \[NAME=\]KIND:PLACE.* Received: 't.csv'"),
        ({"folder": "f", "images": "g"}, "images belongs to a table"),
        ({"table": "t.csv", "split": "train_clean"}, "expected a split other than"),
        ({"table": "t.csv", "split": "a/b"}, "Received: 'a/b'"),
        ({"table": "t.csv", "images_per_shard": 0}, "images_per_shard >= 1"),
        ({"table": "t.csv", "max_side": -3}, "max_side >= 1. Received: -3"),
        ({"table": "t.csv", "quality": 101}, "Received: 101"),
        ({"table": "t.csv", "workers": 0}, "workers >= 1"),
        ({"table": "t.csv", "validation": "half"}, "Received: 'half'"),
    ],
)
def test_wrong_options(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        quiet(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_wrong_arguments_end_with_2(tmp_path, capsys):
    assert main(["--table", str(tmp_path / "none.csv"), "--output", str(tmp_path / "out")]) == 2
    assert "none.csv, which does not exist" in capsys.readouterr().err
    table = write_table(tmp_path / "t.csv", [("a", "1", "a.jpg")])
    command = ["--table", table, "--output", str(tmp_path / "out"), "--label-column", "class"]
    assert main(command) == 2
    assert "['class']" in capsys.readouterr().err
    with pytest.raises(SystemExit) as raised:
        main(["--table", table])
    assert raised.value.code == 2


def test_real_images(shared, tmp_path):
    folder = shared / "data" / "omniglot_small"
    manifest = quiet(tmp_path / "out", table=str(folder / "train.csv")).manifest
    with open(folder / "train.csv", newline="", encoding="utf-8") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert manifest.num_classes == manifest.num_clean_classes == 136
    assert manifest.images("validation") == 136
    assert manifest.images("train_clean") == 2720 - 136
    validation = read_split(tmp_path / "out", "validation")
    assert sorted(record["class/label"] for record in validation) == list(range(136))
    for record in validation:
        row = rows[record["id"].decode()]
        assert record["encoded"] == (folder / row["path"]).read_bytes()
        assert manifest.class_ids[record["class/label"]] == row["label"]
        assert (record["format"], record["width"], record["height"]) == (b"png", 105, 105)


def test_several_sources_become_one_set(tmp_path):
    rows = write_photos(tmp_path / "a", 6, classes=2)
    table = write_table(tmp_path / "a" / "t.csv", rows)
    for number in range(3):
        (tmp_path / "b" / "10").mkdir(parents=True, exist_ok=True)
        (tmp_path / "b" / "10" / f"id00{number}.jpg").write_bytes(jpeg(50 + number))
    command = ["--from", f"folder:{tmp_path}/b", "shop=table:" + table, "--table", table]
    assert main([*command, "--output", str(tmp_path / "out"), "--validation", "none"]) == 0
    manifest = schema.Manifest.load(str(tmp_path / "out"))
    assert manifest.class_ids == ("0", "10", "shop:0", "shop:10")
    assert manifest.clean_counts == (3, 6, 3, 3)
    ids = {record["id"].decode() for record in read_split(tmp_path / "out", "train_clean")}
    plain = {row[0] for row in rows}
    assert ids == plain | {f"shop:{name}" for name in plain} | {f"10/id00{n}" for n in range(3)}


def test_rows_without_images_are_quick(tmp_path, capsys):
    table = write_table(tmp_path / "t.csv", ((f"{n}", n % 99, f"{n}.jpg") for n in range(20000)))
    command = ["--table", table, "--output", str(tmp_path / "out"), "--workers", "1"]
    start = os.times().user
    assert main(command) == 1
    assert os.times().user - start < 10
    assert "20000 (20000 missing)" in capsys.readouterr().err
    assert not (tmp_path / "out" / "catalogue.sqlite3").exists()
    assert len(read_rejects(tmp_path / "out")) == 20000


def test_tensorflow_is_not_loaded(tmp_path):
    table = write_table(tmp_path / "t.csv", write_photos(tmp_path, 4))
    program = (
        "import sys; from tfrecords_tools import write; "
        "assert write.main(sys.argv[1:]) == 0; assert 'tensorflow' not in sys.modules"
    )
    command = [sys.executable, "-c", program, "--table", table, "--output", str(tmp_path / "out")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def test_a_set_in_a_bucket(tmp_path):
    """The same shards, through TensorFlow's file systems."""
    table = write_table(tmp_path / "t.csv", write_photos(tmp_path, 9))
    remote = f"ram://{tmp_path.name}/out"
    quiet(remote, table=table, images_per_shard=4, workers=1)
    quiet(tmp_path / "out", table=table, images_per_shard=4)
    names = [path.rpartition("/")[2] for path in files.find(f"{remote}/*")]
    found = {name: files.read(f"{remote}/{name}") for name in names}
    assert found == folder_bytes(tmp_path / "out")
    assert quiet(remote, table=table, images_per_shard=4).findings is None
    assert check(remote, stream=None).problems == []


def test_images_in_a_bucket(tmp_path):
    folder = f"ram://{tmp_path.name}/photos"
    files.make_folder(f"{folder}/x")
    for number in range(5):
        files.write_bytes(f"{folder}/x/{number}.jpg", jpeg(number)[: -9 if number == 3 else None])
    summary = quiet(tmp_path / "out", folder=folder, workers=1, validation="none")
    assert summary.rejects == {"truncated": 1}
    records = {r["id"].decode(): r["encoded"] for r in read_split(tmp_path / "out", "train_clean")}
    assert records == {f"x/{number}": jpeg(number) for number in (0, 1, 2, 4)}
