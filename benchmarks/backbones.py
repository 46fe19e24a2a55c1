"""Counts the parameters of every backbone, or compares full-size networks with PyTorch's.

    python benchmarks/backbones.py                          table of all, as Markdown
    python benchmarks/backbones.py --torch [NAMES]          outputs at full size, random weights

The second needs torch, torchvision and timm in the same environment, and clones of
github.com/XingangPan/IBN-Net and github.com/kevin-ssy/FishNet for what is in neither. It exits
with 1 where an output differs by more than 1e-4 of the largest value.
"""

import argparse
import importlib
import math
import os
import pathlib
import sys
import types

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from models.backbones import NAMES, TABLE, build_backbone
from models.backbones.conversion import load_torch_weights
from tools import backbone_golden

CLONES = {"IBN-Net": "ibnnet", "FishNet": "models"}  # and the package inside
SEEN = (256, 192)  # width and height in pixels of the image that both are given


def count(name: str) -> tuple[int, tuple[int, ...]]:
    """Returns the trainable parameters of a backbone and its features' shape for 256 pixels."""
    sizes = {"width": 1.0, "depth": 1.0} if name == "efficientnet" else {}
    with keras.StatelessScope(initialize_variables=False):  # shapes only, no memory
        model = build_backbone(name, **sizes)
    parameters = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    return parameters, model.compute_output_shape((1, 256, 256, 3))


def print_counts(names: list[str]) -> int:
    """Prints the table; returns 1 if a count is not the published one."""
    print("| backbone | features | parameters | with classifier | published | weights |")
    print("|---|---|---|---|---|---|")
    wrong = 0
    for name in names:
        entry = TABLE[name]
        parameters, (_, height, width, features) = count(name)
        whole = parameters + 1000 * (features + 1)
        wrong += whole != entry.parameters
        weights = ", ".join(entry.published) or (entry.torch and f"converted: {entry.torch}")
        print(
            f"| {name} | {height}, {width}, {features} | {parameters:,} | {whole:,} | "
            f"{entry.parameters:,} | {weights or 'none'} |"
        )
    return int(wrong > 0)


def torch_network(source: str, clones: dict[str, str]):
    """Makes a public PyTorch network of random weights.

    Args:
        source: library and name, as `Backbone.torch` has them.
        clones: {library: folder} of those that are not packages.
    """
    library, name = source.split()
    if library in CLONES:
        package = types.ModuleType(f"{CLONES[library]}_clone")  # `models` is ours
        package.__path__ = [str(pathlib.Path(clones[library]) / CLONES[library])]
        sys.modules[package.__name__] = package
        file = "resnet_ibn" if library == "IBN-Net" else "net_factory"
        return getattr(importlib.import_module(f"{package.__name__}.{file}"), name)()
    if library == "torchvision":
        return getattr(importlib.import_module("torchvision.models"), name)()
    options = {"dynamic_img_size": True} if name.startswith("vit") else {}
    return importlib.import_module("timm").create_model(name, **options)


def torch_features(network, images):
    """Returns what a network feeds to its pooling, `(B, F, h, w)`."""
    if hasattr(network, "patch_embed"):
        tokens = network.forward_features(images)[:, 1:]
        rows, columns = (size // 16 for size in images.shape[2:])
        return tokens.unflatten(1, (rows, columns)).permute(0, 3, 1, 2)
    if hasattr(network, "forward_features") or hasattr(network, "fish"):
        return backbone_golden.features_of(network, images)
    x = network.maxpool(network.relu(network.bn1(network.conv1(images))))
    return network.layer4(network.layer3(network.layer2(network.layer1(x))))


def difference(name: str, clones: dict[str, str]) -> tuple[float, float]:
    """Returns the largest difference of a backbone's features to PyTorch's, and the largest value.

    Args:
        name: of a backbone with a PyTorch module.
        clones: see `torch_network`.
    """
    import torch

    network = torch_network(TABLE[name].torch, clones)
    with torch.no_grad():
        backbone_golden.randomize(network.eval())
        images = torch.randn(1, 3, SEEN[1], SEEN[0], generator=torch.Generator().manual_seed(2))
        expected = torch_features(network, images).permute(0, 2, 3, 1).numpy()
    model = build_backbone(name)
    state = {key: value.numpy() for key, value in network.state_dict().items()}
    load_torch_weights(model, state, TABLE[name].ignore)
    received = model(images.permute(0, 2, 3, 1).numpy(), training=False)
    return float(np.abs(received - expected).max()), float(np.abs(expected).max())


def print_differences(names: list[str], clones: dict[str, str]) -> int:
    """Prints the differences of networks at full size; returns 1 if one is too large."""
    worst = 0.0
    for name in names:
        if TABLE[name].torch:
            apart, largest = difference(name, clones)
            worst = max(worst, apart / largest)
            print(f"{name} {TABLE[name].torch}: {apart:.2e} of {largest:.3g}", flush=True)
    return int(not worst <= 1e-4)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="backbones (default: all)")
    parser.add_argument("--torch", action="store_true", help="compare with PyTorch's")
    parser.add_argument("--ibn-net", default="IBN-Net", help="folder of its clone")
    parser.add_argument("--fishnet", default="FishNet", help="folder of its clone")
    args = parser.parse_args(argv)
    if unknown := set(args.names) - set(NAMES):
        parser.error(f"names: expected {NAMES}. Received: {sorted(unknown)}")
    names = args.names or list(NAMES)
    if args.torch:
        return print_differences(names, {"IBN-Net": args.ibn_net, "FishNet": args.fishnet})
    return print_counts(names)


if __name__ == "__main__":
    sys.exit(main())
