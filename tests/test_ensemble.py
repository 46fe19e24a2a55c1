"""Ensembles joined by id: weighted side by side, summed, or their scores averaged."""

import numpy as np
import pytest

from retrieval import embeddings, ensemble
from retrieval.embeddings import EmbeddingsWriter
from retrieval.nearest import exact


def units(count, dimension, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((count, dimension), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def member(directory, ids, vectors, dtype="float32"):
    with EmbeddingsWriter(
        str(directory), vectors.shape[1], model_digest="ab", source="a table", dtype=dtype
    ) as writer:
        writer.append(ids, vectors)
    return embeddings.load(str(directory))


def test_join_weights_and_orders_by_id(tmp_path):
    first = member(tmp_path / "a", ["x", "y"], np.float32([[1, 0], [0, 1]]))
    second = member(tmp_path / "b", ["y", "x"], np.float32([[1], [-1]]))
    ids, vectors = ensemble.join([first, second], [0.5, 2])
    assert ids == ("x", "y")
    assert vectors.shape == (2, 3)
    assert np.asarray(vectors).tolist() == [[0.5, 0, -2], [0, 0.5, 2]]
    assert np.asarray(vectors).dtype == np.float32
    assert vectors[1:].tolist() == [[0, 0.5, 2]]
    assert vectors[[1, 0, 1]].tolist() == [[0, 0.5, 2], [0.5, 0, -2], [0, 0.5, 2]]
    assert np.asarray(ensemble.join([first, second])[1]).tolist() == [[1, 0, -1], [0, 1, 1]]


def test_join_of_one_member(tmp_path):
    only = member(tmp_path, ["x"], np.float32([[0.6, 0.8]]))
    assert ensemble.join([only])[1] is only.vectors
    np.testing.assert_allclose(ensemble.join([only], [2])[1], [[1.2, 1.6]], rtol=1e-6)


def test_scores_are_averaged(tmp_path):
    rows = [units(30, dimension, seed=dimension) for dimension in (4, 6, 3)]
    ids = [f"i{number}" for number in range(30)]
    members = [member(tmp_path / str(n), ids, vectors) for n, vectors in enumerate(rows)]
    _, vectors = ensemble.join(members, [3, 1, 0.5], combine="scores")
    mean = sum(w * v @ v.T for w, v in zip((3, 1, 0.5), rows, strict=True)) / 4.5
    joined = np.asarray(vectors)
    np.testing.assert_allclose(joined @ joined.T, mean, atol=1e-6)  # sums of 13 float32 products


def test_sum_is_normalised(tmp_path):
    first = member(tmp_path / "a", ["x", "y"], np.float32([[1, 0], [0, 1]]))
    second = member(tmp_path / "b", ["x", "y"], np.float32([[0, 1], [0, 1]]))
    _, vectors = ensemble.join([first, second], [3, 4], combine="sum")
    np.testing.assert_allclose(vectors, [[0.6, 0.8], [0, 1]], rtol=1e-6)
    opposite = member(tmp_path / "c", ["x", "y"], np.float32([[-1, 0], [0, 1]]))
    with pytest.raises(ValueError, match="rows that cancel, 1 of 2"):
        np.asarray(ensemble.join([first, opposite], combine="sum")[1])
    wide = member(tmp_path / "d", ["x", "y"], units(2, 3))
    with pytest.raises(ValueError, match=r"one dimension to add. Received: \[2, 3\]"):
        ensemble.join([first, wide], combine="sum")


@pytest.mark.parametrize("combine", ensemble.COMBINATIONS)
def test_joined_rows_are_searched_as_the_array_is(tmp_path, combine):
    ids = [f"i{number:03}" for number in range(400)]
    members = [
        member(tmp_path / "a", ids, units(400, 8), "int8"),
        member(tmp_path / "b", ids[::-1], units(400, 8, seed=1), "bfloat16"),
    ]
    _, vectors = ensemble.join(members, [1, 0.7], combine=combine)
    queries = np.asarray(vectors)[:20]
    expected = exact.ExactSearcher(np.asarray(vectors)).search(queries, 9)
    found = exact.ExactSearcher(vectors, memory_mb=1).search(queries, 9)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=1e-6)


def test_missing_ids_are_reported_or_dropped(tmp_path):
    first = member(tmp_path / "a", ["x", "y", "v"], units(3, 2))
    second = member(tmp_path / "b", ["x", "z", "v", "w"], units(4, 2))
    message = (
        r"member 1 lacks 2 ids that others have \('z', 'w'\)\n"
        r"member 2 lacks 1 ids that others have \('y'\)"
    )
    with pytest.raises(ValueError, match=message):
        ensemble.join([first, second])
    assert ensemble.align([first, second]).missing == (("z", "w"), ("y",))
    ids, vectors = ensemble.join([first, second], missing="drop")
    assert ids == ("x", "v")
    expected = np.concatenate([first.vectors[[0, 2]], second.vectors[[0, 2]]], axis=1)
    np.testing.assert_array_equal(vectors, expected)
    other = member(tmp_path / "c", ["q"], units(1, 2))
    with pytest.raises(ValueError, match=r"all members have\. Received: none"):
        ensemble.join([first, other], missing="drop")


def test_join_refuses_what_does_not_fit(tmp_path):
    first = member(tmp_path / "a", ["x", "y"], units(2, 2))
    for weights in ([1], [1, 0], [1, -1], [1, float("nan")], [1, float("inf")]):
        with pytest.raises(ValueError, match="weights"):
            ensemble.join([first, first], weights)
    with pytest.raises(ValueError, match="Received: none"):
        ensemble.join([])
    with pytest.raises(ValueError, match="Received: 'mean'"):
        ensemble.join([first], combine="mean")
    with pytest.raises(ValueError, match="Received: 'ignore'"):
        ensemble.join([first], missing="ignore")
