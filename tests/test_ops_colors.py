"""Colour, blur, noise, JPEG artefacts and the policies, against Pillow and SciPy."""

import io

import numpy as np
import pytest
import tensorflow as tf
from image_files import encode
from op_examples import features, picture, seeds
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage, stats

from input_pipeline import ops, photometric, policies, transforms

LUMA = np.array([0.299, 0.587, 0.114])


def largest_difference(first, second):
    return np.abs(np.asarray(first, int) - np.asarray(second, int)).max()


@pytest.mark.parametrize(
    ("enhancer", "name"),
    [
        (ImageEnhance.Brightness, "brightness"),
        (ImageEnhance.Contrast, "contrast"),
        (ImageEnhance.Color, "saturation"),
    ],
)
def test_each_enhancement_is_pillows(enhancer, name):
    image = picture(23, 31)
    for factor in (0.0, 0.4, 1.0, 1.7):
        expected = enhancer(Image.fromarray(image)).enhance(factor)
        found = photometric.enhance(tf.constant(image), **{name: factor})
        assert largest_difference(found, expected) <= 1  # Pillow rounds the greys first


def test_enhancements_one_after_the_other():
    image = picture(23, 31)
    bright = image * 1.1
    contrast = bright * 0.7 + 0.3 * (bright @ LUMA).mean()
    expected = contrast * 1.3 - 0.3 * (contrast @ LUMA)[..., np.newaxis]
    found = photometric.enhance(tf.constant(image), 1.1, 0.7, 1.3).numpy()
    assert np.abs(np.clip(expected, 0, 255) - found).max() < 0.51


def test_color_jitter_without_strength_changes_nothing_and_with_hue_turns_it():
    image = picture(23, 31)
    for op in (photometric.color_jitter(), photometric.color_jitter(hue=1e-9)):
        assert largest_difference(op(features(image))["image"], image) == 0
    seed = ops.fold(features(image), "color_jitter")
    turn = 0.3 * tf.random.stateless_uniform((4,), seed, -1.0, 1.0)[3]
    expected = tf.image.adjust_hue(image / np.float32(255), turn) * 255
    found = photometric.color_jitter(hue=0.3)(features(image))["image"].numpy()
    assert np.abs(expected.numpy() - found).max() < 0.52
    with pytest.raises(ValueError, match=r"from 0 to 1\. Received: 2"):
        photometric.color_jitter(contrast=2.0)


def test_color_jitter_draws_evenly_in_its_range():
    grey = np.full((2, 2, 3), 100, np.uint8)
    op = photometric.color_jitter(brightness=0.5)
    found = [op({"image": tf.constant(grey), "seed": s})["image"][0, 0, 0] for s in seeds(400)]
    np.testing.assert_allclose(np.quantile(found, (0, 0.5, 1)), (50, 100, 150), atol=10)


@pytest.mark.parametrize("sigma", [0.6, 1.5, 3.0])
def test_blur_is_scipys(sigma):
    image = picture(23, 31)
    found = photometric.blur((sigma, sigma))(features(image))["image"].numpy()
    radius = int(np.ceil(3 * sigma))
    smooth = ndimage.gaussian_filter(image.astype(float), (sigma, sigma, 0), radius=radius)
    assert np.abs(found - smooth).max() < 0.51
    with pytest.raises(ValueError, match=r"above 0.*Received: \(0, 1\)"):
        photometric.blur((0, 1))


def test_noise_is_normal():
    image = np.full((101, 103, 3), 128, np.uint8)
    found = photometric.noise((20.0, 20.0))(features(image))["image"].numpy()
    added = found.astype(int).ravel() - 128
    assert abs(added.mean()) < 0.5  # 4 standard errors are 0.45
    assert added.std() == pytest.approx(20, rel=0.02)
    shares = np.linspace(0.03, 0.97, 25)
    exact = stats.norm.ppf(shares, scale=20)
    np.testing.assert_allclose(np.quantile(added, shares), exact, atol=2)  # one of 256 levels
    neighbours = np.corrcoef(added[:-1], added[1:])[0, 1], np.corrcoef(added[:-3], added[3:])[0, 1]
    assert np.abs(neighbours).max() < 0.025
    white = photometric.noise((5.0, 5.0))(features(np.full((9, 9, 3), 255, np.uint8)))["image"]
    assert white.numpy().min() > 200  # clipped, not wrapped around


def test_jpeg_quality_loses_what_pillows_loses():
    """Both encode with libjpeg, chroma halved; Pillow's is another version of it."""
    image, losses = picture(48, 64), []
    for quality in (30, 95):
        found = photometric.jpeg_quality(quality, quality + 1)(features(image))["image"].numpy()
        encoded = encode(Image.fromarray(image), "JPEG", quality=quality)
        expected = np.asarray(Image.open(io.BytesIO(encoded)), int)
        assert np.abs(found - expected).mean() < 1.5
        losses.append(np.abs(found - image.astype(int)).mean())
    assert 10 > losses[0] > 1.3 * losses[1] > 0


