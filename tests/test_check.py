"""Every kind of damage to a data directory is found and named."""

import dataclasses
import subprocess
import sys

import google_crc32c
import pytest
import tensorflow as tf
from conftest import ROOT
from image_files import encode, jpeg, picture, write_photos, write_table

from input_pipeline import schema
from tfrecords_tools import check as check_module
from tfrecords_tools.check import check, main
from tfrecords_tools.write import write

CLEAN = "train_clean-00000-of-00002.tfrec"
CLEAN_2 = "train_clean-00001-of-00002.tfrec"
VALIDATION = "validation-00000-of-00001.tfrec"
INDEX = "index-00000-of-00001.tfrec"


@pytest.fixture
def data(tmp_path):
    """3 classes: 12 clean images in 2 shards, 4 noisy ones, 3 for validation."""
    rows = [(*row, int(number < 15)) for number, row in enumerate(write_photos(tmp_path, 19))]
    table = write_table(tmp_path / "t.csv", rows, ("id", "label", "path", "is_clean"))
    write(str(tmp_path / "data"), sources=[f"table:{table}"], images_per_shard=6, stream=None)
    return tmp_path / "data"


def problems(directory, **options):
    return check(str(directory), stream=None, **options).problems


def read_records(path):
    return [record.numpy() for record in tf.data.TFRecordDataset(str(path))]


def write_records(directory, name, records):
    """Replaces a shard and makes the manifest agree with its size and checksum."""
    path = directory / name
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    manifest = schema.Manifest.load(str(directory))
    data = path.read_bytes()
    size, digest = len(data), f"{google_crc32c.value(data):08x}"
    splits = {
        split: tuple(
            dataclasses.replace(shard, bytes=size, crc32c=digest) if shard.name == name else shard
            for shard in shards
        )
        for split, shards in manifest.splits.items()
    }
    dataclasses.replace(manifest, splits=splits).save()


def change_first(directory, name, **values):
    """Changes features of a shard's first record; returns what the problem must begin with."""
    records = read_records(directory / name)
    example = tf.train.Example.FromString(records[0])
    image_id = example.features.feature["image/id"].bytes_list.value[0].decode()
    for key, value in values.items():
        feature = example.features.feature["image/" + key.replace("class_", "class/")]
        kind = feature.bytes_list if isinstance(value, bytes) else feature.int64_list
        kind.value[:] = [value]
    write_records(directory, name, [example.SerializeToString(), *records[1:]])
    return f"{name}, record 0, id {image_id}: "


