"""What exact search costs, against the obvious way, FAISS and the matrix product alone.

    python benchmarks/exact_search.py [--vectors 200000] [--dimension 512] [--queries 1000]
    python benchmarks/exact_search.py --memory-map /data/x.npy --vectors 760000 --dimension 2048

The first prints seconds and process CPU seconds (medians of interleaved passes) and how many times
ours they are, for random unit vectors, of

- exact.ExactSearcher over float32, and over float16, bfloat16 and int8;
- NumPy: one matrix product, argpartition, and a sort of the k;
- FAISS IndexFlatIP, if it is installed;
- sgemm: the matrix product alone, as NumPy's BLAS does it on all cores;
- sgemm side by side: the same in threads of one core each.

The second writes the vectors into a file first, searches the memory map once, and prints the time
and by how much the process grew at its peak. The file stays.
"""

import argparse
import os
import pathlib
import resource
import statistics
import sys
import time
from collections.abc import Callable

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import numpy as np

from retrieval.nearest import cores
from retrieval.nearest.exact import ExactSearcher
from retrieval.stored import precision

_ROWS = 2048  # made at a time


def units(count: int, dimension: int, seed: int) -> np.ndarray:
    """Returns random unit vectors, float32 (count, dimension)."""
    vectors = np.random.default_rng(seed).standard_normal((count, dimension), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def numpy_way(vectors: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Returns the positions (Q, k) by a product and a selection among everything."""
    similarities = queries @ vectors.T
    found = np.argpartition(-similarities, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(similarities, found, axis=1), axis=1)
    return np.take_along_axis(found, order, axis=1)


def product(vectors: np.ndarray, queries: np.ndarray, columns: int = 8192) -> None:
    """Multiplies and forgets."""
    memory = np.empty((len(queries), columns), np.float32)
    for first in range(0, len(vectors), columns):
        block = vectors[first : first + columns]
        np.matmul(queries, block.T, out=memory[:, : len(block)])


def products_side_by_side(vectors: np.ndarray, queries: np.ndarray) -> None:
    """Multiplies tiles in threads of one core each."""
    threads = cores.count()
    rows = -(-len(queries) // threads)
    with cores.pool(threads) as pool:
        tiles = [queries[first : first + rows] for first in range(0, len(queries), rows)]
        list(pool.map(lambda tile: product(vectors, tile, 2048), tiles))


def faiss_way(vectors: np.ndarray, queries: np.ndarray, k: int) -> Callable | None:
    """Returns a search by FAISS, None where it is not installed."""
    try:
        import faiss
    except ImportError:
        return None
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return lambda: index.search(queries, k)[1]


def make_ways(
    vectors: np.ndarray, queries: np.ndarray, k: int, memory_mb: int
) -> dict[str, Callable]:
    """Returns what is timed, by name; the first is what the others are compared with."""
    ways = {}
    for dtype in precision.DTYPES:
        rows = vectors
        if dtype != "float32":
            stored, scales = precision.encode(vectors, dtype)
            rows = precision.StoredRows(stored, dtype, scales)
        searcher = ExactSearcher(rows, memory_mb=memory_mb)
        ways[f"ours, {dtype}"] = lambda searcher=searcher: searcher.search(queries, k)[0]
    ways["NumPy"] = lambda: numpy_way(vectors, queries, k)
    if (way := faiss_way(vectors, queries, k)) is None:
        print("FAISS: not installed (pip install faiss-cpu)")
    else:
        ways["FAISS IndexFlatIP"] = way
    ways["sgemm"] = lambda: product(vectors, queries)
    ways["sgemm side by side"] = lambda: products_side_by_side(vectors, queries)
    return ways


def measure(ways: dict[str, Callable], passes: int) -> dict[str, tuple[float, float]]:
    """Returns median seconds and CPU seconds of each way."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(passes + 1):
        for name, way in ways.items():
            starts = time.perf_counter(), time.process_time()
            way()
            taken = time.perf_counter() - starts[0], time.process_time() - starts[1]
            if number:  # the first pass warms up
                times[name].append(taken)
    return {
        name: tuple(statistics.median(column) for column in zip(*values, strict=True))
        for name, values in times.items()
    }


def compare(args: argparse.Namespace) -> None:
    """Prints the table of all ways."""
    vectors = units(args.vectors, args.dimension, 0)
    queries = units(args.queries, args.dimension, 1)
    ways = make_ways(vectors, queries, args.k, args.memory_mb)
    found = {name: ways[name]() for name in ("ours, float32", "NumPy")}
    same = np.mean(found["ours, float32"] == found["NumPy"])
    results = measure(ways, args.passes)
    base = results["ours, float32"]
    print(f"{args.vectors:,} x {args.dimension}, {args.queries:,} queries, k {args.k}")
    print(f"{same:.4%} of ours are NumPy's")
    print(f"{'':20}{'s':>8}{'CPU s':>8}{'queries/s':>11}   s to ours, CPU to ours")
    for name, (wall, cpu) in results.items():
        numbers = f"{wall:8.2f}{cpu:8.2f}{args.queries / wall:11.0f}"
        print(f"{name:20}{numbers}   {wall / base[0]:9.2f}{cpu / base[1]:14.2f}")


def search_map(args: argparse.Namespace) -> None:
    """Searches a memory map once and prints what that takes."""
    if not os.path.exists(args.memory_map):
        shape = (args.vectors, args.dimension)
        made = np.lib.format.open_memmap(args.memory_map, "w+", np.float32, shape)
        for first in range(0, args.vectors, _ROWS):
            block = made[first : first + _ROWS]
            block[:] = units(len(block), args.dimension, first)
        made.flush()
        del made, block
    queries = units(args.queries, args.dimension, 1)
    _forget_peak()
    before, start = _peak(), time.perf_counter()
    searcher = ExactSearcher(np.load(args.memory_map, mmap_mode="r"), memory_mb=args.memory_mb)
    checked, cpu = time.perf_counter(), time.process_time()
    searcher.search(queries, args.k)
    print(
        f"{len(searcher.vectors):,} x {args.dimension} in a memory map, {args.queries:,} queries: "
        f"check {checked - start:.1f} s, search {time.perf_counter() - checked:.1f} s "
        f"({time.process_time() - cpu:.1f} CPU s), "
        f"grew by {_peak() - before:.0f} MiB of {args.memory_mb} MiB and the answers"
    )


def _forget_peak() -> None:
    if os.path.exists("/proc/self/clear_refs"):
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")


def _peak() -> float:
    """Returns the largest resident memory so far, in MiB."""
    if os.path.exists("/proc/self/status"):
        with open("/proc/self/status") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["VmHWM"].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--vectors", type=int, default=200_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--memory-mb", type=int, default=256)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--memory-map", metavar="NPY", help="a large file, made if missing")
    args = parser.parse_args(argv)
    if args.memory_map:
        search_map(args)
    else:
        compare(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
