"""ScaNN with our tuner against FAISS IVF-PQ, hnswlib and usearch at equal recall.

    python benchmarks/approximate_search.py [--vectors 50000] [--dimensions 512 2048]
    python benchmarks/approximate_search.py --vectors 200000 --dimensions 512 --passes 5
    python benchmarks/approximate_search.py --memory --vectors 100000 --dimensions 2048

The vectors are clustered: topics, in each of them classes of very different sizes, 25 images on
average, around them images; normal with a falling spectrum at each of the three levels, turned at
random. Queries are further images of the same classes.

Every library's settings are chosen by one rule on one half of the queries: the fastest whose
recall@k less one standard error is the wanted one. Prints, for the other half, recall@k, queries
per CPU second (median of interleaved passes) and ours over theirs; and the time of one query alone
(wall clock, median). Peers that are not installed are said to be missing.

- ours: approximate.ScannSearcher as tuning.tune leaves it, answers rescored in bfloat16;
- faiss: IVF{2 sqrt N},PQ{D/2}x4fs,RFlat; number of lists searched and of candidates vary;
- hnswlib: M 32, ef_construction 200; ef varies;
- usearch: bfloat16, connectivity 32, expansion_add 200; expansion_search varies.

--memory builds over a memory map and prints by how much the process grew, with all of the map.
"""

import argparse
import dataclasses
import importlib.util
import math
import os
import pathlib
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import numpy as np

from retrieval.indexing import measuring, questions, tuning
from retrieval.indexing.questions import Questions
from retrieval.indexing.recall_curve import Point
from retrieval.nearest.approximate import ScannSearcher
from retrieval.nearest.scann_parameters import suggest

_ROWS = 8192  # made at a time
_LISTS = (4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 50, 64, 80, 100, 130, 160, 200, 260)
_FACTORS = (1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 2, 2.25, 2.5, 3, 4, 6, 10)
_EXPANSIONS = (100, 115, 130, 150, 175, 200, 230, 260, 300, 350, 400, 500, 600, 800, 1200, 2000)


def clustered(count: int, dimension: int, seed: int = 0) -> np.ndarray:
    """Returns unit vectors in clusters of clusters, float32 (count, dimension)."""
    rng = np.random.default_rng(seed)
    spectrum = np.arange(1, dimension + 1, dtype=np.float32) ** -0.5
    spectrum /= math.sqrt(float((spectrum**2).mean()))

    def around(centres: np.ndarray, rows: np.ndarray, width: float) -> np.ndarray:
        noise = rng.standard_normal((len(rows), dimension), dtype=np.float32)
        return centres[rows] + noise * (spectrum * np.float32(width))

    origin = np.zeros((1, dimension), np.float32)
    topics = around(origin, np.zeros(math.ceil(count / 1000), int), 1.0)
    classes = around(topics, rng.integers(len(topics), size=math.ceil(count / 25)), 0.8)
    sizes = rng.pareto(2.0, len(classes)) + 0.2
    rows = rng.choice(len(classes), count, p=sizes / sizes.sum())
    rotation = np.linalg.qr(rng.standard_normal((dimension, dimension), dtype=np.float32))[0]
    vectors = np.empty((count, dimension), np.float32)
    for first in range(0, count, _ROWS):
        piece = around(classes, rows[first : first + _ROWS], 0.8) @ rotation
        vectors[first : first + _ROWS] = piece / np.linalg.norm(piece, axis=1, keepdims=True)
    return vectors


class Peer:
    """A library's index with one setting; `search` as `exact.ExactSearcher` has it."""

    def __init__(self, ask: Callable, apply: Callable, setting: tuple) -> None:
        self.ask, self.apply, self.setting = ask, apply, setting

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, None]:
        """Returns positions (Q, k) int64; the similarities are not compared."""
        self.apply(*self.setting)
        return self.ask(queries, k).astype(np.int64), None


