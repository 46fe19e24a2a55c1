"""Conversions of the tests, and what they leave, read back with plain tf.data."""

import csv

import tensorflow as tf

from input_pipeline import ops
from tfrecords_tools.write import write


def read_split(directory, split):
    """Every record of a split as a dictionary, through tf.data and nothing of ours but the keys."""
    paths = sorted(tf.io.gfile.glob(f"{directory}/{split}-*.tfrec"))
    records = []
    for record in tf.data.TFRecordDataset(paths):
        parsed = tf.io.parse_single_example(record, dict(ops.FEATURES))
        records.append({key.removeprefix("image/"): parsed[key].numpy() for key in parsed})
    return records


def shard_bytes(directory):
    return {path.name: path.read_bytes() for path in directory.glob("*.tfrec")}


def read_rejects(directory):
    with open(directory / "rejects.csv", newline="", encoding="utf-8") as file:
        return {row["id"]: row["reason"] for row in csv.DictReader(file)}


def read_reject_paths(directory):
    with open(directory / "rejects.csv", newline="", encoding="utf-8") as file:
        return {row["id"]: row["path"] for row in csv.DictReader(file)}


def folder_bytes(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def quiet(output, table=None, folder=None, **options):
    source = f"table:{table}" if table else f"folder:{folder}"
    return write(str(output), stream=None, **{"sources": [source], **options})
