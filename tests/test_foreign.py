"""Rows of TFRecord files of several formats, read back through TensorFlow as the oracle."""

import random

import pytest
import tensorflow as tf
from image_files import jpeg
from own_shards import CLASS_IDS, images, write_own

from input_pipeline import records, schema
from tfrecords_tools.readers import foreign, record_rows, tables
from tfrecords_tools.readers.example_fields import (
    BadExampleError,
    Place,
    feature_names,
    find_values,
    read_place,
)
from tfrecords_tools.readers.tables import Reject, Row

IMAGES = [jpeg(seed) for seed in range(6)]


def example(features):
    """A serialised tf.train.Example of bytes, text, integers, floats or lists of them."""
    message = tf.train.Example()
    for name, values in features.items():
        feature = message.features.feature[name]
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, float):
                feature.float_list.value.append(value)
            elif isinstance(value, int):
                feature.int64_list.value.append(value)
            else:
                data = value.encode() if isinstance(value, str) else value
                feature.bytes_list.value.append(data)
    return message.SerializeToString()


def write(path, entries):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for entry in entries:
            writer.write(entry if isinstance(entry, bytes) else example(entry))
    return str(path)


def read_image(row):
    with open(row.path, "rb") as file:
        file.seek(row.offset)
        return file.read(row.size)


def winner(number, **others):
    return {
        "_bits": IMAGES[number],
        "_class": 100 + number,
        "_id": f"{number:016x}",
        "_isClean": number % 2,
    } | others


def delf(number, **others):
    return {
        "image/height": 16,
        "image/width": 24,
        "image/colorspace": "RGB",
        "image/channels": 3,
        "image/format": "JPEG",
        "image/id": f"{number:016x}",
        "image/encoded": IMAGES[number],
        "image/class/label": 100 + number,
    } | others


def expected(number, is_clean=True):
    return (f"{number:016x}", str(100 + number), is_clean, IMAGES[number])


def read_all(*args, **options):
    rows = list(foreign.rows(*args, **options))
    return [(row.id, row.label, row.is_clean, read_image(row)) for row in rows]


def test_the_winners_shards(tmp_path):
    write(tmp_path / "train-00-3.tfrec", map(winner, range(3)))
    write(tmp_path / "train-01-2.tfrec", map(winner, (3, 4)))
    write(tmp_path / "notes.txt", [])
    assert read_all(str(tmp_path)) == [expected(n, n % 2 == 1) for n in range(5)]
    row = next(foreign.rows(str(tmp_path)))
    assert row.path == str(tmp_path / "train-00-3.tfrec")


def test_delfs_shards(tmp_path):
    write(tmp_path / "train-00000-of-00002", map(delf, range(2)))
    write(tmp_path / "train-00001-of-00002", map(delf, (2,)))
    without_label = delf(3)
    del without_label["image/class/label"]
    write(tmp_path / "test-00000-of-00001", [without_label])
    assert read_all(str(tmp_path), split="train") == [expected(n) for n in range(3)]
    assert read_all(str(tmp_path), split="test") == [(f"{3:016x}", "", True, IMAGES[3])]
    assert len(read_all(str(tmp_path))) == 4
    assert read_all(str(tmp_path / "train-00001-of-00002")) == [expected(2)]
    for split in ("validation", "trai", "train-00000"):
        with pytest.raises(ValueError, match=f"Received: '{split}', files such as test-00000-of"):
            read_all(str(tmp_path), split=split)


def test_delfs_clean_labels_become_landmark_ids(tmp_path):
    write(tmp_path / "train-00000-of-00001", map(delf, range(3)))
    (tmp_path / "relabeling.csv").write_text("new_label,old_label\n100,7\n101,203093\n")
    rows = list(foreign.rows(str(tmp_path)))
    assert [row.label for row in rows[:2]] == ["7", "203093"]
    assert rows[2] == Reject(f"{2:016x}", rows[0].path, record_rows.UNKNOWN_LABEL)


def test_our_own_shards_give_the_class_ids(tmp_path):
    write_own(tmp_path)
    oracle = [
        (image_id, CLASS_IDS[label], is_clean, encoded)
        for _, image_id, label, is_clean, _, encoded in images()
    ]
    assert read_all(str(tmp_path)) == oracle
    assert read_all(str(tmp_path), split="validation") == oracle[-2:]
    with pytest.raises(ValueError, match=r"splits \['train_clean', .* Received: 'test'"):
        read_all(str(tmp_path), split="test")


