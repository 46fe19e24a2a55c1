"""k-reciprocal re-ranking beside public implementations: time, memory and the same answers.

    python benchmarks/re_ranking.py \\
        --peer original=peers/re_ranking_feature:re_ranking:features \\
        --peer fast-reid=peers/rerank.py:re_ranking:distances \\
        --peer layumi=peers/re_ranking.py:re_ranking:cosines --alone 100000

A peer is NAME=FILE:FUNCTION:INPUT, a file that the user has fetched. INPUT says what its function
takes before k1, k2 and lambda: the two matrices of features, or three matrices of Euclidean
distances or cosines (query-gallery, query-query, gallery-gallery), which are computed within the
time. Every pass is a process of its own, on clustered unit vectors, a tenth of them queries; the
passes of all are interleaved and the median is printed. CPU seconds are those of the process,
memory is how far its peak rises above the state with the inputs in memory; compiling and imports
come before. The same: the share of the 100 best that are ours too, and of queries with equal sets.
"""

import argparse
import contextlib
import dataclasses
import importlib.machinery
import importlib.util
import io
import multiprocessing
import os
import pathlib
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import numpy as np
import psutil

from retrieval.nearest import neighbors
from retrieval.reranking import k_reciprocal, prepared_gallery

PARAMETERS = {"k1": 20, "k2": 6, "lambda_value": 0.3}
INPUTS = ("features", "distances", "cosines")
OURS = "ours"
_BEST = 100
_WARM_UP = 300


@dataclasses.dataclass(frozen=True)
class Peer:
    """A public implementation: its name, file, function and what that takes."""

    name: str
    path: str
    function: str
    inputs: str


@dataclasses.dataclass(frozen=True)
class Pass:
    """What one process measured; memory in MiB, positions (Q, 100)."""

    cpu: float
    wall: float
    memory: float
    positions: np.ndarray


class Meter:
    """Measures a block: cpu and wall in seconds, and memory, its peak in MiB above the start's."""

    def __enter__(self) -> "Meter":
        self._process, self._ended = psutil.Process(), threading.Event()
        self._before = self._peak = self._process.memory_info().rss
        self._sampler = threading.Thread(target=self._sample)
        self._sampler.start()
        self._cpu, self._wall = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *error) -> None:
        self.cpu, self.wall = time.process_time() - self._cpu, time.perf_counter() - self._wall
        self._ended.set()
        self._sampler.join()
        self.memory = (self._peak - self._before) / 2**20

    def _sample(self) -> None:
        while not self._ended.wait(0.005):
            self._peak = max(self._peak, self._process.memory_info().rss)


def parse_peer(text: str) -> Peer:
    """Reads NAME=FILE:FUNCTION:INPUT."""
    name, _, rest = text.partition("=")
    parts = rest.rsplit(":", 2)
    if len(parts) != 3 or parts[2] not in INPUTS:
        raise argparse.ArgumentTypeError(
            f"expected NAME=FILE:FUNCTION:INPUT with INPUT of {', '.join(INPUTS)}. Received: {text}"
        )
    return Peer(name, *parts)


def unit_vectors(count: int, dimension: int, seed: int = 0) -> np.ndarray:
    """Returns (count, dimension) float32 unit vectors in clusters of about 20."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((max(1, count // 20), dimension), dtype=np.float32)
    vectors = centers[rng.integers(0, len(centers), count)]
    for first in range(0, count, 65536):
        part = vectors[first : first + 65536]
        part += 0.9 * rng.standard_normal(part.shape, dtype=np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return vectors


def load(peer: Peer) -> Callable:
    """Imports the peer's function from its file, whatever its ending."""
    loader = importlib.machinery.SourceFileLoader("peer", peer.path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("peer", loader))
    loader.exec_module(module)
    return getattr(module, peer.function)


def run_peer(peer: Peer, function: Callable, queries: np.ndarray, vectors: np.ndarray):
    """Returns the positions (Q, 100) that a peer ranks first."""
    inputs = queries, vectors
    if peer.inputs != "features":
        pairs = (queries, vectors), (queries, queries), (vectors, vectors)
        inputs = tuple(a @ b.T for a, b in pairs)
    if peer.inputs == "distances":
        for matrix in inputs:
            np.multiply(matrix, -2, out=matrix)
            np.sqrt(np.maximum(np.add(matrix, 2, out=matrix), 0, out=matrix), out=matrix)
    with contextlib.redirect_stdout(io.StringIO()):
        distances = function(*inputs, *PARAMETERS.values())
    return np.argsort(distances, axis=1, kind="stable")[:, :_BEST]