PILLOW = {
    "identity": lambda image, m: image,
    "auto_contrast": lambda image, m: ImageOps.autocontrast(image),
    "equalize": lambda image, m: ImageOps.equalize(image),
    "invert": lambda image, m: ImageOps.invert(image),
    "posterize": lambda image, m: ImageOps.posterize(image, 8 - round(4 * abs(m))),
    "solarize": lambda image, m: ImageOps.solarize(image, 256 * (1 - abs(m))),
    "color": lambda image, m: ImageEnhance.Color(image).enhance(1 + 0.9 * m),
    "contrast": lambda image, m: ImageEnhance.Contrast(image).enhance(1 + 0.9 * m),
    "brightness": lambda image, m: ImageEnhance.Brightness(image).enhance(1 + 0.9 * m),
    "sharpness": lambda image, m: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * m),
    "shear_x": lambda image, m: affine(image, (1, 0.3 * m, 0, 1)),
    "shear_y": lambda image, m: affine(image, (1, 0, 0.3 * m, 1)),
    "translate_x": lambda image, m: affine(image, (1, 0, 0, 1), (150 / 331 * m, 0)),
    "translate_y": lambda image, m: affine(image, (1, 0, 0, 1), (0, 150 / 331 * m)),
    "rotate": lambda image, m: image.rotate(np.degrees(np.pi / 6 * m), fillcolor=(128,) * 3),
}


def affine(image, linear, shift=(0, 0)):
    """Pillow counts from the edge of the image: its middle is half the size."""
    (a, b, c, d), (x, y) = linear, np.divide(image.size, 2)
    right, down = shift[0] * image.size[0], shift[1] * image.size[1]
    data = (a, b, x - a * x - b * y + right, c, d, y - c * x - d * y + down)
    return image.transform(image.size, Image.Transform.AFFINE, data, fillcolor=(128,) * 3)


@pytest.mark.parametrize("name", transforms.TRANSFORMS)
def test_transformations_are_pillows(name):
    for image in (picture(40, 52), picture(33, 33, seed=2), np.full((9, 9, 3), 80, np.uint8)):
        for magnitude in (-0.97, -0.35, 0.0, 0.52, 0.9, 1.0):
            expected = PILLOW[name](Image.fromarray(image), magnitude)
            found = transforms.TRANSFORMS[name](tf.constant(image), tf.constant(magnitude))
            difference = np.abs(np.asarray(found, int) - np.asarray(expected, int)).max(-1)
            # Ties of the nearest pixel are broken by rounding; greys are rounded before blending.
            assert (difference > 1).mean() <= 0.02, magnitude


def test_choices_are_the_named_ones():
    image, names = picture(), ("invert", "solarize", "rotate")
    for number, name in enumerate(names):
        found = transforms.apply(tf.constant(image), names, tf.constant(number), tf.constant(0.7))
        expected = transforms.TRANSFORMS[name](tf.constant(image), tf.constant(0.7))
        np.testing.assert_array_equal(found, expected)


def results(op, image, count):
    """Returns how often each image comes out, as a dict of its bytes."""
    found = {}
    dataset = seeds(count).map(lambda seed: op({"image": tf.constant(image), "seed": seed}))
    for example in dataset:
        key = example["image"].numpy().tobytes()
        found[key] = found.get(key, 0) + 1
    return found


def test_rand_augment_draws_each_transformation_and_direction():
    image = picture()
    found = results(policies.rand_augment(count=1, magnitude=6.0), image, 1400)
    expected = {}
    for name in policies.RANDAUGMENT_NAMES:
        for magnitude in (-0.6, 0.6):
            pixels = transforms.TRANSFORMS[name](tf.constant(image), tf.constant(magnitude))
            key = pixels.numpy().tobytes()
            expected[key] = expected.get(key, 0) + 50
    assert found.keys() == expected.keys()
    assert all(abs(found[key] - expected[key]) < 4 * expected[key] ** 0.5 for key in expected)
    with pytest.raises(ValueError, match="Received: 2 and 11"):
        policies.rand_augment(2, 11)


def test_auto_augment_follows_its_policy():
    """Two pairs; what the two steps of each give, with the probabilities of the table."""
    image = tf.constant(picture())
    policy = (
        (("posterize", 0.4, 8), ("rotate", 0.5, 9)),
        (("color", 1.0, 0), ("invert", 0.0, 4)),
    )
    found = results(policies.auto_augment(policy), image.numpy(), 800)
    apply = transforms.TRANSFORMS
    posterized = apply["posterize"](image, tf.constant(8 / 9))
    expected = [
        (image, 0.15),
        (posterized, 0.1),
        (apply["rotate"](image, tf.constant(1.0)), 0.075),
        (apply["rotate"](image, tf.constant(-1.0)), 0.075),
        (apply["rotate"](posterized, tf.constant(1.0)), 0.05),
        (apply["rotate"](posterized, tf.constant(-1.0)), 0.05),
        (apply["color"](image, tf.constant(-1.0)), 0.5),  # a factor of 0.1
    ]
    counts = {pixels.numpy().tobytes(): 800 * share for pixels, share in expected}
    assert found.keys() == counts.keys()
    assert all(abs(found[key] - counts[key]) < 4 * counts[key] ** 0.5 for key in counts)


def test_the_imagenet_policy_is_the_papers():
    """Numbers that a slip in one of its 150 entries would change."""
    steps = [step for pair in policies.IMAGENET_POLICY for step in pair]
    names = [name for name, _, _ in steps]
    assert len(policies.IMAGENET_POLICY) == 25
    assert {name: names.count(name) for name in sorted(set(names))} == {
        "auto_contrast": 2, "color": 6, "contrast": 2, "equalize": 17, "invert": 3,
        "posterize": 5, "rotate": 6, "sharpness": 1, "shear_x": 1, "solarize": 7,
    }  # fmt: skip
    assert sum(probability for _, probability, _ in steps) == pytest.approx(31.0)