def test_a_good_directory(data, capsys):
    assert problems(data) == []
    assert main([str(data), "--decode"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["split", "shards", "images", "MB", "classes"],
        ["train_clean", "2", "12", "0.0", "3"],
        ["train_noisy", "1", "4", "0.0", "3"],
        ["validation", "1", "3", "0.0", "3"],
        ["all", "is", "well"],
    ]


def test_a_missing_shard(data, capsys):
    (data / CLEAN).unlink()
    assert main([str(data)]) == 1
    output = capsys.readouterr().out
    assert f"wrong: {CLEAN}: the file is missing" in output
    assert f"wrong: {CLEAN}: expected 6 records. Received: 0" in output


def test_a_changed_byte(data):
    content = bytearray((data / CLEAN).read_bytes())
    content[len(content) // 2] ^= 1
    (data / CLEAN).write_bytes(content)
    found = problems(data)
    assert found[0].startswith(f"{CLEAN}: expected CRC-32C ")
    assert found[1] == f"{CLEAN}: a record is cut off or fails its checksum"


def test_a_shard_cut_within_a_record(data):
    content = (data / CLEAN).read_bytes()
    (data / CLEAN).write_bytes(content[:-10])
    assert problems(data)[:3] == [
        f"{CLEAN}: expected {len(content)} bytes. Received: {len(content) - 10}",
        f"{CLEAN}: a record is cut off or fails its checksum",
        f"{CLEAN}: expected 6 records. Received: 5",
    ]


def test_a_shard_cut_between_records(data):
    write_records(data, CLEAN, read_records(data / CLEAN)[:-1])
    found = problems(data)
    assert found[0] == f"{CLEAN}: expected 6 records. Received: 5"
    assert len(found) == 2  # and the count of one class


def test_one_shard_in_the_place_of_another(data):
    write_records(data, CLEAN, read_records(data / CLEAN_2))
    found = problems(data)
    assert sum("the id was in an earlier record" in problem for problem in found) == 6


def test_an_id_in_two_splits(data):
    records = read_records(data / VALIDATION)
    write_records(data, VALIDATION, [read_records(data / CLEAN)[0], *records[1:]])
    (problem,) = problems(data)
    assert problem.startswith(f"{VALIDATION}, record 0, id id")
    assert problem.endswith(": the id was in an earlier record")


def test_a_label_out_of_range(data):
    where = change_first(data, VALIDATION, class_label=3)
    assert problems(data) == [f"{where}expected a label from 0 to 2. Received: 3"]
    where = change_first(data, VALIDATION, class_label=-1)
    assert problems(data) == [f"{where}expected a label from 0 to 2. Received: -1"]


def test_a_label_of_another_class(data):
    example = tf.train.Example.FromString(read_records(data / CLEAN)[0])
    label = example.features.feature["image/class/label"].int64_list.value[0]
    other = (label + 1) % 3
    change_first(data, CLEAN, class_label=other)
    expected = {
        f"train_clean: expected 4 images of label {label} (class {10 * label}). Received: 3",
        f"train_clean: expected 4 images of label {other} (class {10 * other}). Received: 5",
    }
    assert set(problems(data)) == expected


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (CLEAN, 0, "(1,)"),
        (VALIDATION, 0, "(1,)"),
        ("train_noisy-00000-of-00001.tfrec", 1, "(0,)"),
    ],
)
def test_is_clean_belongs_to_the_split(data, name, value, expected):
    where = change_first(data, name, is_clean=value)
    assert problems(data) == [f"{where}expected is_clean in {expected}. Received: {value}"]


def test_a_wrong_format(data):
    where = change_first(data, CLEAN, format=b"gif")
    expected = f"{where}expected a format of ('jpeg', 'png'). Received: 'gif'"
    assert problems(data) == [expected]
    where = change_first(data, CLEAN, format=b"png")
    (problem,) = problems(data)
    assert problem.startswith(f"{where}expected a png file. Received: ")


def test_an_image_that_tensorflow_cannot_decode(data):
    where = change_first(data, CLEAN, encoded=jpeg(3)[:-40])
    assert problems(data) == []
    assert problems(data, decode=True) == [f"{where}TensorFlow cannot decode the image"]


def test_a_size_that_is_not_the_images(data):
    where = change_first(data, CLEAN, width=0)
    received = "expected a height and a width of at least 1. Received: (16, 0)"
    assert problems(data) == [where + received]
    change_first(data, CLEAN, width=24, encoded=encode(picture(1, (25, 16)), "JPEG"))
    expected = f"{where}expected an image of (height, width) (16, 24). Received: (16, 25)"
    assert problems(data, decode=True) == [expected]


@pytest.mark.parametrize("key", sorted(schema.FEATURES))
def test_a_missing_feature(data, key):
    first, *others = read_records(data / VALIDATION)
    example = tf.train.Example.FromString(first)
    del example.features.feature[key]
    write_records(data, VALIDATION, [example.SerializeToString(), *others])
    kind = "text" if schema.FEATURES[key] is bytes else "integer"
    assert problems(data) == [
        f"{VALIDATION}, record 0: {key}: expected one {kind}. Received: 0",
    ]


def test_a_feature_of_another_type_or_an_empty_id(data):
    first, *others = read_records(data / VALIDATION)
    example = tf.train.Example.FromString(first)
    example.features.feature["image/class/label"].float_list.value[:] = [1.0]
    write_records(data, VALIDATION, [example.SerializeToString(), *others])
    expected = f"{VALIDATION}, record 0: image/class/label: expected one integer. Received: 0"
    assert problems(data) == [expected]
    write_records(data, VALIDATION, [first, *others])
    change_first(data, VALIDATION, id=b"")
    assert problems(data) == [f"{VALIDATION}, record 0: expected an id. Received: b''"]


