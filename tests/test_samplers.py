"""Batches by class and by shape: the index of records, the choice of records."""

import collections
import shutil

import numpy as np
import pytest
import tensorflow as tf

from input_pipeline import (
    pipeline,
    record_index,
    records,
    samplers,
    sampling,
    schema,
)
from input_pipeline.buckets import Buckets

SIZE = 8


@pytest.fixture(scope="module")
def manifest(shards):
    return schema.Manifest.load(shards)


@pytest.fixture(scope="module")
def images(manifest):
    return pipeline.ImageSet(manifest, "total")


@pytest.fixture(scope="module")
def index(images, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("index"))
    return samplers.load_index(images, folder=folder, workers=1, stream=None)


# The index.


def test_the_index_says_what_protocol_buffers_say(images, index):
    assert index.dtype.itemsize == 24
    expected = []
    for shard, path in enumerate(images.shard_paths()):
        spans = records.record_spans(path)
        for (offset, size), record in zip(spans, records.read_records(path), strict=True):
            feature = tf.train.Example.FromString(record).features.feature
            label, height, width = (
                feature[name].int64_list.value[0]
                for name in (schema.LABEL, schema.HEIGHT, schema.WIDTH)
            )
            expected.append((offset, size, label, shard, height, width))
    assert index.tolist() == expected


@pytest.mark.parametrize("label", [0, 1, 127, 128, 203_093, -1, 2**62])
def test_integers_of_any_length_and_order_of_features(label):
    example = tf.train.Example()
    for name, value in ((schema.WIDTH, 640), (schema.LABEL, label), (schema.HEIGHT, 65_536)):
        example.features.feature[name].int64_list.value.append(value)
    example.features.feature[schema.ENCODED].bytes_list.value.append(bytes(300))
    data = example.SerializeToString()
    assert record_index._features(data, 0, len(data)) == [label, 65_536, 640]
    for end in range(len(data)):
        with pytest.raises((ValueError, IndexError)):
            record_index._features(data[:end], 0, end)


def test_the_index_is_kept_and_is_of_these_shards_only(images, tmp_path):
    folder = tmp_path / "shards"
    shutil.copytree(images.manifest.directory, folder)
    copied = schema.Manifest.load(str(folder))
    made = record_index.load(copied, "train_clean", workers=1, stream=None)
    (path,) = folder.glob("index-*.npy")
    for shard in folder.glob("*.tfrec"):
        shard.unlink()  # nothing but the index is read the second time
    np.testing.assert_array_equal(record_index.load(copied, "train_clean"), made)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"index-.*\.npy: expected an index .*delete it"):
        record_index.load(copied, "train_clean")
    np.save(path, made[1:])
    with pytest.raises(ValueError, match="expected an index of 56 records; delete it"):
        record_index.load(copied, "train_clean")


def test_processes_make_the_same_index(images, index, tmp_path):
    found = samplers.load_index(images, folder=str(tmp_path), workers=2, stream=None)
    np.testing.assert_array_equal(found, index)


def test_shards_that_are_not_those_of_the_manifest(images, tmp_path):
    folder = tmp_path / "shards"
    shutil.copytree(images.manifest.directory, folder)
    copied = schema.Manifest.load(str(folder))
    path = copied.shard_paths("train_clean")[1]
    whole = list(records.read_records(path))
    for changed, message in ((whole[1:], "expected 19 records. Received: 18"), ([b"x"], "example")):
        with records.RecordWriter(path) as writer:
            for record in changed:
                writer.write(record)
        with pytest.raises(ValueError, match=message):
            record_index.load(copied, "train_clean", workers=1, stream=None)


# The choice of records.


def compiled(choose):
    """The choices of several steps as NumPy arrays: a list of (records, shape)."""
    function = tf.function(choose, input_signature=[tf.TensorSpec((), tf.int64)])

    def steps(numbers):
        return [[part.numpy() for part in function(tf.constant(n, tf.int64))] for n in numbers]

    return steps


@pytest.mark.parametrize("size", [1, 2, 3, 10, 97, 1000])
def test_permuted_is_a_permutation(size):
    for seed in range(3):
        found = sampling.permuted(np.arange(size), size, sampling.key(seed))
        assert sorted(found.numpy()) == list(range(size))


def test_permutations_are_all_as_likely():
    """The 24 orders of 4 elements over 4,800 keys: χ² of 23 degrees, below its 0.999 quantile."""
    keys = sampling.key(7, np.arange(4800))[:, tf.newaxis]
    orders = sampling.permuted(np.arange(4), 4, keys)  # (4800, 4)
    counts = collections.Counter(map(tuple, orders.numpy().tolist()))
    assert len(counts) == 24
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 49.7


def test_elements_come_from_permutations_of_their_own():
    sizes, keys = np.array([5, 9, 2]), sampling.key(np.array([1, 2, 3]))
    found = sampling.permuted(np.array([4, 0, 1]), sizes, keys)
    for place, size, key, one in zip([4, 0, 1], sizes, keys, found, strict=True):
        assert sampling.permuted(np.arange(size), size, key)[place] == one


LABELS = np.array([7] * 9 + [3] * 2 + [5] * 4 + [0] * 1 + [9] * 6 + [3] * 1)  # 5 classes


