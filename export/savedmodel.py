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
import numpy as np
import tensorflow as tf

import recipes
from export import device
from export.descriptor import Descriptor, Member
from export.stored_weights import MEGABYTE, PRECISIONS, StoredNetwork
from export.views import Views, parse
from input_pipeline import ops
from models.builder import embedding_model
from models.storage import load_model
from recipes import layout

INFO_NAME = "waymark.json"
LOSS_IMAGES = 8


class TooLargeError(RuntimeError):
    """The SavedModel would take more bytes than allowed."""


def save(
    model_paths: Sequence[str],
    squares: Sequence[ops.Square],
    output: str,
    *,
    weights: Sequence[float] | None = None,
    views: Sequence[str] | None = None,
    precision: str = "float32",
    limit_mb: float | None = None,
) -> dict:
    """Writes the SavedModel of one or several finished models, whole or not at all.

    Args:
        model_paths: the members' `model.keras`.
        squares: each member's resize.
        output: folder to write; replaced if it is there.
        weights: factor of each member; all 1 if left out.
        views: each member's views as text, see `export.views`; all "plain" if left out.
        precision: of the weights on the disk, "float32" or "float16"; what is computed stays as
            it was. With "float16" the info has `cosine_to_float32`, the least one between the
            descriptors of `LOSS_IMAGES` random images before and after.
        limit_mb: most megabytes (10^6 bytes) that the weights of all members, and the folder, may
            have; None sets no limit.

    Returns:
        What `waymark.json` in the folder says: model_digest, squares, weights, views, dimension,
        precision, weight_bytes (each member's).

    Raises:
        FileNotFoundError: a model is not finished.
        ValueError: as many models, squares, weights and views were expected; or wrong views.
        TooLargeError: the limit is passed.
    """
    count = len(model_paths)
    weights = [1.0] * count if weights is None else list(weights)
    views = ["plain"] * count if views is None else list(views)
    if not count or not count == len(squares) == len(weights) == len(views):
        raise ValueError(
            "expected at least one member, and a resize, a weight and views for each. Received: "
            f"{count} members, {len(squares)} resizes, weights {weights}, views {views}"
        )
    parsed = [parse(text) for text in views]  # before the models are loaded
    models = [_network(path, each) for path, each in zip(model_paths, parsed, strict=True)]
    settings = list(zip(squares, parsed, weights, strict=True))
    descriptor = _descriptor(models, settings, precision)
    info = _info(descriptor.members, precision)
    _check_size(sum(info["weight_bytes"]), limit_mb, "of weights")
    if precision != "float32":
        info["cosine_to_float32"] = _least_cosine(
            descriptor, _descriptor(models, settings, "float32")
        )
    _write(descriptor, info, output, limit_mb)
    return info


def _network(path: str, views: Views) -> keras.Model:
    """Returns the finished model up to its embedding, of unit length if the views want it so."""
    unit = embedding_model(load_model(path))
    if views.normalize:
        return unit
    return keras.Model(unit.input, unit.get_layer("descriptor").input)


def _descriptor(models: Sequence[keras.Model], settings: Sequence[tuple], precision: str):
    return Descriptor(
        [
            Member(StoredNetwork(model, precision), square, views, float(weight))
            for model, (square, views, weight) in zip(models, settings, strict=True)
        ]
    )


def _info(members: Sequence[Member], precision: str) -> dict:
    """Returns what `waymark.json` says."""
    squares = [dataclasses.asdict(square) for member in members for square in member.squares]
    return {
        "model_digest": _digest(members),
        "squares": squares,
        "weights": [member.weight for member in members],
        "views": [str(member.views) for member in members],
        "dimension": sum(member.network.dimension for member in members),
        "precision": precision,
        "weight_bytes": [member.network.bytes for member in members],
    }


def _digest(members: Sequence[Member]) -> str:
    """Returns a sha256 of all that decides the descriptor: weights, resizes, factors, views."""
    facts = [
        [member.square.name for member in members],
        [member.weight for member in members],
    ]
    views = [str(member.views) for member in members]
    if set(views) != {"plain"}:
        facts.append(views)
    digest = hashlib.sha256(json.dumps(facts).encode())
    for member in members:
        member.network.update(digest)
    return digest.hexdigest()


def _least_cosine(one: Descriptor, other: Descriptor) -> float:
    """Returns the least cosine between two models' descriptors of random images."""
    rng = np.random.default_rng(0)
    cosines = []
    for _ in range(LOSS_IMAGES):
        # Few pixels, so that the resized image has large patches and not noise alone.
        image = tf.constant(rng.integers(0, 256, (1, 16, 12, 3), np.uint8))
        vectors = [
            np.float64(descriptor.images(image)["global_descriptor"][0])
            for descriptor in (one, other)
        ]
        first, second = (vector / np.linalg.norm(vector) for vector in vectors)
        cosines.append(1 - np.sum((first - second) ** 2) / 2)
    return float(min(cosines))


