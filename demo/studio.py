"""Draws photographs into files, in this process or in several.

Workers are started by `spawn`: they import this module, NumPy and Pillow only, and the script
that the caller runs.
"""

import concurrent.futures
import multiprocessing
import os
import pathlib
import signal
import sys
import time
from collections.abc import Iterator, Sequence

from demo.clutter import scene
from demo.landmarks import landmark
from demo.photograph import photograph
from demo.plan import Photo


def draw_photos(folder: str, seed: int, photos: Sequence[Photo]) -> int:
    """Draws the photographs, all of one landmark or scene, and returns how many.

    A file gets its name only when it is complete.
    """
    shown = None if photos[0].scene else landmark(seed, photos[0].landmark)
    for photo in photos:
        if shown is None:
            data = scene(seed, photo.landmark)
        else:
            data = photograph(seed, photo.landmark, photo.shot, shown)
        path = pathlib.Path(folder, photo.path)
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(data)
        os.replace(part, path)
    return len(photos)


def draw_all(folder: pathlib.Path, seed: int, photos: Sequence[Photo], workers: int) -> None:
    """Draws the photographs with the given number of worker processes, and shows progress."""
    for parent in {pathlib.Path(folder, photo.path).parent for photo in photos}:
        parent.mkdir(parents=True, exist_ok=True)
    groups = _groups(photos)
    done = _in_turn if workers == 1 else _in_parallel
    progress = _Progress(len(photos))
    for count in done(str(folder), seed, groups, workers):
        progress.add(count)
    progress.close()


def _groups(photos: Sequence[Photo]) -> list[list[Photo]]:
    """The photographs by what they show, the largest group first, so that workers end together."""
    groups: dict[tuple[bool, int], list[Photo]] = {}
    for photo in photos:
        groups.setdefault((photo.scene, photo.landmark), []).append(photo)
    return sorted(groups.values(), key=len, reverse=True)


def _in_turn(folder: str, seed: int, groups: list[list[Photo]], _: int) -> Iterator[int]:
    for group in groups:
        yield draw_photos(folder, seed, group)


def _in_parallel(folder: str, seed: int, groups: list[list[Photo]], workers: int) -> Iterator[int]:
    executor = concurrent.futures.ProcessPoolExecutor(
        min(workers, len(groups)), multiprocessing.get_context("spawn"), _ignore_interrupt
    )
    try:
        tasks = [executor.submit(draw_photos, folder, seed, group) for group in groups]
        for task in concurrent.futures.as_completed(tasks):
            yield task.result()
    finally:
        executor.shutdown(cancel_futures=True)


def _ignore_interrupt() -> None:
    # Ctrl-C reaches the whole group; only the caller's process answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Progress:
    """Rate and time left on stderr: one changing line in a terminal, a line every 5 s elsewhere."""

    def __init__(self, total: int) -> None:
        self.total, self.count = total, 0
        self.start = time.monotonic()
        self.terminal = sys.stderr.isatty()
        self.pause = 0.2 if self.terminal else 5.0
        self.shown = self.start

    def add(self, count: int) -> None:
        self.count += count
        now = time.monotonic()
        if now - self.shown >= self.pause:
            self.shown = now
            rate = self.count / (now - self.start)
            left = (self.total - self.count) / rate
            self._print(
                f"Drawn {self.count}/{self.total}, {rate:.0f} photographs/s, {left:.0f} s left"
            )

    def close(self) -> None:
        seconds = time.monotonic() - self.start
        self._print(f"Drawn {self.count} photographs in {seconds:.1f} s")
        if self.terminal:
            print(file=sys.stderr)

    def _print(self, line: str) -> None:
        if self.terminal:
            print(f"\r{line:<70}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)
