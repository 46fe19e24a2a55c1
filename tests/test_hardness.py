"""Why a query is hard: every rule on cases made by hand, and on a run."""

import numpy as np
import pytest
from pages import make_run

from eval.page import classes, hardness
from eval.page.hardness import CONFUSED, FEW, MIXED, NOTHING, OTHERS, TIE, UNANSWERED, UNLIKE

FALLING = np.linspace(0.9, 0.54, 10)  # 0.04 apart: 4 % of the first


def judge(codes, *, right="", similarities=FALLING, own=0, positives=10, others=30, size=20):
    """Judges one query, besides `others` with ten right images each and similarities from 0.8.

    `codes` are the classes of its answers, "-" for one that is not known, each with `size` images;
    `right` marks the right ones with "1".
    """
    count = len(codes)
    marks = np.zeros((1 + others, 10), bool)
    marks[0, : len(right)] = [mark == "1" for mark in right]
    marks[1:] = True
    there = np.zeros_like(marks)
    there[0, :count] = there[1:] = True
    values = np.full(marks.shape, np.nan, np.float32)
    values[0, :count] = similarities[:count]
    values[1:] = np.linspace(0.8, 0.95, others)[:, None] if others else 0
    numbers = np.full(marks.shape, -1)
    numbers[0, :count] = [-1 if code == "-" else int(code) for code in codes]
    numbers[1:] = 9
    owns = np.array([own] + [9] * others)
    amounts = np.array([positives] + [10] * others)
    return hardness.judge(marks, there, values, numbers, np.full(marks.shape, size), owns, amounts)


@pytest.mark.parametrize(
    ("codes", "options", "reasons"),
    [
        ("1111122334", {}, [CONFUSED]),  # five of class 1
        ("1111223344", {}, [MIXED]),  # four, and all far from each other
        ("1111100000", {"right": "0000011111"}, [UNLIKE]),  # half are right
        ("1111110000", {"right": "0000001111"}, [CONFUSED]),
        ("2222210000", {"right": "1000000000", "own": 2}, [MIXED]),  # own class is no rival
        ("2222211111", {"own": 2}, [CONFUSED]),
        ("1122334455", {"similarities": np.linspace(0.9, 0.88, 10)}, [TIE]),
        ("1000000000", {"similarities": np.linspace(0.9, 0.88, 10)}, [MIXED]),  # one class near
        ("1123456789", {"similarities": np.array([0.9, 0.89] + [0.5] * 8)}, [MIXED]),  # one near
        ("1223456789", {"similarities": np.array([0.9, 0.89] + [0.5] * 8)}, [TIE]),  # two near
        ("1234567890", {"similarities": np.array([0.9, 0.88] + [0.5] * 8)}, [MIXED]),  # 2.2 %
        ("1234516789", {"size": 4}, [CONFUSED]),  # half of the class of the first answer
        ("1234516789", {"size": 5}, [MIXED]),
        ("2134516789", {"size": 4}, [MIXED]),  # not the first answer
        ("1234567890", {"size": 1}, [MIXED]),  # one image is no class
        ("1111222233", {"size": 8}, [CONFUSED]),
        ("----------", {}, [OTHERS]),
        ("--11------", {}, [MIXED]),
        ("1", {}, [CONFUSED]),  # an index of one image
        ("", {}, [UNANSWERED]),
        ("", {"positives": 1}, [UNANSWERED]),
        ("1111111111", {"positives": 3}, [FEW, CONFUSED]),
        ("1111111111", {"positives": 4}, [CONFUSED]),
        ("1111111111", {"positives": 1, "others": 0}, [CONFUSED]),  # as few as all have
        ("1111111111", {"similarities": FALLING - 0.2}, [NOTHING, CONFUSED]),
        ("1111111111", {"similarities": FALLING - 0.2, "positives": 2}, [NOTHING, FEW, CONFUSED]),
        ("1111111111", {"similarities": FALLING - 0.2, "others": 19}, [CONFUSED]),  # too few
        ("1122334455", {"similarities": np.linspace(-0.88, -1.2, 10), "others": 0}, [MIXED]),
        ("1122334455", {"similarities": np.linspace(-0.88, -0.89, 10), "others": 0}, [TIE]),
    ],
)
def test_rules(codes, options, reasons):
    assert judge(codes, **options).of(0) == reasons


def test_exactly_one_reason_about_the_answers():
    rng = np.random.default_rng(0)
    count = 500
    right = rng.random((count, 10)) < rng.random((count, 1))
    there = np.arange(10) < rng.integers(0, 11, (count, 1))
    codes = np.where(there, rng.integers(-1, 5, (count, 10)), -1)
    values = np.where(there, -np.sort(-rng.random((count, 10)), axis=1), np.nan)
    own, positives = rng.integers(-1, 5, count), rng.integers(1, 9, count)
    sizes = rng.integers(1, 9, codes.shape)
    found = hardness.judge(right & there, there, values, codes, sizes, own, positives)
    ways = sum(found.holds[name] for name in (UNANSWERED, CONFUSED, TIE, UNLIKE, MIXED, OTHERS))
    assert (ways == 1).all()
    assert found.holds.keys() == hardness.RULES.keys()


def test_a_run_in_words():
    index = [f"a{n}" for n in range(5)] + [f"b{n}" for n in range(9)]
    truths = {"q": set(index[:5]), "r": set(index[5:]), "s": {"a0"}, "none": set()}
    rankings = {"none": ["a0"], "q": [*index[5:14], "a0"], "r": [*index[5:14], "a0"]}
    run = make_run(rankings, truths, index)
    found = classes.number(
        run.query_ids, run.index_ids, {"q": "A", "r": "B"}, {image: image[0] for image in index}
    )
    reasons = hardness.find(run, found)
    assert hardness.describe(reasons, 0, found, 5) == ["confused with class b: 9 of the first 10"]
    assert hardness.describe(reasons, 1, found, 9) == [
        "9 of the first 10 are right, others unlike them"
    ]
    assert hardness.describe(reasons, 2, found, 1) == ["no prediction"]
    assert hardness.counts(reasons, np.array([True, True, False])) == [
        (CONFUSED, hardness.RULES[CONFUSED], 1),
        (UNLIKE, hardness.RULES[UNLIKE], 1),
    ]