def test_a_record_that_is_no_example(data):
    others = read_records(data / VALIDATION)[1:]
    write_records(data, VALIDATION, [b"\xff\xff\xff", *others])
    assert problems(data) == [f"{VALIDATION}, record 0: not a tf.train.Example"]


def test_files_that_do_not_belong(data):
    (data / "train_clean-00000-of-00001.tfrec").write_bytes(b"")
    (data / (CLEAN + ".partial")).write_bytes(b"")
    assert problems(data) == [
        "train_clean-00000-of-00001.tfrec: not in the manifest",
        f"{CLEAN}.partial: not in the manifest",
    ]


def test_labels_of_an_index_may_be_absent(tmp_path):
    rows = [(image_id, path) for image_id, _, path in write_photos(tmp_path, 1)]
    table = write_table(tmp_path / "t.csv", rows, ("id", "path"))
    write(str(tmp_path / "data"), sources=[f"table:{table}"], split="index", stream=None)
    assert problems(tmp_path / "data") == []
    where = change_first(tmp_path / "data", INDEX, class_label=0)
    expected = f"{where}expected a label from -1 to -1. Received: 0"
    assert problems(tmp_path / "data") == [expected]


def test_a_long_list_is_cut(data, capsys):
    for path in range(60):
        (data / f"extra-{path}.tfrec").write_bytes(b"")
    assert main([str(data)]) == 1
    output = capsys.readouterr().out
    assert output.count("wrong: ") == 50
    assert output.endswith("and 10 more\n60 problems\n")


def test_no_manifest_and_a_broken_one(data, capsys):
    assert main([str(data / "nowhere")]) == 2
    assert "expected a data directory with manifest.json" in capsys.readouterr().err
    (data / "manifest.json").write_text("{")
    assert main([str(data)]) == 1
    assert "manifest.json: " in capsys.readouterr().err


def test_processes_find_the_same_in_the_same_order(data, monkeypatch):
    write_records(data, CLEAN, read_records(data / CLEAN_2))
    change_first(data, VALIDATION, class_label=7)
    alone = problems(data, workers=1)
    monkeypatch.setattr(check_module, "_IMAGES_PER_WORKER", 5)
    assert problems(data, workers=3) == alone
    assert len(alone) == 7


def test_problems_without_end_are_counted(data, monkeypatch, capsys):
    records = [record for name in (CLEAN, CLEAN_2) for record in read_records(data / name)]
    write_records(data, VALIDATION, [b"\xff\xff\xff"] * 20 + records)
    monkeypatch.setattr(check_module, "_KEPT_PROBLEMS", 25)
    report = check(str(data), stream=None)
    # 20 that are no examples, one wrong number, 12 repeated ids.
    assert (len(report.problems), report.more) == (25, 8)
    assert report.problems[20] == f"{VALIDATION}: expected 3 records. Received: 32"
    assert report.problems[24].startswith(f"{VALIDATION}, record 23, id id")
    write_records(data, VALIDATION, [b"\xff\xff\xff"] * 90)
    assert main([str(data)]) == 1
    assert capsys.readouterr().out.endswith("and 41 more\n91 problems\n")


def test_ids_that_repeat_within_a_shard(data):
    first, *others = read_records(data / VALIDATION)
    write_records(data, VALIDATION, [first, first, others[0]])
    found = problems(data)
    image_id = tf.train.Example.FromString(first).features.feature["image/id"].bytes_list.value[0]
    where = f"{VALIDATION}, record 1, id {image_id.decode()}: "
    assert found == [f"{where}the id was in an earlier record"]


def test_tensorflow_is_loaded_to_decode_only(data):
    program = (
        "import sys; from tfrecords_tools import check; "
        "assert check.main(sys.argv[1:]) == 0; assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(data)], cwd=ROOT, check=True)
