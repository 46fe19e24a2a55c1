"""The non-landmark penalty against loops that follow the published description."""

import numpy as np
import pytest

from retrieval.reranking.non_landmarks import Member, penalised_search, recognise, similarity_to


def unit(rng, count, dimension=6):
    vectors = rng.normal(size=(count, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def oracle(members, classes, top=3, nearest_of_train=5, nearest_of_query=10):
    labels, scores = [], []
    for i in range(len(members[0].queries)):
        sums, penalty = {}, []
        for member in members:
            a = np.clip(member.train @ member.queries[i], 0, 1)
            b = []
            for row in member.train:
                b.append(np.sort(np.clip(member.non_landmarks @ row, 0, 1))[::-1])
            b = np.array([values[:nearest_of_train].mean() for values in b])
            for j in np.argsort(-(a - b), kind="stable")[:top]:
                sums[classes[j]] = sums.get(classes[j], 0) + (a - b)[j]
            c = np.sort(np.clip(member.non_landmarks @ member.queries[i], 0, 1))[::-1]
            penalty.append(c[:nearest_of_query].mean())
        best = min(sums, key=lambda label: (-sums[label], label))
        labels.append(best)
        scores.append(sums[best] - np.mean(penalty))
    return np.array(labels), np.array(scores)


@pytest.mark.parametrize("non_landmarks", [3, 40])
def test_recognition_follows_the_description(non_landmarks):
    rng = np.random.default_rng(0)
    classes = rng.integers(5, size=60)
    members = [Member(unit(rng, 30), unit(rng, 60), unit(rng, non_landmarks)) for _ in range(3)]
    found, scores = recognise(members, classes)
    labels, expected = oracle(members, classes)
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    np.testing.assert_array_equal(found, labels)


def test_cut_similarities_come_forward_where_all_scores_are_negative():
    """A = -1, 0.1; B = 0, 0.5: the score of the first is cut to 0, above the second's -0.4."""
    train = np.float32([[-1, 0], [0.1, 0.99]])
    positions, scores = penalised_search(np.float32([[1, 0]]), train, np.float32([0, 0.5]), top=2)
    assert positions.tolist() == [[0, 1]]
    np.testing.assert_allclose(scores, [[0, -0.4]], atol=1e-6)


def test_similarity_is_the_mean_of_the_largest():
    others = np.float32([[1, 0], [0.6, 0.8], [-1, 0]])
    np.testing.assert_allclose(similarity_to(np.float32([[1, 0]]), others, 2), [0.8])
    np.testing.assert_allclose(similarity_to(np.float32([[1, 0]]), others, 9), [1.6 / 3], rtol=1e-6)


def test_without_members():
    with pytest.raises(ValueError, match="at least one member"):
        recognise([], np.zeros(0, int))
