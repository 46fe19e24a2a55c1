"""Batches by class and by shape: the index of records, the choice of records, the reading."""

import collections
import itertools
import shutil

import numpy as np
import pytest
import tensorflow as tf

from input_pipeline import (
    geometry,
    ops,
    pipeline,
    record_index,
    records,
    samplers,
    sampling,
    schema,
)
from input_pipeline.batch_ids import chosen_ids
from input_pipeline.buckets import Buckets
from input_pipeline.shares import Share

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


# The batches.


def take(dataset, count):
    return [tuple(part.numpy() for part in batch) for batch in dataset.take(count)]


def same(first, second):
    pairs = zip(itertools.chain(*first), itertools.chain(*second), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


BUCKET_SHAPES = Buckets(((8, 12), (12, 8), (8, 8)))


def class_batches(images, index, **options):
    choose = sampling.ClassBatches(index["label"], classes=3, images=4, seed=1)
    return chosen_batches(images, index, choose, **options)


def balanced_batches(images, index, **options):
    choose = sampling.BalancedBatches(index["label"], batch_size=6, seed=1)
    return chosen_batches(images, index, choose, **options)


def bucket_batches(images, index, **options):
    choose = samplers.choose_buckets(index, [BUCKET_SHAPES], batch_size=6, seed=1)
    square = samplers.to_buckets([BUCKET_SHAPES])
    return chosen_batches(images, index, choose, square=square, **options)


def chosen_batches(images, index, choose, **options):
    flips = {"square": ops.Square(SIZE), "augmentation": [geometry.random_flip()]}
    return samplers.chosen_batches(images, index, choose, seed=1, **{**flips, **options})


@pytest.mark.parametrize("make", [class_batches, balanced_batches, bucket_batches])
def test_starting_later_gives_the_rest(images, index, make):
    whole = take(make(images, index), 12)
    assert not same(whole[:6], whole[6:])
    for first_step in (1, 7):
        rest = make(images, index, first_step=first_step)
        assert same(take(rest, 12 - first_step), whole[first_step:])


@pytest.mark.parametrize("make", [class_batches, balanced_batches, bucket_batches])
def test_hosts_and_their_replicas_share_the_batches(images, index, make):
    whole = take(make(images, index), 4)
    parts = [make(images, index, share=Share(host, 3, pieces=2)).take(8) for host in range(3)]
    parts = [list(part.as_numpy_iterator()) for part in parts]
    for step, batch in enumerate(whole):
        pieces = [part[2 * step + piece] for part in parts for piece in range(2)]
        assert same([batch], [tuple(map(np.concatenate, zip(*pieces, strict=True)))])


def test_ids_are_those_of_the_chosen_batch(images, index):
    choose = sampling.ClassBatches(index["label"], classes=3, images=4, seed=1)
    names = [
        tf.train.Example.FromString(record).features.feature[schema.ID].bytes_list.value[0]
        for path in images.shard_paths()
        for record in records.read_records(path)
    ]
    ids = chosen_ids(images, index, choose, step=5)
    assert ids == [names[record].decode() for record in choose(5).records.numpy()]


def test_batches_of_classes_hold_the_images_of_their_labels(images, index):
    """The same labels and pixels as reading the chosen records one by one."""
    choose = sampling.ClassBatches(index["label"], classes=3, images=4, seed=1)
    paths, square = images.shard_paths(), ops.Square(SIZE)
    made = samplers.chosen_batches(images, index, choose, square=square, seed=1, noisy_weight=0.5)
    weights = images.class_weights(0.5)
    for step, (pixels, labels, values) in enumerate(take(made, 3)):
        for place, row in enumerate(index[choose(step).records.numpy()]):
            payload = list(records.read_records(paths[row["shard"]]))[
                np.flatnonzero(index[index["shard"] == row["shard"]]["offset"] == row["offset"])[0]
            ]
            feature = tf.train.Example.FromString(payload).features.feature
            encoded = feature[schema.ENCODED].bytes_list.value[0]
            np.testing.assert_array_equal(pixels[place], square(ops.decode_image(encoded)))
            assert labels[place] == feature[schema.LABEL].int64_list.value[0]
            clean = feature[schema.IS_CLEAN].int64_list.value[0]
            assert values[place] == pytest.approx(weights[labels[place]] * (1 if clean else 0.5))


def test_labels_of_the_clean_set(manifest, tmp_path):
    images = pipeline.ImageSet(manifest, "clean")
    index = samplers.load_index(images, folder=str(tmp_path), workers=1, stream=None)
    choose = sampling.BalancedBatches(index["label"], batch_size=7, seed=1)
    made = chosen_batches(images, index, choose)
    assert [sorted(labels) for _, labels, _ in take(made, 2)] == [list(range(7))] * 2
    with pytest.raises(ValueError, match=r"expected an index of 89 records. Received: 56"):
        class_batches(pipeline.ImageSet(manifest, "total"), index)


def test_a_step_compiles_once_for_each_shape(images, index):
    """Scales of 2 sizes in 3 buckets of which the photographs fill some."""
    double = Buckets(tuple((2 * h, 2 * w) for h, w in BUCKET_SHAPES.shapes))
    scales = [BUCKET_SHAPES, double]
    choose = samplers.choose_buckets(index, scales, batch_size=5, seed=1)
    made = chosen_batches(images, index, choose, square=samplers.to_buckets(scales))
    traces = []

    @tf.function(jit_compile=True)
    def step(pixels):
        traces.append(tuple(pixels.shape))
        return tf.reduce_sum(tf.cast(pixels, tf.float32))

    shapes = set()
    for pixels, _, _ in made.take(60):
        step(pixels)
        shapes.add(tuple(pixels.shape))
    assert sorted(traces) == sorted(shapes)
    assert {shape[1:3] for shape in shapes} <= {*BUCKET_SHAPES.shapes, *double.shapes}
    assert len({shape[2] / shape[1] for shape in shapes}) >= 2
    assert len(shapes) == 2 * len({shape[2] / shape[1] for shape in shapes})
    other = [BUCKET_SHAPES, Buckets(((8, 8),))]
    with pytest.raises(ValueError, match="expected scales of 3 buckets"):
        samplers.choose_buckets(index, other, batch_size=5, seed=1)


def test_a_record_that_does_not_decode_has_weight_0(images, tmp_path, capfd):
    folder = tmp_path / "shards"
    shutil.copytree(images.manifest.directory, folder)
    copied = pipeline.ImageSet(schema.Manifest.load(str(folder)), "total")
    path = copied.shard_paths()[0]
    whole = list(records.read_records(path))
    start = whole[0].index(b"\xff\xd8\xff")
    whole[0] = whole[0][:start] + b"<html>" + whole[0][start + 6 :]
    with records.RecordWriter(path) as writer:
        for record in whole:
            writer.write(record)
    index = samplers.load_index(copied, workers=1, stream=None)
    plain = take(balanced_batches(images, index), 60)
    found = take(balanced_batches(copied, index), 60)
    blank = np.concatenate([weights for _, _, weights in found]) == 0
    assert blank.sum() > 0
    assert "does not decode and gets weight 0" in capfd.readouterr().err
    for a, b in zip(zip(*plain, strict=True), zip(*found, strict=True), strict=True):
        np.testing.assert_array_equal(np.concatenate(a)[~blank], np.concatenate(b)[~blank])


def test_several_squares_in_the_plain_order(images):
    def make(square, first_step=0):
        return pipeline.training_batches(
            images, square=square, batch_size=8, seed=3, first_step=first_step
        )

    squares = [ops.Square(8), ops.Square(12), ops.Square(16)]
    whole = take(make(squares), 33)
    assert {pixels.shape for pixels, _, _ in whole} == {(8, s, s, 3) for s in (8, 12, 16)}
    assert same(take(make(squares, 14), 19), whole[14:])
    for square in squares:
        for one, other in zip(take(make(square), 33), whole, strict=True):
            if other[0].shape[1] == square.size:
                assert same([one], [other])
    with pytest.raises(ValueError, match="all with antialias or none"):
        make([ops.Square(8), ops.Square(12, antialias=True)])