def test_our_own_index_without_labels(tmp_path):
    record = schema.encode_example(
        encoded=IMAGES[0], image_format="jpeg", height=16, width=24,
        label=schema.NO_LABEL, image_id="a", is_clean=True,
    )  # fmt: skip
    path = tmp_path / "index-00000-of-00001.tfrec"
    write(path, [record])
    shard = schema.Shard(path.name, 1, path.stat().st_size, records.file_crc32c(str(path)))
    schema.Manifest(str(tmp_path), {"index": (shard,)}, (), (), (), {}, 0, "").save()
    assert read_all(str(tmp_path)) == [("a", "", True, IMAGES[0])]


def test_named_features(tmp_path):
    entries = [{"jpg": IMAGES[0], "cls": " red shoe "}, {"jpg": IMAGES[1], "cls": b"\xff"}]
    write(tmp_path / "my shop.tfrecord", entries)
    with pytest.raises(ValueError, match=r"shop.tfrecord: expected .*_bits, .*\['cls', 'jpg'\]"):
        read_all(str(tmp_path))
    named = foreign.Features(image="jpg", id=None, label="cls")
    rows = list(foreign.rows(str(tmp_path), features=named))
    assert (rows[0].id, rows[0].label) == ("my_shop.tfrecord-0", "red shoe")
    assert read_image(rows[0]) == IMAGES[0]
    assert rows[1].reason == record_rows.BAD_FEATURE


def test_imagenets_shards_in_a_bucket(tmp_path):
    entry = {"image/encoded": IMAGES[0], "image/class/label": 7, "image/filename": "n01_1.JPEG"}
    local = write(tmp_path / "a.tfrecord", [entry])
    tf.io.gfile.makedirs("ram://foreign")
    tf.io.gfile.copy(local, "ram://foreign/train-00000-of-01024", overwrite=True)
    (row,) = foreign.rows("ram://foreign")
    assert (row.id, row.label, row.path) == (
        "n01_1.JPEG",
        "7",
        "ram://foreign/train-00000-of-01024",
    )
    with tf.io.gfile.GFile(row.path, "rb") as file:
        file.seek(row.offset)
        assert file.read(row.size) == IMAGES[0]


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ({"_bits": b""}, record_rows.NO_IMAGE),
        ({"_bits": 7}, record_rows.NO_IMAGE),
        ({"_bits": None}, record_rows.NO_IMAGE),
        ({"_bits": [IMAGES[0], IMAGES[1]]}, record_rows.BAD_FEATURE),
        ({"_bits": []}, record_rows.BAD_FEATURE),
        ({"_id": None}, tables.NO_ID),
        ({"_id": "  "}, tables.NO_ID),
        ({"_id": "a b"}, tables.WHITE_SPACE),
        ({"_id": b"\xff"}, record_rows.BAD_FEATURE),
        ({"_class": [1, 2]}, record_rows.BAD_FEATURE),
        ({"_class": 0.5}, record_rows.BAD_FEATURE),
        ({"_isClean": 2}, tables.BAD_CLEAN),
        ({"_isClean": "yes"}, tables.BAD_CLEAN),
    ],
)
def test_records_that_make_no_row(tmp_path, others, reason):
    entry = {key: value for key, value in winner(1, **others).items() if value is not None}
    path = write(tmp_path / "a.tfrec", [winner(0), entry, b"no example", winner(2)])
    first, bad, none, last = foreign.rows(str(tmp_path))
    assert isinstance(first, Row)
    assert isinstance(last, Row)
    assert (bad.path, bad.reason) == (path, reason)
    assert none == Reject("a.tfrec-2", path, record_rows.BAD_RECORD)


def test_damaged_files(tmp_path):
    path = tmp_path / "a.tfrec"
    write(path, map(winner, range(3)))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    rows = foreign.rows(str(tmp_path))
    assert [next(rows).id, next(rows).id] == [f"{0:016x}", f"{1:016x}"]
    with pytest.raises(records.DamagedRecordError, match=r"a.tfrec: the record at byte \d+ is cut"):
        next(rows)
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match="expected a TFRecord at byte 0"):
        list(foreign.rows(str(tmp_path)))
    write(path, [b"not an example"])
    with pytest.raises(ValueError, match=r"a.tfrec: expected a tf.train.Example. .* first record"):
        list(foreign.rows(str(tmp_path)))


def test_folders_without_records(tmp_path):
    with pytest.raises(FileNotFoundError, match="with no files"):
        list(foreign.rows(str(tmp_path / "none")))
    (tmp_path / "a.csv").write_text("id\n")
    with pytest.raises(FileNotFoundError, match=r"expected a folder of TFRecord .*\['a.csv'\]"):
        list(foreign.rows(str(tmp_path)))
    write(tmp_path / "a.tfrec", [])
    with pytest.raises(ValueError, match=r"a.tfrec: expected .*Received: \[\]"):
        list(foreign.rows(str(tmp_path)))
    write(tmp_path / "b.tfrec", [winner(0)])
    assert len(read_all(str(tmp_path))) == 1


