"""One index of 760,000 x 2048 on one machine: time and memory of every step.

    python benchmarks/large_index.py --folder DIR [--count 760000] [--threads 2]

The vectors are made as a float32 memory map, 6.2 GB, in DIR (deleted with --delete): clusters of
clusters, normal with a falling spectrum, topics of 1,000 and in them classes of 25 images on
average with very different sizes; queries are further images of the same classes. Then, each step
in a process of its own:

- exact search of the queries, the 100 best of each;
- building ScaNN with the suggested parameters; choosing how many leaves are searched and how many
  candidates rescored on other queries, for 100 answers and for the neighbour lists (`--recalls`);
- approximate search with its recall@100; alpha-QE (10 neighbours, alpha 3) and the search behind
  it;
- neighbour lists of all vectors through the index; k-reciprocal re-ranking of all queries with
  them, and of single queries against the prepared gallery.

Prints wall and CPU seconds, and two peaks in GiB: all of the process's memory, with the pages of
the memory map that lie in it, and its own alone. Pages of a map can be dropped at any time.
"""

import argparse
import dataclasses
import itertools
import json
import math
import multiprocessing
import os
import pathlib
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import numpy as np

from benchmarks import re_ranking
from retrieval.indexing import questions as asking
from retrieval.nearest import exact, neighbors
from retrieval.nearest.approximate import ScannSearcher
from retrieval.nearest.scann_parameters import Parameters, suggest
from retrieval.reranking import expansion, k_reciprocal, prepared_gallery

K, K1, K2 = 100, 20, 6
_LISTED = K1 + 1 + 8  # what `neighbors.of_searcher` asks for
_ROWS = 8192  # made at a time
# Tried in place of `tuning.retune`, which takes more than 11 CPU minutes at 760,000 x 2048.
_SHARES, _CANDIDATES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1), (2.0, 4.0, 10.0)
_SPREADS = (1.0, 0.8, 0.8)  # of topics, classes and images


class Meter(re_ranking.Meter):
    """Measures the peak of the memory that no file backs, too: `own`, in MiB."""

    def _sample(self) -> None:
        self.own = 0.0
        while not self._ended.wait(0.05):
            memory = self._process.memory_info()
            self._peak = max(self._peak, memory.rss)
            self.own = max(self.own, (memory.rss - memory.shared) / 2**20)


