"""Large files over HTTP: goes on where it stopped, waits and tries again, notices what changed."""

import contextlib
import dataclasses
import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import TypeVar

import requests

import files

_STATE = ".json"  # beside the part: which version of the file it belongs to
_CHUNK = 1 << 16  # bytes; what one broken connection can lose
_LONGEST_PAUSE = 60.0  # seconds
_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_RANGE = re.compile(r"bytes ([0-9]+)-[0-9]+/([0-9]+)")

T = TypeVar("T")


class DownloadError(OSError):
    """A file that could not be had; `status` is the server's answer, None without one."""

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        self.status = status


class StoppedError(Exception):
    """The download was asked to stop."""


class _TryAgainError(Exception):
    """What may go better the next time."""


@dataclasses.dataclass(frozen=True)
class _Version:
    """Which version of a file a part belongs to, and whether several answers made it."""

    url: str
    etag: str  # "" if the server names none
    size: int | None  # bytes of the whole file
    is_resumed: bool = False


class Client(contextlib.AbstractContextManager):
    """Downloads files, for several threads at once; leaving the context closes all connections.

    Args:
        timeout: seconds without a byte after which a connection counts as stalled.
        attempts: failures in a row, with no new byte between them, until a file is given up.
        pause: seconds before the second attempt; doubled before each further one, up to 60.
        on_bytes: called with the number of bytes received, negative for bytes thrown away.
    """

    def __init__(
        self,
        *,
        timeout: float = 60.0,
        attempts: int = 6,
        pause: float = 1.0,
        on_bytes: Callable[[int], None] = lambda count: None,
    ):
        if timeout <= 0 or attempts < 1 or pause < 0:
            raise ValueError(
                "expected timeout > 0, attempts >= 1 and pause >= 0. "
                f"Received: {timeout}, {attempts}, {pause}"
            )
        self.timeout = timeout
        self.attempts = attempts
        self.pause = pause
        self.on_bytes = on_bytes
        self._stopped = threading.Event()
        self._local = threading.local()  # a requests.Session belongs to one thread
        self._sessions: list[requests.Session] = []

    def __exit__(self, *exception: object) -> None:
        for session in self._sessions:
            session.close()

    def stop(self) -> None:
        """Ends all downloads, here and in other threads, with StoppedError; the parts stay."""
        self._stopped.set()

    def check_running(self) -> None:
        """Raises StoppedError after `stop`."""
        if self._stopped.is_set():
            raise StoppedError

    def size(self, url: str) -> int | None:
        """Returns the size of a file in bytes, None if the server does not say."""

        def ask() -> int | None:
            with self._request("HEAD", url, {}) as answer:
                length = answer.headers.get("Content-Length", "")
                return int(length) if length.isdecimal() else None

        return self._persist(url, ask)

    def text(self, url: str, *, limit: int = 1 << 16) -> str:
        """Returns a small text file; ValueError if it has more than `limit` bytes."""

        def ask() -> str:
            with self._request("GET", url, {}) as answer:
                data = b""
                for chunk in answer.iter_content(_CHUNK):
                    data += chunk
                    if len(data) > limit:
                        raise ValueError(f"{url}: expected at most {limit} bytes. Received: more")
            return data.decode(errors="replace")

        return self._persist(url, ask)

    def download(self, url: str, path: str) -> bool:
        """Downloads a file to `path`.partial, from where an earlier call left it.

        A part of another version of the file (its ETag or its size changed) is thrown away.
        `finish` gives it its name. Returns whether several answers were put together.
        Raises DownloadError, OSError for the disk, StoppedError.
        """
        part = path + files.PARTIAL
        self._persist(url, lambda: self._receive(url, part), lambda: _size(part))
        version = _load(part)
        return version is not None and version.is_resumed

    def _persist(
        self, url: str, action: Callable[[], T], reached: Callable[[], int] = lambda: 0
    ) -> T:
        """Repeats the action until it succeeds; what gets further than before is no failure."""
        failures, best = 0, reached()
        while True:
            try:
                return action()
            except (_TryAgainError, requests.RequestException) as error:
                failures = 1 if reached() > best else failures + 1
                best = max(best, reached())
                if failures >= self.attempts:
                    raise DownloadError(
                        f"{url}: given up after {failures} failures in a row, the last: {error}"
                    ) from error
            pause = min(self.pause * 2 ** (failures - 1), _LONGEST_PAUSE)
            if self._stopped.wait(pause):
                raise StoppedError

    @contextlib.contextmanager
    def _request(
        self, method: str, url: str, headers: Mapping[str, str]
    ) -> Iterator[requests.Response]:
        self.check_running()
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            self._sessions.append(self._local.session)
        with self._local.session.request(
            method,
            url,
            # A packed answer has other offsets than the file.
            headers={"Accept-Encoding": "identity", **headers},
            stream=True,
            timeout=self.timeout,
        ) as answer:
            status = f"{answer.status_code} {answer.reason}"
            if answer.status_code in _AGAIN:
                raise _TryAgainError(f"the server answered {status}")
            if (
                answer.status_code >= 400
                and answer.status_code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
            ):
                raise DownloadError(f"{url}: the server answered {status}", answer.status_code)
            yield answer

    def _receive(self, url: str, part: str) -> None:
        """Gets the rest of a file, or all of it where the part cannot be gone on with."""
        known, start = _load(part), _size(part)
        if start and (known is None or known.url != url or start > (known.size or start)):
            self._throw_away(part)
            known, start = None, 0
        if start and start == known.size:
            return
        headers = {}
        if start:
            headers["Range"] = f"bytes={start}-"
            if known.etag and not known.etag.startswith("W/"):
                headers["If-Range"] = known.etag
        with self._request("GET", url, headers) as answer:
            size = self._prepare(url, answer, part, known, start)
            with open(part, "ab") as file:
                for chunk in answer.iter_content(_CHUNK):
                    file.write(chunk)
                    self.on_bytes(len(chunk))
                    self.check_running()
        if size is not None and _size(part) != size:
            raise _TryAgainError(f"expected {size} bytes. Received: {_size(part)}")

    def _prepare(
        self, url: str, answer: requests.Response, part: str, known: _Version | None, start: int
    ) -> int | None:
        """Notes which version of the file comes; returns its size.

        An answer that is not the rest of the same version makes the part useless.
        """
        etag = answer.headers.get("ETag", "")
        if answer.status_code == HTTPStatus.PARTIAL_CONTENT and known is not None:
            match = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            came = match and (int(match[1]), int(match[2]), etag)
            if came == (start, known.size, known.etag):
                _save(part, dataclasses.replace(known, is_resumed=True))
                return known.size
        if answer.status_code != HTTPStatus.OK:
            self._throw_away(part)
            raise _TryAgainError(f"the file changed, or the server cannot go on at byte {start}")
        self._throw_away(part)
        length = answer.headers.get("Content-Length", "")
        version = _Version(url, etag, int(length) if length.isdecimal() else None)
        _save(part, version)
        return version.size

    def _throw_away(self, part: str) -> None:
        self.on_bytes(-_size(part))
        files.remove(part)  # before its version, which would else be taken for another part's
        files.remove(part + _STATE)


def received(path: str) -> int:
    """Returns how many bytes of a file lie there from an earlier, stopped download."""
    return _size(path + files.PARTIAL)


def finish(path: str) -> None:
    """Gives a complete download its name."""
    files.rename(path + files.PARTIAL, path)
    files.remove(path + files.PARTIAL + _STATE)


def discard(path: str) -> None:
    """Removes what was downloaded of a file."""
    files.remove(path + files.PARTIAL)
    files.remove(path + files.PARTIAL + _STATE)


def _size(part: str) -> int:
    return os.path.getsize(part) if os.path.exists(part) else 0


def _save(part: str, version: _Version) -> None:
    files.write_text(part + _STATE, json.dumps(dataclasses.asdict(version)))


def _load(part: str) -> _Version | None:
    try:
        return _Version(**json.loads(files.read(part + _STATE)))
    except (OSError, ValueError, TypeError):  # none there, or damaged
        return None
