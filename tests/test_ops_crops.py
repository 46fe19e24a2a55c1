"""Crops, sizes and buckets, against slow and other ways."""

import io
import math

import numpy as np
import pytest
import tensorflow as tf
from image_files import encode
from op_examples import features, picture, seeds, slow_bilinear
from PIL import Image

from input_pipeline import buckets, crops, ops, schema, sizes


@pytest.mark.parametrize(
    ("op", "sides", "expected"),
    [
        (sizes.resize_shortest(10), (20, 31), (10, 16)),  # 15.5
        (sizes.resize_shortest(10), (31, 20), (16, 10)),
        (sizes.resize_shortest(30), (20, 21), (30, 32)),  # 31.5
        (sizes.resize_longest(10), (20, 31), (6, 10)),  # 6.45
        (sizes.resize_longest(10), (400, 3), (10, 1)),
        (sizes.resize_to(9, 12), (20, 31), (9, 12)),
        (sizes.resize_shortest(7), (7, 7), (7, 7)),
    ],
)
def test_resized_sides_and_pixels(op, sides, expected):
    image = picture(*sides)
    found = op(features(image))["image"].numpy()
    assert found.shape == (*expected, 3)
    assert np.abs(found - slow_bilinear(image, *expected)).max() <= 0.51  # rounding alone


def test_square_resizes_images_and_batches_alike():
    image = picture(23, 31)
    for square in (ops.Square(16), ops.Square(16, antialias=True)):
        found = ops.resize(square)(features(image))["image"].numpy()
        np.testing.assert_array_equal(square(np.stack([image, image]))[1], found)
        np.testing.assert_array_equal(square(found), found)
    assert np.abs(ops.Square(16)(image).numpy() - slow_bilinear(image, 16, 16)).max() <= 0.51


def test_antialias_averages_where_plain_resize_picks():
    """Stripes of one pixel, shrunk to an eighth: the mean grey, no pattern."""
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 200
    smooth = ops.Square(16, antialias=True)(stripes).numpy().astype(int)
    assert np.abs(smooth - 100)[:, 1:-1].max() <= 3  # at the border the filter is cut


@pytest.mark.parametrize(("mode", "kind"), [("L", "PNG"), ("P", "PNG"), ("RGB", "JPEG")])
def test_decode_gives_rgb(mode, kind):
    image = Image.new("RGB", (5, 4), (200, 200, 200))
    data = encode(image.quantize() if mode == "P" else image.convert(mode), kind)
    found = ops.decode()({schema.ENCODED: tf.constant(data)})["image"].numpy()
    assert found.shape == (4, 5, 3)
    assert np.abs(found.astype(int) - 200).max() <= 3


def test_padding_as_numpy_does_it():
    image = picture(5, 8)
    found = sizes.pad_to(8, 9, fill=77)(features(image))["image"]
    np.testing.assert_array_equal(
        found, np.pad(image, [(1, 2), (0, 1), (0, 0)], constant_values=77)
    )
    whole = ops.chain(sizes.resize_longest(12), sizes.pad_to(12, 12))(features(picture(20, 40)))
    expected = tf.image.resize_with_pad(picture(20, 40), 12, 12).numpy()
    assert np.abs(whole["image"].numpy() - expected).max() <= 0.5
    with pytest.raises(tf.errors.InvalidArgumentError, match="must be non-negative"):
        sizes.pad_to(4, 9)(features(image))


def test_ten_crop_and_center_crop():
    image = picture(10, 13)
    found = crops.ten_crop(6, 8)(features(image))["image"].numpy()
    five = [image[:6, :8], image[:6, 5:], image[4:, :8], image[4:, 5:], image[2:8, 2:10]]
    np.testing.assert_array_equal(found, [*five, *(each[:, ::-1] for each in five)])
    np.testing.assert_array_equal(crops.center_crop(6, 8)(features(image))["image"], five[4])
    validation = ops.chain(sizes.resize_shortest(10), crops.center_crop(6, 8))
    np.testing.assert_array_equal(validation({"image": tf.constant(image)})["image"], five[4])


def is_window(image, window):
    views = np.lib.stride_tricks.sliding_window_view(image, window.shape)
    return (views == window).all(axis=(-1, -2, -3)).any()


def test_random_crops_are_windows():
    image = picture(20, 30)
    for seed in range(10):
        for op in (crops.random_crop(0.2), crops.random_crop_of(7, 9)):
            assert is_window(image, op(features(image, seed))["image"].numpy())
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"Need value\.shape >= size"):
        crops.random_crop_of(21, 9)(features(image))


def windows(window, height, width, count=2000):
    sides = tf.constant([height, width])
    return np.array(list(seeds(count).map(lambda seed: window(seed, sides)))).T


def assert_quantiles(values, expected, tolerance):
    found = np.quantile(values, (0, 0.25, 0.5, 0.75, 1))
    np.testing.assert_allclose(found, expected, atol=tolerance)


