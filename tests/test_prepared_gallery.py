"""Queries one by one against the batch algorithm with that query alone."""

import numpy as np
import pytest

from retrieval.nearest import neighbors
from retrieval.reranking import k_reciprocal
from retrieval.reranking.prepared_gallery import PreparedGallery


def clusters(rng, count, dimension):
    centers = rng.standard_normal((max(1, count // 10), dimension))
    members = rng.integers(0, len(centers), count)
    rows = centers[members] + 0.6 * rng.standard_normal((count, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def assert_equals_the_batch(gallery, queries, vectors, **numbers):
    """Every query as the only one of `k_reciprocal.rerank`."""
    positions, distances = gallery.rerank(queries, **numbers)
    for row, query in enumerate(queries):
        expected = k_reciprocal.rerank(
            query[None], vectors, k1=gallery.k1, k2=gallery.k2, **numbers
        )
        np.testing.assert_array_equal(positions[row], expected[0][0])
        # float32 features, summed in another order.
        np.testing.assert_allclose(distances[row], expected[1][0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("k1", "k2"), [(20, 6), (5, 5), (7, 1), (1, 2), (3, 8)])
def test_equals_the_batch_with_this_query_alone(k1, k2):
    rows = clusters(np.random.default_rng(k1), 440, 8)
    # Some queries near vectors, some far from all: those are the farthest row of many vectors.
    queries = np.concatenate([rows[:20], -rows[:10]])
    gallery = PreparedGallery(rows[20:], k1=k1, k2=k2)
    assert_equals_the_batch(gallery, queries, rows[20:], k=60)
    assert_equals_the_batch(gallery, queries[:5], rows[20:], k=len(rows), lambda_value=0.8)


@pytest.mark.parametrize("count", [1, 2, 5, 21])
def test_small_galleries(count):
    rows = clusters(np.random.default_rng(count), count + 3, 4)
    assert_equals_the_batch(PreparedGallery(rows[3:]), rows[:3], rows[3:], k=100)


@pytest.mark.parametrize("k2", [1, 3])
def test_ties_and_queries_that_are_in_the_gallery(k2):
    rows = np.random.default_rng(3).integers(0, 3, (90, 3)).astype(np.float32)
    gallery = PreparedGallery(rows, k1=6, k2=k2)
    positions, distances = gallery.rerank(rows[:20], k=len(rows))
    for row in range(20):
        expected = k_reciprocal.distances(rows[row : row + 1], rows, k1=6, k2=k2)[0]
        np.testing.assert_allclose(distances[row], expected[positions[row]], rtol=0, atol=1e-6)


def test_one_query():
    rows = clusters(np.random.default_rng(4), 200, 6)
    gallery = PreparedGallery(rows[1:])
    positions, distances = gallery.rerank_one(rows[0], k=10)
    expected = gallery.rerank(rows[:1], k=10)
    np.testing.assert_array_equal(positions, expected[0][0])
    np.testing.assert_array_equal(distances, expected[1][0])


def test_save_and_load(tmp_path):
    rows = clusters(np.random.default_rng(5), 200, 6)
    gallery = PreparedGallery(rows[5:], k1=8, k2=3, neighbours=neighbors.of_set(rows[5:], 30))
    path = str(tmp_path / "gallery.npz")
    gallery.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["gallery.npz"]
    loaded = PreparedGallery.load(path, rows[5:])
    assert (loaded.k1, loaded.k2) == (8, 3)
    for mine, theirs in zip(loaded.rerank(rows[:5]), gallery.rerank(rows[:5]), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    with pytest.raises(ValueError, match="was made from"):
        PreparedGallery.load(path, rows[4:-1])
    np.savez(path, format=np.array("other"), version=np.array(1))
    with pytest.raises(ValueError, match="waymark-k-reciprocal"):
        PreparedGallery.load(path, rows[5:])


def test_wrong_input():
    rows = clusters(np.random.default_rng(6), 30, 4)
    with pytest.raises(ValueError, match="k1 to be an integer"):
        PreparedGallery(rows, k1=0)
    with pytest.raises(ValueError, match="lists of 30 vectors with at least 21 entries"):
        PreparedGallery(rows, neighbours=neighbors.of_set(rows, 20))
    gallery = PreparedGallery(rows)
    with pytest.raises(ValueError, match="dimension 4 and float32"):
        gallery.rerank(rows[:2, :3])
    with pytest.raises(ValueError, match="NaN or infinity in row 0"):
        gallery.rerank_one(np.full(4, np.nan, np.float32))
    with pytest.raises(ValueError, match="lambda_value between 0 and 1"):
        gallery.rerank(rows, lambda_value=2)
