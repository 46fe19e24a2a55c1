"""The graph that a SavedModel holds: images in, global descriptors out."""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from export.stored_weights import StoredNetwork
from export.views import PLAIN, Views
from input_pipeline import ops


@dataclasses.dataclass(frozen=True)
class Member:
    """One network of a descriptor.

    Attributes:
        network: uint8 `(B, S, S, 3)` → `(B, D)`, an embedding.
        square: its resize.
        views: what it is shown of an image.
        weight: factor of its unit descriptor.
    """

    network: StoredNetwork
    square: ops.Square
    views: Views = PLAIN
    weight: float = 1.0

    @property
    def squares(self) -> tuple[ops.Square, ...]:
        """The resizes that its views are cut from."""
        return self.views.squares(self.square)

    def __call__(self, squares: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns `(B, D)` float32 of length `weight` from uint8 `(B, S, S, 3)`, one per square."""
        outputs = self.views.outputs(self.network, squares, self.network.dimension)
        return self.weight * self.views.combined(outputs)


class Descriptor(tf.Module):
    """Images in, global descriptors out, with the preprocessing and the views inside.

    With one member the descriptor is its L2-normalised embedding. With several it is each
    member's, times its weight, concatenated and not normalised again, so that a member counts
    with the square of its weight in a squared distance.

    Args:
        members: at least one.

    Attributes:
        squares: the members' resizes, one after the other.

    Signatures:
        serving_default: `input_image` uint8 `(H, W, 3)` → `global_descriptor` float32 `(D,)`.
        images: `images` uint8 `(B, H, W, 3)` → `global_descriptor` float32 `(B, D)`.
        encoded: `encoded` string `(B,)`, JPEG or PNG bytes → `global_descriptor` `(B, D)`.
        resized: for each different resize, `Square.name` uint8 `(B, S, S, 3)`, resized already
            → `global_descriptor` `(B, D)`.

    Reference:
        Jeon, "1st Place Solution to Google Landmark Retrieval 2020", arXiv:2009.05132.
    """

    def __init__(self, members: Sequence[Member]):
        super().__init__()
        if not members:
            raise ValueError("expected at least one member. Received: none")
        # What is saved is the graph and its variables. The Keras layers stay behind a function:
        # as attributes each of them would be written as an object, and saving and loading take
        # twice as long.
        self._each_member = lambda: tuple(members)
        self._variables = [each for member in members for each in member.network.variables]
        self.squares = tuple(square for member in members for square in member.squares)
        # Traced once; the signatures only differ in what they do before.
        specs = [tf.TensorSpec((None, s.size, s.size, 3), tf.uint8) for s in self.squares]
        self.describe = tf.function(self._describe, input_signature=specs)

    @property
    def members(self) -> tuple[Member, ...]:
        """The members."""
        return self._each_member()

    def _describe(self, *squares: tf.Tensor) -> tf.Tensor:
        """Returns `(B, D)` float32 from uint8 `(B, S, S, 3)`, in the order of `self.squares`."""
        described, rest = [], list(squares)
        for member in self.members:
            count = len(member.squares)
            described.append(member(rest[:count]))
            rest = rest[count:]
        return tf.concat(described, axis=-1)

    @tf.function(input_signature=[tf.TensorSpec((None, None, 3), tf.uint8, "input_image")])
    def serving_default(self, input_image: tf.Tensor) -> dict[str, tf.Tensor]:
        """One decoded RGB image of any size."""
        return {"global_descriptor": self._from_images(input_image[tf.newaxis])[0]}

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8, "images")])
    def images(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """A batch of decoded RGB images of one size."""
        return {"global_descriptor": self._from_images(images)}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "encoded")])
    def encoded(self, encoded: tf.Tensor) -> dict[str, tf.Tensor]:
        """A batch of JPEG or PNG files of any sizes."""
        signature = [tf.TensorSpec((s.size, s.size, 3), tf.uint8) for s in self.squares]
        squares = tf.map_fn(self._decode, encoded, fn_output_signature=signature)
        return {"global_descriptor": self.describe(*squares)}

    def resized(self):
        """Returns the concrete function of the signature of that name."""
        specs = {
            square.name: tf.TensorSpec((None, square.size, square.size, 3), tf.uint8)
            for square in self.squares
        }

        @tf.function
        def resized(**images):
            batches = [images[square.name] for square in self.squares]
            return {"global_descriptor": self.describe(*batches)}

        return resized.get_concrete_function(**specs)

    def _decode(self, encoded: tf.Tensor) -> list[tf.Tensor]:
        image = ops.decode_image(encoded)
        return [square(image) for square in self.squares]

    def _from_images(self, images: tf.Tensor) -> tf.Tensor:
        return self.describe(*(square(images) for square in self.squares))
