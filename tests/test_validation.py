"""The score of a labelled set against a loop over all pairs, and against eval's metric."""

import numpy as np
import pytest

from eval import metrics
from retrieval.projecting import validation


def units(rng, count, dimension):
    vectors = rng.standard_normal((count, dimension), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def slow_map(vectors, labels, k, rows):
    """The obvious way: all similarities of each query, sorted by (-similarity, position)."""
    scores = []
    for row in rows:
        others = [other for other in range(len(vectors)) if other != row]
        others.sort(key=lambda other: (-(vectors[row] @ vectors[other]), other))
        right = [labels[other] == labels[row] for other in others]
        if not any(right):
            continue
        precisions = [sum(right[: r + 1]) / (r + 1) for r in range(min(k, len(right))) if right[r]]
        scores.append(sum(precisions) / min(sum(right), k))
    return sum(scores) / len(scores)


@pytest.mark.parametrize("k", [1, 5, 100])
def test_equals_the_loop(k, monkeypatch):
    monkeypatch.setattr(validation, "_QUERIES", 7)  # several pieces
    rng = np.random.default_rng(0)
    vectors, labels = units(rng, 60, 4), [f"class {n}" for n in rng.integers(0, 25, 60)]
    rows = np.arange(60)
    expected = slow_map(vectors, labels, k, rows)
    # Sums of the same numbers in another order.
    assert validation.leave_one_out_map(vectors, labels, k) == pytest.approx(expected, abs=1e-12)
    some = rows[::3]
    expected = slow_map(vectors, labels, k, some)
    received = validation.leave_one_out_map(vectors, np.array(labels), k, queries=some)
    assert received == pytest.approx(expected, abs=1e-12)


def test_is_the_metric_of_the_evaluation():
    rng = np.random.default_rng(1)
    vectors, labels = units(rng, 40, 3), rng.integers(0, 6, 40)
    similarities = vectors @ vectors.T
    np.fill_diagonal(similarities, -2)
    ranked = np.argsort(-similarities, axis=1, kind="stable")[:, :39]
    rankings = {str(row): list(map(str, ranked[row, :10])) for row in range(40)}
    truth = {
        str(row): {str(n) for n in np.flatnonzero(labels == labels[row]) if n != row}
        for row in range(40)
    }
    expected = metrics.mean_average_precision(metrics.judge(rankings, truth, depth=10), 10)
    received = validation.leave_one_out_map(vectors, labels, 10)
    assert received == pytest.approx(float(expected), abs=1e-12)


def test_copies_that_crowd_a_query_out_of_its_own_neighbours():
    # Row 3 has three equal vectors before it: with k = 2 it is not among its own first three.
    vectors = np.float32([[1, 0]] * 4)
    assert validation.leave_one_out_map(vectors, [0, 0, 1, 1], 1) == pytest.approx(2 / 4)
    positions = np.array([[0, 1, 2], [0, 1, 2]])
    rest = validation.without_self(positions, np.array([1, 3]))
    np.testing.assert_array_equal(rest, [[0, 2], [0, 1]])


def test_labels_are_read_by_id(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("label,id\nx,a\ny,b\nx,c\nz,elsewhere\n")
    np.testing.assert_array_equal(validation.read_labels(str(table), ["c", "b", "a"]), [0, 1, 0])
    with pytest.raises(ValueError, match="none for 1 \\('d'\\)"):
        validation.read_labels(str(table), ["a", "d"])
    table.write_text("label,id\nx,a\ny,a\n")
    with pytest.raises(ValueError, match="Received: 'x' and 'y' for a"):
        validation.read_labels(str(table), ["a"])
    table.write_text("landmark_id,id\n,a\n")
    with pytest.raises(ValueError, match="an empty label for a"):
        validation.read_labels(str(table), ["a"], label_column="landmark_id")


def test_refuses_what_does_not_fit():
    vectors = np.eye(3, dtype=np.float32)
    with pytest.raises(ValueError, match=r"expected 3 labels\. Received: 2"):
        validation.leave_one_out_map(vectors, [0, 1])
    with pytest.raises(ValueError, match="none among the queries"):
        validation.leave_one_out_map(vectors, [0, 1, 2])
