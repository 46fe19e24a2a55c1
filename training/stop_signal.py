"""Ctrl-C and SIGTERM as a wish that is granted where everything can be saved."""

import signal
from collections.abc import Iterable, Iterator


class StoppedError(Exception):
    """Ctrl-C or SIGTERM came; the state is saved and the same command goes on from there."""


class InterruptedPassError(Exception):
    """A pass over the held-out images was left because of a signal."""


class StopSignal:
    """Turns the first Ctrl-C or SIGTERM into a wish; a second one acts at once.

    Attributes:
        asked: whether the signal came.
    """

    def __enter__(self):
        self.asked = False
        self._before = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def watched(self, batches: Iterable) -> Iterator:
        """Yields the batches; leaves them with an `InterruptedPassError` once it is asked for."""
        for batch in batches:
            if self.asked:
                raise InterruptedPassError
            yield batch

    def _ask(self, number, frame):
        self.asked = True
        print("stopping after this loop, the state will be saved", flush=True)
        signal.signal(number, self._before[number])
