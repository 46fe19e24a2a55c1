"""The data directory: TFRecord features, shard names and `manifest.json`.

The reader owns the format: `tfrecords_tools.write` imports this module. Paths are strings and go
through `tf.io.gfile`, so that a directory may be `gs://bucket/data`.
"""

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

ENCODED = "image/encoded"
FORMAT = "image/format"
HEIGHT = "image/height"
WIDTH = "image/width"
LABEL = "image/class/label"
ID = "image/id"
IS_CLEAN = "image/is_clean"

# The specification of tf.io.parse_single_example: scalars only, none may be absent.
FEATURES: Mapping[str, tf.io.FixedLenFeature] = {
    ENCODED: tf.io.FixedLenFeature([], tf.string),
    FORMAT: tf.io.FixedLenFeature([], tf.string),
    HEIGHT: tf.io.FixedLenFeature([], tf.int64),
    WIDTH: tf.io.FixedLenFeature([], tf.int64),
    LABEL: tf.io.FixedLenFeature([], tf.int64),
    ID: tf.io.FixedLenFeature([], tf.string),
    IS_CLEAN: tf.io.FixedLenFeature([], tf.int64),
}
IMAGE_FORMATS = ("jpeg", "png")
MAX_PIXELS = 89_478_485  # width × height; Pillow's own threshold of a suspicious image
NO_LABEL = -1

TRAIN_CLEAN = "train_clean"
TRAIN_NOISY = "train_noisy"
VALIDATION = "validation"

MANIFEST_NAME = "manifest.json"
MANIFEST_FORMAT = "waymark-tfrecords"
MANIFEST_VERSION = 1

_SHARD_NAME = re.compile(r"([a-z0-9_]+)-(\d{5,})-of-(\d{5,})-(\d+)\.tfrec")
_SPLIT_NAME = re.compile(r"[a-z0-9_]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def encode_example(
    *,
    encoded: bytes,
    image_format: str,
    height: int,
    width: int,
    label: int,
    image_id: str,
    is_clean: bool,
) -> bytes:
    """Serialises one image as a `tf.train.Example`; the same arguments give the same bytes.

    `label` is the total label, the image's position in `Manifest.class_ids`, or `NO_LABEL`.
    """
    if image_format not in IMAGE_FORMATS:
        raise ValueError(f"expected an image format of {IMAGE_FORMATS}. Received: {image_format!r}")
    example = tf.train.Example()
    feature = example.features.feature
    feature[ENCODED].bytes_list.value.append(encoded)
    feature[FORMAT].bytes_list.value.append(image_format.encode())
    feature[HEIGHT].int64_list.value.append(height)
    feature[WIDTH].int64_list.value.append(width)
    feature[LABEL].int64_list.value.append(label)
    feature[ID].bytes_list.value.append(image_id.encode())
    feature[IS_CLEAN].int64_list.value.append(int(is_clean))
    # The features are a map, whose order is otherwise left to the protocol buffer library.
    return example.SerializeToString(deterministic=True)


def check_split_name(split: str) -> None:
    """Raises ValueError unless `split` may begin a shard's name."""
    if not _SPLIT_NAME.fullmatch(split):
        raise ValueError(f"expected a split name of a-z, 0-9 and _. Received: {split!r}")


def shard_name(split: str, shard: int, shards: int, images: int) -> str:
    """Returns the file name of one shard, such as `validation-00000-of-00002-500.tfrec`."""
    check_split_name(split)
    return f"{split}-{shard:05d}-of-{shards:05d}-{images}.tfrec"


