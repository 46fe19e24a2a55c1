"""One stage from its first step to its finished model, however often it is stopped between."""

import json
import os
from collections.abc import Callable, Iterable

import keras
import numpy as np
import tensorflow as tf

import files
from training import held_out, reporting
from training.checkpoints import Checkpoints
from training.hosts import Hosts
from training.interval import IntervalSums
from training.plan import Plan
from training.profiling import Profile
from training.stage_loop import StageLoop, explain
from training.stop_signal import StoppedError, StopSignal
from training.trainer import NonFiniteError, Trainer
from training.writing import writing

RECORD_NAME = "stage.json"
CHANGEABLE = {"stage", "settings"}  # not the network, the data or the seed
SHARED_WORKDIR = "--workdir must be a folder that all of them see, in a bucket or on a shared disk"


def run_stage(
    model_path: str,
    trainer: Trainer,
    plan: Plan,
    make_batches: Callable[[int], Iterable],
    validation: Iterable | None = None,
    *,
    num_classes: int,
    first_images: Callable[[], np.ndarray] | None = None,
    ids_of: Callable[[int], list[str]] | None = None,
) -> None:
    """Trains a stage to its end and writes its model.

    Args:
        model_path: of the finished model; log and checkpoints lie in the same folder.
        trainer: with the model and the optimizer of this stage.
        plan: see `Plan`.
        make_batches: first step → endless distributed training batches from there.
        validation: distributed batches, passed over after each epoch.
        num_classes: C, of the line that chance would draw.
        first_images: the images of the first batch, `(B, S, S, 3)` uint8, for the picture of them.
        ids_of: steps done → ids of the images of the next batch, to name one that is not finite.

    Raises:
        StoppedError: a signal asked for it; everything is saved.
        StorageError: something cannot be written; the checkpoints before it are whole.
        NonFiniteError: a loss or gradient was not finite; its batch is named.
        ValueError: there are checkpoints and none can be read.
    """
    directory = os.path.dirname(model_path)
    together = Hosts(trainer.strategy)
    interval = IntervalSums(trainer.totals, together)
    checkpoints = Checkpoints(
        os.path.join(directory, "checkpoints"),
        {**trainer.checkpoint_variables(), "interval": [interval]},
        trainer.optimizer,
    )
    first_step = _restore(trainer, checkpoints, plan, together)
    reporter = _make_reporter(directory, trainer, plan, first_step, together, num_classes)
    if together.is_chief and first_images and first_step == 0:
        reporter.pictures(first_images())
    profile = Profile(directory, plan.profile if together.is_chief else None)
    with StopSignal() as stop:
        loop = StageLoop(
            trainer,
            plan,
            reporter,
            checkpoints=checkpoints,
            interval=interval,
            checks=_make_checks(trainer, reporter, validation),
            stop=stop,
        )
        try:
            loop.run(iter(make_batches(first_step)), profile)
        except NonFiniteError as error:
            raise explain(error, reporter, ids_of) from None
        reporter.close()
        _finish(trainer, model_path, together)
        if together.is_chief:
            share = f"{loop.saving_share:.1%} of the time went into checkpoints"
            print(f"stage {plan.stage}: finished; {share}", flush=True)
        if any(together.gather(stop.asked)):  # and until here the others wait for the model
            raise StoppedError(f"stage {plan.stage} is finished")


def _restore(trainer: Trainer, checkpoints: Checkpoints, plan: Plan, together: Hosts) -> int:
    rates = _constant_rates(trainer)
    first_step = checkpoints.restore() or 0
    for rate, value in rates:
        rate.assign(value)  # that of this command, which may have been given another one
    together.check_same(first_step, "checkpoints", SHARED_WORKDIR)
    if together.is_chief:
        checkpoints.tidy()
    if first_step:
        print(f"stage {plan.stage}: goes on from the checkpoint of step {first_step}", flush=True)
    return first_step


def _constant_rates(trainer: Trainer) -> list[tuple[keras.Variable, float]]:
    """Returns the variables of learning rates that follow no schedule, with their values."""
    optimizers = [trainer.optimizer, *([trainer.head.optimizer] if trainer.head else [])]
    variables = [variable for each in optimizers for variable in each.variables]
    return [(v, float(v.numpy())) for v in variables if v.name == "learning_rate"]


