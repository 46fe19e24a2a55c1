"""Exact search against a full sort of all similarities."""

import os
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
import threadpoolctl

from retrieval.nearest import selection
from retrieval.nearest.exact import ExactSearcher
from retrieval.stored import precision


def slow_search(vectors, queries, k):
    """The obvious way: all similarities, sorted by (-similarity, position)."""
    similarities = queries @ vectors.T
    positions = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    return positions, np.take_along_axis(similarities, positions, axis=1)


def units(rng, count, dimension):
    vectors = rng.standard_normal((count, dimension), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("k", [1, 7, 100])
@pytest.mark.parametrize("memory_mb", [1, 256])
def test_equals_the_full_sort(k, memory_mb):
    rng = np.random.default_rng(0)
    vectors, queries = units(rng, 3000, 16), units(rng, 50, 16)
    positions, similarities = ExactSearcher(vectors, memory_mb=memory_mb).search(queries, k)
    expected_positions, expected = slow_search(vectors, queries, k)
    assert positions.dtype == np.int64
    assert similarities.dtype == np.float32
    np.testing.assert_array_equal(positions, expected_positions)
    np.testing.assert_allclose(similarities, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("columns", [1, 3, 64, 500])
def test_ties_are_ordered_by_position_across_tiles(monkeypatch, columns):
    # Small integers: products are exact, and most similarities occur many times.
    rng = np.random.default_rng(1)
    vectors = rng.integers(-2, 3, (500, 4)).astype(np.float32)
    queries = rng.integers(-2, 3, (20, 4)).astype(np.float32)
    monkeypatch.setattr(ExactSearcher, "_tile_shape", lambda self, queries, k: (7, columns))
    positions, similarities = ExactSearcher(vectors).search(queries, 60)
    expected_positions, expected = slow_search(vectors, queries, 60)
    np.testing.assert_array_equal(positions, expected_positions)
    np.testing.assert_array_equal(similarities, expected)


@pytest.mark.parametrize("memory_mb", [1, 256])
@pytest.mark.parametrize("queries", [3, 40])
def test_with_ids_the_answers_do_not_depend_on_the_order_of_rows(queries, memory_mb):
    rng = np.random.default_rng(5)
    vectors = rng.integers(-2, 3, (3000, 4)).astype(np.float32)
    asked = rng.integers(-2, 3, (queries, 4)).astype(np.float32)
    ids = [f"{number:x}" for number in rng.permutation(3000)]
    by_id = sorted(range(3000), key=lambda row: ids[row])
    expected, similarities = slow_search(vectors[by_id], asked, 70)
    expected = [[ids[by_id[row]] for row in ranking] for ranking in expected]
    for order in (np.arange(3000), rng.permutation(3000), np.array(by_id)):
        permuted = [ids[row] for row in order]
        searcher = ExactSearcher(vectors[order], ids=permuted, memory_mb=memory_mb)
        positions, found = searcher.search(asked, 70)
        assert [[permuted[row] for row in ranking] for ranking in positions] == expected
        np.testing.assert_array_equal(found, similarities)


def test_copies_in_any_place_are_ordered_by_id():
    # Rounding would break the tie if a product depended on its place in a tile.
    rng = np.random.default_rng(6)
    vectors = units(rng, 5003, 67)
    copies = rng.permutation(5003)[:300]
    vectors[copies] = vectors[copies[0]]
    ids = [f"{number:04}" for number in rng.permutation(5003)]
    for memory_mb, threads in ((1, 1), (1, 4), (256, 3)):
        searcher = ExactSearcher(vectors, ids=ids, memory_mb=memory_mb, threads=threads)
        for queries in (1, 2, 5, 37):
            positions, _ = searcher.search(np.tile(vectors[copies[:1]], (queries, 1)), 300)
            expected = sorted(copies.tolist(), key=lambda row: ids[row])
            assert (positions == expected).all(), (memory_mb, threads, queries)


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("queries", [1, 5, 600])
def test_any_number_of_threads_gives_the_same(queries, threads):
    rng = np.random.default_rng(7)
    vectors = rng.integers(-9, 9, (700, 3)).astype(np.float32)
    asked = rng.integers(-9, 9, (queries, 3)).astype(np.float32)
    positions, similarities = ExactSearcher(vectors, threads=threads, memory_mb=1).search(asked, 9)
    expected_positions, expected = slow_search(vectors, asked, 9)
    np.testing.assert_array_equal(positions, expected_positions)
    np.testing.assert_array_equal(similarities, expected)


def test_searches_side_by_side_give_the_threads_of_the_blas_back():
    before = [module["num_threads"] for module in threadpoolctl.threadpool_info()]
    rng = np.random.default_rng(8)
    vectors = rng.integers(-9, 9, (3000, 3)).astype(np.float32)
    searcher = ExactSearcher(vectors)
    expected, _ = slow_search(vectors, vectors[:50], 5)
    with ThreadPoolExecutor(4) as pool:
        for positions, _ in pool.map(lambda _: searcher.search(vectors[:50], 5), range(8)):
            np.testing.assert_array_equal(positions, expected)
    after = [module["num_threads"] for module in threadpoolctl.threadpool_info()]
    assert after == before


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_fewer_bytes_are_searched_as_float32(dtype):
    rng = np.random.default_rng(9)
    vectors, queries = units(rng, 3000, 16), units(rng, 20, 16)
    stored, scales = precision.encode(vectors, dtype)
    rows = precision.StoredRows(stored, dtype, scales)
    expected, similarities = slow_search(np.asarray(rows), queries, 10)
    given = [rows]
    if dtype != "int8":
        given.append(vectors.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float16))
    for matrix in given:
        positions, found = ExactSearcher(matrix, memory_mb=1).search(queries, 10)
        np.testing.assert_array_equal(positions, expected)
        np.testing.assert_allclose(found, similarities, rtol=0, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_refuses_what_is_not_finite_in_fewer_bytes(dtype, bad):
    with pytest.raises(ValueError, match="infinity in row 1"):
        ExactSearcher(np.array([[1, 0], [bad, 0]], dtype))


def test_equal_vectors_come_in_their_order():
    positions, similarities = ExactSearcher(np.ones((5000, 2), np.float32)).search(
        np.ones((1, 2), np.float32), 4
    )
    assert positions.tolist() == [[0, 1, 2, 3]]
    assert similarities.tolist() == [[2, 2, 2, 2]]


def test_zero_and_minus_zero_are_equal():
    vectors = np.float32([[-1, 0], [1, 0], [0, 0]])
    positions, _ = ExactSearcher(vectors).search(np.float32([[0.0, 1.0]]), 3)
    assert positions.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("order", [1, -1])
def test_an_index_sorted_by_similarity(order):
    # Ascending is the worst case of a running threshold: every tile holds better answers.
    vectors = np.linspace(-1, 1, 20_000, dtype=np.float32)[::order, None]
    positions, similarities = ExactSearcher(vectors, memory_mb=1).search(np.float32([[1], [-2]]), 3)
    last = [19_999, 19_998, 19_997]
    assert positions.tolist() == ([last, [0, 1, 2]] if order == 1 else [[0, 1, 2], last])
    assert similarities[:, 0].tolist() == [1, 2]


def test_more_neighbours_than_vectors():
    vectors = np.float32([[1, 0], [0, 1], [-1, 0]])
    positions, similarities = ExactSearcher(vectors).search(np.float32([[1, 0.5]]), 100)
    assert positions.tolist() == [[0, 1, 2]]
    assert similarities.tolist() == [[1, 0.5, -1]]


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_memory_stays_within_the_bound(spread):
    # All similarities of a tile survive where they rise with the position, or are all equal.
    slopes = np.linspace(1, 1 + spread, 60_000, dtype=np.float32)[:, None]
    queries = np.ones((64, 1), np.float32)
    searcher = ExactSearcher(slopes, memory_mb=4)
    tracemalloc.start()
    searcher.search(queries, 50)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    answers = 64 * 50 * 40  # positions, similarities and keys
    assert peak < 4 * 2**20 + answers
    assert peak < 64 * 60_000 * 4  # what all similarities at once would take


def test_reads_a_memory_map_and_unusual_layouts(tmp_path):
    rng = np.random.default_rng(2)
    vectors, queries = units(rng, 300, 8), units(rng, 10, 8)
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    expected, _ = slow_search(vectors, queries, 5)
    for layout in (mapped, np.asfortranarray(vectors)):
        positions, _ = ExactSearcher(layout).search(np.asfortranarray(queries), 5)
        np.testing.assert_array_equal(positions, expected)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc")
def test_a_memory_map_leaves_no_pages_in_memory(tmp_path):
    def mapped_kb():
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("RssFile"))

    np.save(tmp_path / "vectors.npy", units(np.random.default_rng(10), 250_000, 64))  # 64 MB
    vectors = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    before = mapped_kb()
    vectors.sum()
    assert mapped_kb() - before > 50_000
    ExactSearcher(vectors, memory_mb=8).search(np.array(vectors[:3]), 5)
    # Libraries loaded meanwhile are mapped as well.
    assert mapped_kb() - before < 20_000


def test_inner_product_ranks_like_the_euclidean_distance_for_equal_norms():
    rng = np.random.default_rng(3)
    weighted = [w * units(rng, 210, d) for w, d in ((0.5, 6), (1.5, 4))]  # two members
    joined = np.concatenate(weighted, axis=1)
    vectors, queries = joined[:200], joined[200:]
    distances = np.linalg.norm(queries[:, None] - vectors[None], axis=2)
    positions, _ = ExactSearcher(np.ascontiguousarray(vectors)).search(queries, 20)
    np.testing.assert_array_equal(positions, np.argsort(distances, axis=1)[:, :20])


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.zeros((2, 2)), "float64"),
        (np.zeros(3, np.float32), r"shape \(3,\)"),
        (np.zeros((0, 3), np.float32), r"shape \(0, 3\)"),
        (np.float32([[0, 1], [np.nan, 0]]), "row 1"),
        (np.float32([[np.inf, 1]]), "row 0"),
    ],
)
def test_refuses_a_bad_matrix(vectors, message):
    with pytest.raises(ValueError, match=message):
        ExactSearcher(vectors)


