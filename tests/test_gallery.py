"""Which rankings the results page shows: the choice against a slow definition, and AP by hand."""

import numpy as np
import pytest
from pages import make_run

from eval.page import gallery

COUNTS = {"best": 5, "typical": 5, "worst": 5}
IMAGES = [f"i{number}" for number in range(30)]


def slow_choice(ap, positives, labels, counts):
    """The definition, one query at a time: ap, positives and labels per query id."""
    left, median = set(ap), sorted(ap.values())
    middle = len(median) // 2
    median = (median[middle] + median[-middle - 1]) / 2
    keys = {
        "best": lambda query: (-ap[query], -positives[query], query),
        "worst": lambda query: (ap[query], -positives[query], query),
        "typical": lambda query: (abs(ap[query] - median), query),
    }
    chosen = {}
    for name, key in keys.items():
        chosen[name] = []
        while len(chosen[name]) < min(counts[name], max(1, len(ap) // 3)) and left:
            used = {labels.get(query) for query in chosen[name]}
            new = [query for query in left if labels.get(query) not in used] or left
            chosen[name].append(min(new, key=key))
            left.remove(chosen[name][-1])
        chosen[name].sort(key=key)
    return chosen


def slow_ap(images, truth):
    right, total = 0, 0.0
    for rank, image in enumerate(images[:100], 1):
        if image in truth:
            right += 1
            total += right / rank
    return total / min(len(truth), 100)


def random_job(seed, count):
    """Returns rankings and truths of `count` queries over 30 images, and labels."""
    rng = np.random.default_rng(seed)
    rankings = {f"q{n:02d}": rng.permutation(IMAGES)[:20].tolist() for n in range(count)}
    truths = {
        query: set(rng.permutation(IMAGES)[: rng.integers(1, 6)].tolist()) for query in rankings
    }
    labels = {query: str(rng.integers(0, 4)) for query in rankings}
    return rankings, truths, labels


@pytest.mark.parametrize("count", [1, 2, 3, 8, 40])
def test_chosen_rankings_are_those_of_the_slow_definition(count):
    rankings, truths, labels = random_job(count, count)
    run = make_run(rankings, truths, IMAGES)
    ap = {query: slow_ap(rankings[query], truths[query]) for query in rankings}
    assert run.average_precision.tolist() == pytest.approx(list(ap.values()))
    positives = {query: len(images) for query, images in truths.items()}
    for counts in (COUNTS, gallery.COUNTS):
        chosen = gallery.choose(run, labels, counts)
        names = {
            group: [run.relevance.queries[row] for row in rows] for group, rows in chosen.items()
        }
        assert names == slow_choice(ap, positives, labels, counts)


def test_average_precision_by_hand():
    # right, wrong, right: (1/1 + 2/3) / 2 = 5/6; nothing found, no answer: 0
    rankings = {"a": ["x", "y", "z"], "c": ["y"]}
    run = make_run(rankings, {"a": {"x", "z"}, "b": {"x"}, "c": {"x"}}, ["x", "y", "z"])
    assert run.average_precision.tolist() == pytest.approx([5 / 6, 0, 0])
