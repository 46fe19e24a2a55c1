"""Stages that are stopped, killed, or find damaged files or no room: the end is always the same."""

import os
import resource
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
import trainers
from trainers import BATCH, CLASSES, examples

from models.storage import load_model
from training import measured, stages
from training.averaging import WeightAverage
from training.checkpoints import Checkpoints
from training.hosts import Hosts
from training.interval import IntervalSums
from training.plan import LoopLength, Plan
from training.reporting import read_log
from training.stop_signal import StoppedError
from training.writing import StorageError

# Three epochs of five steps; two lines of the log in each.
PLAN = Plan(1, 15, 5, log_every=3, checkpoint_seconds=0, checkpoint_share=1e9, retrieval_every=1)
AVERAGED = {"make_average": lambda variables: WeightAverage(variables, decay=0.9)}
INDEX, DATA = "index", "data-00000-of-00001"
LAYERS = {"layers": [lambda: keras.layers.Dropout(0.3)], "frozen": False}


def make_trainer(number=1):
    return trainers.make_trainer(number, optimizer="adam", rate=0.01, **AVERAGED, **LAYERS)


def pieces(data, first, last, size):
    """Batches number first to last of the examples, which follow upon themselves."""

    def piece(number):
        rows = (number * size + tf.range(size, dtype=tf.int64)) % len(data[0])
        return tuple(tf.gather(part, rows) for part in data)

    return tf.data.Dataset.range(first, last).map(piece)


def terminated_at(dataset, number, condition=lambda: True):
    """Sends this process a SIGTERM when element `number` of the dataset is read."""

    def ask(position):
        if position == number and condition():
            os.kill(os.getpid(), signal.SIGTERM)
        return position

    def with_signal(position, batch):
        with tf.control_dependencies([tf.numpy_function(ask, [position], tf.int64)]):
            return tf.nest.map_structure(tf.identity, batch)

    return dataset.enumerate().map(with_signal)


def run(folder, *, number=1, plan=PLAN, stop_at=None, in_validation=False):
    """Runs the stage; a SIGTERM comes about the step `stop_at`, or in the validation after it."""
    trainer, data = make_trainer(number), examples(5 * BATCH)
    size = BATCH // number

    def batches_from(first):
        dataset = pieces(data, first * number, 10**6, size)
        if stop_at is not None and not in_validation:
            dataset = terminated_at(dataset, (stop_at - first) * number)
        return trainer.strategy.distribute_datasets_from_function(lambda context: dataset)

    held_out = (*data[:2], np.ones(5 * BATCH, np.float32))
    validation = pieces(held_out, 0, 2 * number, size)
    if in_validation:
        validation = terminated_at(validation, 0, lambda: trainer.step == stop_at)
    passes = trainer.strategy.distribute_datasets_from_function(lambda context: validation)
    path = str(folder / "model.keras")
    stages.run_stage(path, trainer, plan, batches_from, passes, num_classes=CLASSES)
    return folder


def result_of(folder):
    weights = load_model(str(folder / "model.keras")).get_weights()
    return [w.tobytes() for w in weights], measured.results(read_log(str(folder / "log.jsonl")))


@pytest.fixture(scope="module", params=[1, 2])
def whole(request, tmp_path_factory):
    """(replicas, result of a stage in one piece)."""
    folder = run(tmp_path_factory.mktemp("whole"), number=request.param)
    return request.param, result_of(folder)


def test_the_log_of_a_stage(whole):
    _, (_, rows) = whole
    assert [(row["event"], row["step"]) for row in rows] == [
        entry
        for end in (5, 10, 15)
        for entry in [("train", end - 2), ("train", end), ("validation", end), ("retrieval", end)]
    ]
    accuracies = [row["accuracy"] for row in rows if row["event"] == "validation"]
    assert rows[-2]["best_accuracy"] == max(accuracies)
    assert rows[-2]["best_step"] == 5 * (1 + int(np.argmax(accuracies)))


@pytest.mark.parametrize(
    ("whole", "stop_at"), [(1, 4), (1, 8), (1, 14), (2, 8)], indirect=["whole"]
)
def test_sigterm_between_two_lines_of_the_log(whole, tmp_path, stop_at):
    number, expected = whole
    with pytest.raises(StoppedError, match="stage 1 is saved at step"):
        run(tmp_path, number=number, stop_at=stop_at)
    assert not (tmp_path / "model.keras").exists()
    assert result_of(run(tmp_path, number=number)) == expected


@pytest.mark.parametrize("whole", [1], indirect=True)
@pytest.mark.parametrize("stop_at", [10, 15])
def test_sigterm_in_a_validation_is_not_kept_waiting(whole, tmp_path, stop_at):
    """The pass is left; the next run begins with it."""
    number, expected = whole
    with pytest.raises(StoppedError, match=f"saved at step {stop_at}"):
        run(tmp_path, number=number, stop_at=stop_at, in_validation=True)
    assert read_log(str(tmp_path / "log.jsonl"))[-1]["event"] == "train"
    assert result_of(run(tmp_path, number=number)) == expected