def test_refuses_what_does_not_fit():
    vectors = np.ones((3, 4), np.float32)
    searcher = ExactSearcher(vectors)
    with pytest.raises(ValueError, match=r"dimension 4\. Received: 5"):
        searcher.search(np.ones((1, 5), np.float32), 1)
    with pytest.raises(ValueError, match="Received: 0"):
        searcher.search(vectors, 0)
    for wrong in ({"memory_mb": 0}, {"threads": 0}, {"ids": ["a", "b"]}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ExactSearcher(vectors, **wrong)


def test_keys_order_like_similarity_then_position():
    similarities = np.float32([1.5, 1.5, 0.25, 0.0, -0.0, -1e-30, -2, -np.inf])
    positions = np.array([3, 9, 0, 1, 2, 0, 0, 0])
    keys = selection.keys_of(similarities, positions)
    assert (np.diff(keys.astype(object)) > 0).all()
    np.testing.assert_array_equal(selection.similarities_of(keys), similarities)


@pytest.mark.parametrize("columns", [5, 40, 1000])
def test_the_bound_of_the_kth_is_below_it_and_close(columns):
    products = np.random.default_rng(4).standard_normal((30, columns)).astype(np.float32)
    bound = selection.bound_of_kth(products, 10)
    kept = np.count_nonzero(products >= bound, axis=1)
    assert (kept >= min(10, columns)).all()
    if columns >= 1000:
        assert kept.mean() < 20