class Place:
    """The files of one run in a folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def path(self, name: str) -> str:
        """Returns the path of a file."""
        return os.path.join(self.folder, name)

    def load(self, name: str) -> np.ndarray:
        """Opens an array as a memory map."""
        return np.load(self.path(name), mmap_mode="r", allow_pickle=False)

    def vectors(self) -> np.ndarray:
        """Opens the index."""
        return self.load("vectors.npy")

    def queries(self) -> np.ndarray:
        """Reads the queries that are measured."""
        return np.array(self.load("queries.npy"))

    def tuning(self) -> np.ndarray:
        """Reads the queries that settings are chosen with."""
        return np.array(self.load("tuning.npy"))

    def searcher(self, threads: int, kind: str) -> ScannSearcher:
        """Loads the index with what was chosen for "answers" or "lists"."""
        with open(self.path(f"{kind}.json"), encoding="utf-8") as file:
            parameters = Parameters(**json.load(file))
        found = ScannSearcher.load(self.path("scann"), self.vectors(), parameters)
        found.threads = threads
        return found


def make(place: Place, threads: int, count: int, dimension: int, queries: int) -> dict:
    """Writes vectors.npy, queries.npy and tuning.npy (half as many), unit vectors."""
    rng = np.random.default_rng(0)
    spectrum = np.arange(1, dimension + 1, dtype=np.float32) ** -0.5
    spectrum /= np.sqrt((spectrum**2).mean())

    def around(centres: np.ndarray, rows: np.ndarray, width: float) -> np.ndarray:
        noise = rng.standard_normal((len(rows), dimension), dtype=np.float32)
        noise *= spectrum * np.float32(width)
        noise += centres[rows]
        return noise

    origin, first = np.zeros((1, dimension), np.float32), np.zeros(-(-count // 1000), int)
    topics = around(origin, first, _SPREADS[0])
    classes = around(topics, rng.integers(len(topics), size=-(-count // 25)), _SPREADS[1])
    sizes = rng.pareto(2.0, len(classes)) + 0.2
    rotation = np.linalg.qr(rng.standard_normal((dimension, dimension), dtype=np.float32))[0]
    for name, number in (("vectors", count), ("queries", queries), ("tuning", queries // 2)):
        rows = rng.choice(len(classes), number, p=sizes / sizes.sum())
        out = np.lib.format.open_memmap(
            place.path(f"{name}.npy"), "w+", np.float32, (number, dimension)
        )
        for start in range(0, number, _ROWS):
            piece = around(classes, rows[start : start + _ROWS], _SPREADS[2]) @ rotation
            out[start : start + _ROWS] = piece / np.linalg.norm(piece, axis=1, keepdims=True)
        out.flush()
    return {"note": f"{count * dimension * 4 / 1e9:.1f} GB"}


def search_exactly(place: Place, threads: int) -> dict:
    """Answers the queries exactly; the answers are what recall is measured with."""
    queries = place.queries()
    with Meter() as meter:
        found = exact.ExactSearcher(place.vectors(), threads=threads).search(queries, K)
    np.save(place.path("exact.npy"), found[0])
    return measured(meter, f"{len(queries) / meter.wall:.0f} queries a second")


def build(place: Place, threads: int, memory_mb: int) -> dict:
    """Builds the approximate index and saves it."""
    vectors = place.vectors()
    parameters = suggest(*vectors.shape, K)
    with Meter() as meter:
        searcher = ScannSearcher(
            vectors, parameters=parameters, threads=threads, memory_mb=memory_mb
        )
        searcher.save(place.path("scann"))
    disk = sum(file.stat().st_size for file in pathlib.Path(place.path("scann")).iterdir())
    save_parameters(place, "suggested", parameters)
    return measured(meter, f"{parameters.leaves} leaves, {disk / 1e9:.1f} GB")


def tune(place: Place, threads: int, kind: str, recall: float) -> dict:
    """Chooses how the index is searched for the "answers" or the "lists".

    Of a few settings it is the fastest that reaches the recall, else the most accurate.
    """
    searcher = place.searcher(threads, "suggested")
    k = K if kind == "answers" else _LISTED
    points = []
    with Meter() as meter:
        asked = asking.prepare(searcher.vectors, k, place.tuning(), threads=threads)
        for share, candidates in itertools.product(_SHARES, _CANDIDATES):
            leaves = math.ceil(share * searcher.parameters.leaves_to_search)
            parameters = dataclasses.replace(
                searcher.parameters, leaves_to_search=leaves, candidates=candidates
            )
            points.append(asked.measure(searcher.with_parameters(parameters), parameters))
    fit = [point for point in points if point.recall >= recall]
    best = max(points, key=lambda point: point.recall)
    chosen = min(fit, key=lambda point: point.seconds, default=best)
    save_parameters(place, kind, chosen.parameters)
    leaves, candidates = chosen.parameters.leaves_to_search, chosen.parameters.candidates
    note = f"{leaves} leaves, {candidates:g} candidates per answer: recall@{k} {chosen.recall:.4f}"
    return measured(meter, note)


def search(place: Place, threads: int) -> dict:
    """Answers the queries through the index."""
    searcher, queries = place.searcher(threads, "answers"), place.queries()
    with Meter() as meter:
        found = searcher.search(queries, K)
    recall = asking.recall(found[0], np.array(place.load("exact.npy"))).mean()
    note = f"{len(queries) / meter.wall:,.0f} queries a second, recall@{K} {recall:.4f}"
    return measured(meter, note)


def expand(place: Place, threads: int) -> dict:
    """Search, alpha-QE, search."""
    searcher, queries = place.searcher(threads, "answers"), place.queries()
    with Meter() as meter:
        found = searcher.search(queries, K)
        started = time.perf_counter()
        expanded = expansion.expand(
            queries, searcher.vectors, *found, top=10, alpha=3.0, workers=threads
        )
        alone = time.perf_counter() - started
        searcher.search(expanded, K)
    return measured(meter, f"{alone:.2f} s of it the expansion")


def list_neighbours(place: Place, threads: int) -> dict:
    """Finds the neighbour lists of all vectors through the index."""
    searcher = place.searcher(threads, "lists")
    with Meter() as meter:
        lists = neighbors.of_searcher(searcher, searcher.vectors, K1 + 1, workers=threads)
    np.savez(place.path("lists.npz"), **dataclasses.asdict(lists))
    return measured(meter, f"{1000 * meter.wall / len(searcher.vectors):.2f} ms a vector")


def rerank(place: Place, threads: int) -> dict:
    """Re-ranks all queries together."""
    queries, lists = place.queries(), load_lists(place)
    vectors = place.vectors()
    k_reciprocal.rerank(queries[:5], queries[5:300])  # compiles
    with Meter() as meter:
        k_reciprocal.rerank(queries, vectors, k1=K1, k2=K2, k=K, neighbours=lists, workers=threads)
    return measured(meter, f"{1000 * meter.wall / len(queries):.1f} ms a query")


def rerank_alone(place: Place, threads: int) -> dict:
    """Re-ranks the first 100 queries one by one against the prepared gallery."""
    queries, lists = place.queries()[:100], load_lists(place)
    prepared_gallery.PreparedGallery(place.queries())  # compiles
    times = []
    with Meter() as meter:
        gallery = prepared_gallery.PreparedGallery(
            place.vectors(), k1=K1, k2=K2, neighbours=lists, workers=threads
        )
        for query in queries:
            started = time.perf_counter()
            gallery.rerank_one(query, k=K)
            times.append(time.perf_counter() - started)
    return measured(meter, f"{1000 * statistics.median(times):.0f} ms a query")


def load_lists(place: Place) -> neighbors.Neighbors:
    """Reads the neighbour lists."""
    with np.load(place.path("lists.npz"), allow_pickle=False) as arrays:
        return neighbors.Neighbors(**arrays)


def save_parameters(place: Place, kind: str, parameters: Parameters) -> None:
    """Writes how the index is searched."""
    with open(place.path(f"{kind}.json"), "w", encoding="utf-8") as file:
        json.dump(dataclasses.asdict(parameters), file)


def measured(meter: Meter, note: str) -> dict:
    """Returns a row of the table."""
    return {"wall": meter.wall, "cpu": meter.cpu, "own": meter.own / 1024, "note": note}


def in_process(step: Callable, *arguments) -> dict:
    """Runs a step in a fresh process and adds the peak of its whole memory, in GiB."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_with_peak, (step, *arguments))


