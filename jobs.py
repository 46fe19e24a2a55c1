"""Runs independent tasks: on all cores of this machine, or on a cluster by Apache Beam.

A task and its result are JSON values, and a function that makes the one from the other stands at
the top level of a module, so that every way of running it gives the same.
"""

import collections
import dataclasses
import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import files

_IN_FLIGHT = 3  # tasks per process that are handed over and not yet taken back

Task = Any
Function = Callable[[Task], Any]


@dataclasses.dataclass(frozen=True)
class Beam:
    """An Apache Beam runner.

    Attributes:
        runner: DirectRunner, DataflowRunner, FlinkRunner, SparkRunner or PortableRunner.
        options: of the pipeline, such as "--project=museum"; see the runner's documentation.
        folder: where tasks and results are exchanged; every machine must see it under this name.
    """

    runner: str
    options: tuple[str, ...] = ()
    folder: str = ""


def run(
    function: Function, tasks: Iterable[Task], *, workers: int, beam: Beam | None = None
) -> Iterator[Any]:
    """Yields `function(task)` in the order of the tasks.

    Args:
        function: of the top level of a module.
        tasks: JSON values; they are taken as they are needed, so memory is bounded.
        workers: processes on this machine; 1 runs the tasks in this process.
        beam: runs them there instead.
    """
    if beam is not None:
        yield from _run_on_beam(function, tasks, beam)
    elif workers == 1:
        yield from map(function, tasks)
    else:
        yield from _run_in_processes(function, tasks, workers)


def _run_in_processes(function: Function, tasks: Iterable[Task], workers: int) -> Iterator[Any]:
    # A forked process would inherit the threads' locks of TensorFlow, where that is loaded.
    context = multiprocessing.get_context("forkserver")
    pending: collections.deque = collections.deque()
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_follow_parent) as pool:
        try:
            for task in tasks:
                pending.append(pool.submit(function, task))
                if len(pending) >= _IN_FLIGHT * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for job in pending:
                job.cancel()


def _follow_parent() -> None:
    """Leaves Ctrl-C to the parent and ends with it, even if it was killed.

    Else a worker would go on writing next to those of the command that is started again.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _run_on_beam(function: Function, tasks: Iterable[Task], beam: Beam) -> Iterator[Any]:
    paths = []
    files.make_folder(beam.folder)
    for task in map(json.dumps, tasks):
        # Named by its contents: a result that an earlier run left belongs to the same task.
        name = hashlib.sha256(task.encode()).hexdigest()[:24]
        paths.append(f"{beam.folder}/{function.__name__}-{name}.json")
        files.write_text(paths[-1], task)
    pipeline = make_pipeline(function, paths, beam)
    pipeline.run().wait_until_finish()
    for path in paths:
        result = json.loads(files.read(_result_path(path)))
        files.remove(path)
        files.remove(_result_path(path))
        yield result
    files.remove_folder(beam.folder)


def make_pipeline(function: Function, paths: list[str], beam: Beam):
    """Returns the Beam pipeline that runs `function` on tasks in files, without starting it.

    Raises ValueError for an unknown runner or option, ImportError without Apache Beam.
    """
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise ImportError(
            f"--runner {beam.runner} needs Apache Beam: pip install 'waymark[beam]'"
        ) from error
    options = PipelineOptions([f"--runner={beam.runner}", *beam.options])
    pipeline = apache_beam.Pipeline(options=options)
    (
        pipeline
        | "list tasks" >> apache_beam.Create(paths)
        | "spread" >> apache_beam.Reshuffle()
        | function.__name__ >> apache_beam.Map(run_file, function)
    )
    return pipeline


def run_file(path: str, function: Function) -> None:
    """Runs the task in a file and writes the result beside it, unless that is there already."""
    if not files.exists(_result_path(path)):
        result = function(json.loads(files.read(path)))
        files.write_text(_result_path(path), json.dumps(result))


def _result_path(path: str) -> str:
    return path.removesuffix(".json") + ".result.json"
