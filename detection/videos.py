"""Frames of a video by their index, with OpenCV (the extra "geometry")."""

import re
from collections.abc import Iterator

import numpy as np

import files

_FRAMES = re.compile(r"(\d+):(\d+):(\d+)")


def parse_frames(text: str) -> range:
    """Returns the indices that FIRST:LAST:STEP names, the last included: 80:380:20 are 16 frames.

    Raises:
        ValueError: it is something else, or names none.
    """
    match = _FRAMES.fullmatch(text)
    first, last, step = map(int, match.groups()) if match else (0, -1, 0)
    if not step or last < first:
        raise ValueError(f"--frames: expected FIRST:LAST:STEP, such as 80:380:20. Received: {text}")
    return range(first, last + 1, step)


def read_frames(path: str, frames: range) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (index, uint8 RGB `(H, W, 3)`) of the frames that the video has, in order.

    All frames up to the last one are decoded one after the other: seeking lands on another frame
    with many codecs.

    Raises:
        ImportError: OpenCV is not installed.
        FileNotFoundError: there is no such file.
        ValueError: it is no video, or in a bucket.
    """
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            "frames of videos need OpenCV: pip install -e '.[geometry]', or write the frames as "
            "images and use --table"
        ) from error
    if files.is_remote(path):
        raise ValueError(f"expected a video on this machine. Received: {path}")
    if not files.exists(path):
        raise FileNotFoundError(f"expected a video. Received: {path}, which does not exist")
    video = cv2.VideoCapture(path)
    try:
        if not video.isOpened():
            raise ValueError(f"expected a video that OpenCV reads. Received: {path}")
        for index in range(frames[-1] + 1):
            if not video.grab():
                return
            if index not in frames:
                continue
            is_whole, pixels = video.retrieve()
            if is_whole:
                yield index, cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    finally:
        video.release()