def _make_reporter(directory, trainer, plan, first_step, together, num_classes):
    make = reporting.Reporter if together.is_chief else reporting.Silence
    return make(
        directory,
        stage=plan.stage,
        total_steps=plan.total_steps,
        steps_per_epoch=plan.steps_per_epoch,
        first_step=first_step,
        batch_size=trainer.global_batch_size,
        num_classes=num_classes,
    )


def _make_checks(trainer, reporter, validation) -> dict:
    """Returns what is measured on the held-out images: event → (measure, report)."""
    if validation is None:
        return {}
    measure = held_out.make_measure(trainer)
    return {
        "validation": (lambda watch: trainer.evaluate(watch(validation)), reporter.validation),
        "retrieval": (lambda watch: measure(watch(validation)), reporter.retrieval),
    }


def _finish(trainer: Trainer, model_path: str, together: Hosts) -> None:
    with trainer.averaged_weights():
        if not together.is_chief:
            return
        if trainer.head is not None:
            with writing("the class centres", os.path.dirname(model_path)):
                trainer.head.save(os.path.dirname(model_path))
        save_model(trainer.model, model_path)


def save_model(model: keras.Model, path: str) -> None:
    """Writes the finished model under a temporary name and renames it.

    Raises:
        StorageError: it could not be written.
    """
    directory = os.path.dirname(path)
    partial = os.path.join(directory, "partial.keras")
    with writing("the finished model", directory):
        try:
            model.save(partial)
            tf.io.gfile.rename(partial, path, overwrite=True)
        except BaseException:
            if tf.io.gfile.exists(partial):
                tf.io.gfile.remove(partial)
            raise


def is_finished(model_path: str, together: Hosts) -> bool:
    """Whether the model of a stage is there.

    Raises:
        ValueError: only some of the hosts see it.
    """
    is_there = tf.io.gfile.exists(model_path)
    together.check_same(is_there, "finished models", SHARED_WORKDIR)
    return is_there


def begin(model_path: str, made_with: dict, together: Hosts, *, changed: bool = False) -> bool:
    """Checks or writes the record of a stage, see `record`; returns False if it is finished."""
    finished = is_finished(model_path, together)
    if not (finished and changed):  # what made a finished model stays on record
        record(os.path.dirname(model_path), made_with, together, changed=changed)
    return not finished


def record(directory: str, made_with: dict, together: Hosts, *, changed: bool = False) -> None:
    """Writes what a stage is made with, or checks it against what was written before.

    Args:
        directory: the stage's folder.
        made_with: the recipe's tables and the data's digest; JSON values.
        together: all hosts, which must train the same; the chief writes.
        changed: go on with another table of `CHANGEABLE` than the stage was begun with; the
            record keeps what was before.

    Raises:
        ValueError: the folder holds a stage made with something else.
    """
    path = os.path.join(directory, RECORD_NAME)
    made_with = json.loads(json.dumps(made_with))
    together.check_same(made_with, "recipes or data", "start the same command on all of them")
    before = _read_record(path)
    if before is not None:
        others = {name for name in made_with if made_with[name] != before["made_with"].get(name)}
        if not others:
            return
        if not (changed and others <= CHANGEABLE):
            raise ValueError(_begun_with_another(directory, others))
    if not together.is_chief:
        return
    row = {"made_with": made_with, "environment": reporting.environment()}
    if before is not None:
        print(f"{directory}: goes on with another {' and '.join(sorted(others))}", flush=True)
        row["before"] = before
    with writing("the record of the stage", directory):
        tf.io.gfile.makedirs(directory)
        files.write_text(path, json.dumps(row, indent=1) + "\n")


def _read_record(path: str) -> dict | None:
    return json.loads(files.read(path)) if files.exists(path) else None


def _begun_with_another(directory: str, others: set[str]) -> str:
    words = f"{directory} was begun with another {' and '.join(sorted(others))}. Take another "
    words += "--workdir, or remove that folder to start the stage anew"
    return words + ("; --changed goes on all the same" if others <= CHANGEABLE else "")
