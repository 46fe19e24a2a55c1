"""The map of the embeddings: the sample, and that equal embeddings give equal maps."""

import numpy as np
import pytest
from pages import make_run

from eval.page import classes, embedding_map


def clusters(count, per, dimension=16, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(count, dimension))
    vectors = np.repeat(centres, per, axis=0) + 0.1 * rng.normal(size=(count * per, dimension))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)


def test_equal_embeddings_give_equal_maps_and_neighbours_stay_neighbours():
    vectors = clusters(6, 20)
    points = embedding_map.project(vectors)
    assert points.shape == (120, 2)
    assert points.dtype == np.int64
    assert points.min() == 0
    assert points.max() == 10_000
    assert np.array_equal(points, embedding_map.project(vectors))
    distances = np.linalg.norm(points[:, None] - points[None], axis=2) + 1e9 * np.eye(120)
    assert (distances.argmin(axis=1) // 20 == np.arange(120) // 20).mean() > 0.95


@pytest.mark.parametrize(
    "vectors",
    [
        np.ones((10, 4), np.float32) / 2,  # all the same
        np.eye(10, 1, dtype=np.float32) + 1,  # one dimension
        clusters(5, 2)[:, :2],
        np.eye(12, 300, dtype=np.float32),  # more dimensions than images
    ],
)
def test_odd_embeddings(vectors):
    points = embedding_map.project(vectors)
    assert points.shape == (len(vectors), 2)
    assert points.min() >= 0
    assert points.max() <= 10_000


def test_sample_takes_all_if_they_are_few():
    assert embedding_map.sample(np.array([2, -1, 0]), 3).tolist() == [0, 1, 2]
    assert embedding_map.sample(np.zeros(0, np.int64), 3).tolist() == []


def test_sample_takes_classes_rather_than_strays():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 1000, 50_000)
    rows = embedding_map.sample(codes, 1500)
    assert len(set(rows.tolist())) == 1500
    assert (np.diff(rows) > 0).all()
    _, counts = np.unique(codes[rows], return_counts=True)
    # all classes have some 50 images: 75 of them, with 20 images each
    assert sorted(counts.tolist()) == [20] * 75
    assert np.array_equal(rows, embedding_map.sample(codes, 1500))
    unknown = embedding_map.sample(np.full(5000, -1), 1500)
    assert len(unknown) == 1500
    assert unknown.max() - unknown.min() > 4000


def test_queries_of_the_map_are_of_its_classes_and_some_have_no_answer(monkeypatch):
    index = [f"i{n:04d}" for n in range(400)]
    labels = {image: str(n // 4) for n, image in enumerate(index)}
    queries = {f"q{n:04d}": str(n % 100) for n in range(300)}
    truths = {
        query: {i for i in index if labels[i] == label} if n % 3 else set()
        for n, (query, label) in enumerate(queries.items())
    }
    run = make_run(dict.fromkeys(queries, index[:3]), truths, index)
    monkeypatch.setattr(embedding_map, "IMAGES", 200)
    monkeypatch.setattr(embedding_map, "QUERIES", 40)
    monkeypatch.setattr(embedding_map, "project", lambda vectors: np.zeros((len(vectors), 2), int))
    found = classes.number(run.query_ids, run.index_ids, queries, labels)
    drawn = embedding_map.draw(run, found)
    shown = set(found.index[drawn.positions].tolist())
    judged = run.judged_rows()[drawn.queries] >= 0
    assert len(shown) == 50
    assert int((~judged).sum()) == 10
    assert int(judged.sum()) == 30
    assert set(found.query[drawn.queries[judged]].tolist()) <= shown
    assert drawn.sample == (
        "200 of 400 images of the index (up to 20 of each of 50 classes drawn at random) and "
        "40 of 300 queries"
    )


def test_too_few_for_a_map():
    run = make_run({"q": ["a"]}, {"q": {"a"}}, ["a", "b"])
    assert embedding_map.draw(run, classes.number(run.query_ids, run.index_ids, {}, {})) is None
