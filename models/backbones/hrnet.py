"""HRNet, which keeps a fine feature map beside the coarser ones (Wang et al., arXiv:1908.07919).

Neither keras.applications, keras-hub nor keras-cv has it. Layers are named as in timm's
`hrnet_w18` … `hrnet_w64`, whose weights fit; its "classifier" is left out.
"""

from collections.abc import Sequence

import keras
from keras import layers

from models.backbones.residual import add, normalized

WIDTHS = (18, 30, 32, 40, 44, 48, 64)
# Beginnings of names in the published files that the backbone does not have.
IGNORED = ("classifier.",)


def build_hrnet(width: int, *, name: str = "backbone") -> keras.Model:
    """Builds HRNet with the head for classification, up to its pooling.

    HRNet-W18 has 19.3 and HRNet-W30 35.7 million parameters; the published 21.3 and 37.7 million
    are with the classifier of 1000 classes (2048 · 1000 + 1000).

    Args:
        width: channels of the finest feature map, one of `WIDTHS`.
        name: the model's.

    Returns:
        Model: `(B, S, S, 3)` normalised image → `(B, S/32, S/32, 2048)`, S a multiple of 32.

    Raises:
        ValueError: no such width was published.

    Reference:
        Wang et al., Deep High-Resolution Representation Learning for Visual Recognition,
        arXiv:1908.07919.
    """
    if width not in WIDTHS:
        raise ValueError(f"width: expected one of {WIDTHS}. Received: {width!r}")
    return high_resolution_net([width * 2**branch for branch in range(4)], name=name)


def high_resolution_net(
    widths: Sequence[int],
    *,
    stem: tuple[int, int] = (64, 64),
    bottleneck: int = 64,
    blocks: int = 4,
    modules: Sequence[int] = (1, 4, 3),
    head: Sequence[int] = (32, 64, 128, 256),
    features: int = 2048,
    name: str = "backbone",
) -> keras.Model:
    """Builds an HRNet of any size.

    Args:
        widths: channels of the branches, the finest at S/4 first, each half as fine as the last.
        stem: channels of the two convolutions at S/2 and S/4.
        bottleneck: inner channels of the blocks of stage 1; they end with four times as many.
        blocks: residual blocks of stage 1, and of each branch in a module.
        modules: of stages 2, 3, …, which have 2, 3, … branches; a module ends with the exchange
            between all branches.
        head: inner channels of the block that follows on each branch.
        features: channels F of the result.
        name: the model's.

    Returns:
        Model: `(B, S, S, 3)` → `(B, S/2^(branches + 1), S/2^(branches + 1), F)`.
    """
    images = keras.Input((None, None, 3))
    x = normalized(images, stem[0], 3, names=("conv1", "bn1"), stride=2)
    x = normalized(x, stem[1], 3, names=("conv2", "bn2"), stride=2)
    for block in range(blocks):
        x = _bottleneck(x, bottleneck, f"layer1.{block}")
    branches = [x]
    for number, count in enumerate(modules, start=2):
        branches = _transition(branches, widths[:number], f"transition{number - 1}")
        for module in range(count):
            branches = _module(branches, blocks, f"stage{number}.{module}")
    return keras.Model(images, _head(branches, head, features), name=name)


def _numbered(tensor, filters, kernel, path, **options):
    """`normalized` with the names that torch.nn.Sequential gives."""
    return normalized(tensor, filters, kernel, names=(f"{path}.0", f"{path}.1"), **options)


def _step(tensor, filters, kernel, path, number, **options):
    """`normalized` with the names that a residual block gives."""
    names = f"{path}.conv{number}", f"{path}.bn{number}"
    return normalized(tensor, filters, kernel, names=names, **options)


def _basic_block(tensor, path):
    filters = tensor.shape[-1]
    x = _step(tensor, filters, 3, path, 1)
    x = _step(x, filters, 3, path, 2, relu=False)
    return add([x, tensor], path)


def _bottleneck(tensor, filters, path):
    x = _step(tensor, filters, 1, path, 1)
    x = _step(x, filters, 3, path, 2)
    x = _step(x, 4 * filters, 1, path, 3, relu=False)
    if tensor.shape[-1] != 4 * filters:
        tensor = _numbered(tensor, 4 * filters, 1, f"{path}.downsample", relu=False)
    return add([x, tensor], path)


def _transition(branches, widths, path):
    """Gives the branches their widths, and begins one more from the last, half as fine."""
    found = []
    for i, width in enumerate(widths):
        if i == len(branches):
            found.append(_numbered(branches[-1], width, 3, f"{path}.{i}.0", stride=2))
        elif branches[i].shape[-1] != width:
            found.append(_numbered(branches[i], width, 3, f"{path}.{i}"))
        else:
            found.append(branches[i])
    return found


def _module(branches, blocks, path):
    """Residual blocks on every branch, and then for each the sum of all, at its resolution."""
    branches = list(branches)
    for i in range(len(branches)):
        for block in range(blocks):
            branches[i] = _basic_block(branches[i], f"{path}.branches.{i}.{block}")
    fused = []
    for i in range(len(branches)):
        terms = [
            _exchange(branches, j, i, f"{path}.fuse_layers.{i}.{j}") for j in range(len(branches))
        ]
        fused.append(add(terms, f"{path}.fuse_layers.{i}"))
    return fused


def _exchange(branches, source, target, path):
    """Brings one branch to the channels and the resolution of another."""
    x, filters = branches[source], branches[target].shape[-1]
    if source > target:
        x = _numbered(x, filters, 1, path, relu=False)
        return layers.UpSampling2D(2 ** (source - target), name=f"{path}.2")(x)  # nearest
    for step in range(target - source):
        last = step == target - source - 1
        width = filters if last else x.shape[-1]
        x = _numbered(x, width, 3, f"{path}.{step}", stride=2, relu=not last)
    return x


def _head(branches, filters, features):
    """Widens the branches and adds them up from fine to coarse."""
    x = None
    for i, branch in enumerate(branches):
        wide = _bottleneck(branch, filters[i], f"incre_modules.{i}.0")
        if x is None:
            x = wide
            continue
        path = f"downsamp_modules.{i - 1}"
        x = _numbered(x, wide.shape[-1], 3, path, stride=2, bias=True)
        x = layers.Add(name=f"{path}.sum")([wide, x])
    return _numbered(x, features, 1, "final_layer", bias=True)