def _write(descriptor: Descriptor, info: dict, output: str, limit_mb: float | None) -> None:
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
    try:
        _check_size(bytes_of(partial), limit_mb, "in the folder")
    except TooLargeError:
        shutil.rmtree(partial)
        raise
    shutil.rmtree(output, ignore_errors=True)
    os.replace(partial, output)


def bytes_of(folder: str) -> int:
    """Returns the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in pathlib.Path(folder).rglob("*") if path.is_file())


def _check_size(size: int, limit_mb: float | None, where: str) -> None:
    if limit_mb is not None and size > limit_mb * MEGABYTE:
        raise TooLargeError(
            f"expected at most {limit_mb:g} MB. Received: {size / MEGABYTE:.1f} MB {where}; "
            "--weights-dtype float16 halves them"
        )


def members_of(recipe, member: str | None, stage: int | None) -> list[tuple]:
    """Returns (member, stage) pairs: the one named, or all of the ensemble at their last stage."""
    chosen = recipe.members if member is None else (recipe.member(member),)
    pairs = []
    for each in chosen:
        which = str(each.last_stage if stage is None else min(stage, each.last_stage))
        pairs.append((each, recipe.stages_of(each, which)[0]))
    return pairs


def add_members(parser: argparse.ArgumentParser, together: str) -> None:
    """Adds the options that say which finished models, and how an image becomes their input.

    Args:
        parser: of a command.
        together: what all members are, for the help.
    """
    add = parser.add_argument
    add("--recipe", required=True, help=", ".join(recipes.NAMES))
    add("--workdir", help="of the training (default: runs/RECIPE)")
    add("--member", help=f"one member (default: the {together} of all)")
    add("--stage", type=int, help="after this stage (default: the last)")
    add("--image-size", type=int, help="pixels (default: the stage's)")
    add(
        "--fit",
        choices=ops.FITS,
        help="how an image becomes a square (default: the recipe's)",
    )


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", maxsplit=1)[0], epilog=device.HELP
    )
    add_members(parser, "ensemble")
    add = parser.add_argument
    add(
        "--views",
        help="what a network is shown of an image: plain, flips, horizontal_flip, "
        "center_crop:crop=PIXELS, ten_crop:crop=PIXELS or multi_scale:scales=(0.7071,1,1.4142) "
        "(default: the recipe's)",
    )
    add(
        "--weights-dtype",
        choices=PRECISIONS,
        default="float32",
        help="of the weights on the disk; float16 halves them (default: %(default)s)",
    )
    add(
        "--limit-mb",
        type=float,
        metavar="MB",
        help="write nothing if all members together have more megabytes",
    )
    add("--output", required=True, help="folder of the SavedModel")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    args = parse_args(argv)
    print(f"export: {device.describe()}", flush=True)
    try:
        recipe = recipes.load(args.recipe)
        workdir = args.workdir or os.path.join("runs", recipe.name)
        pairs = members_of(recipe, args.member, args.stage)
        info = save(
            [layout.model_path(workdir, member.name, stage.number) for member, stage in pairs],
            [square_of(member, stage, args.image_size, args.fit) for member, stage in pairs],
            args.output,
            weights=None if args.member else [member.weight for member, _ in pairs],
            views=[args.views or member.model.views for member, _ in pairs],
            precision=args.weights_dtype,
            limit_mb=args.limit_mb,
        )
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except TooLargeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(_summary(args.output, pairs, info))
    return 0


def square_of(member, stage, image_size: int | None, fit: str | None) -> ops.Square:
    """Returns the resize of a member after a stage."""
    size = image_size or stage.export_size or stage.image_size
    return ops.Square(size, member.model.antialias, fit or member.model.fit)


def _summary(output: str, pairs: Sequence[tuple], info: dict) -> str:
    """Returns what the command says: members, sizes, views, and the megabytes of each."""
    names = " + ".join(f"{member.name} stage {stage.number}" for member, stage in pairs)
    sizes = ", ".join(str(square["size"]) for square in info["squares"])
    views = ", ".join(dict.fromkeys(info["views"]))
    megabytes = [size / MEGABYTE for size in info["weight_bytes"]]
    each = " + ".join(f"{size:.1f}" for size in megabytes)
    total = each if len(megabytes) == 1 else f"{each} = {sum(megabytes):.1f}"
    lines = [
        f"{output}: {names}, {info['dimension']} dimensions, at {sizes} px, views {views}",
        f"weights in {info['precision']}: {total} MB; "
        f"{bytes_of(output) / MEGABYTE:.1f} MB on the disk in all",
    ]
    if "cosine_to_float32" in info:
        lines.append(
            f"1 - cosine to the descriptors of float32: {1 - info['cosine_to_float32']:.1e} at "
            f"most, over {LOSS_IMAGES} random images"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
