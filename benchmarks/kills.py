"""Kills conversion, embedding and training at random moments and compares what is left.

    python benchmarks/kills.py --workdir DIR [--kills 50] [--jobs convert embed train]

Each job runs once from beginning to end. Then the same command is started again and again in
another folder and its processes are killed by SIGKILL after a random time, until it ends by
itself; that is repeated in new folders until the kills are used up. Every end must be byte for
byte the first one's; of training, the weights and the log without its clock times.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

ROOT = pathlib.Path(__file__).resolve().parents[1]
_TIMES = ("images_per_second", "seconds")  # of a log line: another clock, not another result


@dataclasses.dataclass(frozen=True)
class Job:
    """A command that writes a folder, and what is compared of that."""

    name: str
    command: Callable[[str], list[str]]
    digest: Callable[[pathlib.Path], dict[str, str]]


def files_digest(folder: pathlib.Path) -> dict[str, str]:
    """Returns {file: sha256} of all files below a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def training_digest(folder: pathlib.Path) -> dict[str, str]:
    """Returns {file: sha256} of the weights of all models and of the logs without clock times."""
    found = {}
    for path in sorted(folder.rglob("model.keras")):
        with zipfile.ZipFile(path) as archive:
            weights = archive.read("model.weights.h5")
        found[path.parent.name] = hashlib.sha256(weights).hexdigest()
    for path in sorted(folder.rglob("log.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        kept = [{key: row[key] for key in row if key not in _TIMES} for row in rows]
        text = json.dumps(kept, sort_keys=True)
        found[f"{path.parent.name}/log"] = hashlib.sha256(text.encode()).hexdigest()
    return found


def run(command: list[str], seconds: float | None = None) -> bool:
    """Runs a command, or kills it and all its processes after `seconds`; True if it ended."""
    with subprocess.Popen(  # noqa: S603
        [sys.executable, *command],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            _, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return False
    if process.returncode not in (0, 3):
        raise RuntimeError(f"{command}: exit code {process.returncode}\n{errors.decode()[-2000:]}")
    return True


def torture(job: Job, workdir: pathlib.Path, kills: int, seed: int) -> None:
    """Compares ends after kills with an uninterrupted one; raises RuntimeError if they differ."""
    start = time.monotonic()
    run(job.command(str(workdir / "whole")))
    seconds = time.monotonic() - start
    expected = job.digest(workdir / "whole")
    draw = random.Random(seed)  # noqa: S311
    done = ends = 0
    while done < kills:
        folder = workdir / "killed"
        shutil.rmtree(folder, ignore_errors=True)
        while not run(job.command(str(folder)), draw.uniform(0, 1.1 * seconds)):
            done += 1
        received = job.digest(folder)
        if received != expected:
            names = sorted(set(expected.items()) ^ set(received.items()))
            raise RuntimeError(f"{job.name}: after kill {done} others: {names}")
        ends += 1
    print(
        f"{job.name}: {done} kills, {ends} ends, all equal to the uninterrupted run of "
        f"{seconds:.1f} s ({len(expected)} files)",
        flush=True,
    )


def make_jobs(workdir: pathlib.Path) -> dict[str, Job]:
    """Draws a small set, trains and exports a tiny model, and returns the three jobs."""
    photographs, data, trained = (str(workdir / name) for name in ("drawn", "data", "trained"))
    model = str(workdir / "model")
    table = os.path.join(photographs, "train.csv")
    run(["demo/draw.py", "--output", photographs, "--size", "tiny"])
    run(["tfrecords_tools/write.py", "--table", table, "--output", data])
    train = ["train.py", "--recipe", "tiny", "--stage", "all", "--data", data, "--workdir"]
    run([*train, trained])
    run(
        [
            "export/savedmodel.py",
            "--recipe",
            "tiny",
            "--member",
            "A",
            "--workdir",
            trained,
            "--output",
            model,
        ]
    )
    write = ["tfrecords_tools/write.py", "--table", table, "--images-per-shard", "7", "--output"]
    embed = ["export/embed.py", "--model", model, "--table", table, "--output"]
    return {
        "convert": Job("convert", lambda folder: [*write, folder], files_digest),
        "embed": Job("embed", lambda folder: [*embed, folder], files_digest),
        "train": Job("train", lambda folder: [*train, folder], training_digest),
    }


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--workdir", required=True, type=pathlib.Path, help="an empty folder")
    parser.add_argument("--kills", type=int, default=50, help="of each job (default: 50)")
    parser.add_argument("--jobs", nargs="+", default=["convert", "embed", "train"])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    workdir = args.workdir.resolve()
    workdir.mkdir(parents=True)
    jobs = make_jobs(workdir)
    for name in args.jobs:
        (workdir / name).mkdir()
        torture(jobs[name], workdir / name, args.kills, args.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
