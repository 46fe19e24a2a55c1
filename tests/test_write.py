"""From pictures on disk to shards; the shards are read back with plain tf.data."""

import collections
import csv
import hashlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import tensorflow as tf
from image_files import encode, jpeg, picture, write_photos, write_table

from input_pipeline import schema
from tfrecords_tools import plan
from tfrecords_tools.images import Inspection
from tfrecords_tools.plan import ConversionError
from tfrecords_tools.tables import Row
from tfrecords_tools.write import main, write


def read_split(directory, split):
    """Every record of a split as a dictionary, through tf.data and nothing of ours but the keys."""
    paths = sorted(tf.io.gfile.glob(f"{directory}/{split}-*.tfrec"))
    records = []
    for record in tf.data.TFRecordDataset(paths):
        parsed = tf.io.parse_single_example(record, dict(schema.FEATURES))
        records.append({key.removeprefix("image/"): parsed[key].numpy() for key in parsed})
    return records


def shard_bytes(directory):
    return {path.name: path.read_bytes() for path in directory.glob("*.tfrec")}


def read_rejects(directory):
    with open(directory / "rejects.csv", newline="", encoding="utf-8") as file:
        return {row["id"]: row["reason"] for row in csv.DictReader(file)}


def quiet(output, **options):
    return write(str(output), stream=None, **options)


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
        "train_clean-00000-of-00003-9.tfrec",
        "train_clean-00001-of-00003-9.tfrec",
        "train_clean-00002-of-00003-9.tfrec",
        "validation-00000-of-00001-3.tfrec",
    ]
    for shard in shards:
        data = (tmp_path / "out" / shard.name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard.bytes, shard.sha256)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        ["manifest.json", "plan.json", "rejects.csv", *(shard.name for shard in shards)]
    )


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
        "folder": "unreadable",
        "id000": "duplicate id",
        "nameless": "no label",
        "escape": "path outside the images folder",
    }
    assert read_rejects(tmp_path / "out") == expected
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
    assert "Received: 2 rejected rows (1 missing, 1 no label)" in capsys.readouterr().err
    assert read_rejects(tmp_path / "out") == {"a": "missing", "b": "no label"}
    (tmp_path / "a.jpg").write_bytes(jpeg(1))  # mended
    assert main(["--table", table, "--output", str(tmp_path / "out")]) == 3
    assert read_rejects(tmp_path / "out") == {"b": "no label"}


def test_workers_and_order_do_not_change_the_shards(tmp_path):
    rows = write_photos(tmp_path, 40)
    table = write_table(tmp_path / "t.csv", rows)
    backwards = write_table(tmp_path / "backwards.csv", rows[::-1])
    quiet(tmp_path / "a", table=table, workers=1, images_per_shard=7)
    quiet(tmp_path / "b", table=table, workers=5, images_per_shard=7)
    quiet(tmp_path / "c", table=backwards, images_per_shard=7)
    quiet(tmp_path / "d", table=table, images_per_shard=7, seed=1)
    expected = shard_bytes(tmp_path / "a")
    assert len(expected) == 7
    assert shard_bytes(tmp_path / "b") == expected
    assert shard_bytes(tmp_path / "c") == expected
    assert shard_bytes(tmp_path / "d") != expected


def test_a_complete_set_is_left_alone(tmp_path, capsys):
    table = write_table(tmp_path / "t.csv", [*write_photos(tmp_path, 6), ("x", "0", "x.jpg")])
    command = ["--table", table, "--output", str(tmp_path / "out")]
    assert main(command) == 3
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    capsys.readouterr()
    assert main([*command, "--workers", "2"]) == 3
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == times
    output = capsys.readouterr().out
    assert "nothing to do" in output
    assert "1 missing" in output


def test_missing_and_damaged_shards_are_written_again(tmp_path):
    table = write_table(tmp_path / "t.csv", write_photos(tmp_path, 40))
    out = tmp_path / "out"
    quiet(out, table=table, images_per_shard=5)
    expected, manifest = shard_bytes(out), (out / "manifest.json").read_bytes()
    gone, cut, swapped, other, *kept = sorted(expected)
    (out / gone).unlink()
    (out / cut).write_bytes(expected[cut][:-10])
    (out / swapped).write_bytes(expected[other])
    (out / (gone + ".partial")).write_bytes(b"half a shard")
    times = {name: (out / name).stat().st_mtime_ns for name in kept}
    summary = quiet(out, table=table, images_per_shard=5)
    assert (summary.written, summary.kept) == (3, len(kept) + 1)
    assert shard_bytes(out) == expected
    assert (out / "manifest.json").read_bytes() == manifest
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == times
    assert not list(out.glob("*.partial"))


