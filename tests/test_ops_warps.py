"""Flips, turns, warps, covered windows and shuffled regions, against SciPy and slow ways."""

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
from op_examples import features, picture, seeds
from scipy import ndimage

from input_pipeline import erasing, geometry, regions


def test_flips_mirror_half_of_the_images():
    image = picture(6, 9)
    for op, mirrored in (
        (geometry.random_flip(), image[:, ::-1]),
        (geometry.random_vertical_flip(), image[::-1]),
    ):
        dataset = seeds(400).map(lambda s, op=op: op({"image": tf.constant(image), "seed": s}))
        found = np.array([example["image"] for example in dataset])
        flipped = (found == mirrored).all((1, 2, 3))
        assert (flipped | (found == image).all((1, 2, 3))).all()
        assert 160 < flipped.sum() < 240  # 4 standard deviations of 10


def test_turns_are_numpys():
    image = picture(6, 9)
    for quarters in ((0, 1, 2, 3), (1, 3), (2,)):
        expected = {np.rot90(image, each).tobytes() for each in quarters}
        op = geometry.random_turn(quarters)
        assert {op(features(image, n))["image"].numpy().tobytes() for n in range(24)} == expected
    with pytest.raises(ValueError, match=r"0 to 3.*Received: \(4,\)"):
        geometry.random_turn((4,))


MATRICES = [
    (1, 0, 0, 0, 1, 0, 0, 0),
    (0.8013, -0.3137, 5.07, 0.2091, 1.1011, -2.03, 0, 0),
    (1.1, 0.2, -3, 0, 0.9, 1.5, 0.004, -0.002),
]


def coordinates(matrix, height, width):
    a, b, c, d, e, f, g, h = matrix
    y, x = np.mgrid[:height, :width]
    below = g * x + h * y + 1
    return (d * x + e * y + f) / below, (a * x + b * y + c) / below


@pytest.mark.parametrize("matrix", MATRICES)
def test_warp_is_scipys(matrix):
    image = picture(25, 37)
    places = coordinates(matrix, 25, 37)
    found = geometry.warp(image, tf.constant(matrix, tf.float32), fill=200).numpy()
    for channel in range(3):
        expected = ndimage.map_coordinates(
            image[..., channel].astype(float), places, order=1, mode="grid-constant", cval=200
        )
        assert np.abs(found[..., channel] - expected).max() < 0.51


@pytest.mark.parametrize(
    "matrix", [*MATRICES[:2], (0.3137, 0.5219, -1.31, -0.7071, 0.2253, 19.1, 0, 0)]
)
def test_nearest_warp_is_the_nearest_pixel(matrix):
    image = picture(25, 37)
    rows, columns = (np.floor(place + 0.5).astype(int) for place in coordinates(matrix, 25, 37))
    expected = np.full_like(image, 9)
    inside = (rows >= 0) & (rows < 25) & (columns >= 0) & (columns < 37)
    expected[inside] = image[rows[inside], columns[inside]]
    found = geometry.warp_nearest(image, tf.constant(matrix, tf.float32), 9)
    np.testing.assert_array_equal(found, expected)


def test_no_strength_changes_nothing():
    image = picture(12, 17)
    for op in (
        geometry.random_affine(0.0),
        geometry.random_rotation(0.0),
        geometry.random_perspective(0.0),
    ):
        np.testing.assert_array_equal(op(features(image))["image"], image)


def centroid(image, background):
    weight = np.abs(image[..., 0].astype(float) - background)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


def test_rotation_turns_about_the_middle():
    """A dot 20 pixels right of the middle stays as far away, at angles up to the largest."""
    image = np.zeros((81, 121, 3), np.uint8)
    image[39:42, 79:82] = 255  # the middle is (60, 40)
    op, angles = geometry.random_rotation(50.0, fill=0), []
    for seed in range(200):
        right, down = centroid(op(features(image, seed))["image"].numpy(), 0) - (60, 40)
        assert math.hypot(right, down) == pytest.approx(20, abs=0.1)
        angles.append(math.degrees(math.atan2(down, right)))
    assert -50.3 < min(angles) < -45
    assert 45 < max(angles) < 50.3
    assert abs(np.mean(angles)) < 8  # 4 standard errors of 50 / √3 / √200


def test_affine_shifts_by_shares_of_the_sides_and_uncovers_white():
    image = np.zeros((41, 121, 3), np.uint8)
    image[19:22, 59:62] = 100
    shifts = []
    for seed in range(200):
        found = geometry.random_affine(0.4, fill=0)(features(image, seed))["image"].numpy()
        shifts.append(centroid(found, 0) - (60, 20))
    # Only the share of 0.2 that is shifted matters, over the scale, which is e^±0.4 at most.
    reach = np.abs(shifts).max(0) / (121, 41)
    assert (reach < 0.2 * math.exp(0.8)).all()
    assert (reach > 0.15).all()
    black = features(np.zeros((32, 48, 3), np.uint8))
    assert {0, 255} <= set(np.unique(geometry.random_affine(0.5)(black)["image"]))