@dataclasses.dataclass(frozen=True)
class Shard:
    """One TFRecord file: its name inside the data directory, its contents and its checksum."""

    name: str
    images: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a data directory holds; the contents of its `manifest.json`.

    Attributes:
        directory: where the shards lie; not part of the file.
        splits: for each split its shards, in the order of their numbers.
        class_ids: original label ids as text; the position is the total label.
        clean_counts: images per class in `train_clean`.
        noisy_counts: images per class in `train_noisy`.
        options: the writer's options, for the record.
        rejected: table rows that were left out.
        plan: digest of the table, the options and the inspected images.

    Raises ValueError when the parts contradict each other.
    """

    directory: str
    splits: Mapping[str, tuple[Shard, ...]]
    class_ids: tuple[str, ...]
    clean_counts: tuple[int, ...]
    noisy_counts: tuple[int, ...]
    options: Mapping[str, Any]
    rejected: int
    plan: str

    def __post_init__(self) -> None:
        for split, shards in self.splits.items():
            _check_shards(split, shards)
        if len(set(self.class_ids)) != len(self.class_ids):
            raise ValueError("expected different class_ids. Received a repeated one")
        for split, counts in ((TRAIN_CLEAN, self.clean_counts), (TRAIN_NOISY, self.noisy_counts)):
            _check_counts(split, counts, len(self.class_ids), self.images(split))

    @property
    def num_classes(self) -> int:
        """Number of total labels."""
        return len(self.class_ids)

    @property
    def num_clean_classes(self) -> int:
        """Number of classes with at least one image in `train_clean`."""
        return sum(count > 0 for count in self.clean_counts)

    def clean_labels(self) -> np.ndarray:
        """Returns int64 `[num_classes]`: the clean label of each total label, -1 where none.

        The clean label of a class is its rank among the classes with clean training images.
        """
        is_clean = np.asarray(self.clean_counts, dtype=np.int64) > 0
        return np.where(is_clean, np.cumsum(is_clean) - 1, NO_LABEL).astype(np.int64)

    def images(self, *splits: str) -> int:
        """Returns the number of images in `splits`; a split that does not exist has none."""
        return sum(shard.images for split in splits for shard in self.splits.get(split, ()))

    def shard_paths(self, *splits: str) -> list[str]:
        """Returns the paths of all shards of `splits`; KeyError for a split that is not there."""
        for split in splits:
            if split not in self.splits:
                raise KeyError(
                    f"expected one of the splits {sorted(self.splits)} of {self.directory}. "
                    f"Received: {split!r}"
                )
        return [
            os.path.join(self.directory, shard.name)
            for split in splits
            for shard in self.splits[split]
        ]

    @classmethod
    def load(cls, directory: str) -> "Manifest":
        """Reads `manifest.json` of a data directory; the shards are not opened.

        Raises FileNotFoundError where there is none, ValueError where it is not a manifest.
        """
        directory = os.fspath(directory)
        path = os.path.join(directory, MANIFEST_NAME)
        if not tf.io.gfile.exists(path):
            raise FileNotFoundError(
                f"expected a data directory with {MANIFEST_NAME}, as tfrecords_tools/write.py "
                f"writes it. Received: {directory}"
            )
        with tf.io.gfile.GFile(path) as file:
            text = file.read()
        try:
            return _from_json(directory, json.loads(text))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: a field is missing or of the wrong type: {error}") from error
        except ValueError as error:  # json.JSONDecodeError among them
            raise ValueError(f"{path}: {error}") from error

    def save(self, directory: str | None = None) -> None:
        """Writes `manifest.json` into `directory` (default: its own), replacing it atomically."""
        path = os.path.join(
            self.directory if directory is None else os.fspath(directory), MANIFEST_NAME
        )
        write_text(path, json.dumps(_to_json(self), indent=1) + "\n")


def write_text(path: str, text: str) -> None:
    """Writes a file, on a bucket too, under a temporary name and renames it."""
    with tf.io.gfile.GFile(path + ".partial", "w") as file:
        file.write(text)
    tf.io.gfile.rename(path + ".partial", path, overwrite=True)


def _check_shards(split: str, shards: Sequence[Shard]) -> None:
    for position, shard in enumerate(shards):
        match = _SHARD_NAME.fullmatch(shard.name)
        expected = (split, position, len(shards), shard.images)
        received = match and (match[1], int(match[2]), int(match[3]), int(match[4]))
        if received != expected:
            raise ValueError(f"expected shard {shard_name(*expected)}. Received: {shard.name!r}")
        if not _SHA256.fullmatch(shard.sha256):
            raise ValueError(f"{shard.name}: expected a sha256. Received: {shard.sha256!r}")


def _check_counts(split: str, counts: Sequence[int], classes: int, images: int) -> None:
    if len(counts) != classes or any(count < 0 for count in counts):
        raise ValueError(
            f"expected {classes} counts of {split}, none negative, one for each class id. "
            f"Received: {len(counts)} counts"
        )
    if sum(counts) != images:
        raise ValueError(
            f"expected counts that add up to the {images} images of {split}. "
            f"Received: {sum(counts)}"
        )


def _from_json(directory: str, fields: dict[str, Any]) -> Manifest:
    received = (fields["format"], fields["version"])
    if received != (MANIFEST_FORMAT, MANIFEST_VERSION):
        raise ValueError(
            f"expected format {MANIFEST_FORMAT!r} version {MANIFEST_VERSION}. Received: {received}"
        )
    splits = {}
    for split, entry in fields["splits"].items():
        splits[split] = tuple(Shard(**shard) for shard in entry["shards"])
        images = sum(shard.images for shard in splits[split])
        if entry["images"] != images:
            raise ValueError(
                f"expected {entry['images']} images in {split}. Received: shards with {images}"
            )
    return Manifest(
        directory=directory,
        splits=splits,
        class_ids=tuple(str(class_id) for class_id in fields["class_ids"]),
        clean_counts=tuple(int(count) for count in fields["clean_counts"]),
        noisy_counts=tuple(int(count) for count in fields["noisy_counts"]),
        options=dict(fields["options"]),
        rejected=int(fields["rejected"]),
        plan=str(fields["plan"]),
    )


def _to_json(manifest: Manifest) -> dict[str, Any]:
    splits = {
        split: {
            "images": manifest.images(split),
            "shards": [dataclasses.asdict(shard) for shard in shards],
        }
        for split, shards in manifest.splits.items()
    }
    return {
        "format": MANIFEST_FORMAT,
        "version": MANIFEST_VERSION,
        "splits": splits,
        "class_ids": manifest.class_ids,
        "clean_counts": manifest.clean_counts,
        "noisy_counts": manifest.noisy_counts,
        "options": dict(manifest.options),
        "rejected": manifest.rejected,
        "plan": manifest.plan,
    }
