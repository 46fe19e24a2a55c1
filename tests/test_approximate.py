"""ScaNN against exact search, and `make_searcher`."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from retrieval import approximate, search
from retrieval.approximate import ScannSearcher
from retrieval.exact import ExactSearcher


def clusters(count, dimension, seed=0):
    """Unit vectors around one centre per twenty, and ten queries around the same centres."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(1, count // 20), dimension), dtype=np.float32)
    near = centres[rng.integers(len(centres), size=count + 10)]
    vectors = near + 0.7 * rng.standard_normal(near.shape, dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors[:count], vectors[count:]


@pytest.mark.parametrize(
    ("count", "dimension", "k"),
    [
        (1, 4, 5),
        (3, 1, 2),
        (10, 16, 10),
        (300, 7, 300),
        (999, 8, 50),
        (1000, 1, 10),
        (1100, 5, 1100),
    ],
)
def test_small_indexes_are_answered_exactly(count, dimension, k):
    vectors, queries = clusters(count, dimension)
    positions, similarities = ScannSearcher(vectors, k=k).search(queries, k)
    _, expected = ExactSearcher(vectors).search(queries, k)
    assert positions.dtype == np.int64
    assert similarities.dtype == np.float32
    assert positions.shape == (10, min(k, count))
    np.testing.assert_allclose(similarities, expected, atol=1e-5)
    assert all(len(set(row)) == len(row) for row in positions.tolist())


def test_recall_of_the_default_parameters():
    vectors, queries = clusters(6000, 32)
    positions, similarities = ScannSearcher(vectors, k=20).search(queries, 20)
    expected, _ = ExactSearcher(vectors).search(queries, 20)
    found = [
        len(set(a) & set(b)) for a, b in zip(positions.tolist(), expected.tolist(), strict=True)
    ]
    assert sum(found) >= 0.98 * expected.size
    products = np.take_along_axis(queries @ vectors.T, positions, axis=1)
    np.testing.assert_allclose(similarities, products, atol=1e-5)
    assert (np.diff(similarities, axis=1) <= 0).all()


def test_queries_with_too_few_candidates_are_answered_exactly():
    vectors, queries = clusters(2000, 16)
    searcher = ScannSearcher(vectors, k=10, leaves=200, leaves_to_search=1)
    positions, similarities = searcher.search(queries, 500)  # a leaf holds about ten
    expected, expected_similarities = ExactSearcher(vectors).search(queries, 500)
    np.testing.assert_array_equal(positions, expected)
    np.testing.assert_allclose(similarities, expected_similarities, atol=1e-6)


def test_equal_similarities_are_ordered_by_position():
    vectors = np.repeat(np.float32([[0, 1], [1, 0]]), 8, axis=0)
    positions, _ = ScannSearcher(vectors, k=16).search(np.float32([[1, 0]]), 16)
    assert positions.tolist() == [[*range(8, 16), *range(8)]]


def test_looks_into_more_leaves_of_a_small_index():
    searcher = ScannSearcher(clusters(1500, 4)[0], k=10)
    assert searcher.leaves == searcher.leaves_to_search == 77  # 2 sqrt(1500)


def test_refuses_what_does_not_fit():
    vectors, queries = clusters(30, 4)
    with pytest.raises(ValueError, match="float64"):
        ScannSearcher(vectors.astype(np.float64))
    with pytest.raises(ValueError, match="k of at least 1"):
        ScannSearcher(vectors, k=0)
    with pytest.raises(ValueError, match="dimension 4"):
        ScannSearcher(vectors).search(queries[:, :3], 1)


def test_make_searcher_chooses():
    vectors, _ = clusters(30, 4)
    assert isinstance(search.make_searcher("exact", vectors, 5), ExactSearcher)
    assert isinstance(search.make_searcher("auto", vectors, 5), ExactSearcher)
    assert isinstance(search.make_searcher("scann", vectors, 5), ScannSearcher)
    assert search.resolve("auto", 19_999) == "exact"
    assert search.resolve("auto", 20_000) == "scann"
    with pytest.raises(ValueError, match="Received: 'faiss'"):
        search.make_searcher("faiss", vectors, 5)


def test_a_missing_scann_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "scann"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scann", None)
    with pytest.raises(ImportError, match=r"scann==1\.4\.2"):
        approximate._scann_ops()


def test_scann_does_not_load_tensorflow():
    code = (
        "import sys, numpy as np; from retrieval import approximate;"
        "approximate.ScannSearcher(np.eye(4, dtype=np.float32), k=2);"
        "print('scann' in sys.modules, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "False"]
