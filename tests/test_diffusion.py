"""Diffusion against dense matrices and an inverse."""

import numpy as np
import pytest
from scipy.sparse import linalg

from retrieval.nearest import neighbors
from retrieval.reranking import diffusion
from retrieval.reranking.diffusion import Diffusion, OfflineDiffusion


def clusters(rng, count, dimension=8):
    centers = rng.standard_normal((count // 10, dimension))
    rows = centers[rng.integers(0, len(centers), count)]
    rows = rows + 0.5 * rng.standard_normal((count, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def slow_affinity(vectors, neighbours, gamma):
    similarities = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    order = np.argsort(-similarities, axis=1, kind="stable")[:, : neighbours + 1]
    lists = np.zeros_like(similarities, bool)
    np.put_along_axis(lists, order, True, axis=1)
    np.fill_diagonal(lists, False)
    return np.where(lists & lists.T, np.maximum(similarities, 0) ** gamma, 0)


def slow_inverse(affinity, alpha):
    degrees = affinity.sum(axis=1)
    scales = np.where(degrees > 0, 1 / np.sqrt(np.where(degrees > 0, degrees, 1)), 0)
    return np.linalg.inv(np.eye(len(affinity)) - alpha * scales[:, None] * affinity * scales)


def slow_start(queries, vectors, count, gamma):
    similarities = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    order = np.argsort(-similarities, axis=1, kind="stable")
    start = np.zeros_like(similarities)
    found = np.maximum(np.take_along_axis(similarities, order[:, :count], axis=1), 0) ** gamma
    np.put_along_axis(start, order[:, :count], found, axis=1)
    return start, order


def assert_ranks(positions, scores, expected, order):
    """The best positive scores in order, then the nearest vectors at 0."""
    for row, full in enumerate(np.where(expected > 1e-12, expected, 0)):
        reached = np.count_nonzero(full)
        ranking = np.argsort(-full, kind="stable")[:reached].tolist()
        ranking += [position for position in order[row].tolist() if full[position] == 0]
        k = positions.shape[1]
        # float32 similarities to the third power: roundings of 2e-7, amplified by 1 / (1 - alpha).
        np.testing.assert_allclose(scores[row], full[ranking[:k]], rtol=3e-5, atol=1e-7)
        same = positions[row] == ranking[:k]
        np.testing.assert_allclose(
            full[positions[row][~same]], full[np.array(ranking[:k])[~same]], rtol=3e-5
        )
        assert len(set(positions[row].tolist())) == k


@pytest.mark.parametrize(("neighbours", "gamma", "alpha"), [(10, 3.0, 0.99), (4, 1.0, 0.9)])
def test_equals_the_inverse(neighbours, gamma, alpha):
    rows = clusters(np.random.default_rng(neighbours), 240)
    queries, vectors = rows[:20], rows[20:]
    graph = Diffusion(vectors, neighbours=neighbours, gamma=gamma, alpha=alpha)
    affinity = slow_affinity(vectors, neighbours, gamma)
    np.testing.assert_allclose(graph.affinity.toarray(), affinity, rtol=1e-6)
    start, order = slow_start(queries, vectors, 5, gamma)
    expected = start @ slow_inverse(affinity, alpha)
    positions, scores = graph.rerank(
        queries, k=150, query_neighbours=5, iterations=2000, tolerance=1e-12
    )
    assert positions.dtype == np.int64
    assert scores.dtype == np.float32
    assert_ranks(positions, scores, expected, order)


def test_truncated_to_the_nearest():
    rows = clusters(np.random.default_rng(1), 200)
    queries, vectors = rows[:10], rows[10:]
    affinity = slow_affinity(vectors, 10, 3)
    start, order = slow_start(queries, vectors, 5, 3)
    expected = np.zeros_like(start)
    for row in range(len(queries)):
        near = np.sort(order[row, :60])
        inverse = slow_inverse(affinity[np.ix_(near, near)], 0.99)
        expected[row, near] = inverse @ start[row, near]
    positions, scores = Diffusion(vectors, neighbours=10).rerank(
        queries, k=100, query_neighbours=5, truncation=60, iterations=2000, tolerance=1e-12
    )
    assert_ranks(positions, scores, expected, order)


def test_twenty_steps_are_those_of_another_solver():
    rows = clusters(np.random.default_rng(2), 300)
    graph = Diffusion(rows[1:], neighbours=20)
    positions, scores = graph.rerank(rows[:1], k=299)
    affinity = slow_affinity(rows[1:], 20, 3)
    degrees = affinity.sum(axis=1)
    scales = np.where(degrees > 0, 1 / np.sqrt(np.where(degrees > 0, degrees, 1)), 0)
    matrix = np.eye(299) - 0.99 * scales[:, None] * affinity * scales
    start, _ = slow_start(rows[:1], rows[1:], 10, 3)
    expected, _ = linalg.cg(matrix, start[0], rtol=1e-6, maxiter=20)
    reached = scores[0] > 0
    np.testing.assert_allclose(scores[0][reached], expected[positions[0][reached]], rtol=1e-3)


def test_offline_equals_the_inverse_on_all_vectors():
    rows = clusters(np.random.default_rng(3), 150)
    queries, vectors = rows[:10], rows[10:]
    graph = Diffusion(vectors, neighbours=8)
    offline = OfflineDiffusion(graph, truncation=1000, iterations=2000, tolerance=1e-12)
    start, order = slow_start(queries, vectors, 6, 3)
    expected = start @ slow_inverse(slow_affinity(vectors, 8, 3), 0.99)
    positions, scores = offline.rerank(queries, k=80, query_neighbours=6)
    assert_ranks(positions, scores, expected, order)


def test_offline_truncated():
    rows = clusters(np.random.default_rng(4), 150)
    queries, vectors = rows[:10], rows[10:]
    offline = OfflineDiffusion(
        Diffusion(vectors, neighbours=8), truncation=40, iterations=2000, tolerance=1e-12
    )
    affinity = slow_affinity(vectors, 8, 3)
    degrees = np.maximum(affinity.sum(axis=1), 1e-30)
    transition = affinity / np.sqrt(degrees[:, None] * degrees)
    _, nearest = slow_start(vectors, vectors, 1, 3)
    inverse = np.zeros_like(affinity)
    for row, near in enumerate(nearest[:, :40]):
        part = np.linalg.inv(np.eye(40) - 0.99 * transition[np.ix_(near, near)])
        inverse[row, near] = part[:, near == row][:, 0]
    start, order = slow_start(queries, vectors, 6, 3)
    positions, scores = offline.rerank(queries, k=80, query_neighbours=6)
    assert_ranks(positions, scores, start @ inverse, order)


def test_offline_is_saved_and_loaded(tmp_path):
    rows = clusters(np.random.default_rng(5), 80)
    graph = Diffusion(rows, neighbours=8)
    offline = OfflineDiffusion(graph, truncation=20)
    path = str(tmp_path / "offline.npz")
    offline.save(path)
    loaded = OfflineDiffusion.load(path, graph)
    for mine, theirs in zip(loaded.rerank(rows[:5]), offline.rerank(rows[:5]), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    with pytest.raises(ValueError, match="one solved column for each of 70 vectors"):
        OfflineDiffusion.load(path, Diffusion(rows[:70], neighbours=8))
    np.savez(path, format=np.array("other"), version=np.array(1))
    with pytest.raises(ValueError, match="waymark-diffusion"):
        OfflineDiffusion.load(path, graph)


def test_the_function_and_known_lists():
    rows = clusters(np.random.default_rng(6), 120)
    expected = diffusion.rerank(rows[:5], rows[5:], k=10, neighbours=12)
    lists = neighbors.of_set(rows[5:], 20)
    found = Diffusion(rows[5:], neighbours=12, lists=lists).rerank(rows[:5], k=10)
    np.testing.assert_array_equal(found[0], expected[0])


def test_a_query_that_reaches_nothing():
    vectors = np.float32([[1, 0], [0.6, 0.8], [0.8, 0.6]])
    positions, scores = diffusion.rerank(np.float32([[-1, 0]]), vectors, k=5)
    assert positions.tolist() == [[1, 2, 0]]
    assert scores.tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("numbers", [{"neighbours": 0}, {"gamma": 0}, {"alpha": 1.0}])
def test_wrong_graph(numbers):
    with pytest.raises(ValueError, match="expected neighbours of at least 1, gamma above 0"):
        Diffusion(clusters(np.random.default_rng(7), 30), **numbers)


def test_wrong_queries():
    graph = Diffusion(clusters(np.random.default_rng(8), 30))
    queries = graph.vectors[:2]
    with pytest.raises(ValueError, match="k and query_neighbours of at least 1"):
        graph.rerank(queries, k=0)
    with pytest.raises(ValueError, match="truncation of at least query_neighbours"):
        graph.rerank(queries, truncation=5)
    with pytest.raises(ValueError, match="dimension"):
        graph.rerank(queries[:, :3])
    with pytest.raises(ValueError, match="truncation of at least 1"):
        OfflineDiffusion(graph, truncation=0)