def test_class_batches_hold_p_classes_of_k_images():
    choose = sampling.ClassBatches(LABELS, classes=2, images=3, seed=1)
    assert (choose.batch_size, choose.steps_per_epoch) == (6, 2)
    batches = [found for found, _ in compiled(choose)(range(120))]
    for chosen in batches:
        rows = chosen.reshape(2, 3)
        labels = LABELS[rows]
        assert (labels == labels[:, :1]).all()
        assert labels[0, 0] != labels[1, 0]
        for label, row in zip(labels[:, 0], rows, strict=True):
            assert len(set(row)) == min(3, (label == LABELS).sum())  # repeats only if it must
    assert set(np.concatenate(batches)) == set(range(len(LABELS)))
    epochs = [set(LABELS[np.concatenate(batches[i : i + 2])]) for i in range(0, 120, 2)]
    assert {len(labels) for labels in epochs} == {4}  # no class twice in an epoch
    assert len(set(map(frozenset, epochs))) == 5  # each is left out in some


def test_a_class_goes_through_its_images_before_one_comes_again():
    labels = np.array([0] * 7 + [1] * 6)
    choose = sampling.ClassBatches(labels, classes=2, images=3, seed=4)
    batches = [found for found, _ in compiled(choose)(range(10))]
    cycles = [np.concatenate(batches[i : i + 2]) for i in range(0, 10, 2)]
    for found in cycles:
        assert sorted(found[found >= 7]) == list(range(7, 13))
        assert len(set(found[found < 7])) == 6  # one of the seven waits for another cycle
    assert len(set(map(tuple, cycles))) == 5


@pytest.mark.parametrize(("classes", "count"), [(6, 1), (0, 1), (2, 0)])
def test_more_classes_than_there_are(classes, count):
    with pytest.raises(ValueError, match="expected 1 to 5 classes"):
        sampling.ClassBatches(LABELS, classes=classes, images=count, seed=0)


def test_balanced_batches_give_classes_and_their_images_the_same_share():
    choose = sampling.BalancedBatches(LABELS, batch_size=8, seed=2)
    found = np.concatenate([found for found, _ in compiled(choose)(range(5 * 36))])
    for start in range(0, len(found), 5):
        assert len(set(LABELS[found[start : start + 5]])) == 5
    counts = np.bincount(found, minlength=len(LABELS))
    for label in set(LABELS):
        of_class = counts[label == LABELS]
        assert of_class.sum() == 36 * 8
        assert of_class.max() - of_class.min() <= 1


BUCKETS = np.array([0] * 30 + [2] * 7 + [1] * 3 + [4] * 24)


def test_bucket_batches_carry_the_rest_of_an_epoch_on():
    """Over 8 epochs of batches of 4 every image comes 8 times, none waits for long."""
    choose = sampling.BucketBatches(BUCKETS, batch_size=4, seed=3, count=5)
    choices = compiled(choose)(range(8 * len(BUCKETS) // 4))
    assert all(set(BUCKETS[found]) == {shape} for found, shape in choices)
    counts = np.bincount(np.concatenate([r for r, _ in choices]), minlength=len(BUCKETS))
    assert (counts == 8).all()
    first = np.concatenate([found for found, _ in choices[: (28 + 4 + 24) // 4]])
    assert len(set(first)) == len(first)  # in the first epoch none twice
    orders = {tuple(int(shape) for _, shape in choices[i : i + 10]) for i in (0, 14, 30)}
    assert len(orders) == 3  # the buckets are mixed, and each time anew


@pytest.mark.parametrize("batch_size", [1, 3, 64, 1000])
def test_the_epoch_of_a_step_is_that_of_counting(batch_size):
    """Also where no bucket fills a batch in an epoch: by adding up epoch after epoch."""
    choose = sampling.BucketBatches(BUCKETS, batch_size=batch_size, seed=0, count=5)
    sizes, epoch = np.bincount(BUCKETS), 0
    for step in range(100):
        while ((epoch + 1) * sizes // batch_size).sum() <= step:
            epoch += 1
        assert int(choose._epoch(tf.constant(step, tf.int64))) == epoch


def test_scales_are_drawn_for_each_batch():
    def shapes(**options):
        choose = sampling.BucketBatches(BUCKETS, batch_size=4, seed=3, count=5, **options)
        return [int(shape) for _, shape in compiled(choose)(range(600))]

    scaled = shapes(scales=3)
    counts = np.bincount([shape // 5 for shape in scaled])
    assert (np.abs(counts - 200) < 50).all()  # 600 draws of 3: 4 standard deviations
    assert [shape % 5 for shape in scaled] == shapes()


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: sampling.ClassBatches(LABELS, classes=2, images=3, seed=seed),
        lambda seed: sampling.BalancedBatches(LABELS, batch_size=7, seed=seed),
        lambda seed: sampling.BucketBatches(BUCKETS, batch_size=4, seed=seed, count=5),
    ],
)
def test_choices_follow_from_seed_and_step_alone(make):
    steps = [10**9 + 7, 3, 10**6]
    found = [found.tolist() for found, _ in compiled(make(5))(steps)]
    again = [found.tolist() for found, _ in compiled(make(5))(steps[::-1])]
    assert again[::-1] == found
    assert [found.tolist() for found, _ in compiled(make(6))(steps)] != found


def test_nearest_buckets_are_those_of_the_op():
    rng = np.random.default_rng(0)
    buckets = Buckets.of_size(512)
    heights, widths = rng.integers(100, 3000, (2, 300))
    found = sampling.nearest_buckets(heights, widths, buckets.shapes)
    expected = [int(buckets.choose(h, w)) for h, w in zip(heights, widths, strict=True)]
    np.testing.assert_array_equal(found, expected)
