"""GAP and mAP@100 at the size of Google Landmarks v2, against DELF's metrics, in one run.

    python benchmarks/metrics.py --delf FOLDER [--queries 117577] [--index 761757] [--passes 3]

FOLDER holds DELF's metrics.py (tensorflow/models, research/delf/delf/python/datasets/
google_landmarks_dataset); without it, it is said to be missing. The predictions are made: 100 of
the index per query, 30 relevant images each, half of them found, with repeated answers; one label
and score per query for GAP, a fifth of the queries without a label.

Prints the CPU seconds of one process (median of interleaved passes), the ratio to ours, and how far
the values are apart:

    metric alone        ours on the arrays that its reader makes, DELF's on the lists its reader
                        makes; what `judge` costs is in ours
    from dictionaries   ours on the same Python lists and dictionaries as DELF's
    from the CSV files  reading and metric; DELF's reader needs TensorFlow, so that Python's csv
                        and str.split stand for it
"""

import argparse
import csv
import importlib.util
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from types import ModuleType

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import numpy as np

from eval import coded, metrics, solutions

_PIECE = 8192
_MISSING = "DELF's metrics.py is missing (--delf): ours alone"


def write_files(folder: pathlib.Path, queries: int, index: int, seed: int = 0) -> None:
    """Writes retrieval and recognition solutions and predictions in GLDv2's formats."""
    rng = np.random.default_rng(seed)
    # Odd multiples modulo 2^64 are distinct, and look like the 16 hexadecimal digits of GLDv2.
    names = [
        np.array([f"{n * 0x9E3779B97F4A7C15 % 2**64:016x}" for n in range(first, first + count)])
        for first, count in ((1, index), (index + 1, queries))
    ]
    images, ids = names
    with (
        open(folder / "predictions.csv", "w", encoding="utf-8") as predictions,
        open(folder / "solution.csv", "w", encoding="utf-8") as solution,
    ):
        predictions.write("id,images\n")
        solution.write("id,images,Usage\n")
        for first in range(0, queries, _PIECE):
            piece = ids[first : first + _PIECE]
            relevant = rng.integers(0, index, (len(piece), 30))
            answers = rng.integers(0, index, (len(piece), 100))
            ranks = rng.permuted(np.tile(np.arange(100), (len(piece), 1)), axis=1)[:, :16]
            found = np.concatenate([relevant[:, :15], relevant[:, :1]], axis=1)  # one of them twice
            np.put_along_axis(answers, ranks, found, axis=1)
            for name, right, ranking in zip(piece, images[relevant], images[answers], strict=True):
                predictions.write(f"{name},{' '.join(ranking)}\n")
                solution.write(f"{name},{' '.join(dict.fromkeys(right))},Private\n")
    labels = rng.integers(0, 203_094, (queries, 2))
    scores = rng.random(queries, np.float32).tolist()  # as similarities are; some are equal
    right, labelled = rng.random(queries) < 0.6, rng.random(queries) < 0.8
    rows = list(zip(ids, labels.tolist(), scores, right, labelled, strict=True))
    truths = [f"{name},{own if known else ''},Private" for name, (own, _), _, _, known in rows]
    answers = [f"{name},{own if hit else other} {s}" for name, (own, other), s, hit, _ in rows]
    _write(folder / "labels.csv", "id,landmarks,Usage", truths)
    _write(folder / "answers.csv", "id,landmarks", answers)


