"""Kills conversion, embedding and training at random moments and compares what is left.

    python benchmarks/kills.py --workdir DIR [--kills 50] [--jobs convert embed train train-2]

Each job runs once from beginning to end. Then the same command is started again and again in
another folder and its processes are killed by SIGKILL after a random time, until it ends by
itself; that is repeated in new folders until the kills are used up. Every end must be byte for
byte the first one's; of training, the weights and the log without what clocks and memory say.

"train" is the three stages of the tiny recipe, "train-2" the same on two replicas. Every third of
their kills is a SIGTERM, followed by a SIGKILL after the 30 s that a pre-emption gives.
Steps lost by a kill: those logged after the checkpoint that the next start goes on from; with a
line every two steps, up to two more are not seen.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

from training import measured

ROOT = pathlib.Path(__file__).resolve().parents[1]
# So that a training of seconds has lines, checkpoints and loops as one of hours has.
FREQUENT = ("--set", "stage.epochs=40", "--log-every", "2", "--checkpoint-seconds", "0.5")
GRACE = 30.0  # seconds between SIGTERM and SIGKILL
_SHARE = re.compile(r"([\d.]+)% of the time went into checkpoints")


@dataclasses.dataclass(frozen=True)
class Job:
    """A command that writes a folder, and what is compared of that.

    Attributes:
        name: of the job.
        command: folder → words.
        digest: folder → what must be equal.
        reach: a kill comes after up to so much of the time of a whole run.
        steps_lost: folder → steps that a kill has cost.
    """

    name: str
    command: Callable[[str], list[str]]
    digest: Callable[[pathlib.Path], dict[str, str]]
    reach: float = 1.1
    steps_lost: Callable[[pathlib.Path], int] | None = None


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
        text = json.dumps(measured.results(read_rows(path)), sort_keys=True)
        found[f"{path.parent.name}/log"] = hashlib.sha256(text.encode()).hexdigest()
    return found


def read_rows(path: pathlib.Path) -> list[dict]:
    """Returns the lines of a log, without a last one that was cut off."""
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def steps_lost(folder: pathlib.Path) -> int:
    """Returns the steps of the stage in work that its log has and its newest checkpoint has not."""
    logs = [
        path for path in folder.rglob("log.jsonl") if not path.with_name("model.keras").exists()
    ]
    logged = [row["step"] for path in logs for row in read_rows(path) if row["event"] == "train"]
    indices = [index for path in logs for index in path.parent.glob("checkpoints/ckpt-*.index")]
    saved = [int(index.stem.removeprefix("ckpt-")) for index in indices]
    return max(0, max(logged, default=0) - max(saved, default=0))


def run(command: list[str], seconds: float | None = None, number: int = signal.SIGKILL) -> str:
    """Runs a command, or ends it and all its processes after `seconds`.

    Args:
        command: without Python.
        seconds: until it is killed; None for never.
        number: of the signal.

    Returns:
        What the command printed; an empty text if it was killed.

    Raises:
        RuntimeError: the command failed.
    """
    with subprocess.Popen(  # noqa: S603
        [sys.executable, *command],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            output, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, number)
            try:
                process.communicate(timeout=GRACE)
            except subprocess.TimeoutExpired:  # what a pre-emption does then
                os.killpg(process.pid, signal.SIGKILL)
            return ""
    if process.returncode not in (0, 3):
        raise RuntimeError(f"{command}: exit code {process.returncode}\n{errors.decode()[-2000:]}")
    return output.decode() or "ended"


def torture(job: Job, workdir: pathlib.Path, kills: int, seed: int) -> None:
    """Compares ends after kills with an uninterrupted one; raises RuntimeError if they differ."""
    start = time.monotonic()
    output = run(job.command(str(workdir / "whole")))
    seconds = time.monotonic() - start
    expected = job.digest(workdir / "whole")
    draw = random.Random(seed)  # noqa: S311
    done, ends, lost = 0, 0, {signal.SIGKILL: [], signal.SIGTERM: []}
    while done < kills:
        folder = workdir / "killed"
        shutil.rmtree(folder, ignore_errors=True)
        while True:
            number = signal.SIGTERM if job.steps_lost and done % 3 == 2 else signal.SIGKILL
            if run(job.command(str(folder)), draw.uniform(0, job.reach * seconds), number):
                break
            done += 1
            print(f"{job.name}: {done} of {kills} kills, {ends} ends", file=sys.stderr, flush=True)
            if job.steps_lost:
                lost[number].append(job.steps_lost(folder))
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
    if job.steps_lost:
        print_costs(job.name, lost, output)


def print_costs(name: str, lost: dict[int, list[int]], output: str) -> None:
    """Prints the steps lost per kill, and the share of checkpoints in the uninterrupted run."""
    for number, steps in lost.items():
        if steps:
            told = f"{sum(steps) / len(steps):.1f} steps lost on average, {max(steps)} at most"
            print(f"{name}: {len(steps)} times {signal.Signals(number).name}: {told}", flush=True)
    shares = ", ".join(f"{share} %" for share in _SHARE.findall(output))
    print(f"{name}: time in checkpoints, by stage: {shares}", flush=True)


def make_jobs(workdir: pathlib.Path) -> dict[str, Job]:
    """Draws a small set, trains and exports a tiny model, and returns the three jobs."""
    photographs, data, trained = (str(workdir / name) for name in ("drawn", "data", "trained"))
    model = str(workdir / "model")
    table = os.path.join(photographs, "train.csv")
    run(["demo/draw.py", "--output", photographs, "--size", "tiny"])
    run(["tfrecords_tools/write.py", "--table", table, "--output", data])
    train = ["train.py", "--recipe", "tiny", "--stage", "all", "--data", data]
    train += [*FREQUENT, "--workdir"]
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
        "train": Job("train", lambda folder: [*train, folder], training_digest, 0.5, steps_lost),
        "train-2": Job(
            "train-2",
            lambda folder: [*train, folder, "--cpus", "2"],
            training_digest,
            0.5,
            steps_lost,
        ),
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