def random_features(rng):
    sizes = [0, 1, 100, 127, 128, 400, 600, 2000, 20000, 300000]
    features = {}
    for _ in range(rng.randrange(8)):
        key = "".join(rng.choices("abé/_", k=rng.choice([1, 8, 130, 600])))
        count = rng.choice([0, 1, 1, 1, 2, 300])
        kind = rng.randrange(3)
        if kind == 0:
            size = rng.choice(sizes[:6] if count == 300 else sizes)
            features[key] = [rng.randbytes(size) for _ in range(count)]
        elif kind == 1:
            features[key] = [rng.choice([0, 1, -1, 2**63 - 1, -(2**63), 300]) for _ in range(count)]
        else:
            features[key] = [0.5] * count
    return features


@pytest.mark.parametrize("seed", range(60))
def test_values_are_where_tensorflow_finds_them(tmp_path, seed):
    rng = random.Random(seed)  # noqa: S311 not for security
    features = random_features(rng)
    record = example(features)
    path = tmp_path / "a"
    path.write_bytes(b"before" + record + b"after")
    wanted = [key for key in features if rng.random() < 0.8] + ["absent"]
    with open(path, "rb") as file:
        assert feature_names(file, 6, len(record)) == sorted(features)
        values = find_values(file, 6, len(record), wanted)
        assert values.keys() == set(wanted) & features.keys()
        for key, found in values.items():
            read = [read_place(file, v) if isinstance(v, Place) else v for v in found]
            assert read == ([] if 0.5 in features[key] else features[key])


def test_other_ways_to_write_an_example(tmp_path):
    # Value before key, integers one by one, unknown fields: all of them legal.
    integers = b"\x1a\x04\x08\x05\x08\x07"
    unknown = b"\x7d\x01\x02\x03\x04" + b"\x71" + bytes(8) + b"\x68\x01"
    large = b"\x0a\xe1\x07" + b"\x0a\xde\x07" + bytes(990)
    entries = [
        b"\x12\x06" + integers + b"\x0a\x01i",
        b"\x12" + bytes([len(large) % 128 + 128, len(large) // 128]) + large + b"\x0a\x01b",
    ]
    features = unknown
    for entry in entries:
        features += b"\x0a" + bytes([len(entry) % 128 + 128, len(entry) // 128]) + entry
    record = b"\x0a" + bytes([len(features) % 128 + 128, len(features) // 128]) + features
    oracle = tf.train.Example.FromString(record).features.feature
    assert list(oracle["i"].int64_list.value) == [5, 7]
    assert list(oracle["b"].bytes_list.value) == [bytes(990)]
    (tmp_path / "a").write_bytes(record)
    with open(tmp_path / "a", "rb") as file:
        values = find_values(file, 0, len(record), ("i", "b"))
        assert values["i"] == [5, 7]
        assert [read_place(file, place) for place in values["b"]] == [bytes(990)]


def test_damage_is_an_error_and_nothing_else(tmp_path):
    record = example(winner(0))
    rng = random.Random(0)  # noqa: S311 not for security
    outcomes = set()
    for _ in range(600):
        damaged = bytearray(record[: rng.choice([len(record), rng.randrange(len(record))])])
        for _ in range(rng.randrange(3)):
            damaged[rng.randrange(len(damaged) or 1) : 1] = rng.randbytes(1)
        (tmp_path / "a").write_bytes(damaged)
        with open(tmp_path / "a", "rb") as file:
            try:
                find_values(file, 0, len(damaged), foreign.WINNER.keys)
                outcomes.add("read")
            except BadExampleError:
                outcomes.add("error")
    assert outcomes == {"read", "error"}


def test_images_are_not_read(tmp_path, monkeypatch):
    images = [bytes(300_000)] * 20
    path = write(tmp_path / "a.tfrec", [winner(0, _bits=image) for image in images])
    read = []

    class Counted:
        def __init__(self, file):
            self.file = file

        def seek(self, offset):
            self.file.seek(offset)

        def read(self, size):
            read.append(size)
            return self.file.read(size)

    with open(path, "rb") as file:
        for offset, size in records.record_spans(path):
            find_values(Counted(file), offset, size, foreign.WINNER.keys)
    assert sum(read) < 20 * 2000