def stopped(folder):
    with pytest.raises(StoppedError):
        run(folder, stop_at=9)
    found = sorted(int(path.stem[5:]) for path in (folder / "checkpoints").glob("ckpt-*.index"))
    assert len(found) == 2
    return folder / "checkpoints", found


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("whole", [1], indirect=True)
@pytest.mark.parametrize(
    ("damage", "end"), [(cut, DATA), (flip, DATA), (os.unlink, DATA), (empty, INDEX)]
)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(whole, tmp_path, capfd, damage, end):
    folder, (before, newest) = stopped(tmp_path)
    damage(folder / f"ckpt-{newest}.{end}")
    capfd.readouterr()
    assert result_of(run(tmp_path)) == whole[1]
    output, errors = capfd.readouterr()
    assert f"goes on from the checkpoint of step {before}" in output
    assert f"ckpt-{newest} is damaged" in errors
    assert len(list(folder.iterdir())) == 4


@pytest.mark.parametrize("whole", [1], indirect=True)
def test_what_killed_runs_leave_is_removed_and_a_state_file_means_nothing(whole, tmp_path):
    folder, (_, newest) = stopped(tmp_path)
    (folder / "checkpoint").write_text("damaged")
    (folder / "ckpt-7_temp").mkdir()
    (folder / "ckpt-7_temp" / "part").write_text("")
    (folder / "partial-8.index").write_text("")
    (folder / "ckpt-9.data-00000-of-00001").write_text("")
    trainer = make_trainer()
    state = {**trainer.checkpoint_variables(), "interval": [interval_of(trainer)]}
    checkpoints = Checkpoints(str(folder), state, trainer.optimizer)
    assert checkpoints.restore() == newest
    checkpoints.tidy()
    left = {path.name for path in folder.iterdir()}
    assert left == {
        "checkpoint",
        *(f"ckpt-{n}.{end}" for n in checkpoints.kept for end in (INDEX, DATA)),
    }
    assert result_of(run(tmp_path)) == whole[1]


@pytest.mark.parametrize("whole", [1], indirect=True)
def test_a_disk_that_is_full_while_saving_leaves_the_checkpoints_before(whole, tmp_path):
    folder, steps = stopped(tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = len(before[f"ckpt-{steps[0]}.{DATA}"])
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 100, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"the checkpoint of step \d+ could not be written"):
            run(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert result_of(run(tmp_path)) == whole[1]


def test_all_checkpoints_damaged_is_an_error(tmp_path):
    folder, steps = stopped(tmp_path)
    for step in steps:
        flip(folder / f"ckpt-{step}.{DATA}")
    with pytest.raises(ValueError, match=f"steps {steps[0]}, {steps[1]}"):
        run(tmp_path)
    assert len(list(folder.glob("ckpt-*"))) == 4


def interval_of(trainer):
    return IntervalSums(trainer.totals, Hosts(trainer.strategy))


@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 3), (3, 1)])
def test_sums_of_an_interval_outlive_another_number_of_replicas(tmp_path, before, after):
    """Bit for bit with as many replicas, else their sum."""
    first, second = (trainers.make_trainer(number) for number in (before, after))
    trainers.train(first, 3)
    totals = {name: float(total.numpy()) for name, total in first.totals.items()}
    intervals = [interval_of(first), interval_of(second)]
    intervals[0].collect()
    path = tf.train.Checkpoint(interval=intervals[0]).write(str(tmp_path / "sums"))
    tf.train.Checkpoint(interval=intervals[1]).read(path).assert_consumed()
    again = {name: float(total.numpy()) for name, total in second.totals.items()}
    assert again == (totals if before == after else pytest.approx(totals, rel=1e-6))


def test_where_loops_and_lines_end():
    plan = Plan(1, 25, 10, log_every=4, profile=(3, 6))
    reports = [step for step in range(26) if plan.is_report(step)]
    assert reports == [4, 8, 10, 14, 18, 20, 24, 25]
    stops, step = [], 0
    while step < 25:
        step = plan.next_stop(step, 3)
        stops.append(step)
    assert stops == [2, 4, 6, 8, 10, 13, 14, 17, 18, 20, 23, 24, 25]
    assert [step for step in range(26) if plan.is_epoch_end(step)] == [10, 20, 25]


def test_loops_grow_to_the_time_they_may_take():
    """0.1 s a step and a first loop of a minute: 5 s are 50 steps."""
    length, seen = LoopLength(5.0), []
    for number in range(9):
        seen.append(length.steps)
        length.adapt(length.steps, 0.1 * length.steps + (60 if number == 0 else 0))
    assert seen == [1, 1, 2, 4, 8, 16, 32, 50, 50]
    length.adapt(50, 500.0)  # a step takes longer than a loop may
    assert length.steps == 1


def test_a_stop_while_the_model_is_written_finishes_the_stage(tmp_path, monkeypatch):
    write = stages.save_model

    def save_model(model, path):
        os.kill(os.getpid(), signal.SIGTERM)
        write(model, path)

    monkeypatch.setattr(stages, "save_model", save_model)
    with pytest.raises(StoppedError, match="stage 1 is finished"):
        run(tmp_path)
    load_model(str(tmp_path / "model.keras"))
