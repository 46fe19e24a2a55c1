"""Keeps a folder equal to the archives and tables of a server: downloads, checks, unpacks.

`downloads.json` in the folder records what is complete and checked, with size, time of change and
md5, so that it is neither downloaded nor hashed again.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, TextIO

import files
from progress import Progress
from tfrecords_tools.mirroring import transfer
from tfrecords_tools.readers import tars

RECORD_NAME = "downloads.json"

_LOCK_NAME = ".download.lock"
# md5sum begins a line with a backslash where it had to escape the name.
_MD5 = re.compile(r"\\?([0-9a-f]{32})(\s|$)")
_MEGABYTE = 1_000_000


class NoSpaceError(OSError):
    """The disk has not the room for what is to be downloaded."""


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """A file of the server.

    Attributes:
        path: below the address and below the folder.
        part: the folder whose images it holds, "" for a table.
        md5: path of the file with its md5, "" where there is none.
    """

    path: str
    part: str = ""
    md5: str = ""


class Mirror(contextlib.AbstractContextManager):
    """A folder and the server it is filled from; one at a time, as a context.

    Attributes:
        failures: {path: reason} of files that could not be had, or are broken.

    Args:
        folder: on this machine.
        base_url: address below which the files lie.
        workers: files at a time.
        stream: where progress goes; None shows nothing.
        **connection: timeout, attempts and pause, see `transfer.Client`.

    Entering raises OSError if another download writes to the folder.
    """

    def __init__(
        self,
        folder: str,
        base_url: str,
        *,
        workers: int = 8,
        stream: TextIO | None = None,
        **connection: float,
    ):
        self.folder = os.path.abspath(folder)
        self.base_url = base_url.rstrip("/")
        self.workers = workers
        self.stream = stream
        self.failures: dict[str, str] = {}
        self._client = transfer.Client(**connection)
        self._stack = contextlib.ExitStack()
        self._record: dict[str, dict[str, Any]] = {}
        self._sizes: dict[RemoteFile, int] = {}

    def __enter__(self) -> "Mirror":
        os.makedirs(self.folder, exist_ok=True)
        with self._stack as stack:
            stack.enter_context(_only_one(self.folder))
            stack.enter_context(self._client)
            self._record = _load_record(self.folder)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def path_of(self, file: RemoteFile) -> str:
        """Returns where a file lies on this machine."""
        return f"{self.folder}/{file.path}"

    def fetch(self, wanted: Sequence[RemoteFile], *, spare: int = 0) -> int:
        """Downloads and checks all files that are not recorded; returns how many were.

        Raises NoSpaceError if the disk has not the room, with `spare` bytes besides;
        transfer.DownloadError if the server cannot be reached.
        """
        todo = [file for file in wanted if not self._is_recorded(file)]
        sizes = self._ask_sizes(todo)
        left = {file: self._bytes_left(file, size) for file, size in sizes.items()}
        self._check_space(sum(left.values()) + spare)
        checked = sum(sizes[file] for file in sizes if not left[file])
        with _Meter(
            "download", sum(left.values()) + checked, self.stream, unit="MB", per=_MEGABYTE
        ) as meter:
            self._client.on_bytes = meter.add

            def get(file: RemoteFile) -> dict[str, Any]:
                return self._get(file, sizes[file], meter)

            self._each(get, sizes, self._note)
        return len(wanted) - len(todo)

    def unpacked_bytes(self, wanted: Iterable[RemoteFile]) -> int:
        """Returns about how many bytes unpacking these archives will take."""
        rest = [file for file in wanted if not self._record.get(file.path, {}).get("unpacked")]
        known = [file for file in rest if self._is_recorded(file)]
        sizes = self._ask_sizes([file for file in rest if file not in known])
        return sum(sizes.values()) + sum(self._record[file.path]["size"] for file in known)

    def unpack(self, archives: Sequence[RemoteFile]) -> None:
        """Writes the images of the archives to <part>/a/b/c/<id>.jpg, where they are not yet."""
        paths = [self.path_of(file) for file in archives]
        total = sum(len(tars.read_index(path).members) for path in paths)
        with _Meter("unpack", total, self.stream) as meter:

            def count(written: int) -> None:
                self._client.check_running()
                meter.add(1)

            def extract(file: RemoteFile) -> dict[str, Any]:
                tars.unpack(self.path_of(file), f"{self.folder}/{file.part}", count)
                return {**self._record[file.path], "unpacked": True}

            self._each(extract, archives, self._note)

    def _ask_sizes(self, todo: Sequence[RemoteFile]) -> dict[RemoteFile, int]:
        """Returns the sizes on the server, without those of files that it does not have."""
        sizes = self._sizes
        new = [file for file in todo if file not in sizes and file.path not in self.failures]

        def ask(file: RemoteFile) -> int:
            return self._client.size(f"{self.base_url}/{file.path}") or 0

        for file in new[:1]:  # a server out of reach is noticed once, not with every file
            try:
                sizes[file] = ask(file)
            except transfer.DownloadError as error:
                if error.status is None:
                    raise
                self.failures[file.path] = str(error)
        self._each(ask, new[1:], sizes.__setitem__)
        return {file: sizes[file] for file in todo if file in sizes}

    def _bytes_left(self, file: RemoteFile, size: int) -> int:
        path = self.path_of(file)
        if os.path.isfile(path) and os.path.getsize(path) == size:
            return 0
        return max(size - transfer.received(path), 0)

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise NoSpaceError(
                f"expected {needed / 1e9:.1f} GB free in {self.folder}. "
                f"Received: {free / 1e9:.1f} GB"
            )

    def _get(self, file: RemoteFile, size: int, meter: "_Meter") -> dict[str, Any]:
        """Makes a file complete and checked; returns its record."""
        path = self.path_of(file)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        md5 = self._published_md5(file) if file.md5 else ""
        is_whole = os.path.isfile(path) and os.path.getsize(path) == size
        if is_whole and (not md5 or _hash(path) == md5):
            meter.add(size)
        else:
            self._download(f"{self.base_url}/{file.path}", path, md5)
        if file.part:
            tars.read_index(path)
        return {**_stamp(path), "md5": md5}

    def _published_md5(self, file: RemoteFile) -> str:
        url = f"{self.base_url}/{file.md5}"
        text = self._client.text(url)
        match = _MD5.match(text)
        if match is None:
            raise transfer.DownloadError(f"{url}: expected an md5. Received: {text[:80]!r}")
        return match[1]

    def _download(self, url: str, path: str, md5: str) -> None:
        for _ in range(2):
            is_resumed = self._client.download(url, path)
            found = _hash(path + files.PARTIAL) if md5 else ""
            if found == md5:
                transfer.finish(path)
                return
            self._client.on_bytes(-transfer.received(path))
            transfer.discard(path)
            if not is_resumed:  # else the pieces may not belong together
                break
        raise transfer.DownloadError(f"{url}: expected the md5 {md5}. Received: {found}")

    def _each(
        self,
        function: Callable[[RemoteFile], Any],
        todo: Iterable[RemoteFile],
        take: Callable[[RemoteFile, Any], None],
    ) -> None:
        """Calls `take(file, function(file))` as results come; what fails is noted and left out."""
        with ThreadPoolExecutor(self.workers) as pool:
            jobs = {pool.submit(function, file): file for file in todo}
            try:
                for job in as_completed(jobs):
                    try:
                        take(jobs[job], job.result())
                    except (OSError, ValueError) as error:
                        self.failures[jobs[job].path] = str(error)
            except BaseException:
                self._client.stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _is_recorded(self, file: RemoteFile) -> bool:
        entry = self._record.get(file.path, {})
        try:
            stamp = _stamp(self.path_of(file))
        except FileNotFoundError:
            return False
        return all(entry.get(name) == value for name, value in stamp.items())

    def _note(self, file: RemoteFile, entry: dict[str, Any]) -> None:
        self._record[file.path] = entry
        files.write_text(f"{self.folder}/{RECORD_NAME}", json.dumps(self._record))


class _Meter(contextlib.AbstractContextManager):
    """Progress for several threads, which shows `per` counts as one."""

    def __init__(
        self, what: str, total: int, stream: TextIO | None, *, unit: str = "images", per: int = 1
    ):
        self._progress = Progress(what, total // per, stream, unit)
        self._per = per
        self._count = 0
        self._lock = threading.Lock()

    def __exit__(self, *exception: object) -> None:
        self._progress.close()

    def add(self, count: int) -> None:
        with self._lock:
            self._count += count
            self._progress.advance(self._count // self._per - self._progress.done)


@contextlib.contextmanager
def _only_one(folder: str) -> Iterator[None]:
    """Two downloads that append to the same parts would spoil them."""
    with open(f"{folder}/{_LOCK_NAME}", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OSError(f"another download writes to {folder}") from error
        except OSError:  # some file systems have no locks
            pass
        yield


def _stamp(path: str) -> dict[str, int]:
    status = os.stat(path)
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _hash(path: str) -> str:
    with open(path, "rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    return md5.hexdigest()


def _load_record(folder: str) -> dict[str, dict[str, Any]]:
    try:
        record = json.loads(files.read(f"{folder}/{RECORD_NAME}"))
    except (FileNotFoundError, ValueError):  # all files are checked again
        return {}
    return record if isinstance(record, dict) else {}
