"""What a training tells: terminal lines, JSON lines, TensorBoard, and what it ran with."""

import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from typing import Any

import tensorflow as tf

import files
from progress import format_seconds

PACKAGES = ("tensorflow-cpu", "tensorflow", "tensorflow-tpu", "libtpu", "keras", "efficientnet")


class Reporter:
    """Writes the progress of one stage.

    The log `log.jsonl` holds one JSON object per line: {"event": "train" or "validation",
    "stage", "epoch", "step", "loss", "accuracy", …}. Lines after `first_step`, left by a run that
    was stopped before its next checkpoint, are dropped, since those steps are done again.

    Args:
        directory: the stage's folder.
        stage: its number.
        total_steps: steps of the whole stage.
        steps_per_epoch: steps of an epoch.
        first_step: steps already done.
        batch_size: images per step.
    """

    def __init__(
        self,
        directory: str,
        *,
        stage: int,
        total_steps: int,
        steps_per_epoch: int,
        first_step: int,
        batch_size: int,
    ):
        self._path = os.path.join(directory, "log.jsonl")
        self._stage = stage
        self._total_steps = total_steps
        self._steps_per_epoch = steps_per_epoch
        self._first_step = first_step
        self._batch_size = batch_size
        self._started = time.monotonic()
        self._last = (first_step, self._started)
        kept = [row for row in read_log(self._path) if row["step"] <= first_step]
        self._seconds_before = max((row["seconds"] for row in kept if "seconds" in row), default=0)
        files.write_text(self._path, "".join(json.dumps(row) + "\n" for row in kept))
        self._board = tf.summary.create_file_writer(os.path.join(directory, "tensorboard"))

    def train(self, step: int, result: dict[str, float], learning_rate: float) -> None:
        """Reports the steps since the last report."""
        now = time.monotonic()
        before, then = self._last
        self._last = (step, now)
        rate = (step - before) * self._batch_size / max(now - then, 1e-9)
        values = {**result, "learning_rate": learning_rate, "images_per_second": round(rate, 1)}
        self._write("train", step, values, seconds=round(self._seconds_before + self._elapsed(), 1))
        done = step - self._first_step
        left = self._elapsed() / max(done, 1) * (self._total_steps - step)
        print(
            f"stage {self._stage}  epoch {step / self._steps_per_epoch:6.2f}  "
            f"step {step}/{self._total_steps}  loss {result['loss']:.4f}  "
            f"accuracy {result['accuracy']:.3f}  lr {learning_rate:.2e}  "
            f"{rate:.0f} images/s  {format_seconds(left)} left",
            flush=True,
        )

    def validation(self, step: int, result: dict[str, float]) -> None:
        """Reports a pass over the validation images; its time does not count as training."""
        self._write("validation", step, result)
        self._last = (step, time.monotonic())
        print(
            f"stage {self._stage}  epoch {step / self._steps_per_epoch:6.2f}  "
            f"validation loss {result['loss']:.4f}  accuracy {result['accuracy']:.3f}",
            flush=True,
        )

    def close(self) -> None:
        """Flushes what is written."""
        self._board.close()

    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _write(self, event: str, step: int, values: dict[str, float], **more: float) -> None:
        epoch = round(step / self._steps_per_epoch, 3)
        row = {"event": event, "stage": self._stage, "epoch": epoch, "step": step, **values, **more}
        with tf.io.gfile.GFile(self._path, "a") as file:
            file.write(json.dumps(row) + "\n")
        with self._board.as_default():
            for name, value in values.items():
                tf.summary.scalar(f"{event}/{name}", value, step=step)


class Silence:
    """A `Reporter` that writes nothing: that of all hosts but the first."""

    def __init__(self, *args, **options):
        """Takes what a `Reporter` takes."""

    def train(self, step: int, result: dict[str, float], learning_rate: float) -> None:
        """Reports nothing."""

    def validation(self, step: int, result: dict[str, float]) -> None:
        """Reports nothing."""

    def close(self) -> None:
        """Has nothing to close."""


def read_log(path: str) -> list[dict[str, Any]]:
    """Returns the rows of a JSON-lines log, without a last line that was cut off."""
    if not tf.io.gfile.exists(path):
        return []
    with tf.io.gfile.GFile(path) as file:
        return [json.loads(line) for line in file if line.endswith("\n")]


def environment() -> dict[str, Any]:
    """Returns versions, the command and the git commit, for the record in the workdir."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "command": sys.argv,
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """Returns the commit of the code, with "+" where files differ from it; None without git."""
    folder = pathlib.Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],  # noqa: S607
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()
