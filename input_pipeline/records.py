"""The TFRecord format without TensorFlow: what worker processes read and write.

A record is its size (uint64), a checksum of the size, the payload and a checksum of the payload,
all little-endian; the checksums are masked CRC-32C. tests/test_records.py compares with TensorFlow.
"""

import struct
from collections.abc import Iterator

import google_crc32c

import files

_HEAD = struct.Struct("<QI")  # size of the payload, checksum of these eight bytes
_FOOT = struct.Struct("<I")
_OVERHEAD = _HEAD.size + _FOOT.size


class DamagedRecordError(ValueError):
    """A record that is cut off or fails its checksum."""


class RecordWriter:
    """Writes records to a file, which appears under its name only when it is whole.

    Args:
        path: of the file.

    Attributes:
        bytes: what has been written so far.
        crc32c: checksum of that, eight hexadecimal digits.

    Use it in a `with` statement; when an error leaves that, the unfinished file is removed.
    """

    def __init__(self, path: str):
        self.path = path
        self.bytes = 0
        self._checksum = 0
        self._file = files.open_file(path + files.PARTIAL, "wb")

    def __enter__(self) -> "RecordWriter":
        return self

    def write(self, record: bytes) -> None:
        """Adds one record."""
        size = len(record).to_bytes(8, "little")
        head = size + _FOOT.pack(_mask(google_crc32c.value(size)))
        for part in (head, record, _FOOT.pack(_mask(google_crc32c.value(record)))):
            self._file.write(part)
            self._checksum = google_crc32c.extend(self._checksum, part)
            self.bytes += len(part)

    @property
    def crc32c(self) -> str:
        """The checksum of the file so far."""
        return f"{self._checksum:08x}"

    def __exit__(self, kind, error, trace) -> None:
        try:
            self._file.close()  # on a full disk it fails as well
            if kind is None:
                files.rename(self.path + files.PARTIAL, self.path)
        finally:
            files.remove(self.path + files.PARTIAL)


def file_crc32c(path: str) -> str:
    """Returns the checksum of a whole file, eight hexadecimal digits."""
    checksum = 0
    with files.open_file(path, "rb") as file:
        while block := file.read(1 << 20):
            checksum = google_crc32c.extend(checksum, block)
    return f"{checksum:08x}"


def read_records(path: str) -> Iterator[bytes]:
    """Yields the payloads of a file; DamagedRecordError says where it is damaged."""
    with files.open_file(path, "rb") as file:
        position = 0
        while head := file.read(_HEAD.size):
            size = _payload_size(head, path, position)
            payload, foot = file.read(size), file.read(_FOOT.size)
            if len(payload) != size or len(foot) != _FOOT.size:
                raise DamagedRecordError(f"{path}: the record at byte {position} is cut off")
            if _FOOT.unpack(foot)[0] != _mask(google_crc32c.value(payload)):
                raise DamagedRecordError(
                    f"{path}: the record at byte {position} fails its checksum"
                )
            yield payload
            position += size + _OVERHEAD


def record_spans(path: str) -> Iterator[tuple[int, int]]:
    """Yields (first byte, size) of each payload; only the sizes are read and checked."""
    end = files.size_of(path)
    with files.open_file(path, "rb") as file:
        position = 0
        while position < end:
            file.seek(position)
            size = _payload_size(file.read(_HEAD.size), path, position)
            if position + size + _OVERHEAD > end:
                raise DamagedRecordError(f"{path}: the record at byte {position} is cut off")
            yield position + _HEAD.size, size
            position += size + _OVERHEAD


def _payload_size(head: bytes, path: str, position: int) -> int:
    if len(head) != _HEAD.size:
        raise DamagedRecordError(f"{path}: the record at byte {position} is cut off")
    size, checksum = _HEAD.unpack(head)
    if checksum != _mask(google_crc32c.value(head[:8])):
        raise DamagedRecordError(
            f"{path}: expected a TFRecord at byte {position}. Received: other bytes"
        )
    return size


def _mask(checksum: int) -> int:
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF
