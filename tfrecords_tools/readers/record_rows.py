"""Rows from the records of one TFRecord file, by the names of their features."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO

from files import open_binary
from input_pipeline.records import record_spans
from tfrecords_tools.readers.example_fields import (
    BadExampleError,
    Place,
    Values,
    find_values,
    read_place,
)
from tfrecords_tools.readers.tables import BAD_CLEAN, NO_ID, WHITE_SPACE, Reject, Row

BAD_RECORD = "not a tf.train.Example"
NO_IMAGE = "no image in the record"
BAD_FEATURE = "a feature that is not one value"
UNKNOWN_LABEL = "label without a class id"

LabelOf = Callable[[int | str], str]  # KeyError for a label that has no class id


@dataclasses.dataclass(frozen=True)
class Features:
    """The names of the features that make a row.

    Attributes:
        image: the encoded image.
        id: text; None where the records have none.
        label: an integer or text; None where there is none.
        is_clean: 0 or 1; None, and a record without it, is clean.
    """

    image: str
    id: str | None
    label: str | None
    is_clean: str | None = None

    @property
    def keys(self) -> frozenset[str]:
        """The features to look for."""
        return frozenset(filter(None, dataclasses.astuple(self)))


def read_rows(
    path: str,
    features: Features,
    *,
    name: Callable[[int], str],
    label_of: LabelOf = str,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[Row | Reject]:
    """Yields the records `start` to `stop` of a file; those that make no row are rejected.

    Args:
        path: of the TFRecord file.
        features: names of the features.
        name: from a record's number in the file to its id, where the format has none.
        label_of: from the label of a record to the class id. A missing label gives "".
        start: number of the first record.
        stop: number after the last one; None for all.

    Raises FileNotFoundError; ValueError where there are fewer records than `stop`, and as
    DamagedRecordError where the file cannot be read on.
    """
    number, keys = start - 1, features.keys
    with open_binary(path) as file:
        spans = enumerate(record_spans(path))
        for number, (offset, size) in itertools.islice(spans, start, stop):
            try:
                values = find_values(file, offset, size, keys)
                yield _row(file, path, name(number), features, values, label_of)
            except BadExampleError:
                yield Reject(name(number), path, BAD_RECORD)
            except _BadRecordError as error:
                yield Reject(name(number), path, str(error))
    if stop is not None and number + 1 < stop:
        raise ValueError(f"{path}: expected {stop} records. Received: {number + 1}")


class _BadRecordError(Exception):
    """The reason against a record."""


def _row(
    file: BinaryIO,
    path: str,
    name: str,
    features: Features,
    values: Mapping[str, Values],
    label_of: LabelOf,
) -> Row | Reject:
    image = _single(values, features.image)
    if not isinstance(image, Place) or not image.size:
        raise _BadRecordError(NO_IMAGE)
    image_id = name if features.id is None else str(_text(file, values, features.id))
    if not image_id:
        raise _BadRecordError(NO_ID)
    if len(image_id.split()) != 1:
        return Reject(image_id, path, WHITE_SPACE)
    is_clean = _single(values, features.is_clean)
    if is_clean not in (None, 0, 1):
        return Reject(image_id, path, BAD_CLEAN)
    label = _text(file, values, features.label)
    try:
        label = "" if label == "" else label_of(label)
    except KeyError:
        return Reject(image_id, path, UNKNOWN_LABEL)
    return Row(image_id, label, path, is_clean != 0, image.offset, image.size)


def _single(values: Mapping[str, Values], key: str | None) -> Place | int | None:
    """Returns the one value of a feature, None where the record lacks it."""
    if key not in values:
        return None
    if len(values[key]) != 1:
        raise _BadRecordError(BAD_FEATURE)
    return values[key][0]


def _text(file: BinaryIO, values: Mapping[str, Values], key: str | None) -> int | str:
    """Returns a number as it is, bytes as text, and "" where the record lacks the feature."""
    value = _single(values, key)
    if isinstance(value, Place):
        try:
            return read_place(file, value).decode().strip()
        except UnicodeDecodeError:
            raise _BadRecordError(BAD_FEATURE) from None
    return "" if value is None else value