def load_delf(folder: str | None) -> ModuleType | None:
    """Loads DELF's metrics.py from a folder; None if there is none."""
    path = pathlib.Path(folder or "", "metrics.py")
    if not folder or not path.is_file():
        return None
    spec = importlib.util.spec_from_file_location("delf_metrics", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _write(path: pathlib.Path, header: str, lines: list[str]) -> None:
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")


def read_lists(path: pathlib.Path) -> dict[str, list[str]]:
    """Reads ids separated by spaces per query, as DELF's reader does."""
    csv.field_size_limit(2**26)
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        next(reader)
        return {row[0]: row[1].split(" ") for row in reader}


def read_labels(path: pathlib.Path) -> dict[str, list[int]]:
    """Reads the integer labels per query, as DELF's reader does."""
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        next(reader)
        return {row[0]: [int(label) for label in row[1].split()] for row in reader}


def read_answers(path: pathlib.Path) -> dict[str, dict]:
    """Reads class and score per query, as DELF's reader does."""
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        next(reader)
        pairs = ((row[0], row[1].split(" ")) for row in reader)
        return {name: {"class": int(label), "score": float(s)} for name, (label, s) in pairs}


def retrieval_ways(folder: pathlib.Path, delf: ModuleType | None) -> dict[str, dict[str, Callable]]:
    """Returns {comparison: {way: function}} of mAP@100."""
    answers, truth = folder / "predictions.csv", folder / "solution.csv"
    truths = coded.read_truths(str(truth))
    rankings = coded.read_rankings(str(answers), truths, 100)
    lists, right = read_lists(answers), read_lists(truth)

    def from_files() -> float:
        truths = coded.read_truths(str(truth))
        found = coded.read_rankings(str(answers), truths, 100)
        return metrics.mean_average_precision(coded.judge(truths, found))

    ways = {
        "mAP@100, metric alone": {
            "ours": lambda: metrics.mean_average_precision(coded.judge(truths, rankings))
        },
        "mAP@100, from dictionaries": {
            "ours": lambda: metrics.mean_average_precision(metrics.judge(lists, right))
        },
        "mAP@100, from the CSV files": {"ours": from_files},
    }
    if delf:
        ways["mAP@100, metric alone"]["DELF"] = lambda: delf.MeanAveragePrecision(lists, right)
        ways["mAP@100, from dictionaries"]["DELF"] = ways["mAP@100, metric alone"]["DELF"]
        ways["mAP@100, from the CSV files"]["DELF"] = lambda: delf.MeanAveragePrecision(
            read_lists(answers), read_lists(truth)
        )
    return ways


def recognition_ways(
    folder: pathlib.Path, delf: ModuleType | None
) -> dict[str, dict[str, Callable]]:
    """Returns {comparison: {way: function}} of GAP."""
    answers, labels = folder / "answers.csv", folder / "labels.csv"
    truth = solutions.read_recognition_solution(str(labels))
    predicted = solutions.read_recognition_predictions(str(answers))

    def from_files() -> float:
        truth = solutions.read_recognition_solution(str(labels))
        predicted = solutions.read_recognition_predictions(str(answers), queries=truth.keys())
        return metrics.global_average_precision(predicted, truth)

    ways = {
        "GAP, from dictionaries": {
            "ours": lambda: metrics.global_average_precision(predicted, truth)
        },
        "GAP, from the CSV files": {"ours": from_files},
    }
    if delf:
        lists = read_answers(answers), read_labels(labels)
        ways["GAP, from dictionaries"]["DELF"] = lambda: delf.GlobalAveragePrecision(*lists)
        ways["GAP, from the CSV files"]["DELF"] = lambda: delf.GlobalAveragePrecision(
            read_answers(answers), read_labels(labels)
        )
    return ways


def measure(ways: dict[str, Callable], passes: int) -> dict[str, tuple[float, float]]:
    """Returns {way: (median CPU seconds of interleaved passes, value)}."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    values = {}
    for _ in range(passes):
        for name, way in ways.items():
            start = time.process_time()
            values[name] = float(way())
            seconds[name].append(time.process_time() - start)
    return {name: (statistics.median(seconds[name]), values[name]) for name in ways}


def show(comparison: str, found: dict[str, tuple[float, float]]) -> None:
    """Prints one line per way."""
    ours, value = found["ours"]
    for name, (seconds, other) in found.items():
        ratio = f"{seconds / ours:8.1f}" if name != "ours" else ""
        apart = f"{abs(other - value):10.1e}" if name != "ours" else ""
        print(f"{comparison:<28}{name:<6}{seconds:>10.3f}{ratio:>9}{other:>12.8f}{apart}")


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--delf", metavar="FOLDER", help="with DELF's metrics.py")
    parser.add_argument("--queries", type=int, default=117_577)
    parser.add_argument("--index", type=int, default=761_757)
    parser.add_argument("--passes", type=int, default=3)
    args = parser.parse_args(argv)
    delf = load_delf(args.delf)
    if delf is None:
        print(_MISSING)
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        write_files(folder, args.queries, args.index)
        size = os.path.getsize(folder / "predictions.csv") / 1e6
        print(f"{args.queries:,} queries, {args.index:,} index ids, predictions of {size:.0f} MB")
        print(f"{'':<28}{'':<6}{'CPU s':>10}{'x ours':>9}{'value':>12}{'apart':>10}")
        for make in (recognition_ways, retrieval_ways):
            for comparison, ways in make(folder, delf).items():
                show(comparison, measure(ways, args.passes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
