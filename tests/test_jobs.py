"""Tasks in this process, in several, and by Apache Beam: the same results in the same order."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT

import jobs


def square(task):
    """The first of each ten takes longest."""
    time.sleep(0.001 * (9 - task["number"] % 10))
    return {"number": task["number"], "square": task["number"] ** 2}


def process(task):
    return os.getpid()


def fail(task):
    if task == 3:
        raise FileNotFoundError(f"expected task {task} to exist")
    return task


def wait(folder):
    """Says which process this is, and works on for longer than a test may last."""
    name = os.path.join(folder, str(os.getpid()))
    with open(name, "w", encoding="utf-8"):
        time.sleep(120)


TASKS = [{"number": number} for number in range(25)]
RESULTS = [{"number": number, "square": number**2} for number in range(25)]


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_the_order_of_the_tasks(workers):
    assert list(jobs.run(square, TASKS, workers=workers)) == RESULTS
    assert list(jobs.run(square, [], workers=workers)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_tasks_are_taken_as_they_are_needed(workers):
    taken = []
    tasks = (taken.append(task) or task for task in TASKS)
    results = jobs.run(square, tasks, workers=workers)
    assert next(results) == RESULTS[0]
    assert len(taken) <= 3 * workers
    results.close()
    assert len(taken) <= 3 * workers


def test_one_worker_is_this_process():
    assert set(jobs.run(process, TASKS, workers=1)) == {os.getpid()}
    assert os.getpid() not in set(jobs.run(process, TASKS, workers=2))


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_are_passed_on(workers):
    results = jobs.run(fail, range(50), workers=workers)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(FileNotFoundError, match="expected task 3"):
        next(results)


PARENT = """
import sys
import jobs, test_jobs
list(jobs.run(test_jobs.wait, [sys.argv[1]] * 9, workers=2))
"""


def is_running(pid):
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}) as parent:
        deadline = time.monotonic() + 30
        while len(workers := list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        parent.send_signal(signal.SIGKILL)
    assert len(workers) == 2
    while any(is_running(file.name) for file in workers) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [file.name for file in workers if is_running(file.name)] == []


@pytest.fixture
def beam(tmp_path):
    pytest.importorskip("apache_beam")
    return jobs.Beam("DirectRunner", folder=str(tmp_path / "tasks"))


def test_beam_gives_the_same_results(beam):
    assert list(jobs.run(square, TASKS, workers=1, beam=beam)) == RESULTS
    assert not os.path.exists(beam.folder)


def test_a_result_of_an_earlier_run_is_taken(beam, monkeypatch):
    def lost(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "make_pipeline", lost)
        with pytest.raises(KeyboardInterrupt):
            list(jobs.run(square, TASKS[:4], workers=1, beam=beam))
    tasks = sorted(pathlib.Path(beam.folder).iterdir())
    assert len(tasks) == 4
    done = next(path for path in tasks if json.loads(path.read_text()) == TASKS[2])
    done.with_suffix(".result.json").write_text('"of an earlier run"')
    expected = [*RESULTS[:2], "of an earlier run", RESULTS[3]]
    assert list(jobs.run(square, TASKS[:4], workers=1, beam=beam)) == expected


def test_errors_on_beam_stop_the_run(beam):
    with pytest.raises(Exception, match="expected task 3"):
        list(jobs.run(fail, range(5), workers=1, beam=beam))


@pytest.mark.parametrize(
    ("runner", "options"),
    [
        ("DirectRunner", {"direct_num_workers": 2, "direct_running_mode": "multi_processing"}),
        (
            "DataflowRunner",
            {
                "project": "museum-data",
                "region": "europe-west1",
                "temp_location": "gs://museum-data/tmp",
            },
        ),
        ("FlinkRunner", {"flink_master": "flink.example:8081", "environment_type": "LOOPBACK"}),
        ("SparkRunner", {"spark_master_url": "spark://spark.example:7077"}),
        ("PortableRunner", {"job_endpoint": "beam.example:8099"}),
    ],
)
def test_pipelines_for_clusters(beam, runner, options):
    words = tuple(f"--{name}={value}" for name, value in options.items())
    paths = ["gs://museum-data/tasks/a.json", "gs://museum-data/tasks/b.json"]
    pipeline = jobs.make_pipeline(square, paths, jobs.Beam(runner, words, "gs://museum-data/tasks"))
    made = pipeline.options.get_all_options(drop_default=True)
    assert {name: made[name] for name in options} == options
    assert runner in type(pipeline.runner).__name__
    steps = pipeline.to_runner_api().components.transforms.values()
    assert "square" in {step.unique_name for step in steps}


def test_wrong_runners_and_options_are_explained(beam, monkeypatch):
    with pytest.raises(ValueError, match="SomeRunner"):
        jobs.make_pipeline(square, [], jobs.Beam("SomeRunner"))
    with pytest.raises(ValueError, match="project"):
        jobs.make_pipeline(square, [], jobs.Beam("DataflowRunner"))
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(ImportError, match=r"waymark\[beam\]"):
        jobs.make_pipeline(square, [], beam)


def end(task):
    if task == 5:
        os._exit(9)
    return task


def test_a_process_that_ends_is_an_error():
    with pytest.raises(RuntimeError, match="at work on end has ended with exit code 9"):
        list(jobs.run(end, range(20), workers=2))


def double(task):
    return task * 2


def test_tasks_larger_than_a_pipe_holds():
    """Both ends would wait for each other if they wrote at the same time."""
    large = ["x" * 300_000] * 12
    assert list(jobs.run(double, large, workers=3)) == [text * 2 for text in large]


CTRL_C = """
import sys
import jobs, test_jobs
try:
    print("started")
    for result in jobs.run(test_jobs.double, iter(int, 1), workers=3):
        pass
except KeyboardInterrupt:
    print("stopped")
"""


def test_ctrl_c_ends_all_processes_at_once():
    """At any moment: the tasks have no end, and come faster than they can be written down."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    for attempt in range(6):
        command = [sys.executable, "-c", CTRL_C]
        with subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as parent:
            assert parent.stdout.readline() == b"started\n"
            time.sleep(0.2 + 0.07 * attempt)
            os.killpg(parent.pid, signal.SIGINT)
            output, _ = parent.communicate(timeout=20)
        assert output == b"stopped\n"
