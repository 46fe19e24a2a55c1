"""Which image goes where."""

import collections

import numpy as np
import pytest

from tfrecords_tools import split
from tfrecords_tools.tables import Row


def make_rows(sizes, clean=True):
    """Rows of classes "0", "1", … with `sizes` images each."""
    kind = "c" if clean else "n"
    return [
        Row(f"{kind}{label}-{number}", str(label), "x.jpg", clean)
        for label, size in enumerate(sizes)
        for number in range(size)
    ]


def labels_of(rows):
    return collections.Counter(row.label for row in rows)


def test_every_class_with_four_clean_images_gives_one_to_validation():
    clean, noisy = make_rows([1, 3, 4, 5, 40]), make_rows([9, 0, 2, 0, 0, 4], clean=False)
    splits = split.split_for_training(clean + noisy)
    assert labels_of(splits["validation"]) == {"2": 1, "3": 1, "4": 1}
    assert labels_of(splits["train_clean"]) == {"0": 1, "1": 3, "2": 3, "3": 4, "4": 39}
    assert labels_of(splits["train_noisy"]) == {"0": 9, "2": 2, "5": 4}
    everything = [row for rows in splits.values() for row in rows]
    assert sorted(everything, key=repr) == sorted(clean + noisy, key=repr)


def test_validation_can_be_left_out():
    splits = split.split_for_training(make_rows([5, 9]), validation="none")
    assert {name: len(rows) for name, rows in splits.items()} == {"train_clean": 14}
    with pytest.raises(ValueError, match="Received: 'half'"):
        split.split_for_training([], validation="half")


def test_the_order_of_the_table_does_not_count_but_the_seed_does():
    rows = make_rows([7] * 30) + make_rows([3] * 30, clean=False)
    first = split.split_for_training(rows, seed=1)
    np.random.default_rng(0).shuffle(rows)
    assert split.split_for_training(rows, seed=1) == first
    other = split.split_for_training(rows, seed=2)
    assert set(other["validation"]) != set(first["validation"])
    assert [row.id for row in other["train_noisy"]] != [row.id for row in first["train_noisy"]]


def test_validation_images_of_a_class_are_as_good_as_drawn():
    """Over 600 seeds each of 6 images is chosen about 100 times (standard deviation 9.1)."""
    rows = make_rows([6])
    chosen = collections.Counter(
        split.split_for_training(rows, seed=seed)["validation"][0].id for seed in range(600)
    )
    assert len(chosen) == 6
    assert all(60 < count < 140 for count in chosen.values())


def test_the_shuffle_mixes_classes_over_the_whole_split():
    """1,000 images of 10 classes: every tenth of the split holds about 10 of each class."""
    rows = split.shuffle(make_rows([100] * 10), seed=0)
    for start in range(0, 1000, 100):
        counts = labels_of(rows[start : start + 100])
        assert len(counts) == 10
        assert max(counts.values()) < 25


def test_the_rank_is_the_published_hash():
    """printf shuffle:7:abc | sha256sum: shards can be recomputed by any other program."""
    expected = "c3325efb89a0b2433bb6bb8623ae29b5690ee6a4a57d59e7533919ddbb153da2"
    assert split.rank("abc", 7, "shuffle").hex() == expected


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["10", "9", "10", "-1", "100"], ["-1", "9", "10", "100"]),
        (["10", "9", "x"], ["10", "9", "x"]),
        (["07", "7", "10"], ["07", "7", "10"]),
        (["1_0", "9"], ["1_0", "9"]),  # an integer only for Python
        (["2", ""], ["2"]),
        ([], []),
    ],
)
def test_class_ids(labels, expected):
    assert split.sort_class_ids(labels) == expected


@pytest.mark.parametrize(
    ("images", "per_shard", "sizes"),
    [(1, 10, [1]), (10, 10, [10]), (11, 10, [5, 6]), (25, 10, [8, 8, 9]), (3, 1, [1, 1, 1])],
)
def test_shards_are_of_equal_size(images, per_shard, sizes):
    rows = make_rows([images])
    shards = split.cut_into_shards({"index": rows}, per_shard)["index"]
    assert list(shards) == [
        f"index-{shard:05d}-of-{len(sizes):05d}-{size}.tfrec" for shard, size in enumerate(sizes)
    ]
    assert [len(members) for members in shards.values()] == sizes
    assert [row for members in shards.values() for row in members] == rows


def test_counts_follow_the_class_ids():
    assert split.count_by_class(make_rows([2, 0, 1]), ["0", "1", "2"]) == (2, 0, 1)