def test_pixel_windows_have_even_areas_ratios_and_places():
    top, left, height, width = windows(crops.pixel_window((0.1, 0.9), (1.0, 1.0)), 1000, 1000)
    np.testing.assert_array_equal(height, width)
    shares = height * width / 1e6
    assert_quantiles(shares, (0.1, 0.3, 0.5, 0.7, 0.9), 0.04)
    for start, size in ((top, height), (left, width)):
        assert (start >= 0).all()
        assert (start + size <= 1000).all()
        places = start / (1000 - size)
        assert_quantiles(places, (0, 0.25, 0.5, 0.75, 1), 0.04)
    _, _, height, width = windows(crops.pixel_window((0.1, 0.2), (0.5, 2.0)), 900, 1000)
    logs = np.log2(width / height)  # uniform in (-1, 1)
    assert_quantiles(logs, (-1, -0.5, 0, 0.5, 1), 0.07)
    shares = height * width / 9e5
    assert 0.099 < shares.min() < shares.max() < 0.201


def test_pixel_windows_that_cannot_fit_are_shrunk():
    """All of a panorama, 30 times as wide as high, is asked for at most 4 : 3."""
    top, left, height, width = windows(crops.pixel_window((0.9, 1.0)), 10, 300, 100)
    assert (height == 10).all() or (width / height).max() < 1.5
    assert ((height >= 9) & (left + width <= 300) & (top + height <= 10)).all()
    assert (width / height).min() > 0.7
    assert (windows(crops.pixel_window((0.01, 0.02)), 1, 1, 5).T == (0, 0, 1, 1)).all()
    with pytest.raises(ValueError, match=r"Received: \(0.5, 0.2\)"):
        crops.pixel_window((0.5, 0.2))


def test_relative_windows():
    _, _, height, width = windows(crops.relative_window(0.4, 2.0), 600, 800, 500)
    shares, ratios = height * width / 480_000, np.log2(height / 600 / (width / 800))
    assert shares.min() > 0.35  # a side that would be longer than the image is cut
    assert 0.9 < shares.max() <= 1
    assert np.abs(ratios).max() <= 1.01


def encoded(kind, height, width, **options):
    return encode(Image.fromarray(picture(height, width)), kind, **options)


@pytest.mark.parametrize(
    "data",
    [
        encoded("JPEG", 41, 67, subsampling="4:2:0"),
        encoded("JPEG", 64, 48, subsampling="4:2:2", progressive=True),
        encoded("JPEG", 33, 33, subsampling="4:4:4"),
        encoded("PNG", 20, 31),
    ],
)
def test_cropping_while_decoding_changes_no_pixel(data):
    width, height = Image.open(io.BytesIO(data)).size
    stored = {schema.ENCODED: tf.constant(data), schema.HEIGHT: height, schema.WIDTH: width}
    stored = {name: tf.convert_to_tensor(value) for name, value in stored.items()}
    for window in (crops.pixel_window(), crops.relative_window(0.3)):
        fast, cut = crops.decode_and_crop(window), crops.crop(window)
        for found in seeds(25).map(lambda s, op=fast: op({**stored, "seed": s})):
            decoded = ops.decode()({**stored, "seed": found["seed"]})
            np.testing.assert_array_equal(found["image"], cut(decoded)["image"])


def test_buckets_of_512_pixels():
    found = buckets.Buckets.of_size(512)
    assert len(found.shapes) == len(set(found.shapes)) == 12
    assert found.shapes[0] == (1024, 256)  # 1/4
    ratios = [width / height for height, width in found.shapes]
    assert ratios == sorted(ratios)
    for number, (height, width) in enumerate(found.shapes):
        assert height % 32 == width % 32 == 0
        assert abs(height * width / 512**2 - 1) < 0.07
        assert abs(math.log(ratios[number] / (0.25 * 8 ** (number / 11)))) < 0.08
    with pytest.raises(ValueError, match=r"12 different shapes.*Received: 128, which has 8"):
        buckets.Buckets.of_size(128)
    assert len(buckets.Buckets.of_size(128, multiple=16).shapes) == 12


def test_each_image_goes_to_the_bucket_of_the_nearest_ratio():
    found = buckets.Buckets.of_size(64, count=5, ratios=(0.5, 2.0), multiple=8)
    choose = ops.chain(buckets.choose_bucket(found), buckets.resize_to_bucket(found))
    for height, width in ((40, 20), (20, 20), (21, 30), (10, 99), (99, 10)):
        distances = [abs(math.log(w / h * height / width)) for h, w in found.shapes]
        best = int(np.argmin(distances))
        image = picture(height, width)
        result = choose(features(image))
        assert result["bucket"].numpy() == best
        assert tuple(result["image"].shape) == (*found.shapes[best], 3)
        difference = result["image"].numpy() - slow_bilinear(image, *found.shapes[best])
        assert np.abs(difference).max() <= 0.51
        stored = {schema.HEIGHT: tf.constant(height, tf.int64), schema.WIDTH: tf.constant(width)}
        assert buckets.choose_bucket(found)(stored)["bucket"].numpy() == best
