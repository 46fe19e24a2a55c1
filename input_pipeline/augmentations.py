"""The ops of a recipe's `augmentation`, as texts: "random_crop:smallest_area=0.4", "resize", ….

One op of `SIZING` brings every image to S × S pixels; those before it work on the image as decoded,
those after it on S × S. Every other one may be given `p`, the probability that it happens.
"""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence

import named_calls
from input_pipeline import crops, erasing, geometry, ops, photometric, policies, sizes
from input_pipeline.ops import Op


def resize(size: int, antialias: bool) -> Op:
    """The plain square resize; the aspect ratio is not kept."""
    return ops.resize(ops.Square(size, antialias))


def random_resized_crop(
    size: int,
    antialias: bool,
    area: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Op:
    """See `crops.random_resized_crop`."""
    return crops.random_resized_crop(size, area, ratio, antialias)


def shortest_crop(size: int, antialias: bool, factor: float = 8 / 7) -> Op:
    """The shorter side to `factor` times S, then a random S × S of it."""
    shrink = sizes.resize_shortest(round(size * factor), antialias)
    return ops.chain(shrink, crops.random_crop_of(size, size))


def longest_crop(size: int, antialias: bool, factor: float = 8 / 7, fill: int = 0) -> Op:
    """The longer side to `factor` times S, padded to a square, then a random S × S of it."""
    side = round(size * factor)
    shrink = sizes.resize_longest(side, antialias)
    return ops.chain(shrink, sizes.pad_to(side, side, fill), crops.random_crop_of(size, size))


def square_crop(size: int, antialias: bool, factor: float = 8 / 7) -> Op:
    """The plain square resize to `factor` times S, then a random S × S of it."""
    side = round(size * factor)
    return ops.chain(resize(side, antialias), crops.random_crop_of(size, size))


def cutout(size: int, share: float = 0.25, fill: int = 128) -> Op:
    """See `erasing.cutout`; the side of the square is `share` of S."""
    return erasing.cutout(max(1, round(share * size)), fill)


SIZING = {
    "resize": resize,
    "random_resized_crop": random_resized_crop,
    "shortest_crop": shortest_crop,
    "longest_crop": longest_crop,
    "square_crop": square_crop,
}
OPS = {
    "random_crop": crops.random_crop,
    "random_flip": geometry.random_flip,
    "random_vertical_flip": geometry.random_vertical_flip,
    "random_turn": geometry.random_turn,
    "random_rotation": geometry.random_rotation,
    "random_affine": geometry.random_affine,
    "random_perspective": geometry.random_perspective,
    "color_jitter": photometric.color_jitter,
    "blur": photometric.blur,
    "noise": photometric.noise,
    "jpeg_quality": photometric.jpeg_quality,
    "cutout": cutout,
    "random_erasing": erasing.random_erasing,
    "rand_augment": policies.rand_augment,
    "auto_augment": policies.auto_augment,
}
GIVEN = ("size", "antialias")


@dataclasses.dataclass(frozen=True)
class Chain:
    """What happens to a training image.

    Attributes:
        before: what happens to the image as decoded; None for nothing.
        sizing: brings it to S × S pixels.
        after: ops on S × S pixels.
        name: of the op that brings it to S × S pixels.
    """

    before: Op | None
    sizing: Op
    after: tuple[Op, ...]
    name: str

    def expect_resize(self, what: str) -> None:
        """Raises ValueError unless images are plainly resized, which `what` does in its way."""
        if self.name != "resize":
            raise ValueError(
                f"stage.augmentation: expected 'resize' with {what}. Received: {self.name!r}"
            )


def build(texts: Sequence[str], *, size: int, antialias: bool = False) -> Chain:
    """Makes the ops of `texts`, in order.

    Args:
        texts: see `named_calls.parse`; `p=0.3` among the options makes an op happen with
            probability 0.3.
        size: side S, pixels.
        antialias: smooth before shrinking.

    Raises:
        ValueError: a text is not understood, or not exactly one of them is of `SIZING`.
    """
    given = {"size": size, "antialias": antialias}
    found = [_build(text, given) for text in texts]
    places = [i for i, (name, _) in enumerate(found) if name in SIZING]
    if len(places) != 1:
        raise ValueError(
            f"stage.augmentation: expected exactly one of {', '.join(SIZING)}. "
            f"Received: {tuple(texts)}"
        )
    names, made = zip(*found, strict=True)
    place = places[0]
    before = ops.chain(*made[:place]) if place > 1 else next(iter(made[:place]), None)
    return Chain(before, made[place], made[place + 1 :], names[place])


def _build(text: str, given: Mapping[str, object]) -> tuple[str, Op]:
    name, _, listed = text.partition(":")
    chances = [part for part in listed.split(",") if part.strip().startswith("p=")]
    rest = ",".join(part for part in listed.split(",") if part not in chances)
    table = SIZING if name in SIZING else {**OPS, **SIZING}
    call = named_calls.parse(f"{name}:{rest}", table, "an op", GIVEN)
    wanted = inspect.signature(table[name]).parameters
    op = table[name](**{k: v for k, v in given.items() if k in wanted}, **call.options)
    if not chances:
        return name, op
    if name in SIZING or len(chances) > 1:
        raise ValueError(f"expected p at most once, and not with {name}. Received: {text!r}")
    return name, ops.maybe(op, named_calls.value_of(chances[0][2:], float, f"{name}:p"))
