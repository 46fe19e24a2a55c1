"""Batches of chosen records: their images, labels and weights, starts, hosts and shapes."""

import itertools
import shutil

import numpy as np
import pytest
import tensorflow as tf

from input_pipeline import (
    geometry,
    ops,
    pipeline,
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
