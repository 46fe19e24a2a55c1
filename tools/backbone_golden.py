"""Makes reference values for the tests of backbones, with the public PyTorch networks.

The networks are tiny and of random weights and BatchNorm statistics. A file
`backbone_<name>.npz` holds "images" (B, H, W, 3) float16, "features" (B, H/32, W/32, F) float32,
and every array of the module's state as "state/<its name>", float16. Needs torch and timm (made
with 2.13.0 and 1.0.31), and for FishNet a clone of github.com/kevin-ssy/FishNet:

    python tools/backbone_golden.py tests/golden --fishnet FishNet
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


def resnet(**options):
    """ResNet of 16 to 32 channels with the stem of ResNet-50.

    Args:
        options: of timm's ResNet.
    """
    from timm.models.resnet import Bottleneck, ResNet

    options = {"block": Bottleneck, **options}
    return ResNet(layers=(1, 2, 1, 1), channels=(16, 16, 32, 32), num_classes=1, **options)


def se_resnext():
    """The same with 4 groups of 4 to 8 channels, and squeeze and excite."""
    return resnet(cardinality=4, base_width=16, block_args={"attn_layer": "se"})


def res2net():
    """The same in four scales of 6 to 13 channels."""
    from timm.models.res2net import Bottle2neck

    return resnet(block=Bottle2neck, base_width=26, block_args={"scale": 4})


def ibn():
    """ResNet with the first normalisation of a block as in IBN-Net, whose sizes are fixed."""
    import torch

    class InstanceBatch(torch.nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.IN = torch.nn.InstanceNorm2d(channels // 2, affine=True)
            self.BN = torch.nn.BatchNorm2d(channels - channels // 2)

        def forward(self, x):
            first, rest = x.tensor_split([self.IN.num_features], dim=1)
            return torch.cat((self.IN(first), self.BN(rest)), dim=1)

    network = resnet()
    for stage in (network.layer1, network.layer2, network.layer3):
        for block in stage:
            block.bn1 = InstanceBatch(block.bn1.num_features)
    return network


def vit():
    """Vision transformer of 24 channels, of a grid of 4 × 4 patches of 8 pixels."""
    from timm.models.vision_transformer import VisionTransformer

    class Patches(VisionTransformer):
        def forward_features(self, images):
            tokens = super().forward_features(images)[:, 1:]
            rows, columns = images.shape[2] // 8, images.shape[3] // 8
            return tokens.unflatten(1, (rows, columns)).permute(0, 3, 1, 2)

    return Patches(
        img_size=32,
        patch_size=8,
        embed_dim=24,
        depth=2,
        num_heads=3,
        dynamic_img_size=True,
        num_classes=1,
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
    makers = {make.__name__: make for make in (hrnet, dla, resnet, se_resnext, res2net, ibn, vit)}
    makers["fishnet"] = lambda: fishnet(options.fishnet)
    parser.add_argument("names", nargs="*", help=f"of {list(makers)} (default: all)")
    parser.add_argument("--fishnet", default="FishNet", help="folder of the public repository")
    options = parser.parse_args(argv)
    if unknown := set(options.names) - makers.keys():
        parser.error(f"names: expected {list(makers)}. Received: {sorted(unknown)}")
    import torch

    for name in options.names or makers:
        torch.manual_seed(1)
        write(str(pathlib.Path(options.output) / f"backbone_{name}.npz"), makers[name]())
    return 0


if __name__ == "__main__":
    sys.exit(main())
