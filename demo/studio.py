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
from collections.abc import Iterator, Sequence

from demo.clutter import scene
from demo.landmarks import landmark
from demo.photograph import photograph
from demo.plan import Photo
from progress import Progress


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
    progress = Progress("draw", len(photos), sys.stderr, unit="photographs")
    for count in done(str(folder), seed, groups, workers):
        progress.advance(count)
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
