"""What query expansion and database augmentation cost, against the obvious ways.

    python benchmarks/expansion.py [--sizes 5000 20000 50000] [--dimension 2048] [--passes 3]

Every vector of a set is expanded by its neighbours in the set (DBA, rank weights over 10) or, as a
query, by those of its list (alpha-QE, alpha 3 over 50). The neighbours are drawn at random, so that
no cache helps. For each size: process CPU seconds (median of interleaved passes) and the memory
added, with the results, of

- expansion.expand;
- NumPy: the rows of all neighbours of 1,024 queries gathered, and one einsum;
- scipy.sparse: a matrix of the weights times the vectors, on one thread.

The last line scales the largest size to 760,000 vectors.
"""

import argparse
import pathlib
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import numpy as np
import scipy.sparse

from retrieval.reranking import expansion
from retrieval.reranking.expansion import Weights

RULES = {"DBA, 10": Weights.decaying(10), "alpha-QE, 50": Weights.alpha_weighted(50, 3.0)}
GLDV2 = 760_000
_QUERIES = 1024


def ours(vectors: np.ndarray, positions: np.ndarray, similarities: np.ndarray, rule: Weights):
    """Returns the expanded vectors (N, D)."""
    return expansion.expand(vectors, vectors, positions, similarities, weights=rule)


def numpy_way(vectors: np.ndarray, positions: np.ndarray, similarities: np.ndarray, rule: Weights):
    """Returns the expanded vectors (N, D)."""
    result = np.empty_like(vectors)
    for first in range(0, len(vectors), _QUERIES):
        piece = slice(first, first + _QUERIES)
        weights = weights_of(similarities[piece], rule)
        sums = rule.ranks[0] * vectors[piece]
        sums += np.einsum("bn,bnd->bd", weights, vectors[positions[piece]])
        result[piece] = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    return result


def sparse_way(vectors: np.ndarray, positions: np.ndarray, similarities: np.ndarray, rule: Weights):
    """Returns the expanded vectors (N, D)."""
    count, n = positions.shape
    weights = weights_of(similarities, rule)
    starts = np.arange(count + 1) * n
    matrix = scipy.sparse.csr_matrix((weights.ravel(), positions.ravel(), starts), (count, count))
    sums = matrix @ vectors + np.float32(rule.ranks[0]) * vectors
    return sums / np.linalg.norm(sums, axis=1, keepdims=True)


def weights_of(similarities: np.ndarray, rule: Weights) -> np.ndarray:
    """Returns the weights (B, n) of neighbours that are all there and differ."""
    ranks = np.array(rule.ranks[1:], np.float32)
    return ranks * np.maximum(similarities, 0) ** np.float32(rule.alpha)


WAYS = {"ours": ours, "NumPy": numpy_way, "scipy.sparse": sparse_way}


def make_set(count: int, dimension: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns unit vectors, and n different neighbours of each with falling similarities."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((count, dimension), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    steps = np.cumsum(rng.integers(1, count // n, (count, n)), axis=1)  # below count: all differ
    positions = (np.arange(count)[:, None] + steps) % count
    similarities = np.sort(rng.random((count, n), dtype=np.float32), axis=1)[:, ::-1]
    return vectors, positions, np.ascontiguousarray(similarities)


def measure(ways: dict[str, Callable], passes: int) -> dict[str, tuple[float, float, float]]:
    """Returns median CPU seconds, median seconds and the MB added for each way."""
    cpu, wall = ({name: [] for name in ways} for _ in range(2))
    for _ in range(passes):
        for name, way in ways.items():
            starts = time.process_time(), time.perf_counter()
            way()
            cpu[name].append(time.process_time() - starts[0])
            wall[name].append(time.perf_counter() - starts[1])
    added = {}
    for name, way in ways.items():
        tracemalloc.start()
        way()
        added[name] = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
    median = statistics.median
    return {name: (median(cpu[name]), median(wall[name]), added[name]) for name in ways}


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[5000, 20_000, 50_000])
    parser.add_argument("--dimension", type=int, default=2048)
    parser.add_argument("--passes", type=int, default=3)
    args = parser.parse_args(argv)
    print(f"{'':14}{'vectors':>9}  {'':13}{'CPU s':>8}{'s':>8}{'MB added':>10}   CPU to ours")
    for title, rule in RULES.items():
        for size in args.sizes:
            given = make_set(size, args.dimension, rule.top)
            ways = {n: (lambda w=w, g=given: w(*g, rule)) for n, w in WAYS.items()}  # noqa: B023
            results = measure(ways, args.passes)
            base = results["ours"][0]
            for name, (cpu, wall, added) in results.items():
                numbers = f"{cpu:8.2f}{wall:8.2f}{added:10.0f}   {cpu / base:.2f}"
                print(f"{title:14}{size:9,}  {name:13}{numbers}")
        cpu, wall, added = results["ours"]
        scale, rows = GLDV2 / size, size * args.dimension * 4 / 1e6
        print(
            f"{title:14}{GLDV2:9,}  {'ours, scaled':13}{cpu * scale:8.1f}{wall * scale:8.1f}"
            f"   {rows * scale:,.0f} MB of results (out= may be a memory map) "
            f"+ {added - rows:.0f} MB"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
