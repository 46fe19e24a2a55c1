"""Augmentation policies over Pillow's transformations: RandAugment and AutoAugment.

keras-cv's and Keras' RandAugment draw from a generator with a state, so that an example could not
be made again from its seed; keras-cv's takes 5 times as long as ours, Keras' 50: see
benchmarks/augmentation.py.
"""

import tensorflow as tf

from input_pipeline.ops import Features, Op, fold
from input_pipeline.transforms import apply

RANDAUGMENT_NAMES = (
    "identity",
    "auto_contrast",
    "equalize",
    "rotate",
    "solarize",
    "color",
    "posterize",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)

# Two transformations, one after the other, each with its probability and its magnitude of 0 … 9.
SubPolicy = tuple[tuple[str, float, int], tuple[str, float, int]]
# Found on ImageNet: Cubuk et al., arXiv:1805.09501, table 9, in its order; the magnitudes of
# auto_contrast, equalize and invert do not count.
IMAGENET_POLICY: tuple[SubPolicy, ...] = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("auto_contrast", 0.6, 5)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 4), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 7)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 2)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 8), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("color", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 2)),
    (("equalize", 0.0, 7), ("equalize", 0.8, 8)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("color", 1.0, 2)),
    (("color", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 8)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 9)),
    (("color", 0.4, 0), ("equalize", 0.6, 3)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("auto_contrast", 0.6, 5)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
)
LARGEST_LEVEL = 9
# Their lowest magnitude is a factor of 0.1 and their highest 1.9; that of others is none and full.
TWO_SIDED = ("color", "contrast", "brightness", "sharpness")


def rand_augment(count: int = 2, magnitude: float = 9.0) -> Op:
    """Applies `count` transformations, each drawn from 14, all of one magnitude of 0 … 10.

    Those with a direction go either way: colour, contrast, brightness and sharpness become less or
    more. Reference: Cubuk et al., "RandAugment", arXiv:1909.13719.
    """
    if count < 1 or not 0 <= magnitude <= 10:
        raise ValueError(
            f"expected a count of at least 1 and a magnitude from 0 to 10. "
            f"Received: {count} and {magnitude}"
        )

    def op(features: Features) -> Features:
        seed, image = fold(features, "rand_augment"), features["image"]
        most = len(RANDAUGMENT_NAMES)
        choices = tf.random.stateless_uniform((count,), seed, 0, 2 * most, tf.int32)
        signed = tf.where(choices < most, magnitude, -magnitude) / 10.0  # (count,)
        for number in range(count):
            choice = choices[number] % most
            image = apply(image, RANDAUGMENT_NAMES, choice, signed[number])
        return {**features, "image": image}

    return op


def auto_augment(policy: tuple[SubPolicy, ...] = IMAGENET_POLICY) -> Op:
    """Applies one of the policy's pairs of transformations, each pair as likely.

    Shears, shifts and rotations go either way. Reference: Cubuk et al., "AutoAugment: Learning
    Augmentation Policies from Data", arXiv:1805.09501.
    """
    steps = [step for pair in policy for step in pair]
    names = tuple(sorted({name for name, _, _ in steps} | {"identity"}))
    table = (len(policy), 2)
    choices = [names.index(name) for name, _, _ in steps]
    probabilities = [probability for _, probability, _ in steps]
    magnitudes = [_magnitude(name, level) for name, _, level in steps]
    two_sided = [name in TWO_SIDED for name, _, _ in steps]

    def op(features: Features) -> Features:
        seed, image = fold(features, "auto_augment"), features["image"]
        draws = tf.random.stateless_uniform((5,), seed)
        pair = tf.minimum(tf.cast(draws[0] * len(policy), tf.int32), len(policy) - 1)

        def row(values: list) -> tf.Tensor:
            return tf.gather(tf.reshape(tf.constant(values), table), pair)  # (2,)

        chosen = tf.where(draws[1:3] < row(probabilities), row(choices), names.index("identity"))
        signs = tf.where(row(two_sided) | (draws[3:] < 0.5), 1.0, -1.0)
        signed = signs * row(magnitudes)
        for step in range(2):
            image = apply(image, names, chosen[step], signed[step])
        return {**features, "image": image}

    return op


def _magnitude(name: str, level: int) -> float:
    share = level / LARGEST_LEVEL
    return 2.0 * share - 1.0 if name in TWO_SIDED else share
