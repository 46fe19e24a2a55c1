"""DLA, whose trees of blocks join fine and coarse (Yu et al., arXiv:1707.06484).

Neither keras.applications, keras-hub nor keras-cv has it. Layers are named as in timm's
`dla102x`, whose weights fit; its "fc" is left out.
"""

from collections.abc import Sequence
from typing import NamedTuple

import keras
from keras import layers

from models.backbones.residual import add, normalized

# Beginnings of names in the published files that the backbone does not have. No layer uses the
# projections: the authors' code made them in every tree that is made of trees, timm's does not.
IGNORED = (
    "fc.",
    "level3.project.",
    "level3.tree1.project.",
    "level4.project.",
    "level4.tree1.project.",
    "level4.tree1.tree1.project.",
)


def build_dla102x(*, name: str = "backbone") -> keras.Model:
    """Builds DLA-X-102, up to its pooling.

    It has 25.3 million parameters; the published 26.3 million are with the classifier of 1000
    classes (1024 · 1000 + 1000).

    Args:
        name: the model's.

    Returns:
        Model: `(B, S, S, 3)` normalised image → `(B, S/32, S/32, 1024)`, S a multiple of 32.

    Reference:
        Yu et al., Deep Layer Aggregation, arXiv:1707.06484.
    """
    return deep_layer_aggregation(
        (16, 32, 128, 256, 512, 1024), (1, 1, 1, 3, 4, 1), groups=32, base_width=4, name=name
    )


def deep_layer_aggregation(
    channels: Sequence[int],
    levels: Sequence[int],
    *,
    groups: int = 1,
    base_width: int = 64,
    name: str = "backbone",
) -> keras.Model:
    """Builds a DLA of bottleneck blocks with residual roots, of any size.

    Args:
        channels: of the levels at S, S/2, S/4, …, the last of which is the result.
        levels: convolutions of the first two of them, and the depths of the trees of the others.
        groups: of the blocks' 3 × 3 convolutions.
        base_width: channels of each group, where a level has 128.
        name: the model's.

    Returns:
        Model: `(B, S, S, 3)` → `(B, S/2^(levels − 1), S/2^(levels − 1), F)`.
    """
    images = keras.Input((None, None, 3))
    x = normalized(images, channels[0], 7, names=("base_layer.0", "base_layer.1"))
    for level in (0, 1):
        for i in range(levels[level]):
            path, stride = f"level{level}", 2 if level and not i else 1
            names = f"{path}.{3 * i}", f"{path}.{3 * i + 1}"
            x = normalized(x, channels[level], 3, names=names, stride=stride)
    for level in range(2, len(levels)):
        filters = channels[level]
        blocks = _Blocks(filters, filters * base_width // 64 * groups // 2, groups)
        bottom = layers.MaxPooling2D(2, name=f"level{level}.downsample")(x)
        children = [bottom] if level > 2 else []
        x = _tree(x, bottom, levels[level], blocks, f"level{level}", 2, children)
    return keras.Model(images, x, name=name)


class _Blocks(NamedTuple):
    """Channels of the blocks of a level, inside them, and groups there."""

    filters: int
    width: int
    groups: int


def _tree(tensor, bottom, depth, blocks, path, stride=1, children=()):
    """Aggregates two trees of a depth less by one, or two blocks.

    Args:
        tensor: `(B, H, W, C)`.
        bottom: `(B, H / stride, W / stride, C)`, the same, pooled.
        depth: of the tree, 1 for two blocks.
        blocks: sizes of the blocks.
        path: name of the tree.
        stride: of the first block.
        children: results of earlier trees, which the last root joins as well.

    Returns:
        `(B, H / stride, W / stride, filters)`.
    """
    if depth > 1:
        first = _tree(tensor, bottom, depth - 1, blocks, f"{path}.tree1", stride)
        return _tree(first, first, depth - 1, blocks, f"{path}.tree2", children=[*children, first])
    if bottom.shape[-1] != blocks.filters:
        names = f"{path}.project.0", f"{path}.project.1"
        bottom = normalized(bottom, blocks.filters, 1, names=names, relu=False)
    first = _block(tensor, bottom, blocks, f"{path}.tree1", stride)
    second = _block(first, first, blocks, f"{path}.tree2")
    return _root([second, first, *children], blocks.filters, f"{path}.root")


def _block(tensor, shortcut, blocks, path, stride=1):
    filters, width, groups = blocks
    names = [(f"{path}.conv{i}", f"{path}.bn{i}") for i in (1, 2, 3)]
    x = normalized(tensor, width, 1, names=names[0])
    x = normalized(x, width, 3, names=names[1], stride=stride, groups=groups)
    x = normalized(x, filters, 1, names=names[2], relu=False)
    return add([x, shortcut], path)


def _root(tensors, filters, path):
    """Joins the results of a tree's parts, the first of which is the shortcut."""
    joined = layers.Concatenate(name=f"{path}.concatenate")(tensors)
    x = normalized(joined, filters, 1, names=(f"{path}.conv", f"{path}.bn"), relu=False)
    return add([x, tensors[0]], path)
