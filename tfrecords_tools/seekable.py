"""Files to read here and there, on this machine or in a bucket, with all methods of Python's."""

import io
from typing import BinaryIO

import files


def open_binary(path: str) -> BinaryIO:
    """Opens a file for reading, buffered; libraries such as pyarrow and gzip can take it."""
    file = files.open_file(path, "rb")
    return io.BufferedReader(_RemoteFile(file)) if files.is_remote(path) else file


class _RemoteFile(io.RawIOBase):
    """A file of tf.io.gfile with all methods of Python's files, which other libraries call."""

    def __init__(self, file):
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._file.seek(offset, whence)
        return self._file.tell()

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
