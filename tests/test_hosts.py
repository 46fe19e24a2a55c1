"""train.py on two hosts, two processes of this machine: as one process with two replicas."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT

import train
from models.storage import load_model
from recipes import layout
from training import measured
from training.reporting import read_log

ARGUMENTS = ("--recipe", "tiny", "--stage", "1", "--checkpoint-seconds", "0")


def command(shards, workdir, *more):
    return [*ARGUMENTS, "--data", shards, "--workdir", str(workdir), *more]


def free_ports(count):
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("", 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in servers]


@pytest.fixture
def start():
    """Starts a process for each list of arguments, which a failed test does not leave behind."""
    started = []

    def start_all(argv_of_hosts, folder):
        started.extend(start_hosts(argv_of_hosts, folder))
        return started[-len(argv_of_hosts) :]

    yield start_all
    for process in started:
        process.kill()
        process.wait()


def start_hosts(argv_of_hosts, folder):
    workers = [f"localhost:{port}" for port in free_ports(len(argv_of_hosts))]
    processes = []
    for index, argv in enumerate(argv_of_hosts):
        config = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        with open(folder / f"host-{index}", "w", encoding="utf-8") as log:
            processes.append(
                subprocess.Popen(
                    [sys.executable, str(ROOT / "train.py"), *argv],
                    env={**os.environ, "TF_CONFIG": json.dumps(config)},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
    return processes


def printed(folder):
    return [(folder / f"host-{index}").read_text("utf-8") for index in (0, 1)]


def rows_of(workdir):
    """What the log says of the training itself, not how long it took."""
    rows = [measured.without(row) for row in read_log(str(workdir / "A" / "stage-1" / "log.jsonl"))]
    return [row for row in rows if row]


@pytest.fixture(scope="module")
def in_one_process(shards, tmp_path_factory):
    """A workdir of one process with two replicas."""
    workdir = tmp_path_factory.mktemp("one")
    assert train.main(command(shards, workdir, "--cpus", "2")) == 0
    return workdir


def test_two_hosts_killed_and_started_again_end_like_one_process(
    start, shards, in_one_process, tmp_path
):
    """The same weights to the bit: of two summands the order does not matter."""
    workdir = tmp_path / "two"
    hosts = [command(shards, workdir)] * 2
    processes = start(hosts, tmp_path)
    end = time.monotonic() + 240
    while not rows_of(workdir):
        assert all(process.poll() is None for process in processes), printed(tmp_path)
        assert time.monotonic() < end, printed(tmp_path)
        time.sleep(0.05)
    for process in processes:
        process.kill()
    assert [process.wait() for process in processes] == [-signal.SIGKILL] * 2
    assert not os.path.exists(layout.model_path(str(workdir), "A", 1))

    processes = start(hosts, tmp_path)
    assert [process.wait(240) for process in processes] == [0, 0], printed(tmp_path)
    first, second = printed(tmp_path)
    for text in (first, second):
        assert "recipe tiny: CPU, 2 replicas, 2 hosts, float32, TensorFlow" in text
        assert "goes on from the checkpoint of step" in text
    assert "loss" in first
    assert "loss" not in second
    one, two = (
        load_model(layout.model_path(str(folder), "A", 1)).get_weights()
        for folder in (in_one_process, workdir)
    )
    for expected, found in zip(one, two, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert rows_of(workdir) == rows_of(in_one_process)
    folder = workdir / "A" / "stage-1"
    assert {path.name for path in folder.iterdir()} == {
        path.name for path in (in_one_process / "A" / "stage-1").iterdir()
    }


def test_hosts_that_do_not_see_the_same_are_told(start, shards, tmp_path):
    """One was started with another seed."""
    argv = command(shards, tmp_path / "run")
    processes = start([argv, [*argv, "--set", "recipe.seed=5"]], tmp_path)
    assert [process.wait(120) for process in processes] == [2, 2], printed(tmp_path)
    for text in printed(tmp_path):
        assert "error: the hosts have different recipes or data: start the same command" in text
