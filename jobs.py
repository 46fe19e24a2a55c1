"""Runs independent tasks: on all cores of this machine, or on a cluster by Apache Beam.

A task and its result are JSON values, and a function that makes the one from the other stands at
the top level of a module, so that every way of running it gives the same.
"""

import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import files

_IN_FLIGHT = 3  # tasks per process that are taken and whose results are not yet given

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
    numbered = enumerate(tasks)
    answers: dict[int, Any] = {}  # those that wait for an earlier one
    wanted = 0
    with _Workers(function, workers) as pool:
        upcoming = next(numbered, None)
        while upcoming or answers or pool.is_busy:
            is_near = upcoming and upcoming[0] + 1 < wanted + _IN_FLIGHT * workers
            if is_near and pool.has_room:
                pool.give(*upcoming)
                upcoming = next(numbered, None)
            elif wanted in answers:
                result, error = answers.pop(wanted)
                if error is not None:
                    raise error
                yield result
                wanted += 1
            else:
                answers.update(pool.take())


class _Workers:
    """Processes with one task each; an error, Ctrl-C among them, ends them at once.

    `ProcessPoolExecutor` waits for ever when Ctrl-C comes while it takes a task.
    """

    def __init__(self, function: Function, size: int):
        self._function = function
        self._size = size
        # A forked process would inherit the threads' locks of TensorFlow, where that is loaded.
        self._context = multiprocessing.get_context("forkserver")
        self._processes: dict[Connection, multiprocessing.Process] = {}
        self._idle: list[Connection] = []
        self._busy: dict[Connection, int] = {}  # and the number of the task

    @property
    def has_room(self) -> bool:
        """Whether a further task can be given."""
        return bool(self._idle) or len(self._processes) < self._size

    @property
    def is_busy(self) -> bool:
        """Whether there are tasks that are not taken back."""
        return bool(self._busy)

    def give(self, number: int, task: Task) -> None:
        """Hands a task over."""
        worker = self._idle.pop() if self._idle else self._start()
        self._busy[worker] = number
        with contextlib.suppress(BrokenPipeError):  # `take` finds out why
            worker.send(task)

    def take(self) -> Iterator[tuple[int, Any]]:
        """Waits for a task; yields (number, (result, error)) of all that are finished."""
        for worker in multiprocessing.connection.wait(list(self._busy)):
            try:
                answer = worker.recv()
            except (EOFError, ConnectionResetError):
                process = self._processes[worker]
                process.join()
                raise RuntimeError(
                    f"a process at work on {self._function.__name__} has ended with exit code "
                    f"{process.exitcode}; -9 may be for want of memory"
                ) from None
            self._idle.append(worker)
            yield self._busy.pop(worker), answer

    def _start(self) -> Connection:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(self._function, theirs), daemon=True)
        process.start()
        theirs.close()
        self._processes[ours] = process
        return ours

    def __enter__(self) -> "_Workers":
        return self

    def __exit__(self, kind, error, trace) -> None:
        for worker, process in self._processes.items():
            worker.close()  # which ends the process when it has nothing to do
            if kind is not None:
                process.kill()
        for process in self._processes.values():
            process.join()


def _work(function: Function, parent: Connection) -> None:
    """Does what it is told to, until the parent closes the connection."""
    _follow_parent()
    while True:
        try:
            task = parent.recv()
        except EOFError:
            return
        try:
            answer = function(task), None
        except Exception as error:
            error.add_note("".join(traceback.format_exception(error)))  # with the lines in here
            answer = None, error
        parent.send(answer)


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
