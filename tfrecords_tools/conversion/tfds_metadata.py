"""Lets TensorFlow Datasets (TFDS) open a data directory: `tfds.builder_from_directory(DIR)`.

    builder = tfds.builder_from_directory("data/train")
    images = builder.as_dataset(split="train_clean", as_supervised=True)

The examples have the names of input_pipeline/schema.py: `image/encoded` is the decoded image
(uint8, height × width × 3), `image/class/label` a ClassLabel whose names are the original class
ids, -1 where an image has none.
TFDS and TensorFlow are imported by the function only; that takes seconds.
"""

import os
import tempfile
from collections.abc import Sequence
from typing import Any

import files
from input_pipeline import schema

NAME = "waymark"  # of the data set, as TFDS shows it
VERSION = "1.0.0"

_TEMPLATE = "{SPLIT}-{SHARD_X_OF_Y}.tfrec"
_DESCRIPTION = "Images as tfrecords_tools/write.py wrote them."


def write_metadata(manifest: schema.Manifest) -> list[str]:
    """Writes TFDS' files beside the shards of a data directory; returns their names.

    The manifest alone decides on their bytes. Splits without images are left out. If a class id
    has a line break, TFDS gets numbers as the names; without classes labels are integers.
    """
    import tensorflow_datasets as tfds

    # The folder is not in the files, and TFDS knows fewer kinds of buckets than TensorFlow.
    identity = tfds.core.DatasetIdentity(
        name=NAME, version=tfds.core.Version(VERSION), data_dir=".", module_name=""
    )
    features = tfds.features.FeaturesDict(_features(manifest))
    info = tfds.core.DatasetInfo(
        builder=identity,
        description=_DESCRIPTION,
        features=features,
        supervised_keys=(schema.ENCODED, schema.LABEL),
    )
    info.set_file_format("tfrecord")
    info.set_splits(tfds.core.SplitDict(_splits(manifest)))
    with tempfile.TemporaryDirectory() as folder:
        info.write_to_directory(folder)
        names = sorted(os.listdir(folder))
        for name in names:
            data = files.read(os.path.join(folder, name))
            files.write_bytes(os.path.join(manifest.directory, name), data)
    return names


def _features(manifest: schema.Manifest) -> dict[str, Any]:
    import numpy as np
    import tensorflow_datasets as tfds

    return {
        schema.ENCODED: tfds.features.Image(shape=(None, None, 3)),
        schema.FORMAT: tfds.features.Text(),
        schema.HEIGHT: tfds.features.Scalar(np.int64),
        schema.WIDTH: tfds.features.Scalar(np.int64),
        schema.LABEL: _label(manifest.class_ids),
        schema.ID: tfds.features.Text(),
        schema.IS_CLEAN: tfds.features.Scalar(np.bool_),
    }


def _label(class_ids: Sequence[str]) -> Any:
    import numpy as np
    import tensorflow_datasets as tfds

    if not class_ids:
        return tfds.features.Scalar(np.int64)
    # TFDS keeps one name per line and takes white space off its ends.
    if all(name.strip() == name and len(name.splitlines()) == 1 for name in class_ids):
        return tfds.features.ClassLabel(names=class_ids)
    return tfds.features.ClassLabel(num_classes=len(class_ids))


def _splits(manifest: schema.Manifest) -> list[Any]:
    import tensorflow_datasets as tfds

    template = tfds.core.ShardedFileTemplate(
        data_dir=".",
        template=_TEMPLATE,
        dataset_name=NAME,
        filetype_suffix="tfrecord",
    )
    return [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[shard.images for shard in shards],
            num_bytes=sum(shard.bytes for shard in shards),
            filename_template=template.replace(split=split),
        )
        for split, shards in manifest.splits.items()
        if manifest.images(split)
    ]
