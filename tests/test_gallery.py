"""Which rankings the results page shows: the choice against a slow definition, and AP by hand."""

import numpy as np
import pytest
from image_files import write_table

from eval import gallery


def slow_choice(ap, positives, labels, count):
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
        while len(chosen[name]) < min(count, max(1, len(ap) // 3)) and left:
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
    images = np.array([f"i{number}" for number in range(30)])
    rankings = {f"q{n:02d}": rng.permutation(images)[:20].tolist() for n in range(count)}
    truths = {
        query: set(rng.permutation(images)[: rng.integers(1, 6)].tolist()) for query in rankings
    }
    labels = {query: str(rng.integers(0, 4)) for query in rankings}
    return rankings, truths, labels


@pytest.mark.parametrize("count", [1, 2, 3, 8, 40])
def test_chosen_rankings_are_those_of_the_slow_definition(tmp_path, count):
    rankings, truths, labels = random_job(count, count)
    predictions = [(query, " ".join(images)) for query, images in rankings.items()]
    solution = [(query, " ".join(sorted(images))) for query, images in truths.items()]
    judged = gallery.judge(
        write_table(tmp_path / "predictions.csv", predictions, ("id", "images")),
        write_table(tmp_path / "solution.csv", solution, ("id", "images")),
    )
    ap = {query: slow_ap(rankings[query], truths[query]) for query in rankings}
    assert judged.average_precision.tolist() == pytest.approx(list(ap.values()))
    positives = {query: len(images) for query, images in truths.items()}
    chosen = gallery.choose(judged, labels, 5)
    names = {
        group: [judged.relevance.queries[row] for row in rows] for group, rows in chosen.items()
    }
    assert names == slow_choice(ap, positives, labels, 5)


def test_average_precision_by_hand(tmp_path):
    # right, wrong, right: (1/1 + 2/3) / 2 = 5/6; a repeated image takes its rank and is wrong.
    predictions = [("a", "x y z"), ("b", "x x z"), ("c", "y")]
    solution = [("a", "x z"), ("b", "x z"), ("c", "x")]
    judged = gallery.judge(
        write_table(tmp_path / "predictions.csv", predictions, ("id", "images")),
        write_table(tmp_path / "solution.csv", solution, ("id", "images")),
    )
    assert judged.average_precision.tolist() == pytest.approx([5 / 6, 5 / 6, 0])


def test_no_query_to_choose_from(tmp_path):
    judged = gallery.judge(
        write_table(tmp_path / "predictions.csv", [("a", "x")], ("id", "images")),
        write_table(tmp_path / "solution.csv", [("a", "None")], ("id", "images")),
    )
    assert gallery.choose(judged, {}) == {"best": [], "typical": [], "worst": []}
