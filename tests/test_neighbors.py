"""Neighbour lists against a full sort of all distances in float64."""

import numpy as np
import pytest

from retrieval.nearest import exact, neighbors, tiled_lists


def slow_lists(rows, others, k):
    """The obvious way: all squared distances, sorted by (distance, position)."""
    distances = ((rows[:, None].astype(np.float64) - others[None].astype(np.float64)) ** 2).sum(2)
    positions = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return positions, np.take_along_axis(distances, positions, axis=1), distances.max(axis=1)


def clusters(rng, count, dimension, dtype=np.float32):
    centers = rng.standard_normal((count // 10, dimension))
    members = rng.integers(0, len(centers), count)
    return (centers[members] + 0.6 * rng.standard_normal((count, dimension))).astype(dtype)


@pytest.mark.parametrize("tile", [7, 64, 1024])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_the_full_sort(monkeypatch, tile, dtype):
    monkeypatch.setattr(tiled_lists, "_TILE", tile)
    vectors = clusters(np.random.default_rng(0), 300, 12, dtype)
    lists = neighbors.of_set(vectors, 21, workers=3)
    positions, distances, farthest = slow_lists(vectors, vectors, 21)
    np.testing.assert_array_equal(lists.positions, positions)
    # The lists are rounded once; the farthest comes from products of norms of about 5.
    near, far = (3e-7, 3e-6) if dtype == np.float32 else (1e-14, 1e-13)
    np.testing.assert_allclose(lists.squared_distances, distances, rtol=near, atol=0)
    np.testing.assert_allclose(lists.farthest, farthest, rtol=far)
    similarities = np.take_along_axis(vectors @ vectors.T, positions, axis=1)
    np.testing.assert_allclose(lists.similarities, similarities, rtol=0, atol=30 * far)
    assert lists.positions.dtype == np.int32
    assert {lists.similarities.dtype, lists.farthest.dtype} == {np.dtype(dtype)}


@pytest.mark.parametrize("tile", [5, 1024])
def test_ties_are_ordered_by_position(monkeypatch, tile):
    # Small integers: distances are exact, and most occur many times; some rows are equal.
    monkeypatch.setattr(tiled_lists, "_TILE", tile)
    vectors = np.random.default_rng(1).integers(-1, 2, (200, 3)).astype(np.float32)
    lists = neighbors.of_set(vectors, 40)
    positions, distances, farthest = slow_lists(vectors, vectors, 40)
    np.testing.assert_array_equal(lists.positions, positions)
    np.testing.assert_array_equal(lists.squared_distances, distances)
    np.testing.assert_array_equal(lists.farthest, farthest)


def test_equal_vectors():
    lists = neighbors.of_set(np.ones((50, 4), np.float32), 3)
    np.testing.assert_array_equal(lists.positions, np.tile([0, 1, 2], (50, 1)))
    assert not lists.squared_distances.any()
    assert not lists.farthest.any()


@pytest.mark.parametrize("tile", [16, 1024])
@pytest.mark.parametrize("known", [False, True])
def test_union_and_answers(monkeypatch, tile, known):
    monkeypatch.setattr(tiled_lists, "_TILE", tile)
    rows = clusters(np.random.default_rng(2), 260, 8)
    queries, vectors = rows[:40], rows[40:]
    gallery = neighbors.of_set(vectors, 21) if known else None
    lists, own = neighbors.of_union(queries, vectors, 21, answers=30, gallery=gallery)
    positions, _, farthest = slow_lists(rows, rows, 21)
    np.testing.assert_array_equal(lists.positions, positions)
    np.testing.assert_allclose(lists.farthest, farthest, rtol=3e-6)
    positions, distances, farthest = slow_lists(queries, vectors, 30)
    np.testing.assert_array_equal(own.positions, positions)
    np.testing.assert_allclose(own.squared_distances, distances, rtol=3e-7)
    np.testing.assert_allclose(own.farthest, farthest, rtol=3e-6)


@pytest.mark.parametrize("known", [False, True])
def test_queries_equal_to_vectors_come_first(known):
    vectors = np.random.default_rng(3).integers(0, 2, (60, 3)).astype(np.float32)
    gallery = neighbors.of_set(vectors, 12) if known else None
    lists, _ = neighbors.of_union(vectors[:20], vectors, 12, answers=5, gallery=gallery)
    rows = np.concatenate([vectors[:20], vectors])
    np.testing.assert_array_equal(lists.positions, slow_lists(rows, rows, 12)[0])


def test_longer_than_the_set():
    vectors = np.float32([[0], [1], [3]])
    lists, own = neighbors.of_union(vectors[:1], vectors[1:], 100, answers=100)
    np.testing.assert_array_equal(lists.positions, [[0, 1, 2], [1, 0, 2], [2, 1, 0]])
    np.testing.assert_array_equal(own.positions, [[0, 1]])
    np.testing.assert_array_equal(own.squared_distances, [[1, 9]])


def test_nearly_equal_vectors_are_ordered_in_float64():
    # Their distances to row 0 are 1e-4 apart relative to each other, and 1e-9 in the products.
    steps = 1e-3 * (1 + 1e-4 * np.arange(8)[::-1])
    vectors = np.ones((9, 4), np.float64)
    vectors[1:, 0] += steps
    lists = neighbors.of_set(vectors.astype(np.float32), 4)
    expected = slow_lists(vectors.astype(np.float32), vectors.astype(np.float32), 4)[0]
    np.testing.assert_array_equal(lists.positions, expected)


def test_lists_of_an_index():
    vectors = clusters(np.random.default_rng(4), 400, 16)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = neighbors.of_set(vectors, 10)
    lists = neighbors.of_searcher(exact.ExactSearcher(vectors), vectors, 10)
    np.testing.assert_array_equal(lists.positions, expected.positions)
    np.testing.assert_array_equal(lists.squared_distances, expected.squared_distances)
    np.testing.assert_allclose(lists.farthest, expected.farthest, rtol=1e-6)


def test_far_vectors_of_an_index_are_nearly_the_farthest():
    vectors = clusters(np.random.default_rng(7), 3000, 16)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    asked = []

    class Counting(exact.ExactSearcher):
        def search(self, queries, k):
            asked.append(len(queries))
            return super().search(queries, k)

    lists = neighbors.of_searcher(Counting(vectors), vectors, 5)
    assert sum(asked) == 3000  # every vector is searched once
    farthest = (2 - 2 * (vectors @ vectors.T)).max(axis=1)
    assert (lists.farthest <= farthest * (1 + 1e-6)).all()
    assert (lists.farthest / farthest).mean() > 0.97  # 0.983; see `of_searcher`
    assert (lists.farthest / farthest).min() > 0.8


def test_far_rows_are_the_farthest_of_the_sample(monkeypatch):
    monkeypatch.setattr(neighbors, "_PIECE", 100)
    monkeypatch.setattr(neighbors, "_SAMPLED", 500)
    vectors = np.random.default_rng(8).standard_normal((500, 6)).astype(np.float32)
    distances = ((vectors[:, None] - vectors) ** 2).sum(axis=2)
    expected = np.unique(np.argsort(-distances, axis=1)[:, :2])
    union = tiled_lists.Union(vectors[:0], vectors)
    np.testing.assert_array_equal(neighbors._far_rows(union), expected)


def test_a_row_that_the_index_misses_is_listed():
    class Forgetful(exact.ExactSearcher):
        def search(self, queries, k):
            positions, similarities = super().search(queries, k + 1)
            return positions[:, 1:], similarities[:, 1:]

    vectors = clusters(np.random.default_rng(5), 100, 4)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    lists = neighbors.of_searcher(Forgetful(vectors), vectors, 5)
    np.testing.assert_array_equal(lists.positions[:, 0], np.arange(100))


def test_search_is_exact_search():
    vectors = clusters(np.random.default_rng(6), 200, 8)
    positions, similarities = neighbors.search(vectors[:5], vectors, 7, memory_mb=1)
    expected = np.argsort(-(vectors[:5] @ vectors.T), axis=1, kind="stable")[:, :7]
    np.testing.assert_array_equal(positions, expected)
    assert similarities.shape == (5, 7)


def test_wrong_input():
    vectors = np.ones((4, 3), np.float32)
    with pytest.raises(ValueError, match="k of at least 1 and answers of at least 0"):
        neighbors.of_set(vectors, 0)
    with pytest.raises(ValueError, match="NaN or infinity in row 1"):
        neighbors.of_set(np.float32([[1.0], [np.nan]]), 1)
    with pytest.raises(ValueError, match="finite matrix"):
        neighbors.of_set(np.array([[np.inf]]), 1)
    with pytest.raises(ValueError, match="dimension 3 and float32"):
        neighbors.of_union(np.ones((2, 4), np.float32), vectors, 1)
    with pytest.raises(ValueError, match="dimension 3 and float32"):
        neighbors.of_union(np.ones((2, 3)), vectors, 1)
    with pytest.raises(ValueError, match="lists of 4 vectors with at least 3 entries"):
        neighbors.of_union(vectors[:1], vectors, 3, gallery=neighbors.of_set(vectors, 2))
