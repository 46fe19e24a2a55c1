"""train.py as a user runs it: stages, hand-over, stop and go on, and what is said when it fails."""

import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import train
from models.storage import load_model
from recipes import layout
from training import measured
from training.reporting import read_log

# Long enough to be stopped on its way, and with random depth, whose state must be kept.
CHANGES = ("stage.epochs=16", "stage.learning_rate=1e-3", "model.depth=0.5")
LONGER = ["--stage", "1", "--log-every", "3", "--checkpoint-seconds", "1"]
LONGER += [word for change in CHANGES for word in ("--set", change)]
ROOT = pathlib.Path(__file__).resolve().parents[1]


def command(shards, workdir, *more):
    return ["--recipe", "tiny", "--data", shards, "--workdir", str(workdir), *more]


def weights_of(workdir, stage, member="A"):
    return load_model(layout.model_path(str(workdir), member, stage)).get_weights()


def equal(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.fixture(scope="module")
def finished(shards, tmp_path_factory):
    """A workdir in which member A has gone through all three stages."""
    workdir = tmp_path_factory.mktemp("workdir")
    assert train.main(command(shards, workdir, "--stage", "all")) == 0
    return workdir


def test_all_stages_leave_models_logs_and_records(finished):
    for stage, (classes, epochs) in enumerate([(7, 2), (8, 1), (8, 1)], start=1):
        folder = finished / "A" / f"stage-{stage}"
        model = load_model(str(folder / "model.keras"))
        assert model.output_shape == (None, classes)
        rows = read_log(str(folder / "log.jsonl"))
        train_rows = [row for row in rows if row["event"] == "train"]
        assert train_rows[-1]["epoch"] == epochs
        told = {"loss", "accuracy", "learning_rate", "scale", "target_cosine", *measured.FIELDS}
        assert told <= set(train_rows[-1])
        for event in ("validation", "retrieval"):
            assert sum(row["event"] == event for row in rows) == epochs
        assert (folder / "batch.png").stat().st_size > 1000
        assert list((folder / "tensorboard").glob("events.*"))
        made = json.loads((folder / "stage.json").read_text())
        assert made["made_with"]["stage"]["number"] == stage
        assert "keras" in made["environment"]["packages"]
        assert not list(folder.glob("partial*"))


def test_a_finished_stage_is_not_trained_again(finished, shards, capsys):
    before = (finished / "A" / "stage-3" / "model.keras").stat().st_mtime_ns
    assert train.main(command(shards, finished, "--stage", "3")) == 0
    assert "finished before" in capsys.readouterr().out
    assert (finished / "A" / "stage-3" / "model.keras").stat().st_mtime_ns == before


def test_stage_2_starts_from_the_backbone_of_stage_1(finished, shards, tmp_path):
    """With a learning rate of next to nothing the backbone stays what stage 1 has left."""
    shutil.copytree(finished / "A" / "stage-1", tmp_path / "A" / "stage-1")
    argv = command(shards, tmp_path, "--stage", "2", "--set", "stage.learning_rate=1e-12")
    assert train.main(argv) == 0
    first = load_model(layout.model_path(str(tmp_path), "A", 1)).get_layer("backbone")
    second = load_model(layout.model_path(str(tmp_path), "A", 2)).get_layer("backbone")
    for a, b in zip(first.trainable_variables, second.trainable_variables, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-9)


def test_two_runs_give_the_same_weights(finished, shards, tmp_path):
    assert train.main(command(shards, tmp_path, "--stage", "1")) == 0
    assert equal(weights_of(finished, 1), weights_of(tmp_path, 1))


@pytest.fixture(scope="module")
def uninterrupted(shards, tmp_path_factory):
    """A workdir in which stage 1 with LONGER has run in one piece."""
    workdir = tmp_path_factory.mktemp("whole")
    assert train.main(command(shards, workdir, *LONGER)) == 0
    return workdir


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_and_started_again_ends_like_one_piece(shards, uninterrupted, tmp_path, number):
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *command(shards, tmp_path, *LONGER)]
    )
    log = tmp_path / "A" / "stage-1" / "log.jsonl"
    wait_for(lambda: log.exists() and len(read_log(str(log))) >= 4, process)
    process.send_signal(number)
    assert process.wait(timeout=120) == (-9 if number == signal.SIGKILL else 130)
    assert not (tmp_path / "A" / "stage-1" / "model.keras").exists()
    assert 0 < read_log(str(log))[-1]["step"] < 16 * 7
    assert train.main(command(shards, tmp_path, *LONGER)) == 0
    assert equal(weights_of(tmp_path, 1), weights_of(uninterrupted, 1))
    rows, whole = (
        measured.results(read_log(str(folder / "A" / "stage-1" / "log.jsonl")))
        for folder in (tmp_path, uninterrupted)
    )
    assert rows == whole


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the training ended before it could be stopped"
        assert time.monotonic() < end, "nothing was logged in time"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--stage", "4"], "stages 1 … 3 and 'all'. Received: '4'"),
        (["--stage", "1", "--member", "C"], "recipe tiny has A, B. Received: 'C'"),
        (["--stage", "1", "--set", "stage.epochs=x"], "expected int"),
        (["--stage", "1", "--data", "/nowhere"], "manifest.json"),
        (["--stage", "1", "--set", "stage.batch_size=64"], "one batch of 64"),
        (["--stage", "2"], "train that stage first"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(shards, tmp_path, capsys, more, message):
    assert train.main([*command(shards, tmp_path), *more]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_a_damaged_shard_ends_the_run_with_a_sentence(shards, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(shards, data)
    path = next(data.glob("train_clean-*.tfrec"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    assert train.main(command(str(data), tmp_path / "run", "--stage", "1")) == 1
    assert "error: a shard is damaged" in capsys.readouterr().err


def test_another_recipe_in_the_same_workdir_is_refused(finished, shards, capsys):
    argv = command(shards, finished, "--stage", "1", "--set", "stage.epochs=5")
    assert train.main(argv) == 2
    assert "begun with another stage" in capsys.readouterr().err


def test_a_stage_goes_on_with_another_rate_if_that_is_said(finished, shards, tmp_path, capsys):
    """The rate is part of the checkpoint; without its model a stage is one that was killed."""
    folder = tmp_path / "A" / "stage-1"
    shutil.copytree(finished / "A" / "stage-1", folder)
    (folder / "model.keras").unlink()
    argv = command(shards, tmp_path, "--stage", "1", "--set", "stage.epochs=3")
    lower = [*argv, "--set", "stage.learning_rate=1e-3"]
    for more, told in [
        ([], "another stage. .*; --changed goes on all the same"),
        (["--changed", "--set", "model.pooling=gem"], "another model and stage. .* anew$"),
    ]:
        assert train.main([*lower, *more]) == 2
        assert re.search(told, capsys.readouterr().err.strip())
    assert train.main([*lower, "--changed"]) == 0
    assert "goes on from the checkpoint of step 14" in capsys.readouterr().out
    rows = [row for row in read_log(str(folder / "log.jsonl")) if row["event"] == "train"]
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.02, 0.02, 1e-3])
    made = json.loads((folder / "stage.json").read_text())
    rates = [row["made_with"]["stage"]["learning_rate"] for row in (made["before"], made)]
    assert rates == [0.02, 1e-3]
    assert train.main([*argv, "--changed"]) == 0
    assert "finished before" in capsys.readouterr().out
    assert json.loads((folder / "stage.json").read_text()) == made


@pytest.mark.parametrize(
    ("tpu", "message"),
    [
        ([], "expected the environment's TPU; found none"),
        (["local"], "no TPU started in this machine"),
        (["grpc://127.0.0.1:9"], "no TPU answers at that address"),
    ],
)
def test_tpu_without_a_tpu_is_an_error_and_no_traceback(shards, tmp_path, tpu, message):
    argv = command(shards, tmp_path, "--stage", "1", "--tpu", *tpu)
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *argv], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
