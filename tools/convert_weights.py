"""Converts public PyTorch weights: python tools/convert_weights.py --backbone resnet50 ...

Example:
    python tools/convert_weights.py --backbone se-resnext50 --input seresnext50_32x4d.safetensors
        --output se-resnext50.weights.h5

The result is a file for a recipe's model.weights; every weight of the backbone is in it, or the
command says what is missing. PyTorch's own .pth files are pickles and are not read.
"""

import argparse
import os
import pathlib
import sys

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from models.backbones import NAMES, TABLE, build_backbone

SUFFIX = ".weights.h5"


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    able = [name for name in NAMES if TABLE[name].torch]
    parser.add_argument("--backbone", required=True, choices=able, metavar="NAME", help=str(able))
    parser.add_argument("--input", required=True, help=".safetensors or .npz")
    parser.add_argument("--output", required=True, help=f"file, {SUFFIX}")
    parser.add_argument("--width", type=float, help="multiplier, where the module is no standard")
    parser.add_argument("--depth", type=float, help="multiplier, where the module is no standard")
    return parser.parse_args(argv)


def convert(backbone: str, source: str, target: str, **sizes) -> int:
    """Writes the weights of a PyTorch module as those of a backbone; the file is whole or absent.

    Args:
        backbone: one of `models.backbones.NAMES` with a PyTorch module.
        source: `.safetensors` or `.npz`.
        target: file that ends with ".weights.h5".
        sizes: width and depth, see `models.backbones.build_backbone`.

    Returns:
        The number of parameters.

    Raises:
        FileNotFoundError: `source` is not there.
        ValueError: `source` does not fit, or `target` ends otherwise.
    """
    if not target.endswith(SUFFIX):
        raise ValueError(f"output: expected a name that ends with {SUFFIX}. Received: {target!r}")
    model = build_backbone(backbone, weights=source, **sizes)
    partial = target.removesuffix(SUFFIX) + f".partial{SUFFIX}"  # Keras wants this suffix
    try:
        model.save_weights(partial)
        os.replace(partial, target)
    finally:
        pathlib.Path(partial).unlink(missing_ok=True)
    return model.count_params()


def main(argv: list[str] | None = None) -> int:
    """Runs the command; 1 where the weights do not fit."""
    args = parse_args(argv)
    try:
        sizes = {"width": args.width, "depth": args.depth}
        count = convert(args.backbone, args.input, args.output, **sizes)
    except (OSError, ValueError) as error:
        print(f"convert_weights: {error}", file=sys.stderr)
        return 1
    print(f"{args.output}: {count:,} parameters, converted from {TABLE[args.backbone].torch}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