def measure(peer: Peer | None, count: int, dimension: int) -> Pass:
    """Runs one implementation once, in this process."""
    rows = unit_vectors(count, dimension)
    queries, vectors = rows[: count // 10], rows[count // 10 :]
    function = load(peer) if peer else None
    if peer is None:
        k_reciprocal.rerank(queries[:5], vectors[:_WARM_UP], **PARAMETERS)
    with Meter() as meter:
        if peer is None:
            positions, _ = k_reciprocal.rerank(queries, vectors, k=_BEST, **PARAMETERS)
        else:
            positions = run_peer(peer, function, queries, vectors)
    return Pass(meter.cpu, meter.wall, meter.memory, positions)


def in_process(function: Callable, *arguments):
    """Runs a function in a fresh process, whose peak memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def compare(peers: Sequence[Peer], count: int, dimension: int, passes: int) -> None:
    """Prints one table: ours and the peers on `count` vectors."""
    everyone: list[Peer | None] = [None, *peers]
    runs = [[in_process(measure, one, count, dimension) for one in everyone] for _ in range(passes)]
    ours = runs[0][0].positions
    print(f"\n{count:,} x {dimension}, {count // 10:,} of them queries, {passes} passes")
    print(
        f"{'':<12}{'CPU s':>9}{'ratio':>8}{'wall s':>9}{'ratio':>8}{'MiB added':>11}{'ratio':>8}"
        f"{'of the 100':>12}{'equal sets':>12}"
    )
    base = None
    for number, one in enumerate(everyone):
        mine = [run[number] for run in runs]
        costs = [statistics.median(getattr(p, key) for p in mine) for key in MEASURES]
        base = base or costs
        shares = [
            len(np.intersect1d(a, b)) / len(a) for a, b in zip(mine[0].positions, ours, strict=True)
        ]
        cells = "".join(
            f"{cost:>{width}.{digits}f}{cost / first:>8.1f}"
            for cost, first, width, digits in zip(costs, base, (9, 9, 11), (1, 1, 0), strict=True)
        )
        name = one.name if one else OURS
        equal = np.mean(np.array(shares) == 1)
        print(f"{name:<12}{cells}{np.mean(shares):>12.4%}{equal:>12.2%}", flush=True)


MEASURES = ("cpu", "wall", "memory")


def measure_alone(count: int, dimension: int) -> dict[str, float]:
    """Runs ours by parts, then queries one by one; seconds, and MiB."""
    rows = unit_vectors(count, dimension)
    queries, vectors = rows[: count // 10], rows[count // 10 :]
    k_reciprocal.rerank(queries[:5], vectors[:_WARM_UP], **PARAMETERS)
    with Meter() as meter:
        k_reciprocal.rerank(queries, vectors, k=_BEST, **PARAMETERS)
    found = {"CPU s": meter.cpu, "wall s": meter.wall, "MiB added": meter.memory}
    with Meter() as meter:
        neighbors.of_union(queries, vectors, PARAMETERS["k1"] + 1, answers=_BEST)
    found["CPU s of the lists in it"] = meter.cpu
    lists = neighbors.of_set(vectors, PARAMETERS["k1"] + 1)
    gallery = prepared_gallery.PreparedGallery(vectors, neighbours=lists)
    times = []
    for query in queries[:100]:
        started = time.perf_counter()
        gallery.rerank_one(query, k=_BEST)
        times.append(time.perf_counter() - started)
    found["ms per single query"] = 1000 * statistics.median(times)
    started = time.perf_counter()
    gallery.rerank(queries[:100], k=_BEST)
    found["ms per query in a batch of 100"] = 10 * (time.perf_counter() - started)
    return found


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--peer", action="append", type=parse_peer, default=[], dest="peers")
    parser.add_argument("--sizes", nargs="*", type=int, default=[5_000, 10_000, 20_000])
    parser.add_argument("--alone", nargs="*", type=int, default=[100_000], help="sizes of ours")
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--passes", type=int, default=3)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    args = parse_args(argv)
    peers = [peer for peer in args.peers if os.path.isfile(peer.path)]
    for peer in args.peers:
        if peer not in peers:
            print(f"{peer.name} is missing: no file {peer.path}")
    for count in args.sizes:
        compare(peers, count, args.dimension, args.passes)
    for count in args.alone:
        print(f"\nours alone, {count:,} x {args.dimension}, {count // 10:,} of them queries")
        for what, value in in_process(measure_alone, count, args.dimension).items():
            print(f"  {what:<32}{value:>10.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
