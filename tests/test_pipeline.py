"""From shards to batches, against a slow reading of the same photographs."""

import csv
import itertools
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from input_pipeline import crops, geometry, ops, photometric, pipeline, records, schema
from input_pipeline.class_weights import clean_class_weights, total_class_weights

SIZE = 16


@pytest.fixture(scope="module")
def manifest(shards):
    return schema.Manifest.load(shards)


def batches(images, **options):
    arguments = {"square": ops.Square(SIZE), "batch_size": 8, "seed": 3, **options}
    return pipeline.training_batches(images, **arguments)


def take(dataset, count):
    return [tuple(part.numpy() for part in batch) for batch in dataset.take(count)]


def same(first, second):
    pairs = zip(itertools.chain(*first), itertools.chain(*second), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(("data", "count", "classes"), [("clean", 56, 7), ("total", 89, 8)])
def test_an_epoch_holds_the_set_once(manifest, photographs, data, count, classes):
    images = pipeline.ImageSet(manifest, data)
    assert (images.num_images, images.num_classes) == (count, classes)
    assert images.num_validation_images == 7
    steps = count // 8
    seen = np.concatenate([labels for _, labels, _ in take(batches(images), steps)])
    with open(photographs / "train.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    # Class ids 93 … 100 are sorted as numbers; 93, without a clean image, is the total label 0.
    ids = sorted({int(row["label"]) for row in rows if data == "total" or int(row["is_clean"])})
    assert set(seen) <= set(range(len(ids)))
    counts = np.bincount(seen, minlength=len(ids))
    expected = {"clean": [8] * 7, "total": [12] + [11] * 7}[data]
    assert (counts <= expected).all()
    assert counts.sum() == steps * 8


def test_image_and_weight_of_each_label(manifest, photographs):
    """Every batch row is one of the photographs, decoded and resized by another library."""
    images = pipeline.ImageSet(manifest, "total")
    weights = total_class_weights(
        np.array(manifest.clean_counts), np.array(manifest.noisy_counts), 0.5
    )
    by_label = {}
    with open(photographs / "train.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            picture = Image.open(photographs / row["path"]).convert("RGB")
            label = manifest.class_ids.index(row["label"])
            clean = bool(int(row["is_clean"]))
            by_label.setdefault(label, []).append((np.asarray(picture), clean))
    for pixels, labels, values in take(batches(images, noisy_weight=0.5), 3):
        assert pixels.dtype == np.uint8
        for image, label, value in zip(pixels, labels, values, strict=True):
            (error, clean), (second, _), *_ = sorted(
                (np.abs(slow_square(photo).astype(int) - image).mean(), clean)
                for photo, clean in by_label[label]
            )
            assert error < 2 < 10 < second  # grey levels; two JPEG decoders differ by about one
            assert value == pytest.approx(weights[label] * (1.0 if clean else 0.5))


def slow_square(image):
    """Bilinear interpolation between pixel centres, one pixel at a time."""
    height, width, _ = image.shape
    result = np.zeros((SIZE, SIZE, 3))
    for i, j in itertools.product(range(SIZE), range(SIZE)):
        y = min(max((i + 0.5) * height / SIZE - 0.5, 0), height - 1)
        x = min(max((j + 0.5) * width / SIZE - 0.5, 0), width - 1)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        a, b = y - top, x - left
        upper = image[top, left] * (1 - b) + image[top, right] * b
        lower = image[bottom, left] * (1 - b) + image[bottom, right] * b
        result[i, j] = upper * (1 - a) + lower * a
    return np.round(result).astype(np.uint8)


def test_clean_weights_have_mean_one(manifest):
    images = pipeline.ImageSet(manifest, "clean")
    np.testing.assert_allclose(images.class_weights(1.0), clean_class_weights(np.full(7, 8)))


def augmented():
    return {
        "crop": crops.random_crop(0.5),
        "augmentation": [
            geometry.random_affine(0.2),
            geometry.random_flip(),
            photometric.color_jitter(0.3, 0.3, 0.3),
        ],
    }


def test_the_same_seed_gives_the_same_batches(manifest):
    images = pipeline.ImageSet(manifest, "total")
    first = take(batches(images, **augmented()), 25)
    assert same(first, take(batches(images, **augmented()), 25))
    assert not same(first, take(batches(images, seed=4, **augmented()), 25))
    assert not same(first[:11], first[11:22])  # the second epoch has another order


@pytest.mark.parametrize("first_step", [1, 11, 17])
def test_starting_later_gives_the_rest(manifest, first_step):
    images = pipeline.ImageSet(manifest, "total")
    whole = take(batches(images, **augmented()), 25)
    rest = take(batches(images, first_step=first_step, **augmented()), 25 - first_step)
    assert same(whole[first_step:], rest)


def test_validation_counts_every_image_once(manifest):
    images = pipeline.ImageSet(manifest, "total")
    found = take(pipeline.validation_batches(images, square=ops.Square(SIZE), batch_size=4), -1)
    assert [batch[0].shape for batch in found] == [(4, SIZE, SIZE, 3)] * 2
    labels, weights = (np.concatenate([batch[i] for batch in found]) for i in (1, 2))
    assert weights.tolist() == [1] * 7 + [0]
    assert sorted(labels[:7]) == [1, 2, 3, 4, 5, 6, 7]


def test_clean_validation_labels_map_into_the_total_labels(manifest):
    clean, total = (
        np.concatenate(
            [
                b[1]
                for b in take(
                    pipeline.validation_batches(
                        pipeline.ImageSet(manifest, data), square=ops.Square(SIZE), batch_size=7
                    ),
                    -1,
                )
            ]
        )
        for data in ("clean", "total")
    )
    np.testing.assert_array_equal(np.flatnonzero(manifest.clean_labels() >= 0)[clean], total)


@pytest.fixture(scope="module")
def damaged(shards, tmp_path_factory):
    """The data directory with one image of each split overwritten; no other byte is changed."""
    folder = tmp_path_factory.mktemp("damaged") / "shards"
    shutil.copytree(shards, folder)
    manifest = schema.Manifest.load(str(folder))
    for split in ("train_clean", "train_noisy", "validation"):
        path = manifest.shard_paths(split)[0]
        whole = list(records.read_records(path))
        start = whole[1].index(b"\xff\xd8\xff")
        whole[1] = whole[1][:start] + b"<html>no photograph" + whole[1][start + 19 :]
        with records.RecordWriter(path) as writer:
            for record in whole:
                writer.write(record)
    return manifest


def image_ids(manifest, split):
    path = manifest.shard_paths(split)[0]
    examples = (tf.train.Example.FromString(record) for record in records.read_records(path))
    return [
        example.features.feature[schema.ID].bytes_list.value[0].decode() for example in examples
    ]


@pytest.mark.parametrize("data", ["clean", "total"])
def test_a_record_that_does_not_decode_keeps_its_place(manifest, damaged, data, capfd):
    """All other images stay where they are; a line names the one, which counts for nothing."""
    steps = pipeline.ImageSet(manifest, data).num_images // 8
    whole = take(batches(pipeline.ImageSet(manifest, data), **augmented()), 2 * steps)
    capfd.readouterr()
    found = take(batches(pipeline.ImageSet(damaged, data), **augmented()), 2 * steps)
    blank = np.concatenate([weights for _, _, weights in found]) == 0
    bad = 1 + (data == "total")
    assert 2 * bad - 2 <= blank.sum() <= 2 * bad  # an epoch leaves a few images out
    for parts in zip(zip(*found, strict=True), zip(*whole, strict=True), strict=True):
        part, expected = map(np.concatenate, parts)
        np.testing.assert_array_equal(part[~blank], expected[~blank])
    assert not np.concatenate([labels for _, labels, _ in found])[blank].any()
    err = capfd.readouterr().err
    named = [line for line in err.splitlines() if line.startswith("warning: an image does not")]
    assert len(named) >= blank.sum()  # the run is a few batches ahead of what was taken
    expected = {image_ids(damaged, split)[1] for split in splits_of(data)}
    assert {line.split('"')[1] for line in named} <= expected


def splits_of(data):
    return ("train_clean", "train_noisy") if data == "total" else ("train_clean",)


def test_validation_keeps_its_places_too(manifest, damaged):
    (whole,), (found,) = (
        take(
            pipeline.validation_batches(
                pipeline.ImageSet(each, "total"), square=ops.Square(SIZE), batch_size=8
            ),
            -1,
        )
        for each in (manifest, damaged)
    )
    assert found[2].tolist() == [1, 0, 1, 1, 1, 1, 1, 0]
    assert found[1][1] == 0
    assert not found[0][1].any()
    for part, expected in zip(found, whole, strict=True):
        np.testing.assert_array_equal(np.delete(part, 1, 0), np.delete(expected, 1, 0))


def test_a_record_that_is_no_example_has_no_name(damaged, tmp_path, capfd):
    folder = tmp_path / "shards"
    shutil.copytree(damaged.directory, folder)
    manifest = schema.Manifest.load(str(folder))
    path = manifest.shard_paths("validation")[0]
    whole = list(records.read_records(path))
    with records.RecordWriter(path) as writer:
        for record in (b"", b"\xff" * 40, *whole[2:]):
            writer.write(record)
    images = pipeline.ImageSet(manifest, "total")
    ((_, _, weights),) = take(
        pipeline.validation_batches(images, square=ops.Square(SIZE), batch_size=7), -1
    )
    assert weights.tolist() == [0, 0, 1, 1, 1, 1, 1]
    assert capfd.readouterr().err.count("without a readable id") == 2


def test_too_few_images_for_a_batch(manifest):
    images = pipeline.ImageSet(manifest, "clean")
    with pytest.raises(ValueError, match=r"one batch of 64.*Received: 56"):
        batches(images, batch_size=64)
    with pytest.raises(ValueError, match="Received: 'noisy'"):
        pipeline.ImageSet(manifest, "noisy")
