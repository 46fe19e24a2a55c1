"""Files on this machine or in a bucket, by path.

A path with "://" goes through tf.io.gfile, and TensorFlow is loaded for it; all others go through
the standard library, so that commands on local files start at once.
"""

import contextlib
import errno
import glob
import io
import os
import shutil
import stat
from collections.abc import Iterator
from typing import IO, BinaryIO

PARTIAL = ".partial"  # what a file is called until it is whole

_ENTER = os.R_OK | os.X_OK


class NotAFileError(OSError):
    """A folder, pipe, socket or device, where reading would fail, wait or never end."""


def is_remote(path: str) -> bool:
    """Whether a path names a file in a bucket, such as gs://bucket/file."""
    return "://" in path


def absolute(path: str) -> str:
    """Returns the absolute form of a path, with no ".." left in it."""
    path = os.fspath(path)
    if not is_remote(path):
        return os.path.abspath(path)
    scheme, _, rest = path.partition("://")
    return f"{scheme}://{os.path.normpath(rest)}"


def open_file(path: str, mode: str = "r") -> IO:
    """Opens a file; text is UTF-8 and its line ends are left as they are."""
    if not is_remote(path):
        text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
        return open(path, mode, **text)
    gfile, errors = _gfile()
    try:
        file = gfile.GFile(path, mode)
        if "r" in mode:
            file.size()  # gfile opens on the first use only
    except errors.OpError as error:
        raise _as_os_error(error, path) from error
    return file


def open_binary(path: str) -> BinaryIO:
    """Opens a file for reading, buffered; libraries such as pyarrow and gzip can take it."""
    file = open_file(path, "rb")
    return io.BufferedReader(_RemoteFile(file)) if is_remote(path) else file


def read(path: str, offset: int = 0, size: int | None = None) -> bytes:
    """Returns `size` bytes from `offset` on, fewer at the end of the file; None reads it all.

    Raises FileNotFoundError, NotAFileError, or OSError where the file cannot be read.
    """
    if is_remote(path):
        return _read_remote(path, offset, size)
    # Opening a pipe waits for its other end, unless told not to.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        file_size = _regular_size(path, os.fstat(descriptor))
        size = file_size - offset if size is None else size
        data = os.pread(descriptor, size, offset)
        # One call may return less than was asked for, on a network file system or above 2 GiB.
        while len(data) < size and (more := os.pread(descriptor, size, offset + len(data))):
            data += more[: size - len(data)]
        return data
    finally:
        os.close(descriptor)


def _read_remote(path: str, offset: int, size: int | None) -> bytes:
    _, errors = _gfile()
    try:
        with open_file(path, "rb") as file:
            if offset:  # behind the end gfile raises an error
                file.seek(min(offset, file.size()))
            return file.read(-1 if size is None else size)
    except errors.OpError as error:
        raise _as_os_error(error, path) from error


def size_of(path: str) -> int:
    """Returns the size of a file in bytes.

    Raises FileNotFoundError if there is none, NotAFileError for anything but a file.
    """
    if not is_remote(path):
        return _regular_size(path, os.stat(path))
    gfile, errors = _gfile()
    try:
        return gfile.stat(path).length
    except errors.OpError as error:
        raise _as_os_error(error, path) from error


def _regular_size(path: str, status: os.stat_result) -> int:
    if not stat.S_ISREG(status.st_mode):
        raise NotAFileError(errno.EINVAL, "not a file", path)
    return status.st_size


def exists(path: str) -> bool:
    """Whether there is a file or a folder of that path."""
    return _gfile()[0].exists(path) if is_remote(path) else os.path.exists(path)


def is_folder(path: str) -> bool:
    """Whether there is a folder of that path."""
    return _gfile()[0].isdir(path) if is_remote(path) else os.path.isdir(path)


def find(pattern: str) -> list[str]:
    """Returns the sorted paths that match a pattern of *, ? and [ ]."""
    return sorted(_gfile()[0].glob(pattern) if is_remote(pattern) else glob.glob(pattern))


def find_in(folder: str, pattern: str) -> list[str]:
    """Returns the sorted paths in a folder whose names match; * in the folder's path is just *."""
    return find(f"{folder if is_remote(folder) else glob.escape(folder)}/{pattern}")


def walk(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Yields (folder, names of its files) for a folder and all below it, in the order of names.

    Links to folders are not followed, as they may lead outside or in a circle; they and folders
    that cannot be entered are among the names, so that nothing is left out unseen.
    Raises OSError if `folder` cannot be read.
    """
    if is_remote(folder):
        for parent, folders, names in _gfile()[0].walk(folder):
            folders.sort()
            yield parent, sorted(names)
        return
    pending = [folder]
    while pending:
        parent, names, folders = pending.pop(), [], []
        with os.scandir(parent) as entries:
            for entry in entries:
                is_open = entry.is_dir(follow_symlinks=False) and os.access(entry, _ENTER)
                (folders if is_open else names).append(entry.name)
        yield parent, sorted(names)
        pending += (os.path.join(parent, name) for name in sorted(folders, reverse=True))


def make_folder(path: str) -> None:
    """Makes a folder and those above it, where they are missing."""
    if is_remote(path):
        _gfile()[0].makedirs(path)
    else:
        os.makedirs(path, exist_ok=True)


def rename(source: str, target: str) -> None:
    """Renames a file; one that has the name already is replaced."""
    if is_remote(source):
        _gfile()[0].rename(source, target, overwrite=True)
    else:
        os.replace(source, target)


def remove(path: str) -> None:
    """Removes a file, if it is there."""
    if is_remote(path):
        if exists(path):
            _gfile()[0].remove(path)
    elif os.path.lexists(path):
        os.remove(path)


def remove_folder(path: str) -> None:
    """Removes a folder with all that is in it, if it is there."""
    if is_remote(path):
        if is_folder(path):
            _gfile()[0].rmtree(path)
    elif os.path.isdir(path):
        shutil.rmtree(path)


@contextlib.contextmanager
def replacing(path: str, mode: str = "w") -> Iterator[IO]:
    """Opens a file to be written under a temporary name; it is whole or not there.

    It gets its name when the block ends, and is removed when an error leaves the block.
    """
    try:
        with open_file(path + PARTIAL, mode) as file:
            yield file
        rename(path + PARTIAL, path)
    except BaseException:
        remove(path + PARTIAL)
        raise


def write_bytes(path: str, data: bytes) -> None:
    """Writes a file at once, as `replacing` does."""
    with replacing(path, "wb") as file:
        file.write(data)


def write_text(path: str, text: str) -> None:
    """Writes a text file in UTF-8, like `write_bytes`."""
    write_bytes(path, text.encode())


def _gfile() -> tuple:
    import tensorflow as tf

    return tf.io.gfile, tf.errors


def _as_os_error(error: Exception, path: str) -> OSError:
    is_missing = type(error).__name__ == "NotFoundError"
    kind = FileNotFoundError if is_missing else OSError
    return kind(f"{path}: {' '.join(error.message.split())}")


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