def test_perspective_moves_corners_inwards():
    black = np.zeros((41, 81, 3), np.uint8)
    op, corners = geometry.random_perspective(0.5), np.zeros(4, int)
    for seed in range(50):
        found = op(features(black, seed))["image"].numpy()
        assert (found[11:30, 21:60] == 0).all()  # beyond a quarter of each side
        corners += [found[y, x, 0] > 0 for y, x in ((0, 0), (0, 80), (40, 0), (40, 80))]
    assert (corners >= 48).all()
    with pytest.raises(ValueError, match=r"below 1\. Received: 1"):
        geometry.random_perspective(1.0)


def test_homography_takes_corners_to_corners():
    start = np.array([[3, 5], [70, 2], [77, 33], [1, 40]], np.float32)
    end = np.array([[0, 0], [80, 0], [80, 40], [0, 40]], np.float32)
    a, b, c, d, e, f, g, h = geometry._homography(tf.constant(start), tf.constant(end)).numpy()
    x, y = start.T
    found = np.stack([a * x + b * y + c, d * x + e * y + f]) / (g * x + h * y + 1)
    np.testing.assert_allclose(found.T, end, atol=1e-3)


def covered(op, seed, height=40, width=60):
    """Returns the result on an image of 7s and the rectangle of what changed."""
    found = op(features(np.full((height, width, 3), 7, np.uint8), seed))["image"].numpy()
    changed = (found != 7).any(-1)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    return found, changed, rows, columns


def test_cutout_covers_a_square_that_may_hang_over():
    sizes, middles = set(), []
    for seed in range(300):
        found, changed, rows, columns = covered(erasing.cutout(11, fill=99), seed)
        assert changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert (found[changed] == 99).all()
        sizes.add((len(rows), len(columns)))
        if (len(rows), len(columns)) == (11, 11):
            middles.append((rows[5], columns[5]))
    assert max(sizes) == (11, 11)
    assert min(min(size) for size in sizes) == 6  # half of 11, and the middle
    spread = np.std(middles, 0) * math.sqrt(12)  # of an even distribution: its width
    np.testing.assert_allclose(spread, (29, 49), rtol=0.12)


@pytest.mark.parametrize("fill", [None, 200])
def test_random_erasing_covers_a_share(fill):
    op = erasing.random_erasing((0.05, 0.2), (0.5, 2.0), fill)
    shares, values = [], []
    for seed in range(150):
        found, changed, rows, columns = covered(op, seed)
        height, width = rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0]
        shares.append(height * width / 2400)
        assert 0.4 < width / height < 2.5  # whole pixels
        assert (changed.sum() == height * width) or fill is None  # 7 may be drawn, 3 times
        values.append(found[changed].ravel())
    assert 0.04 < min(shares) < 0.06
    assert 0.19 < max(shares) < 0.21
    counts = np.bincount(np.concatenate(values), minlength=256)
    if fill is None:
        rest = np.delete(counts, 7)
        assert (np.abs(rest / rest.mean() - 1) < 0.25).all()
    else:
        assert counts[fill] == counts.sum()


def test_regions_move_less_than_twice_the_distance():
    image = picture(28, 42)
    op = regions.shuffle_regions(7, 2)
    largest, moved = 0, np.zeros(49)
    for seed in range(100):
        found = op(features(image, seed))
        np.testing.assert_array_equal(found["image"], image)
        source = found["permutation"].numpy()
        assert sorted(source) == list(range(49))
        for place, origin in enumerate(source):
            (row, column), (old_row, old_column) = divmod(place, 7), divmod(int(origin), 7)
            largest = max(largest, abs(row - old_row), abs(column - old_column))
            moved[place] += place != origin
        if seed < 5:
            np.testing.assert_array_equal(found["shuffled"], slow_shuffle(image, source, 7))
    assert largest == 3
    assert (moved > 50).all()


def slow_shuffle(image, source, count):
    height, width = image.shape[0] // count, image.shape[1] // count
    result = np.zeros_like(image)
    for row, column in itertools.product(range(count), range(count)):
        i, j = divmod(int(source[row * count + column]), count)
        part = image[i * height : (i + 1) * height, j * width : (j + 1) * width]
        result[row * height : (row + 1) * height, column * width : (column + 1) * width] = part
    return result


def test_region_targets():
    found = regions.region_targets(tf.constant([[3, 0, 1, 2], [0, 1, 2, 3]]))
    np.testing.assert_allclose(
        found, [[0.375, -0.375, -0.125, 0.125], [-0.375, -0.125, 0.125, 0.375]]
    )


def test_regions_need_a_size_that_divides():
    with pytest.raises(ValueError, match=r"multiple of 7 pixels.*Received: \(27, 28, 3\)"):
        regions.shuffle_regions(7, 2)(features(picture(27, 28)))
    with pytest.raises(ValueError, match=r"from 1 to 6\. Received: 7"):
        regions.shuffle_regions(7, 7)