def test_a_killed_run_goes_on_with_the_same_result(tmp_path):
    table = write_table(tmp_path / "t.csv", write_photos(tmp_path, 250))
    out = tmp_path / "out"
    command = [sys.executable, "tfrecords_tools/write.py", "--table", table]
    process = subprocess.Popen(
        [*command, "--output", str(out), "--images-per-shard", "1"],
        cwd=pathlib.Path(__file__).parents[1],
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and len(list(out.glob("*.tfrec"))) < 3:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    finished = len(list(out.glob("*.tfrec")))
    assert 3 <= finished < 250
    assert (out / "inspection.csv").exists()
    assert not (out / "manifest.json").exists()
    (tmp_path / "0" / "p000.jpg").rename(tmp_path / "moved.jpg")
    with pytest.raises(ConversionError, match=r"p000\.jpg: missing, though it was read before"):
        quiet(out, table=table, images_per_shard=1)
    (tmp_path / "0" / "p000.jpg").write_bytes(jpeg(999))
    with pytest.raises(ConversionError, match=r"p000\.jpg: expected the \d+ bytes that were"):
        quiet(out, table=table, images_per_shard=1)
    (tmp_path / "moved.jpg").rename(tmp_path / "0" / "p000.jpg")
    summary = quiet(out, table=table, images_per_shard=1)
    assert summary.kept >= finished
    quiet(tmp_path / "at_once", table=table, images_per_shard=1)
    assert shard_bytes(out) == shard_bytes(tmp_path / "at_once")
    assert not (out / "inspection.csv").exists()


def test_an_inspection_serves_its_own_request_only(tmp_path):
    rows = [Row("a", "1", "a.jpg", True), Row("b,c", "1", "b.jpg", True)]
    results = [Inspection("png", 3, 4, "shrunk", 99), "truncated"]
    plan.save_inspections(str(tmp_path), "this", rows, results)
    assert plan.load_inspections(str(tmp_path), "this") == results
    assert plan.load_inspections(str(tmp_path), "other") is None
    (tmp_path / "inspection.csv").write_text("")
    assert plan.load_inspections(str(tmp_path), "this") is None


def test_another_conversion_in_the_folder_is_an_error(tmp_path, capsys):
    rows = write_photos(tmp_path, 6)
    table = write_table(tmp_path / "t.csv", rows)
    out = tmp_path / "out"
    quiet(out, table=table)
    before = shard_bytes(out)
    command = ["--table", table, "--output", str(out)]
    assert main([*command, "--seed", "1"]) == 1
    assert "belongs to another conversion" in capsys.readouterr().err
    for changed in (rows[1:], [*rows[:-1], (rows[-1][0], "7", rows[-1][2])]):
        write_table(tmp_path / "t.csv", changed)
        assert main(command) == 1
    (out / "plan.json").unlink()
    assert main(command) == 1
    assert "without plan.json" in capsys.readouterr().err
    assert shard_bytes(out) == before


def test_changed_images_do_not_mix_with_finished_shards(tmp_path):
    rows = write_photos(tmp_path, 6)
    table = write_table(tmp_path / "t.csv", rows)
    quiet(tmp_path / "out", table=table, images_per_shard=1)
    expected = shard_bytes(tmp_path / "out")
    (tmp_path / "out" / min(expected)).unlink()
    photo = tmp_path / rows[0][2]
    original = photo.read_bytes()
    photo.write_bytes(jpeg(99, (30, 30)))
    with pytest.raises(ConversionError, match="that an earlier run of this command inspected"):
        quiet(tmp_path / "out", table=table, images_per_shard=1)
    photo.write_bytes(original)
    quiet(tmp_path / "out", table=table, images_per_shard=1)
    assert shard_bytes(tmp_path / "out") == expected


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
    assert summary.changes == {"converted": 2, "unchanged": 2, "shrunk": 4}
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
        ({}, "either a table or a folder"),
        ({"table": "t.csv", "folder": "f"}, "either a table or a folder"),
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
