"""The data directory: features, shard names and the manifest."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from input_pipeline import ops, schema

CHECKSUM = "00c0ffee"


def make_manifest(directory, **changes):
    fields = {
        "directory": str(directory),
        "splits": {
            "train_clean": (
                schema.Shard("train_clean-00000-of-00002.tfrec", 3, 300, CHECKSUM),
                schema.Shard("train_clean-00001-of-00002.tfrec", 2, 200, CHECKSUM),
            ),
            "train_noisy": (schema.Shard("train_noisy-00000-of-00001.tfrec", 4, 400, CHECKSUM),),
            "validation": (schema.Shard("validation-00000-of-00001.tfrec", 1, 100, CHECKSUM),),
        },
        "class_ids": ("2", "10", "33", "40"),
        "clean_counts": (0, 4, 0, 1),
        "noisy_counts": (2, 1, 1, 0),
        "options": {"seed": 0},
        "rejected": 7,
        "plan": CHECKSUM,
    }
    return schema.Manifest(**{**fields, **changes})


def test_example_is_parsed_by_the_specification():
    record = schema.encode_example(
        encoded=b"\xff\xd8bytes",
        image_format="jpeg",
        height=3,
        width=5,
        label=203093,
        image_id="zoë",
        is_clean=True,
    )
    parsed = tf.io.parse_single_example(record, dict(ops.FEATURES))
    values = {key: value.numpy() for key, value in parsed.items()}
    assert values == {
        "image/encoded": b"\xff\xd8bytes",
        "image/format": b"jpeg",
        "image/height": 3,
        "image/width": 5,
        "image/class/label": 203093,
        "image/id": "zoë".encode(),
        "image/is_clean": 1,
    }


def test_the_specification_has_the_types_of_the_features():
    types = {tf.string: bytes, tf.int64: int}
    assert {key: types[entry.dtype] for key, entry in ops.FEATURES.items()} == schema.FEATURES


def test_an_unknown_image_format_is_refused():
    fields = {"height": 1, "width": 1, "label": 0, "image_id": "a", "is_clean": True}
    with pytest.raises(ValueError, match=r"Received: 'gif'"):
        schema.encode_example(encoded=b"", image_format="gif", **fields)


def test_shard_name():
    assert schema.shard_name("train_clean", 7, 12) == "train_clean-00007-of-00012.tfrec"
    with pytest.raises(ValueError, match=r"Received: '\.\./x'"):
        schema.shard_name("../x", 0, 1)


def test_manifest_comes_back_as_it_was_saved(tmp_path):
    manifest = make_manifest(tmp_path)
    manifest.save(str(tmp_path))
    assert schema.Manifest.load(str(tmp_path)) == manifest
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_clean_labels_are_ranks_among_clean_classes(tmp_path):
    manifest = make_manifest(tmp_path)
    labels = manifest.clean_labels()
    assert labels.dtype == np.int64
    assert labels.tolist() == [-1, 0, -1, 1]
    assert (manifest.num_classes, manifest.num_clean_classes) == (4, 2)


def test_images_and_shard_paths(tmp_path):
    manifest = make_manifest(tmp_path)
    assert manifest.images("train_clean") == 5
    assert manifest.images("train_clean", "train_noisy", "index") == 9
    assert manifest.shard_paths("validation", "train_clean") == [
        f"{tmp_path}/validation-00000-of-00001.tfrec",
        f"{tmp_path}/train_clean-00000-of-00002.tfrec",
        f"{tmp_path}/train_clean-00001-of-00002.tfrec",
    ]
    with pytest.raises(KeyError, match="Received: 'index'"):
        manifest.shard_paths("index")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clean_counts": (0, 4, 1)}, "expected 4 counts of train_clean"),
        ({"clean_counts": (0, 4, 1, 1)}, "add up to the 5 images of train_clean. Received: 6"),
        ({"noisy_counts": (5, -1, 0, 0)}, "none negative"),
        ({"class_ids": ("2", "2", "33", "40")}, "different class_ids"),
        ({"splits": {"index": (schema.Shard("../a.tfrec", 1, 1, CHECKSUM),)}}, "Received: '../a"),
        (
            {"splits": {"index": (schema.Shard("index-00000-of-00001.tfrec", 1, 1, "x"),)}},
            "expected a CRC-32C",
        ),
    ],
)
def test_contradictions_are_errors(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        make_manifest(tmp_path, **changes)


def test_a_directory_without_manifest(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tfrecords_tools/write\.py"):
        schema.Manifest.load(str(tmp_path))


def test_a_manifest_of_another_version(tmp_path):
    make_manifest(tmp_path).save()
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace('"version": 2', '"version": 1'))
    with pytest.raises(ValueError, match=r"version 2. Received: \('waymark-tfrecords', 1\)"):
        schema.Manifest.load(str(tmp_path))


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(schema.Manifest)][1:])
def test_a_missing_field_is_named(tmp_path, field):
    make_manifest(tmp_path).save()
    path = tmp_path / "manifest.json"
    fields = json.loads(path.read_text())
    del fields[field]
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=field):
        schema.Manifest.load(str(tmp_path))


OTHER_FILES = [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100000, b'{"format": "other", "version": 2}']


@pytest.mark.parametrize("data", OTHER_FILES)
def test_another_file_is_no_manifest(tmp_path, data):
    (tmp_path / "manifest.json").write_bytes(data)
    with pytest.raises(ValueError, match=r"manifest\.json: "):
        schema.Manifest.load(str(tmp_path))