def _with_peak(step: Callable, place: Place, threads: int, *arguments) -> dict:
    from threadpoolctl import threadpool_limits

    with threadpool_limits(threads):
        row = step(place, threads, *arguments)
    return {**row, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def steps_of(args: argparse.Namespace) -> dict[str, tuple]:
    """Returns the steps by name: a function and its arguments behind place and threads."""
    answers, lists = args.recalls
    return {
        "make vectors": (make, args.count, args.dimension, args.queries),
        "exact search": (search_exactly,),
        "build ScaNN": (build, args.build_memory),
        "tune for the answers": (tune, "answers", answers),
        "tune for the lists": (tune, "lists", lists),
        "approximate search": (search,),
        "alpha-QE": (expand,),
        "neighbour lists": (list_neighbours,),
        "k-reciprocal": (rerank,),
        "k-reciprocal, one by one": (rerank_alone,),
    }


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--folder", required=True, help="for 1.7 times the vectors' bytes")
    parser.add_argument("--count", type=int, default=760_000)
    parser.add_argument("--dimension", type=int, default=2048)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--build-memory", type=int, default=4096, metavar="MIB", help="besides what stays"
    )
    parser.add_argument(
        "--recalls", type=float, nargs=2, default=[0.99, 0.95], help="of answers and lists"
    )
    parser.add_argument("--steps", type=int, nargs="+", help="numbers from 0, of an earlier run")
    parser.add_argument("--delete", action="store_true", help="the folder, at the end")
    parser.add_argument("--output", help="JSON of the table")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    args = parse_args(argv)
    os.makedirs(args.folder, exist_ok=True)
    place, rows = Place(args.folder), {}
    print(f"{args.count:,} x {args.dimension}, {args.queries:,} queries, {args.threads} thread(s)")
    print(f"{'':<26}{'wall s':>9}{'CPU s':>9}{'GiB':>7}{'own GiB':>9}")
    for number, (name, (step, *more)) in enumerate(steps_of(args).items()):
        if args.steps and number not in args.steps:
            continue
        started = time.perf_counter()
        row = in_process(step, place, args.threads, *more)
        row = {"wall": time.perf_counter() - started, "cpu": float("nan"), "own": 0.0} | row
        rows[name] = row
        print(
            f"{name:<26}{row['wall']:>9.1f}{row['cpu']:>9.1f}{row['peak']:>7.2f}{row['own']:>9.2f}"
            f"  {row['note']}",
            flush=True,
        )
    if args.output:
        with open(args.output, "w", encoding="utf-8") as file:
            json.dump({"count": args.count, "dimension": args.dimension, "steps": rows}, file)
    if args.delete:
        shutil.rmtree(args.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
