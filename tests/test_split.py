"""Which image goes where: the SQL of a conversion against the slow, obvious way."""

import collections

import numpy as np
import pytest
from catalogues import make_catalogue, make_rows, plan_slowly

from tfrecords_tools.conversion import split, steps
from tfrecords_tools.conversion.options import Options
from tfrecords_tools.readers.tables import Row


def planned(catalogue):
    """{split: ids in the order of the records}."""
    return {
        name: [row["id"] for row in catalogue.planned_rows(name)]
        for name in catalogue.split_sizes()
    }


def labels_of(ids):
    """{class: images} of ids that `make_rows` made."""
    return collections.Counter(image_id[1:].split("-")[0] for image_id in ids)


def test_every_class_with_four_clean_images_gives_one_to_validation():
    clean, noisy = make_rows([1, 3, 4, 5, 40]), make_rows([9, 0, 2, 0, 0, 4], clean=False)
    splits = planned(make_catalogue(clean + noisy))
    assert list(splits) == ["train_clean", "train_noisy", "validation"]
    assert labels_of(splits["validation"]) == {"2": 1, "3": 1, "4": 1}
    assert labels_of(splits["train_clean"]) == {"0": 1, "1": 3, "2": 3, "3": 4, "4": 39}
    assert labels_of(splits["train_noisy"]) == {"0": 9, "2": 2, "5": 4}
    everything = [image_id for ids in splits.values() for image_id in ids]
    assert sorted(everything) == sorted(row.id for row in clean + noisy)


def random_rows(random, count):
    return [
        Row(f"{random.integers(2**62):x}", str(random.integers(count // 5)), "/x", clean)
        for clean in map(bool, random.integers(2, size=count))
    ]


@pytest.mark.parametrize("options", [{}, {"validation": "none"}, {"split": "index"}, {"seed": 7}])
def test_splits_and_order_are_those_of_the_slow_way(options):
    random = np.random.default_rng(len(options))
    rows = random_rows(random, 1500)
    bad = {row.id for row in rows[::9]}
    catalogue = make_catalogue(rows, bad=bad, **options)
    usable = [row for row in rows if row.id not in bad]
    expected = plan_slowly(usable, **options)
    assert planned(catalogue) == expected
    assert catalogue.split_sizes() == {name: len(ids) for name, ids in expected.items()}
    class_ids = sorted({row.label for row in usable}, key=int)
    assert catalogue.class_ids() == tuple(class_ids)
    labels = {row.id: class_ids.index(row.label) for row in usable}
    for name in expected:
        assert all(row["label"] == labels[row["id"]] for row in catalogue.planned_rows(name))
        counts = collections.Counter(labels[image_id] for image_id in expected[name])
        assert catalogue.class_counts(name) == tuple(counts[i] for i in range(len(class_ids)))


def test_validation_can_be_left_out():
    splits = planned(make_catalogue(make_rows([5, 9]), validation="none"))
    assert {name: len(ids) for name, ids in splits.items()} == {"train_clean": 14}


def test_the_order_of_the_table_does_not_count_but_the_seed_does():
    rows = make_rows([7] * 30) + make_rows([3] * 30, clean=False)
    first = planned(make_catalogue(rows, seed=1))
    np.random.default_rng(0).shuffle(rows)
    assert planned(make_catalogue(rows, seed=1)) == first
    other = planned(make_catalogue(rows, seed=2))
    assert set(other["validation"]) != set(first["validation"])
    assert other["train_noisy"] != first["train_noisy"]


def test_validation_images_of_a_class_are_as_good_as_drawn():
    """Over 600 seeds each of 6 images is chosen about 100 times (standard deviation 9.1)."""
    rows = make_rows([6])
    chosen = collections.Counter(
        planned(make_catalogue(rows, seed=seed))["validation"][0] for seed in range(600)
    )
    assert len(chosen) == 6
    assert all(60 < count < 140 for count in chosen.values())


def test_the_shuffle_mixes_classes_over_the_whole_split():
    """1,000 images of 10 classes: every tenth of the split holds about 10 of each class."""
    ids = planned(make_catalogue(make_rows([100] * 10), split="index"))["index"]
    for start in range(0, 1000, 100):
        counts = labels_of(ids[start : start + 100])
        assert len(counts) == 10
        assert max(counts.values()) < 25


def test_the_rank_is_the_published_hash():
    """printf shuffle:7:abc | sha256sum: shards can be recomputed by any other program."""
    expected = "c3325efb89a0b2433bb6bb8623ae29b5690ee6a4a57d59e7533919ddbb153da2"
    assert split.rank("abc", 7, "shuffle").hex() == expected[:16]


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
def test_shards_are_of_equal_size(tmp_path, images, per_shard, sizes):
    rows = make_rows([images])
    options = Options(sources=["table:t.csv"], split="index", images_per_shard=per_shard)
    job = steps.Conversion(str(tmp_path), options, 1, None)
    tasks = list(steps.shard_tasks(job, make_catalogue(rows, split="index")))
    assert [task["path"] for task in tasks] == [
        f"{tmp_path}/index-{shard:05d}-of-{len(sizes):05d}.tfrec" for shard in range(len(sizes))
    ]
    assert [len(task["rows"]) for task in tasks] == sizes
    ids = [row["id"] for task in tasks for row in task["rows"]]
    assert ids == plan_slowly(rows, split="index")["index"]


def test_counts_follow_the_class_ids():
    catalogue = make_catalogue(make_rows([2, 0, 1]), validation="none")
    assert catalogue.class_ids() == ("0", "2")
    assert catalogue.class_counts("train_clean") == (2, 1)
    assert catalogue.class_counts("train_noisy") == (0, 0)
