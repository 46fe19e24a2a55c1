"""The data directory: TFRecord features, shard names and `manifest.json`.

The reader owns the format: `tfrecords_tools.write` imports this module. TensorFlow is not needed
for it. A directory may be `gs://bucket/data`.
"""

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import files

ENCODED = "image/encoded"
FORMAT = "image/format"
HEIGHT = "image/height"
WIDTH = "image/width"
LABEL = "image/class/label"
ID = "image/id"
IS_CLEAN = "image/is_clean"

# The type of the one value that each feature has; none may be absent.
FEATURES: Mapping[str, type] = {
    ENCODED: bytes,
    FORMAT: bytes,
    HEIGHT: int,
    WIDTH: int,
    LABEL: int,
    ID: bytes,
    IS_CLEAN: int,
}
IMAGE_FORMATS = ("jpeg", "png")
MAX_PIXELS = 89_478_485  # width × height; Pillow's own threshold of a suspicious image
MAX_BYTES = 6 * MAX_PIXELS  # of a file, 512 MiB: that many pixels of three times 16 bits
NO_LABEL = -1

TRAIN_CLEAN = "train_clean"
TRAIN_NOISY = "train_noisy"
VALIDATION = "validation"

MANIFEST_NAME = "manifest.json"
MANIFEST_FORMAT = "waymark-tfrecords"
MANIFEST_VERSION = 2

_SHARD_NAME = re.compile(r"([a-z0-9_]+)-(\d{5,})-of-(\d{5,})\.tfrec")
_SPLIT_NAME = re.compile(r"[a-z0-9_]{1,100}")
_CRC32C = re.compile(r"[0-9a-f]{8}")


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
    values = {
        ENCODED: encoded,
        FORMAT: image_format.encode(),
        HEIGHT: height,
        WIDTH: width,
        LABEL: label,
        ID: image_id.encode(),
        IS_CLEAN: int(is_clean),
    }
    entries = [part for key in sorted(values) for part in _map_entry(key, values[key])]
    return b"".join(_field(1, entries))


def _map_entry(key: str, value: bytes | int) -> list[bytes]:
    """Returns the parts of one entry of tf.train.Features, as its protocol buffer writes it."""
    if isinstance(value, bytes):
        feature = _field(1, _field(1, [value]))  # BytesList
    else:
        feature = _field(3, _field(1, [_varint(value % 2**64)]))  # Int64List, packed
    return _field(1, [*_field(1, [key.encode()]), *_field(2, feature)])


def _field(number: int, parts: list[bytes]) -> list[bytes]:
    """Puts tag and size before the parts, which stay apart: an image is copied once, at the end."""
    return [_varint(number << 3 | 2), _varint(sum(map(len, parts))), *parts]


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def check_split_name(split: str) -> None:
    """Raises ValueError unless `split` may begin a shard's name."""
    if not _SPLIT_NAME.fullmatch(split):
        raise ValueError(
            f"expected a split name of a-z, 0-9 and _, 100 at most. Received: {split!r}"
        )


def shard_name(split: str, shard: int, shards: int) -> str:
    """Returns the file name of one shard, such as `validation-00000-of-00002.tfrec`."""
    check_split_name(split)
    return f"{split}-{shard:05d}-of-{shards:05d}.tfrec"


@dataclasses.dataclass(frozen=True)
class Shard:
    """One TFRecord file: its name inside the data directory, its contents and its checksum.

    The checksum, eight hexadecimal digits, is the one that Google Cloud Storage keeps of a file.
    """

    name: str
    images: int
    bytes: int
    crc32c: str


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
        if not files.exists(path):
            raise FileNotFoundError(
                f"expected a data directory with {MANIFEST_NAME}, as tfrecords_tools/write.py "
                f"writes it. Received: {directory}"
            )
        data = files.read(path)
        try:
            return _from_json(directory, json.loads(data))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: a field is missing or of the wrong type: {error}") from error
        except (ValueError, RecursionError) as error:  # json.JSONDecodeError among them
            raise ValueError(f"{path}: {error}") from error

    def save(self, directory: str | None = None) -> None:
        """Writes `manifest.json` into `directory` (default: its own), replacing it atomically."""
        path = os.path.join(
            self.directory if directory is None else os.fspath(directory), MANIFEST_NAME
        )
        files.write_text(path, json.dumps(_to_json(self), indent=1) + "\n")


def _check_shards(split: str, shards: Sequence[Shard]) -> None:
    for position, shard in enumerate(shards):
        match = _SHARD_NAME.fullmatch(shard.name)
        expected = (split, position, len(shards))
        received = match and (match[1], int(match[2]), int(match[3]))
        if received != expected:
            raise ValueError(f"expected shard {shard_name(*expected)}. Received: {shard.name!r}")
        if not _CRC32C.fullmatch(shard.crc32c):
            raise ValueError(f"{shard.name}: expected a CRC-32C. Received: {shard.crc32c!r}")


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
