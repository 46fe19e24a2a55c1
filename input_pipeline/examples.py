"""From serialized records to examples (image, label, weight), one for each record."""

from collections.abc import Sequence

import tensorflow as tf

from input_pipeline import ops, schema

_KEPT = (schema.LABEL, schema.IS_CLEAN, schema.ID)  # of the parsed features
_BLANK_SIDE = 16  # pixels


def prepare(
    records: tf.data.Dataset, chain: Sequence[ops.Op], *, blank_label: int = 0
) -> tf.data.Dataset:
    """Decodes each record and applies `chain` to it.

    A record that does not decode keeps its place: it becomes a black image of label 0 and weight
    0, and a line in the terminal names it. Errors of any other op end the run.

    Args:
        records: dataset of {"serialized": scalar string, …}; the rest is handed to the ops.
        chain: ops that set `label` and `weight` and bring the images to one shape.
        blank_label: any stored label that `chain` can map.

    Returns:
        Dataset of (image uint8, label int32, weight float32), in the order of `records`.
    """
    features = {
        schema.LABEL: tf.constant(blank_label, tf.int64),
        schema.IS_CLEAN: tf.constant(1, tf.int64),
        schema.ID: tf.constant(""),
        "image": tf.zeros((_BLANK_SIDE, _BLANK_SIDE, 3), tf.uint8),
        "is_readable": tf.constant(False),
    }
    blank = tf.data.Dataset.from_tensors(features)

    def example(record: ops.Features) -> tuple[tf.Tensor, ...]:
        rest = {name: value for name, value in record.items() if name != "serialized"}
        features = {**rest, **_decoded_or(blank, record["serialized"])}
        for op in chain:
            features = op(features)
        readable = features["is_readable"]
        label = tf.where(readable, features["label"], 0)
        return features["image"], label, tf.where(readable, features["weight"], 0.0)

    return records.map(example, num_parallel_calls=tf.data.AUTOTUNE)


def _decoded_or(blank: tf.data.Dataset, serialized: tf.Tensor) -> ops.Features:
    """Returns the features of a record, or those in `blank` if it cannot be parsed or decoded.

    A graph has no exceptions, but a dataset can leave out an element that fails: one of a single
    element costs 0.07 ms.
    """
    one = tf.data.Dataset.from_tensors(serialized)
    decoded = one.map(_decoded).ignore_errors()
    features = decoded.concatenate(blank).take(1).get_single_element()
    tf.cond(features["is_readable"], tf.no_op, lambda: _warn(serialized))
    return features


def _decoded(serialized: tf.Tensor) -> ops.Features:
    features = ops.decode()(ops.parse()({"serialized": serialized}))
    kept = {name: features[name] for name in (*_KEPT, "image")}
    return {**kept, "is_readable": tf.constant(True)}


def _warn(serialized: tf.Tensor) -> tf.Operation:
    one = tf.data.Dataset.from_tensors({"serialized": serialized})
    found = one.map(lambda record: ops.parse()(record)[schema.ID]).ignore_errors()
    name = found.concatenate(tf.data.Dataset.from_tensors("without a readable id")).take(1)
    return tf.print(
        "warning: an image does not decode and gets weight 0:", name.get_single_element()
    )
