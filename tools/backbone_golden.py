"""Makes reference values for the tests of backbones, with the public PyTorch networks.

The networks are tiny and of random weights and BatchNorm statistics. A file
`backbone_<name>.npz` holds "images" (B, H, W, 3) float16, "features" (B, H/32, W/32, F) float32,
and every array of the module's state as "state/<its name>", float16. Needs torch and timm (made
with 2.13.0 and 1.0.31), and for FishNet a clone of github.com/kevin-ssy/FishNet:

    python tools/backbone_golden.py tests/golden --fishnet FishNet hrnet dla fishnet
"""

import argparse
import importlib
import pathlib
import sys
import types

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import numpy as np


def hrnet():
    """HRNet of branches of 3 to 6 channels, with a head as narrow."""
    from timm.models.hrnet import HighResolutionNet

    class SmallHead(HighResolutionNet):
        # timm sets both to the published values, whose head alone has 13 million weights.
        head_channels = property(lambda self: [2, 3, 4, 5], lambda self, value: None)
        num_features = property(lambda self: 10, lambda self, value: None)

    def stage(modules, channels, block="BASIC"):
        count = len(channels)
        return {
            "num_modules": modules,
            "num_branches": count,
            "block_type": block,
            "num_blocks": (1,) * count,
            "num_channels": channels,
            "fuse_method": "SUM",
        }

    stages = {
        "stage1": stage(1, (4,), "BOTTLENECK"),
        "stage2": stage(1, (3, 4)),
        "stage3": stage(2, (3, 4, 5)),
        "stage4": stage(1, (3, 4, 5, 6)),
    }
    return SmallHead({"stem_width": 6, **stages}, num_classes=1)


def dla():
    """DLA with a tree of depth 3."""
    from timm.models.dla import DLA, DlaBottleneck

    return DLA(
        (1, 2, 1, 3, 2, 1),
        (4, 6, 8, 12, 16, 16),
        cardinality=2,
        base_width=32,
        block=DlaBottleneck,
        shortcut_root=True,
        num_classes=1,
    )


def fishnet(repository: str):
    """FishNet of a sixteenth of the channels.

    Args:
        repository: the folder of the clone.
    """
    package = types.ModuleType("fishnet_repository")  # its own name, `models`, is ours
    package.__path__ = [str(pathlib.Path(repository) / "models")]
    sys.modules[package.__name__] = package
    return importlib.import_module("fishnet_repository.fishnet").fish(
        network_planes=[8, 8, 16, 32, 32, 32, 24, 16, 20, 24, 28],
        num_res_blks=[2, 1, 1, 1, 2, 1, 2, 1, 1, 1],
        num_trans_blks=[1, 1, 1, 1, 2, 1],
        num_cls=1,
        num_down_sample=3,
        num_up_sample=3,
    )


def randomize(network) -> None:
    """Gives a module's normalisations statistics, factors and shifts as after training.

    All values are such that float16 holds them.
    """
    import torch

    generator = torch.Generator().manual_seed(1)
    for name, value in network.state_dict().items():
        if name.endswith("running_var") or (value.ndim == 1 and name.endswith("weight")):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.ndim == 1:
            value.normal_(0.0, 0.3, generator=generator)
        value.copy_(value.half())


def features_of(network, images):
    """Returns what the module feeds to its pooling, `(B, F, H, W)`, of `(B, 3, S, S)`."""
    if hasattr(network, "forward_features"):
        return network.forward_features(images)
    found = []  # FishNet's pooling begins the last part of its last stage
    pooling = network.fish.fish[-1][-1][0]
    handle = pooling.register_forward_pre_hook(lambda module, inputs: found.append(inputs[0]))
    network(images)
    handle.remove()
    return found[0]


def write(path: str, network, *, height: int = 64, width: int = 96) -> None:
    """Runs a module on a random image and writes that, its state and its features.

    Args:
        path: the file, `.npz`.
        network: a torch.nn.Module.
        height, width: of the image, in pixels.
    """
    import torch

    randomize(network.eval())
    image = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(2)).half()
    with torch.no_grad():
        features = features_of(network, image.float())
    state = network.state_dict().items()
    arrays = {f"state/{n}": v.half().numpy() for n, v in state if v.is_floating_point()}
    arrays["images"] = image.permute(0, 2, 3, 1).numpy()
    arrays["features"] = features.permute(0, 2, 3, 1).numpy()
    np.savez_compressed(path, **arrays)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", help="folder of the files")
    parser.add_argument("names", nargs="+", choices=["hrnet", "dla", "fishnet"])
    parser.add_argument("--fishnet", default="FishNet", help="folder of the public repository")
    options = parser.parse_args(argv)
    import torch

    makers = {"hrnet": hrnet, "dla": dla, "fishnet": lambda: fishnet(options.fishnet)}
    for name in options.names:
        torch.manual_seed(1)
        write(str(pathlib.Path(options.output) / f"backbone_{name}.npz"), makers[name]())
    return 0


if __name__ == "__main__":
    sys.exit(main())
