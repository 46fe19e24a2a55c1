"""Where the values of a `tf.train.Example` lie in a file, without reading its images.

Of a large entry only the head is read, so that the walk costs the same for photographs of any
size. tests/test_foreign.py compares with TensorFlow's own parser.
"""

from collections.abc import Collection, Iterator
from typing import BinaryIO, NamedTuple

_HEAD = 20  # bytes: two numbers of at most ten
_WINDOW = 512  # bytes read of an entry at first; the key and the sizes of an image take fewer
_VARINT, _DELIMITED = 0, 2  # wire types
_FIXED_SIZES = {1: 8, 5: 4}  # the other wire types, and their bytes
_BYTES_LIST, _INT64_LIST = 1, 3  # fields of tf.train.Feature

_Field = tuple[int, int, int, int]  # number, wire type, first byte of the value, byte after it


class Place(NamedTuple):
    """A bytes value of a record: `offset` of its first byte in the file, `size` in bytes."""

    offset: int
    size: int


Values = list[Place] | list[int]


class BadExampleError(ValueError):
    """Bytes that are no `tf.train.Example`."""


def find_values(file: BinaryIO, offset: int, size: int, keys: Collection[str]) -> dict[str, Values]:
    """Returns the values of the features `keys` of the record at `offset`, of `size` bytes.

    Bytes values are given by their place, integers as they are, floats as []. Features that the
    record lacks are not in the result. Raises BadExampleError.
    """
    found = {}
    for start, end in _entries(file, offset, size):
        key, values = _read_entry(file, start, end, keys)
        if key in keys:
            found[key] = values
    return found


def feature_names(file: BinaryIO, offset: int, size: int) -> list[str]:
    """Returns the sorted names of a record's features; raises BadExampleError."""
    return sorted(
        _read_entry(file, start, end, ())[0] for start, end in _entries(file, offset, size)
    )


def read_place(file: BinaryIO, place: Place) -> bytes:
    """Returns the bytes of a value."""
    file.seek(place.offset)
    return file.read(place.size)


def _entries(file: BinaryIO, offset: int, size: int) -> Iterator[tuple[int, int]]:
    """Yields (first byte, byte after it) of the entries of the map from names to features."""
    for example_field, _, start, end in _fields_of_file(file, offset, offset + size):
        if example_field == 1:
            for features_field, _, first, after in _fields_of_file(file, start, end):
                if features_field == 1:
                    yield first, after


def _fields_of_file(file: BinaryIO, position: int, end: int) -> Iterator[_Field]:
    while position < end:
        file.seek(position)
        head = file.read(min(_HEAD, end - position))
        try:
            number, wire, start, after = _field(head, 0, end - position)
        except IndexError:
            raise BadExampleError("expected a tf.train.Example. Received: a cut field") from None
        if wire == _DELIMITED:
            yield number, wire, position + start, position + after
        position += after


def _read_entry(file: BinaryIO, start: int, end: int, keys: Collection[str]) -> tuple[str, Values]:
    size = end - start
    for window in {min(size, _WINDOW): None, size: None}:  # the head, and all if that is not enough
        file.seek(start)
        data = file.read(window)
        try:
            return _entry(data, size, start, keys)
        except IndexError:
            continue
        except UnicodeDecodeError:
            break
    raise BadExampleError("expected a tf.train.Example. Received: a damaged feature")


def _entry(data: bytes, size: int, base: int, keys: Collection[str]) -> tuple[str, Values]:
    """Parses an entry of `size` bytes, of which `data` has the first; IndexError if too few."""
    key, feature = b"", (0, 0)
    for number, wire, start, end in _fields(data, 0, size):
        if number == 1 and wire == _DELIMITED:
            key = _slice(data, start, end)
        elif number == 2 and wire == _DELIMITED:
            feature = start, end
    name = key.decode()
    values = []
    if name in keys:
        for number, _, start, end in _fields(data, *feature):
            if number == _BYTES_LIST:
                places = _fields(data, start, end)
                values = [Place(base + first, after - first) for _, _, first, after in places]
            elif number == _INT64_LIST:
                values = _integers(data, start, end)
    return name, values


def _integers(data: bytes, start: int, end: int) -> list[int]:
    values = []
    for _, wire, first, after in _fields(data, start, end):
        if wire not in (_VARINT, _DELIMITED):  # one number, or several one after the other
            raise IndexError
        packed = _slice(data, first, after)
        position = 0
        while position < len(packed):
            value, position = _varint(packed, position)
            value %= 2**64
            values.append(value - 2**64 if value >= 2**63 else value)
    return values


def _fields(data: bytes, position: int, end: int) -> Iterator[_Field]:
    while position < end:
        field = _field(data, position, end)
        yield field
        position = field[3]


def _field(data: bytes, position: int, end: int) -> _Field:
    """Parses the head of a field that ends at `end` at the latest; IndexError if it does not."""
    tag, position = _varint(data, position)
    wire = tag & 7
    if wire == _DELIMITED:
        size, position = _varint(data, position)
        after = position + size
    elif wire == _VARINT:
        after = _varint(data, position)[1]
    else:
        after = position + _FIXED_SIZES.get(wire, end)  # too far for a type that is none
    if after > end:
        raise IndexError
    return tag >> 3, wire, position, after


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Returns the number at `position` and the position after it."""
    value, shift = 0, 0
    while (byte := data[position]) >= 0x80:
        value |= (byte & 0x7F) << shift
        shift += 7
        position += 1
    return value | byte << shift, position + 1


def _slice(data: bytes, start: int, end: int) -> bytes:
    if end > len(data):
        raise IndexError
    return data[start:end]
