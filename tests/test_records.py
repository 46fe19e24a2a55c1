"""TFRecords and examples, byte by byte against TensorFlow."""

import pathlib

import google_crc32c
import pytest
import tensorflow as tf

from input_pipeline import records, schema

PAYLOADS = [b"", b"a", b"\0" * 1000, bytes(range(256)) * 2000]


@pytest.fixture
def written(tmp_path):
    path = str(tmp_path / "x.tfrec")
    with records.RecordWriter(path) as writer:
        for payload in PAYLOADS:
            writer.write(payload)
    return path, writer


def test_file_equals_tensorflows(written, tmp_path):
    path, writer = written
    theirs = str(tmp_path / "theirs")
    with tf.io.TFRecordWriter(theirs) as tf_writer:
        for payload in PAYLOADS:
            tf_writer.write(payload)
    data = pathlib.Path(theirs).read_bytes()
    assert pathlib.Path(path).read_bytes() == data
    assert writer.bytes == len(data)
    assert writer.crc32c == records.file_crc32c(path) == f"{google_crc32c.value(data):08x}"


def test_reads_what_was_written(written):
    path, _ = written
    assert list(records.read_records(path)) == PAYLOADS
    data = pathlib.Path(path).read_bytes()
    spans = list(records.record_spans(path))
    assert [data[start : start + size] for start, size in spans] == PAYLOADS


def test_unfinished_file_is_not_there(tmp_path):
    path = tmp_path / "x.tfrec"
    with pytest.raises(TypeError), records.RecordWriter(str(path)) as writer:
        writer.write("text")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("read", [records.read_records, records.record_spans])
@pytest.mark.parametrize("length", [5, 17, 100, -1])
def test_cut_file(written, read, length):
    path, _ = written
    data = pathlib.Path(path).read_bytes()
    pathlib.Path(path).write_bytes(data[:length])
    with pytest.raises(records.DamagedRecordError, match="cut off"):
        list(read(path))


def test_changed_payload(written):
    path, _ = written
    data = bytearray(pathlib.Path(path).read_bytes())
    data[-100] ^= 1
    pathlib.Path(path).write_bytes(data)
    with pytest.raises(records.DamagedRecordError, match="fails its checksum"):
        list(records.read_records(path))


def test_other_file(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"<html>" * 100)
    with pytest.raises(records.DamagedRecordError, match="expected a TFRecord at byte 0"):
        list(records.record_spans(str(path)))


@pytest.mark.parametrize("label", [-1, 0, 127, 128, 203_093, 2**40])
@pytest.mark.parametrize("size", [0, 100, 128, 70_000])
def test_example_equals_tensorflows(label, size):
    values = {
        schema.ENCODED: b"\xff" * size,
        schema.FORMAT: b"jpeg",
        schema.HEIGHT: 348,
        schema.WIDTH: 464,
        schema.LABEL: label,
        schema.ID: "é".encode(),
        schema.IS_CLEAN: 1,
    }
    example = tf.train.Example()
    for key, value in values.items():
        feature = example.features.feature[key]
        if isinstance(value, bytes):
            feature.bytes_list.value.append(value)
        else:
            feature.int64_list.value.append(value)
    received = schema.encode_example(
        encoded=values[schema.ENCODED],
        image_format="jpeg",
        height=348,
        width=464,
        label=label,
        image_id="é",
        is_clean=True,
    )
    assert received == example.SerializeToString(deterministic=True)
