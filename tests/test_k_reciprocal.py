"""k-reciprocal re-ranking against the authors' values and a dense version of the formulas."""

import pathlib

import numpy as np
import pytest

from retrieval.nearest import exact, neighbors
from retrieval.reranking import k_reciprocal

GOLDEN = pathlib.Path(__file__).parent / "golden"


def slow_distances(queries, vectors, k1, k2, lambda_value):
    """The formulas of the module, dense, with sets, in float64."""
    rows = np.concatenate([queries, vectors]).astype(np.float64)
    distances = ((rows[:, None] - rows[None]) ** 2).sum(axis=2)
    order = np.argsort(distances, axis=1, kind="stable")
    largest = distances.max(axis=1, keepdims=True)
    distances = distances / np.where(largest > 0, largest, 1)

    def reciprocal(i, n):
        return {j for j in order[i, : n + 1] if i in order[j, : n + 1]}

    features = np.zeros_like(distances)
    for i in range(len(rows)):
        near = reciprocal(i, k1)
        expanded = set(near)
        for j in near:
            more = reciprocal(j, int(np.around(k1 / 2)))
            if len(more & near) > 2 / 3 * len(more):
                expanded |= more
        members = sorted(expanded)
        weights = np.exp(-distances[i, members])
        features[i, members] = weights / weights.sum() if members else 0
    if k2 != 1:
        features = np.stack([features[order[i, :k2]].mean(axis=0) for i in range(len(rows))])
    count = len(queries)
    shared = np.minimum(features[:count, None], features[None, count:]).sum(axis=2)
    jaccard = 1 - shared / (2 - shared)
    return (1 - lambda_value) * jaccard + lambda_value * distances[:count, count:]


def clusters(rng, count, dimension, dtype=np.float32):
    centers = rng.standard_normal((max(1, count // 10), dimension))
    members = rng.integers(0, len(centers), count)
    return (centers[members] + 0.6 * rng.standard_normal((count, dimension))).astype(dtype)


@pytest.mark.parametrize("name", ["small", "renet"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 3e-7), (np.float64, 1e-14)])
def test_agrees_with_the_authors_code(name, dtype, tolerance):
    with np.load(GOLDEN / f"k_reciprocal_{name}.npz", allow_pickle=False) as golden:
        numbers = {key: golden[key].item() for key in ("k1", "k2", "lambda_value")}
        queries, gallery = golden["query"].astype(dtype), golden["gallery"].astype(dtype)
        found = k_reciprocal.distances(queries, gallery, **numbers)
        # The largest distances are about 1: one rounding at the end, a few in the features.
        np.testing.assert_allclose(found, golden["distance_float64"], rtol=0, atol=tolerance)
    assert found.dtype == dtype


@pytest.mark.parametrize(
    ("k1", "k2", "lambda_value"),
    [(20, 6, 0.3), (5, 5, 0.3), (7, 1, 0.0), (1, 1, 0.5), (3, 2, 1.0), (6, 15, 0.3), (2, 3, 0.7)],
)
@pytest.mark.parametrize("queries", [1, 30])
def test_equals_the_formulas(k1, k2, lambda_value, queries):
    rows = clusters(np.random.default_rng(k1), 180, 6, np.float64)
    numbers = {"k1": k1, "k2": k2, "lambda_value": lambda_value}
    found = k_reciprocal.distances(rows[:queries], rows[queries:], **numbers)
    expected = slow_distances(rows[:queries], rows[queries:], **numbers)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k2", [1, 4])
def test_ties_by_position(dtype, k2):
    # Integers on a small grid: many distances are equal, and many rows.
    rows = np.random.default_rng(7).integers(0, 3, (120, 3)).astype(dtype)
    found = k_reciprocal.distances(rows[:20], rows[20:], k1=6, k2=k2)
    expected = slow_distances(rows[:20], rows[20:], 6, k2, 0.3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("count", [2, 3, 5, 12])
def test_lists_longer_than_the_set_are_cut(count):
    rows = np.random.default_rng(count).standard_normal((count, 4))
    found = k_reciprocal.distances(rows[:1], rows[1:], k1=20, k2=6)
    np.testing.assert_allclose(
        found, slow_distances(rows[:1], rows[1:], 20, 6, 0.3), rtol=0, atol=1e-14
    )


def test_equal_rows_are_at_no_original_distance():
    rows = np.ones((8, 3), np.float32)
    found = k_reciprocal.distances(rows[:2], rows[2:], k1=3, k2=2)
    np.testing.assert_allclose(found, slow_distances(rows[:2], rows[2:], 3, 2, 0.3), atol=1e-6)


@pytest.mark.parametrize("k", [1, 10, 60])
def test_the_first_k(k):
    rows = clusters(np.random.default_rng(8), 400, 8, np.float64)
    queries, vectors = rows[:50], rows[50:]
    positions, distances = k_reciprocal.rerank(queries, vectors, k1=10, k2=4, k=k, workers=3)
    full = slow_distances(queries, vectors, 10, 4, 0.3)
    expected = np.argsort(full, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(positions, expected)
    expected = np.take_along_axis(full, expected, axis=1)
    np.testing.assert_allclose(distances, expected, rtol=0, atol=1e-13)
    assert positions.dtype == np.int64


def test_known_lists_give_the_same():
    rows = clusters(np.random.default_rng(9), 500, 8)
    queries, vectors = rows[:40], rows[40:]
    expected = k_reciprocal.rerank(queries, vectors, k=20)
    for lists in (
        neighbors.of_set(vectors, 21),
        neighbors.of_set(vectors, 30),
    ):
        found = k_reciprocal.rerank(queries, vectors, k=20, neighbours=lists)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=1e-6)


def test_lists_of_an_index_give_the_same():
    rows = clusters(np.random.default_rng(10), 300, 8)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    queries, vectors = rows[:30], rows[30:]
    lists = neighbors.of_searcher(exact.ExactSearcher(vectors), vectors, 21)
    found = k_reciprocal.rerank(queries, vectors, k=20, neighbours=lists)
    np.testing.assert_array_equal(found[0], k_reciprocal.rerank(queries, vectors, k=20)[0])


def test_a_memory_map(tmp_path):
    rows = clusters(np.random.default_rng(11), 100, 4)
    np.save(tmp_path / "vectors.npy", rows[10:])
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r", allow_pickle=False)
    expected = k_reciprocal.rerank(rows[:10], rows[10:], k=5)
    found = k_reciprocal.rerank(rows[:10], mapped, k=5)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"k1": 0}, "k1 to be an integer of at least 1. Received: 0"),
        ({"k2": 0}, "k2 to be an integer of at least 1. Received: 0"),
        ({"k2": 1.5}, "k2 to be an integer of at least 1. Received: 1.5"),
        ({"k": -1}, "k to be an integer of at least 1. Received: -1"),
        ({"lambda_value": 1.1}, "lambda_value between 0 and 1. Received: 1.1"),
        ({"lambda_value": np.nan}, "lambda_value between 0 and 1. Received: nan"),
    ],
)
def test_wrong_numbers(numbers, message):
    rows = np.ones((3, 2), np.float32)
    with pytest.raises(ValueError, match=message):
        k_reciprocal.rerank(rows, rows, **numbers)


def test_no_queries():
    rows = np.ones((3, 2), np.float32)
    with pytest.raises(ValueError, match="at least one query"):
        k_reciprocal.rerank(rows[:0], rows)
