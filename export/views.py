"""Views: the pictures that are made of one image at test time, and how their outputs become one.

A text names them, in a recipe, on the command line and in `waymark.json`: "plain", "flips",
"horizontal_flip", "center_crop:crop=448", "ten_crop:crop=736",
"multi_scale:scales=(0.7071,1,1.4142),combine=max".
"""

import dataclasses
import inspect
from collections.abc import Callable, Sequence

import tensorflow as tf

import named_calls
from input_pipeline.ops import Square

COMBINATIONS = ("mean", "max")

Network = Callable[[tf.Tensor], tf.Tensor]  # uint8 (B, S, S, 3) to float32 (B, K)


@dataclasses.dataclass(frozen=True)
class Views:
    """What a network is shown of an image, with static shapes, and how its outputs are joined.

    `parse` makes one of a text. The views go through the network one after the other, so that they
    need the memory of one.

    Attributes:
        name: key of `VIEWS`.
        crop: of "center_crop" and "ten_crop": side of the crops, pixels.
        scales: of "multi_scale".
        combine: "mean" or "max", element by element, over the embeddings of the views; the
            descriptor is that, L2-normalised.
        normalize: whether each view's embedding is L2-normalised before.
    """

    name: str = "plain"
    crop: int | None = None
    scales: tuple[float, ...] = ()
    combine: str = "mean"
    normalize: bool = True

    def __post_init__(self):
        if self.combine not in COMBINATIONS:
            raise ValueError(
                f"views: expected combine among {COMBINATIONS}. Received: {self.combine!r}"
            )
        if self.crop is not None and self.crop < 1:
            raise ValueError(f"views: expected a crop of at least 1 pixel. Received: {self.crop}")
        if (self.name == "multi_scale") != bool(self.scales) or min(self.scales, default=1) <= 0:
            raise ValueError(f"views: expected scales above 0. Received: {self.scales}")

    def __str__(self) -> str:
        parameters = inspect.signature(VIEWS[self.name]).parameters
        options = {
            name: getattr(self, name)
            for name, parameter in parameters.items()
            if getattr(self, name) != parameter.default
        }
        return str(named_calls.Call(self.name, options)).replace(" ", "")

    def squares(self, square: Square) -> tuple[Square, ...]:
        """Returns the resizes that the views are cut from; ValueError where a crop is larger."""
        if self.name != "multi_scale":
            if self.crop is not None and self.crop > square.size:
                raise ValueError(
                    f"views: expected a crop of at most the {square.size} pixels of the image. "
                    f"Received: {self.crop}"
                )
            return (square,)
        sides = (max(1, round(scale * square.size)) for scale in self.scales)
        return tuple(dataclasses.replace(square, size=side) for side in sides)

    def outputs(self, network: Network, squares: Sequence[tf.Tensor], size: int) -> tf.Tensor:
        """Runs a network on every view.

        Args:
            network: uint8 `(B, S, S, 3)` → float32 `(B, K)`.
            squares: uint8 `(B, S, S, 3)`, one for each of `squares()`.
            size: K.

        Returns:
            float32 `(V, B, K)`.
        """
        if self.name == "multi_scale":
            return tf.stack([network(images) for images in squares])
        (images,) = squares
        if self.name == "plain":
            return network(images)[tf.newaxis]
        side, table = self._windows(images.shape[1])

        def output(window: tf.Tensor) -> tf.Tensor:
            return network(_cut(images, window, side))

        spec = tf.TensorSpec((images.shape[0], size), tf.float32)
        return tf.map_fn(
            output, tf.constant(table), fn_output_signature=spec, parallel_iterations=1
        )

    def combined(self, embeddings: tf.Tensor) -> tf.Tensor:
        """Joins the views' embeddings `(V, B, D)` to unit descriptors `(B, D)`, float32."""
        if self.name == "plain":
            return embeddings[0] if self.normalize else _unit(embeddings[0])
        reduce = tf.reduce_max if self.combine == "max" else tf.reduce_mean
        return _unit(reduce(embeddings, axis=0))

    def _windows(self, size: int) -> tuple[int, list[tuple[int, int, bool, bool]]]:
        """Returns the side of the views, and of each: top, left, flipped down, flipped over."""
        if self.crop is not None:
            free = size - self.crop
            middle = (free // 2, free // 2)
            if self.name == "center_crop":
                return self.crop, [(*middle, 0, 0)]
            corners = [(0, 0), (0, free), (free, 0), (free, free), middle]
            return self.crop, [(*corner, 0, flip) for flip in (0, 1) for corner in corners]
        flips = [(0, 0), (0, 1)] if self.name == "horizontal_flip" else _ALL_FLIPS
        return size, [(0, 0, *flip) for flip in flips]


def plain() -> Views:
    """The resized image."""
    return Views()


def flips(combine: str = "max", normalize: bool = False) -> Views:
    """The image and its horizontal, vertical and double flip."""
    return Views("flips", combine=combine, normalize=normalize)


def horizontal_flip(combine: str = "mean", normalize: bool = True) -> Views:
    """The image and its mirror."""
    return Views("horizontal_flip", combine=combine, normalize=normalize)


def center_crop(crop: int) -> Views:
    """The middle of the image, `crop` pixels wide."""
    return Views("center_crop", crop=crop)


def ten_crop(crop: int, combine: str = "mean", normalize: bool = True) -> Views:
    """The four corners and the middle, `crop` pixels wide, and their mirrors.

    Reference: Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural
    Networks", NIPS 2012.
    """
    return Views("ten_crop", crop=crop, combine=combine, normalize=normalize)


def multi_scale(
    scales: tuple[float, ...] = (0.7071, 1.0, 1.4142),
    combine: str = "mean",
    normalize: bool = True,
) -> Views:
    """The image resized to each of `scales` times the side, rounded to pixels.

    Reference: Radenovic et al., "Fine-tuning CNN Image Retrieval with No Human Annotation",
    arXiv:1711.02512.
    """
    return Views("multi_scale", scales=scales, combine=combine, normalize=normalize)


VIEWS: dict[str, Callable[..., Views]] = {
    "plain": plain,
    "flips": flips,
    "horizontal_flip": horizontal_flip,
    "center_crop": center_crop,
    "ten_crop": ten_crop,
    "multi_scale": multi_scale,
}
PLAIN = plain()
_ALL_FLIPS = [(0, 0), (0, 1), (1, 0), (1, 1)]


def parse(text: str) -> Views:
    """Reads views from a text, see `named_calls.parse`; ValueError says what is wrong with it.

    >>> parse("flips")
    Views(name='flips', crop=None, scales=(), combine='max', normalize=False)
    """
    call = named_calls.parse(text, VIEWS, "views")
    return VIEWS[call.name](**call.options)


def _cut(images: tf.Tensor, window: tf.Tensor, side: int) -> tf.Tensor:
    """Returns one view, uint8 `(B, side, side, 3)`, of `(B, S, S, 3)`."""
    top, left, down, over = tf.unstack(window)
    shape = [tf.shape(images)[0], side, side, 3]  # XLA takes no -1 where the start is not constant
    view = tf.slice(images, tf.stack([0, top, left, 0]), shape)
    view = tf.where(down > 0, tf.reverse(view, [1]), view)
    view = tf.where(over > 0, tf.reverse(view, [2]), view)
    return tf.ensure_shape(view, (images.shape[0], side, side, 3))


def _unit(vectors: tf.Tensor) -> tf.Tensor:
    return tf.math.l2_normalize(vectors, axis=-1)
