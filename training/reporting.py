"""What a training tells: terminal lines, JSON lines, TensorBoard, and what it ran with."""

import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

import files
from progress import format_seconds
from training import pictures
from training.alarms import Alarm, Alarms
from training.measured import Pace, memory_gb
from training.writing import writing

PICTURE_NAME = "batch.png"

PACKAGES = ("tensorflow-cpu", "tensorflow", "tensorflow-tpu", "libtpu", "keras", "efficientnet")


class Reporter:
    """Writes the progress of one stage.

    The log `log.jsonl` holds one JSON object per line: {"event": "train", "validation",
    "retrieval" or "alarm", "stage", "epoch", "step", …}. Lines after `first_step`, left by a run
    that was stopped before its next checkpoint, are dropped, since those steps are done again. All
    that is told of the past (the best accuracy, alarms) is made from the lines kept.

    Args:
        directory: the stage's folder.
        stage: its number.
        total_steps: steps of the whole stage.
        steps_per_epoch: steps of an epoch.
        first_step: steps already done.
        batch_size: images per step.
        num_classes: C, which says what guessing gives.

    Raises:
        StorageError: nothing can be written; of all methods that write.
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
        num_classes: int,
    ):
        self._directory = directory
        self._path = os.path.join(directory, "log.jsonl")
        self._stage = stage
        self._total_steps = total_steps
        self._steps_per_epoch = steps_per_epoch
        self._batch_size = batch_size
        self._started = time.monotonic()
        self._first = None  # report of this run: (step, time)
        self._rows = [row for row in read_log(self._path) if row["step"] <= first_step]
        self._seconds_before = max((row.get("seconds", 0.0) for row in self._rows), default=0.0)
        self._alarms = Alarms(
            num_classes=num_classes, batch_size=batch_size, steps_per_epoch=steps_per_epoch
        )
        for row in self._rows:
            self._alarms.see(row)
        with self._writing():
            tf.io.gfile.makedirs(directory)
            files.write_text(self._path, "".join(json.dumps(row) + "\n" for row in self._rows))
            self._board = tf.summary.create_file_writer(os.path.join(directory, "tensorboard"))

    def has(self, event: str, step: int) -> bool:
        """Whether the log has a line of that event and step."""
        return any(row["event"] == event and row["step"] == step for row in self._rows)

    def train(self, step: int, result: dict[str, float], pace: Pace) -> None:
        """Reports the steps since the last report; the result is that of `Trainer.train`."""
        rate = pace.steps * self._batch_size / max(pace.seconds, 1e-9)
        memory = memory_gb()
        measured = {
            "images_per_second": round(rate, 1),
            "input_wait": round(pace.input_wait, 3),
            **({} if memory is None else {"memory_gb": round(memory, 3)}),
            "seconds": round(self._seconds_before + self._elapsed(), 1),
        }
        parts = [
            f"step {step}/{self._total_steps}",
            f"loss {result['loss']:.4f}",
            f"accuracy {result['accuracy']:.3f}",
            f"lr {result['learning_rate']:.2e}",
            *([f"s {result['scale']:.2f}"] if "scale" in result else []),
            *([f"cosine {result['target_cosine']:.3f}"] if "target_cosine" in result else []),
            f"{rate:.0f} images/s",
            *([] if memory is None else [f"{memory:.1f} GB"]),
            f"{format_seconds(self._left(step, pace))} left",
        ]
        self._write("train", step, {**result, **measured}, parts)

    def validation(self, step: int, result: dict[str, float]) -> None:
        """Reports a pass over the validation images, with the best accuracy so far."""
        rows = [row for row in self._rows if row["event"] == "validation"]
        rows.append({"step": step, **result})
        best = max(rows, key=lambda row: row["accuracy"])  # of equal ones the first
        values = {**result, "best_accuracy": best["accuracy"], "best_step": best["step"]}
        parts = [
            f"validation loss {result['loss']:.4f}",
            f"accuracy {result['accuracy']:.3f}",
            f"best {best['accuracy']:.3f} at step {best['step']}",
        ]
        self._write("validation", step, values, parts)

    def retrieval(self, step: int, result: dict[str, float]) -> None:
        """Reports a measurement of retrieval, see `held_out.measure`."""
        parts = ["retrieval is not measured: no class has two held-out images"]
        if not result["queries"]:  # a curve of zeros would look like a measurement
            result = {n: v for n, v in result.items() if n not in ("recall_at_1", "map_at_100")}
        else:
            parts = [
                f"retrieval recall@1 {result['recall_at_1']:.3f}",
                f"mAP@100 {result['map_at_100']:.3f}",
                f"{result['queries']} queries among {result['images']} images",
            ]
        self._write("retrieval", step, result, parts)

    def pictures(self, images: np.ndarray) -> None:
        """Shows the images of the first batch, `(B, S, S, 3)` uint8."""
        picture = pictures.grid(images)
        with self._writing():
            files.write_bytes(os.path.join(self._directory, PICTURE_NAME), pictures.png(picture))
            with self._board.as_default():
                tf.summary.image("batch", picture[None], step=0)

    def alarm(self, step: int, alarm: Alarm, **more: Any) -> None:
        """Reports an alarm."""
        values = {"cause": alarm.cause, "message": alarm.message, **more}
        self._write("alarm", step, values, [f"ALARM: {alarm.message}"])

    def sync(self) -> None:
        """Makes sure that what is written outlasts the machine, which a checkpoint relies on."""
        with self._writing():
            self._board.flush()
            if not files.is_remote(self._path):
                with open(self._path, "rb") as file:
                    os.fsync(file.fileno())

    def close(self) -> None:
        """Flushes what is written."""
        with self._writing():
            self._board.close()

    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _left(self, step: int, pace: Pace) -> float:
        """Returns the seconds that the rest will take, with all that is done between steps."""
        now = time.monotonic()
        if self._first is None:
            self._first = (step, now)
            return (self._total_steps - step) * pace.seconds / max(pace.steps, 1)
        first, then = self._first  # what compiles lies before it
        return (self._total_steps - step) * (now - then) / max(step - first, 1)

    def _writing(self):
        return writing("the log", self._directory)

    def _write(self, event: str, step: int, values: dict[str, Any], parts: Sequence[str]) -> None:
        epoch = round(step / self._steps_per_epoch, 3)
        row = {"event": event, "stage": self._stage, "epoch": epoch, "step": step, **values}
        self._rows.append(row)
        with self._writing():
            with tf.io.gfile.GFile(self._path, "a") as file:
                file.write(json.dumps(row) + "\n")
            with self._board.as_default():
                for name, value in values.items():
                    if isinstance(value, (int, float)):
                        tf.summary.scalar(f"{event}/{name}", value, step=step)
        start = f"stage {self._stage}  epoch {step / self._steps_per_epoch:6.2f}"
        print("  ".join([start, *parts]), flush=True)
        for alarm in self._alarms.see(row):
            self.alarm(step, alarm)


class Silence:
    """A `Reporter` that writes nothing: that of all hosts but the first."""

    def __init__(self, *args, **options):
        """Takes what a `Reporter` takes."""

    def has(self, event: str, step: int) -> bool:
        """Knows of no lines."""
        return False

    def train(self, step: int, result: dict[str, float], pace: Pace) -> None:
        """Reports nothing."""

    def validation(self, step: int, result: dict[str, float]) -> None:
        """Reports nothing."""

    def retrieval(self, step: int, result: dict[str, float]) -> None:
        """Reports nothing."""

    def pictures(self, images: np.ndarray) -> None:
        """Shows nothing."""

    def alarm(self, step: int, alarm: Alarm, **more: Any) -> None:
        """Reports nothing."""

    def sync(self) -> None:
        """Has nothing to write."""

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