def faiss_peer(vectors: np.ndarray, threads: int) -> list[Peer]:
    """Returns the settings of FAISS."""
    import faiss

    faiss.omp_set_num_threads(threads)
    count, dimension = vectors.shape
    lists = round(2 * math.sqrt(count))
    name = f"IVF{lists},PQ{dimension // 2}x4fs,RFlat"
    index = faiss.index_factory(dimension, name, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    partition = faiss.extract_index_ivf(index.base_index)

    def apply(factor: float, probes: int) -> None:
        index.k_factor, partition.nprobe = factor, probes

    settings = [(factor, probes) for factor in _FACTORS for probes in _LISTS if probes <= lists]
    return [Peer(lambda q, k: index.search(q, k)[1], apply, setting) for setting in settings]


def hnswlib_peer(vectors: np.ndarray, threads: int) -> list[Peer]:
    """Returns the settings of hnswlib."""
    import hnswlib

    index = hnswlib.Index("ip", vectors.shape[1])
    index.init_index(len(vectors), ef_construction=200, M=32)
    index.set_num_threads(threads)
    index.add_items(vectors)
    ask = lambda q, k: index.knn_query(q, k)[0]  # noqa: E731
    return [Peer(ask, index.set_ef, (expansion,)) for expansion in _EXPANSIONS]


def usearch_peer(vectors: np.ndarray, threads: int) -> list[Peer]:
    """Returns the settings of usearch."""
    from usearch.index import Index

    index = Index(
        ndim=vectors.shape[1], metric="ip", dtype="bf16", connectivity=32, expansion_add=200
    )
    index.add(np.arange(len(vectors)), vectors, threads=threads)

    def apply(expansion: int) -> None:
        index.expansion_search = expansion

    ask = lambda q, k: np.atleast_2d(index.search(q, k, threads=threads).keys)  # noqa: E731
    return [Peer(ask, apply, (expansion,)) for expansion in _EXPANSIONS]


PEERS = {"faiss": faiss_peer, "hnswlib": hnswlib_peer, "usearch": usearch_peer}


def choose(peers: Sequence[Peer], asked: Questions, recalls: Sequence[float]) -> list[Peer | None]:
    """Returns for every recall the fastest setting that reaches it, None if none does."""
    measured = [(peer, asked.measure(peer, None)) for peer in peers]
    return [_fastest(measured, wanted, asked) for wanted in recalls]


def _fastest(
    measured: Sequence[tuple[Peer, Point]], wanted: float, asked: Questions
) -> Peer | None:
    """The fastest few by one measurement each are measured again, as the tuner does."""
    fit = sorted(
        (pair for pair in measured if measuring.reaches(pair[1], wanted)),
        key=lambda pair: pair[1].seconds,
    )[:6]
    if not fit:
        return None
    passes = [[asked.ask(peer)[1] for peer, _ in fit] for _ in range(5)]
    return fit[int(np.argmin(np.median(passes, axis=0)))][0]


def ours(
    vectors: np.ndarray, asked: Questions, recalls: Sequence[float], args: argparse.Namespace
) -> list[ScannSearcher | None]:
    """Returns for every recall what the tuner finds."""
    found = []
    for wanted in recalls:
        tuned = tuning.tune(
            vectors, k=args.k, recall=wanted, queries=asked.queries, builds=args.builds,
            threads=args.threads, exactly=False, stream=sys.stderr,
        )  # fmt: skip
        found.append(tuned.searcher if measuring.reaches(tuned.curve.chosen, wanted) else None)
    return found


def milliseconds_alone(searcher, queries: np.ndarray, k: int) -> float:
    """Returns the median wall time of single queries."""
    times = []
    for row in range(min(300, len(queries))):
        start = time.perf_counter()
        searcher.search(queries[row : row + 1], k)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def compare(dimension: int, args: argparse.Namespace) -> None:
    """Builds all indexes of one dimension and prints the table."""
    made = clustered(args.vectors + 2 * args.queries, dimension)
    vectors, rest = made[: args.vectors], made[args.vectors :]
    halves = [
        questions.prepare(vectors, args.k, half, threads=args.threads)
        for half in (rest[: args.queries], rest[args.queries :])
    ]
    ways = {"ours": ours(vectors, halves[0], args.recalls, args)}
    for name, make in PEERS.items():
        if name not in args.peers:
            continue
        if importlib.util.find_spec(name) is None:
            print(f"{name} is missing")
            continue
        start = time.process_time()
        peers = make(vectors, args.threads)
        print(f"{name} built, {time.process_time() - start:.0f} CPU s", file=sys.stderr, flush=True)
        ways[name] = choose(peers, halves[0], args.recalls)
    print(f"\n{args.vectors:,} x {dimension}, k = {args.k}, {args.threads} thread(s)")
    print(f"{'recall':>6} {'':<8} {'measured':>8} {'queries/CPU s':>14} {'ours/it':>8} {'ms':>6}")
    for number, wanted in enumerate(args.recalls):
        row = {name: found[number] for name, found in ways.items()}
        print_row(wanted, row, halves[1], args)


def print_row(wanted: float, row: dict, asked: Questions, args: argparse.Namespace) -> None:
    """Measures, in turn, what was chosen for one recall, and prints it."""
    there = {name: searcher for name, searcher in row.items() if searcher is not None}
    passes = [{n: asked.ask(s)[1] for n, s in there.items()} for _ in range(args.passes)]
    seconds = {name: statistics.median(one[name] for one in passes) for name in there}
    for name, searcher in row.items():
        if searcher is None:
            print(f"{wanted:>6} {name:<8} not reached")
            continue
        point: Point = asked.measure(searcher, None)
        ratio = f"{seconds[name] / seconds['ours']:8.2f}" if "ours" in seconds else f"{'':8}"
        alone = milliseconds_alone(searcher, asked.queries, args.k)
        setting = searcher.setting if isinstance(searcher, Peer) else searcher.parameters
        print(
            f"{wanted:>6} {name:<8} {point.recall:8.4f} {1 / seconds[name]:14,.0f} {ratio} "
            f"{alone:6.2f}  {setting}",
            flush=True,
        )


class Anonymous:
    """The largest anonymous memory of this process inside the block, in MiB."""

    def __enter__(self) -> "Anonymous":
        self.start = self.peak = _anonymous()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_over.wait(0.02):
            self.peak = max(self.peak, _anonymous())


def _anonymous() -> float:
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return 0.0


def measure_memory(dimension: int, args: argparse.Namespace) -> None:
    """Prints the memory of a build over a memory map, and of what stays."""
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = os.path.join(folder, "vectors.npy")
        np.save(path, clustered(args.vectors, dimension))
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
        size = vectors.nbytes / 2**20
        suggested = suggest(args.vectors, dimension, args.k)
        training = round(args.vectors * args.training)
        parameters = dataclasses.replace(suggested, training=training)
        start = time.monotonic()
        with Anonymous() as memory:
            searcher = ScannSearcher(
                vectors, parameters=parameters, threads=args.threads, memory_mb=args.memory_mb
            )
        seconds, kept = time.monotonic() - start, _anonymous()
        saved = os.path.join(folder, "scann")
        searcher.save(saved)
        disk = sum(file.stat().st_size for file in pathlib.Path(saved).iterdir()) / 2**20
    peak = memory.peak - memory.start
    print(
        f"{args.vectors:,} x {dimension}: vectors {size:,.0f} MiB mapped; build {seconds:.0f} s, "
        f"peak +{peak:,.0f} MiB ({peak / size:.2f} of the vectors), after it "
        f"+{kept - memory.start:,.0f} MiB, on disk {disk:,.0f} MiB"
    )


def main(argv: list[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--vectors", type=int, default=50_000)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--queries", type=int, default=1000, help="of each half")
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--recalls", type=float, nargs="+", default=[0.98, 0.99, 0.995])
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--builds", type=int, default=4, help="that the tuner may try")
    parser.add_argument("--memory", action="store_true", help="measure the memory of a build")
    parser.add_argument(
        "--training",
        type=float,
        default=0.33,
        help="share of the rows that are trained on with --memory (250,000 of 760,000: 0.33)",
    )
    parser.add_argument("--memory-mb", type=int, default=8192, help="limit of --memory")
    parser.add_argument("--folder", help="for the memory map")
    args = parser.parse_args(argv)
    for dimension in args.dimensions:
        if args.memory:
            measure_memory(dimension, args)
        else:
            compare(dimension, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
