"""Expansion against a loop in float64, the published rules by hand, and its memory."""

import tracemalloc

import numpy as np
import pytest

from retrieval.reranking import expansion
from retrieval.reranking.expansion import Weights, augment_database, expand


def units(count, dimension, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((count, dimension), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def ranked(queries, vectors, k):
    similarities = queries @ vectors.T
    positions = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    return positions, np.take_along_axis(similarities, positions, axis=1)


def slow_expand(queries, vectors, positions, similarities, ranks, alpha, own=None):
    """The obvious way: one neighbour after another, in float64."""
    results = []
    for row, query in enumerate(queries.astype(np.float64)):
        total = ranks[0] * (query @ query) ** alpha * query
        seen = set() if own is None else {own[row]}
        rank = 0
        for position, similarity in zip(positions[row], similarities[row], strict=True):
            if position == -1 or position in seen or rank == len(ranks) - 1:
                continue
            seen.add(position)
            rank += 1
            total = total + ranks[rank] * max(similarity, 0) ** alpha * vectors[position]
        results.append(total / np.linalg.norm(total))
    return np.array(results)


def assert_unit_close(received, expected):
    assert received.dtype == np.float32
    # Float32 sums of at most 50 rows of length 1.
    np.testing.assert_allclose(received, expected, rtol=0, atol=2e-6)


RULES = [
    Weights.average(1),
    Weights.average(10),
    Weights.decaying(7),
    Weights.alpha_weighted(12, 3.0),
    Weights.logarithmic(10),
    Weights((0.0, 0.5, 0.25), 0.5),
]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("block_bytes", [1, 2**23])
def test_equals_the_loop(rule, block_bytes, monkeypatch):
    monkeypatch.setattr(expansion, "_BLOCK_BYTES", 6 * 16 * 4 * block_bytes)
    monkeypatch.setattr(expansion, "_GATHER_BYTES", 4 * 16 * 25 * block_bytes)
    queries, vectors = units(31, 16), units(80, 16, seed=1)
    positions, similarities = ranked(queries, vectors, 20)
    received = expand(queries, vectors, positions, similarities, weights=rule, workers=3)
    expected = slow_expand(queries, vectors, positions, similarities, rule.ranks, rule.alpha)
    assert_unit_close(received, expected)


@pytest.mark.parametrize("rule", [Weights.decaying(4), Weights.alpha_weighted(4, 2.0)])
def test_missing_repeated_and_own_positions_are_taken_out(rule):
    rng = np.random.default_rng(2)
    vectors = units(12, 6)
    positions = rng.integers(-1, 12, (12, 9))  # int64, many of each
    positions[0], positions[1], positions[2] = -1, 1, [3, 3, 3, 3, 3, 3, 3, 3, 4]
    similarities = np.take_along_axis(vectors @ vectors.T, positions % 12, axis=1)
    similarities[positions == -1] = np.nan
    own = np.arange(12)
    for lists in (positions, positions.astype(np.int32)):
        received = expand(vectors, vectors, lists, similarities, weights=rule, own=own)
        expected = slow_expand(vectors, vectors, lists, similarities, rule.ranks, rule.alpha, own)
        assert_unit_close(received, expected)
    np.testing.assert_allclose(received[:2], vectors[:2], atol=1e-6)  # nothing but themselves
    received = expand(vectors, vectors, positions, similarities, weights=rule)
    expected = slow_expand(vectors, vectors, positions, similarities, rule.ranks, rule.alpha)
    assert_unit_close(received, expected)


def test_augmentation_of_lists_with_and_without_the_vector_itself():
    vectors = units(40, 8)
    vectors[5] = vectors[6] = vectors[7]  # copies: the vector itself is not always first
    similarities = vectors @ vectors.T
    with_self = ranked(vectors, vectors, 11)
    np.fill_diagonal(similarities, -2)
    positions = np.argsort(-similarities, axis=1, kind="stable")[:, :10]
    without = positions, np.take_along_axis(similarities, positions, axis=1)
    for rule in (Weights.decaying(10), Weights.alpha_weighted(10, 3.0)):
        received = augment_database(vectors, *with_self, weights=rule)
        np.testing.assert_array_equal(received, augment_database(vectors, *without, weights=rule))
        expected = slow_expand(vectors, vectors, *without, rule.ranks, rule.alpha)
        assert_unit_close(received, expected)


def test_the_published_weights_by_hand():
    assert Weights.average(2).ranks == (1, 1, 1)
    assert Weights.decaying(3).ranks == (1, 0.75, 0.5, 0.25)
    assert Weights.logarithmic(10).ranks == pytest.approx(np.logspace(0, -2, 11))
    assert Weights.alpha_weighted().ranks == (1,) * 51
    assert Weights.alpha_weighted().alpha == 3
    # (0.6, 0.8) . (1, 0) = 0.6 and . (0, 1) = 0.8, cubed 0.216 and 0.512.
    query, vectors = np.float32([[0.6, 0.8]]), np.eye(2, dtype=np.float32)
    received = expand(query, vectors, np.array([[1, 0]]), np.float32([[0.8, 0.6]]), alpha=3, top=2)
    expected = np.array([[0.816, 1.312]]) / np.hypot(0.816, 1.312)
    np.testing.assert_allclose(received, expected, atol=1e-6)
    received = expand(query, vectors, np.array([[1, 0]]), top=1)
    np.testing.assert_allclose(received, [[0.6, 1.8] / np.hypot(0.6, 1.8)], atol=1e-6)


def test_the_length_of_all_rows_does_not_matter():
    # The rows of a joined ensemble have length sqrt(sum of squared weights).
    queries, vectors = units(9, 6), units(50, 6, seed=1)
    positions, similarities = ranked(queries, vectors, 5)
    expected = expand(queries, vectors, positions, similarities, alpha=3.0, top=5)
    received = expand(3 * queries, 3 * vectors, positions, 9 * similarities, alpha=3.0, top=5)
    assert_unit_close(received, expected)


def test_negative_similarities_count_nothing_and_nothing_leaves_the_query():
    query, vectors = np.float32([[0, 2]]), np.float32([[0, -2], [2, 0]])
    positions, similarities = np.array([[1, 0]]), np.float32([[0, -4]])
    received = expand(query, vectors, positions, similarities, alpha=1.0, top=2)
    np.testing.assert_array_equal(received, [[0, 1]])
    received = expand(query, vectors, np.array([[0]]), weights=[1, 1])  # they cancel
    np.testing.assert_array_equal(received, [[0, 1]])
    received = expand(query, vectors, np.array([[-1]]), weights=[0, 1])
    np.testing.assert_array_equal(received, [[0, 1]])


def test_fewer_vectors_than_asked_for():
    vectors = units(4, 5)
    positions, similarities = ranked(vectors, vectors, 4)
    received = augment_database(vectors, positions, similarities, alpha=2.0, top=10)
    ranks = (1.0,) * 11
    expected = slow_expand(vectors, vectors, positions, similarities, ranks, 2.0, np.arange(4))
    assert_unit_close(received, expected)


def test_memory_maps_in_and_out(tmp_path):
    vectors = units(300, 8)
    positions, similarities = ranked(vectors, vectors, 6)
    np.save(tmp_path / "x.npy", vectors)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    out = np.lib.format.open_memmap(tmp_path / "y.npy", "w+", np.float32, (300, 8))
    returned = augment_database(mapped, positions, similarities, alpha=3.0, top=5, out=out)
    assert returned is out
    expected = augment_database(vectors, positions, similarities, alpha=3.0, top=5)
    np.testing.assert_array_equal(out, expected)


def test_threads_change_nothing():
    vectors = units(3000, 64)
    positions = np.random.default_rng(0).integers(0, 3000, (3000, 10))
    results = [augment_database(vectors, positions, top=5, workers=n) for n in (1, 4)]
    np.testing.assert_array_equal(*results)


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(expansion, "_BLOCK_BYTES", 2**18)
    vectors = units(20_000, 64)
    positions = np.random.default_rng(0).integers(0, 20_000, (20_000, 20), np.int32)
    out = np.empty_like(vectors)
    tracemalloc.start()
    augment_database(vectors, positions, weights=Weights.decaying(19), out=out, workers=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # All gathered neighbours at once would take 100 MB; two threads hold some MB each.
    assert peak < 10 * 2**20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "expected weights, or alpha and top"),
        ({"top": 2, "weights": [1, 1]}, "expected weights, or alpha and top"),
        ({"alpha": 3.0}, "expected weights, or alpha and top"),
        ({"top": 0}, "top=0"),
        ({"top": 4}, r"3 queries, 4 or more\. Received: \(3, 3\)"),
        ({"weights": [1]}, "one neighbour or more"),
        ({"weights": [1, -1]}, "at least 0"),
        ({"weights": [0, 0]}, "not all 0"),
        ({"top": 2, "alpha": -1.0}, "alpha of at least 0"),
        ({"top": 2, "alpha": 1.0, "similarities": None}, r"similarities \(3, 3\).*None"),
        ({"top": 2, "queries": np.ones((3, 3), np.float32)}, r"4 dimensions\. Received: 3"),
        ({"top": 2, "queries": np.ones((3, 4))}, "float64"),
        ({"top": 2, "positions": np.full((3, 3), 5)}, r"from -1 to 4\. Received: 5 to 5"),
        ({"top": 2, "positions": np.full((3, 3), -2)}, "Received: -2"),
        ({"top": 2, "positions": np.ones((3, 3))}, "integers. Received: float64"),
        ({"top": 2, "positions": np.ones((2, 3), int)}, "3 queries"),
        ({"top": 2, "own": np.arange(2)}, "3 own positions"),
        ({"top": 2, "out": np.empty((3, 4))}, "out as float32"),
        ({"top": 2, "queries": np.float32([[1, 0, 0, 0]] * 2 + [[np.nan] * 4])}, "for query 2"),
        ({"top": 2, "alpha": 1.0, "similarities": np.full((3, 3), np.inf)}, "query 0"),
    ],
)
def test_refuses_what_does_not_fit(arguments, message):
    given = {
        "queries": units(3, 4),
        "vectors": units(5, 4),
        "positions": np.tile(np.arange(3), (3, 1)),
        "similarities": np.ones((3, 3), np.float32),
        **arguments,
    }
    with pytest.raises(ValueError, match=message):
        expand(**given)


def test_refuses_to_write_over_what_it_reads():
    vectors = units(5, 4)
    positions = np.tile(np.arange(3), (5, 1))
    with pytest.raises(ValueError, match="apart from queries"):
        augment_database(vectors, positions, top=2, out=vectors)
