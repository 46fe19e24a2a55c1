"""How many cores there are, and matrix products in own threads.

One product on one core, several side by side, beat one product on all cores: the threads of a
BLAS wait for each other at the end of every product, and other work cannot run meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def count() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Limit:
    """The BLAS of this process on one thread as long as somebody wants that."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._limiter = None

    def enter(self) -> None:
        with self._lock:
            if self._users == 0:
                self._limiter = _in_own_thread(limit_blas)
            self._users += 1

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                _in_own_thread(self._limiter.restore_original_limits)


_LIMIT = _Limit()


def limit_blas():
    """Limits matrix products of this thread, or of the process where the BLAS knows no threads."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().limit(limits=1, user_api="blas")


@contextlib.contextmanager
def pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Starts threads in which a matrix product runs on one core.

    Pools may overlap: the BLAS has its number of threads back at the end of the last one.
    """
    _LIMIT.enter()
    try:
        with ThreadPoolExecutor(threads, initializer=limit_blas) as workers:
            yield workers
    finally:
        _LIMIT.leave()


def _in_own_thread(function: Callable[[], Any]) -> Any:
    # threadpoolctl obeys the thread that came first, as long as that lives.
    with ThreadPoolExecutor(1) as worker:
        return worker.submit(function).result()
