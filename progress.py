"""Runs many small jobs in threads, in order and in bounded memory, and shows how far it is."""

import collections
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TextIO

_IN_FLIGHT = 4  # jobs per worker that are submitted and not yet taken


def ordered_map(
    function: Callable[[Any], Any], items: Iterable[Any], *, workers: int
) -> Iterator[Any]:
    """Yields `function(item)` in the order of `items`, at most 4 x `workers` of them ahead.

    `ThreadPoolExecutor.map` would hold the results of all items.
    """
    pending: collections.deque = collections.deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= _IN_FLIGHT * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for job in pending:
                job.cancel()


class Progress:
    """A line with count, rate and time left: renewed on a terminal, else printed now and then.

    Args:
        what: the word the line begins with.
        total: how many there are; 0 if that is not known.
        stream: where it goes; None shows nothing.
        unit: what is counted.
    """

    def __init__(self, what: str, total: int, stream: TextIO | None, unit: str = "images"):
        self.what = what
        self.total = total
        self.stream = stream
        self.unit = unit
        self.done = 0
        self._is_terminal = stream is not None and stream.isatty()
        self._interval = 0.2 if self._is_terminal else 10.0  # seconds
        self._start = self._shown = time.monotonic()

    def advance(self, count: int = 1) -> None:
        """Counts what has been done since the last call."""
        self.done += count
        if self.stream is not None and time.monotonic() - self._shown >= self._interval:
            self._show(end="" if self._is_terminal else "\n")

    def close(self) -> None:
        """Prints the last line."""
        if self.stream is not None:
            self._show(end="\n")

    def _show(self, end: str) -> None:
        self._shown = time.monotonic()
        rate = self.done / max(self._shown - self._start, 1e-6)
        text = f"{self.what}: {self.done}"
        if self.total:
            left = (self.total - self.done) / rate if rate else 0.0
            text += f"/{self.total}, {rate:.0f} {self.unit}/s, {format_seconds(left)} left"
        else:
            text += f" {self.unit}, {rate:.0f}/s"
        start = "\r" if self._is_terminal else ""
        print(f"{start}{text:<70}" if start else text, end=end, file=self.stream, flush=True)


def format_seconds(seconds: float) -> str:
    """Returns 75.2 as "1 min 15 s" and 7300 as "2 h 01 min"."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
