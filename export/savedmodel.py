"""From finished models to a SavedModel: python export/savedmodel.py --recipe NAME --output DIR.

One member, or the weighted ensemble of all members. The contest's host calls `serving_default`
with one image; the batched signatures are for everybody else.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Sequence

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
import tensorflow_wheels

os.environ.update(tensorflow_wheels.environment())  # before TensorFlow is imported

import keras
import tensorflow as tf

import recipes
from input_pipeline import ops
from models.builder import embedding_model
from models.storage import load_model
from recipes import layout

INFO_NAME = "waymark.json"


class Descriptor(tf.Module):
    """Images in, global descriptors out, with the preprocessing inside.

    With one member the descriptor is its L2-normalised embedding. With several it is each
    member's, times its weight, concatenated and not normalised again, so that a member counts
    with the square of its weight in a squared distance.

    Args:
        members: pairs of embedding model (see `models.builder.embedding_model`) and resize.
        weights: one factor per member.

    Attributes:
        squares: the members' resizes.

    Signatures:
        serving_default: `input_image` uint8 `(H, W, 3)` → `global_descriptor` float32 `(D,)`.
        images: `images` uint8 `(B, H, W, 3)` → `global_descriptor` float32 `(B, D)`.
        encoded: `encoded` string `(B,)`, JPEG or PNG bytes → `global_descriptor` `(B, D)`.
        resized: for each different resize, `Square.name` uint8 `(B, S, S, 3)`, resized already
            → `global_descriptor` `(B, D)`.

    Reference:
        Jeon, "1st Place Solution to Google Landmark Retrieval 2020", arXiv:2009.05132.
    """

    def __init__(self, members: Sequence[tuple[keras.Model, ops.Square]], weights: Sequence[float]):
        super().__init__()
        if not members or len(members) != len(weights):
            raise ValueError(
                "expected at least one member and one weight for each. "
                f"Received: {len(members)} members, weights {list(weights)}"
            )
        models = [model for model, _ in members]
        # What is saved is the graph and its variables. The Keras layers stay behind a function:
        # as attributes each of them would be written as an object, and saving and loading take
        # twice as long.
        self._each_model = lambda: models
        self._variables = [variable.value for model in models for variable in model.variables]
        self.squares = tuple(square for _, square in members)
        self._weights = [float(weight) for weight in weights]
        # Traced once; the signatures only differ in what they do before.
        specs = [tf.TensorSpec((None, s.size, s.size, 3), tf.uint8) for s in self.squares]
        self.describe = tf.function(self._describe, input_signature=specs)

    @property
    def dimension(self) -> int:
        """Size D of the descriptor."""
        return sum(model.output_shape[-1] for model in self._each_model())

    def _describe(self, *squares: tf.Tensor) -> tf.Tensor:
        """Returns `(B, D)` float32 from uint8 `(B, S, S, 3)` squares, one batch per member."""
        described = [
            weight * model(images, training=False)
            for weight, model, images in zip(
                self._weights, self._each_model(), squares, strict=True
            )
        ]
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


def save(
    model_paths: Sequence[str],
    squares: Sequence[ops.Square],
    output: str,
    *,
    weights: Sequence[float] | None = None,
) -> dict:
    """Writes the SavedModel of one or several finished models, whole or not at all.

    Args:
        model_paths: the members' `model.keras`.
        squares: each member's resize.
        output: folder to write; replaced if it is there.
        weights: factor of each member; all 1 if left out.

    Returns:
        What `waymark.json` in the folder says: model_digest, squares, weights, dimension.

    Raises:
        FileNotFoundError: a model is not finished.
    """
    weights = [1.0] * len(model_paths) if weights is None else list(weights)
    models = [embedding_model(load_model(path)) for path in model_paths]
    descriptor = Descriptor(list(zip(models, squares, strict=True)), weights)
    info = {
        "model_digest": _digest(models, squares, weights),
        "squares": [dataclasses.asdict(square) for square in squares],
        "weights": weights,
        "dimension": descriptor.dimension,
    }
    partial = output.rstrip("/") + ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    signatures = {
        "serving_default": descriptor.serving_default,
        "images": descriptor.images,
        "encoded": descriptor.encoded,
        "resized": descriptor.resized(),
    }
    tf.saved_model.save(descriptor, partial, signatures=signatures)
    pathlib.Path(partial, INFO_NAME).write_text(json.dumps(info, indent=1) + "\n")
    shutil.rmtree(output, ignore_errors=True)
    os.replace(partial, output)
    return info


def _digest(models, squares: Sequence[ops.Square], weights: Sequence[float]) -> str:
    """Returns a sha256 of everything that decides the descriptor: weights, resizes, factors."""
    names = [square.name for square in squares]
    digest = hashlib.sha256(json.dumps([names, list(weights)]).encode())
    for model in models:
        for variable in model.variables:
            digest.update(f"{variable.path} {variable.shape}".encode())
            digest.update(keras.ops.convert_to_numpy(variable).tobytes())
    return digest.hexdigest()


def members_of(recipe, member: str | None, stage: int | None) -> list[tuple]:
    """Returns (member, stage) pairs: the one named, or all of the ensemble at their last stage."""
    chosen = recipe.members if member is None else (recipe.member(member),)
    pairs = []
    for each in chosen:
        which = str(each.last_stage if stage is None else min(stage, each.last_stage))
        pairs.append((each, recipe.stages_of(each, which)[0]))
    return pairs


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--recipe", required=True, help=", ".join(recipes.NAMES))
    parser.add_argument("--workdir", help="of the training (default: runs/RECIPE)")
    parser.add_argument("--member", help="one member (default: the ensemble of all)")
    parser.add_argument("--stage", type=int, help="after this stage (default: the last)")
    parser.add_argument("--image-size", type=int, help="pixels (default: the stage's)")
    parser.add_argument("--output", required=True, help="folder of the SavedModel")
    args = parser.parse_args(argv)
    try:
        recipe = recipes.load(args.recipe)
        workdir = args.workdir or os.path.join("runs", recipe.name)
        pairs = members_of(recipe, args.member, args.stage)
        info = save(
            [layout.model_path(workdir, member.name, stage.number) for member, stage in pairs],
            [
                ops.Square(
                    args.image_size or stage.export_size or stage.image_size, member.model.antialias
                )
                for member, stage in pairs
            ],
            args.output,
            weights=None if args.member else [member.weight for member, _ in pairs],
        )
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    names = " + ".join(f"{member.name} stage {stage.number}" for member, stage in pairs)
    sizes = ", ".join(str(square["size"]) for square in info["squares"])
    print(f"{args.output}: {names}, {info['dimension']} dimensions, at {sizes} px")
    return 0


if __name__ == "__main__":
    sys.exit(main())
