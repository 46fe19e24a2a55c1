"""One stage from its first step to its finished model, however often it is stopped between."""

import dataclasses
import json
import os
import signal
import time
from collections.abc import Callable, Iterable

import keras
import tensorflow as tf

import files
from training import reporting
from training.checkpoints import Checkpoints
from training.hosts import Hosts
from training.trainer import Trainer

RECORD_NAME = "stage.json"
MIN_CHECKPOINT_SECONDS = 10.0
SHARED_WORKDIR = "--workdir must be a folder that all of them see, in a bucket or on a shared disk"


class StoppedError(Exception):
    """Ctrl-C or SIGTERM came; the state is saved and the same command goes on from there."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long a stage trains and how often the host looks.

    Attributes:
        stage: its number, for the reports.
        total_steps: steps of the stage.
        steps_per_epoch: validation comes after each epoch.
        steps_per_loop: steps on the device between two reports.
        checkpoint_share: share of the time that may go into checkpoints; the next one is due
            1/share times as long after the last as that took to write, and 10 s at least.
    """

    stage: int
    total_steps: int
    steps_per_epoch: int
    steps_per_loop: int = 100
    checkpoint_share: float = 0.02

    def next_stop(self, step: int) -> int:
        """Returns the step at which the loop that starts at `step` ends."""
        epoch_end = (step // self.steps_per_epoch + 1) * self.steps_per_epoch
        return min(step + self.steps_per_loop, epoch_end, self.total_steps)


def run_stage(
    model_path: str,
    trainer: Trainer,
    plan: Plan,
    make_batches: Callable[[int], Iterable],
    validation: Iterable | None = None,
) -> None:
    """Trains a stage to its end and writes its model.

    Args:
        model_path: of the finished model; log and checkpoints lie in the same folder.
        trainer: with the model and the optimizer of this stage.
        plan: see `Plan`.
        make_batches: first step → endless distributed training batches from there.
        validation: distributed batches, passed over after each epoch.

    Raises:
        StoppedError: a signal asked for it; everything is saved.
    """
    directory = os.path.dirname(model_path)
    checkpoints = Checkpoints(
        os.path.join(directory, "checkpoints"), trainer.checkpoint_variables(), trainer.optimizer
    )
    first_step = checkpoints.restore() or 0
    together = Hosts(trainer.strategy)
    together.check_same(first_step, "checkpoints", SHARED_WORKDIR)
    if first_step:
        print(f"stage {plan.stage}: goes on from the checkpoint of step {first_step}", flush=True)
    make_reporter = reporting.Reporter if together.is_chief else reporting.Silence
    reporter = make_reporter(
        directory,
        stage=plan.stage,
        total_steps=plan.total_steps,
        steps_per_epoch=plan.steps_per_epoch,
        first_step=first_step,
        batch_size=trainer.global_batch_size,
    )
    batches = iter(make_batches(first_step))
    with _StopSignal() as stop:
        _train(trainer, plan, batches, validation, reporter, checkpoints, stop)
    reporter.close()
    with trainer.averaged_weights():
        if together.is_chief:
            if trainer.head is not None:
                trainer.head.save(directory)
            save_model(trainer.model, model_path)
    if any(together.gather(stop.asked)):  # and until here the others wait for the model
        raise StoppedError(f"stage {plan.stage} is finished")


def _train(trainer, plan, batches, validation, reporter, checkpoints, stop) -> None:
    due, together = time.monotonic(), Hosts(trainer.strategy)
    while trainer.step < plan.total_steps:
        steps = plan.next_stop(trainer.step) - trainer.step
        result = trainer.train(batches, steps)
        reporter.train(trainer.step, result, trainer.learning_rate)
        if validation is not None and trainer.step % plan.steps_per_epoch == 0:
            reporter.validation(trainer.step, trainer.evaluate(validation))
        asked = any(together.gather(stop.asked))
        is_due = time.monotonic() >= due or asked or trainer.step >= plan.total_steps
        if is_due and together.is_chief:
            started = time.monotonic()
            checkpoints.save()
            took = time.monotonic() - started
            due = time.monotonic() + max(MIN_CHECKPOINT_SECONDS, took / plan.checkpoint_share)
        if asked and trainer.step < plan.total_steps:
            together.wait()  # a host that ends early would end the others while they save
            raise StoppedError(f"stage {plan.stage} is saved at step {trainer.step}")


def save_model(model: keras.Model, path: str) -> None:
    """Writes the finished model under a temporary name and renames it."""
    partial = os.path.join(os.path.dirname(path), "partial.keras")
    model.save(partial)
    tf.io.gfile.rename(partial, path, overwrite=True)


def is_finished(model_path: str, together: Hosts) -> bool:
    """Whether the model of a stage is there.

    Raises:
        ValueError: only some of the hosts see it.
    """
    is_there = tf.io.gfile.exists(model_path)
    together.check_same(is_there, "finished models", SHARED_WORKDIR)
    return is_there


def record(directory: str, made_with: dict, together: Hosts) -> None:
    """Writes what a stage is made with, or checks it against what was written before.

    Args:
        directory: the stage's folder.
        made_with: the recipe's tables and the data's digest; JSON values.
        together: all hosts, which must train the same; the chief writes.

    Raises:
        ValueError: the folder holds a stage made with something else.
    """
    path = os.path.join(directory, RECORD_NAME)
    made_with = json.loads(json.dumps(made_with))
    together.check_same(made_with, "recipes or data", "start the same command on all of them")
    if tf.io.gfile.exists(path):
        with tf.io.gfile.GFile(path) as file:
            before = json.load(file)["made_with"]
        changed = sorted(name for name in made_with if made_with[name] != before.get(name))
        if changed:
            raise ValueError(
                f"{directory} was begun with another {' and '.join(changed)}. Take another "
                "--workdir, or remove that folder to start the stage anew"
            )
        return
    if not together.is_chief:
        return
    tf.io.gfile.makedirs(directory)
    text = json.dumps({"made_with": made_with, "environment": reporting.environment()}, indent=1)
    files.write_text(path, text + "\n")


class _StopSignal:
    """Turns the first Ctrl-C or SIGTERM into a wish; a second one acts at once."""

    def __enter__(self):
        self.asked = False
        self._before = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number, frame):
        self.asked = True
        print("stopping after this loop, the state will be saved", flush=True)
        signal.signal(number, self._before[number])
