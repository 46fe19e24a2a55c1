"""Residual networks in their PyTorch form: ResNet, with IBN-a, SE-ResNeXt and Res2Net.

keras.applications has ResNet-50/101/152 in another form, with the stride in the first convolution
of a block and without a choice of the last stride: see `applications`. The others are in none of
keras.applications, keras-hub and keras-cv. Layers are named as in torchvision, timm and IBN-Net,
whose weights fit.
"""

import dataclasses
from collections.abc import Sequence

import keras
from keras import layers, ops

from models.backbones import residual, units

EXPANSION = 4
REDUCTION = 16


@dataclasses.dataclass(frozen=True)
class _Block:
    """What distinguishes the families: see `build_resnet`."""

    groups: int
    base_width: int
    squeeze: bool
    scales: int
    ibn: bool


def build_resnet(
    blocks: Sequence[int] = (3, 4, 6, 3),
    *,
    widths: Sequence[int] = (64, 128, 256, 512),
    stem: int = 64,
    groups: int = 1,
    base_width: int = 64,
    squeeze: bool = False,
    scales: int = 1,
    ibn: bool = False,
    last_stride: int = 2,
    name: str = "backbone",
) -> keras.Model:
    """Builds a residual network of bottleneck blocks.

    Args:
        blocks: number of blocks of each of the four stages: (3, 4, 6, 3), (3, 4, 23, 3) and
            (3, 8, 36, 3) are ResNet-50, 101 and 152.
        widths: channels of the stages, before they are multiplied by 4.
        stem: channels of the first convolution.
        groups, base_width: the 3 × 3 convolutions have `groups` groups of `base_width` / 64 of
            the stage's width each: 32 and 4 are ResNeXt 32x4d.
        squeeze: squeeze and excite at the end of a block.
        scales: into how many parts the 3 × 3 convolution is split, each part seeing the result
            of the part before: 4 with a base width of 26 is Res2Net 26w 4s.
        ibn: half of the channels after the first convolution of a block have instance instead of
            batch normalisation, except in the last stage.
        last_stride: stride of the last stage; 1 gives a feature map twice as fine.
        name: the model's.

    Returns:
        Model: `(B, S, S, 3)` normalised image → `(B, S/32, S/32, F)`, S/16 with `last_stride` 1,
        F four times the last width.

    Raises:
        ValueError: another last stride than 1 or 2.

    Reference:
        He et al., Deep residual learning for image recognition, arXiv:1512.03385, with the stride
        in the 3 × 3 convolution as in torchvision.
        Hu et al., Squeeze-and-excitation networks, arXiv:1709.01507.
        Xie et al., Aggregated residual transformations for deep neural networks, arXiv:1611.05431.
        Gao et al., Res2Net: a new multi-scale backbone architecture, arXiv:1904.01169.
        Pan et al., Two at once: enhancing learning and generalization capacities via IBN-Net,
        arXiv:1807.09441.
        Luo et al., Bag of tricks and a strong baseline for deep person re-identification,
        arXiv:1903.07071 (the last stride).
    """
    if last_stride not in (1, 2):
        raise ValueError(f"last_stride: expected 1 or 2. Received: {last_stride!r}")
    kind = _Block(groups, base_width, squeeze, scales, ibn)
    images = keras.Input((None, None, 3))
    x = residual.normalized(images, stem, 7, names=("conv1", "bn1"), stride=2)
    x = layers.ZeroPadding2D(1, name="maxpool.padding")(x)  # nothing is below 0
    x = layers.MaxPooling2D(3, 2, name="maxpool")(x)
    strides = (1, 2, 2, last_stride)
    for stage, (count, width, stride) in enumerate(zip(blocks, widths, strides, strict=True), 1):
        options = dataclasses.replace(kind, ibn=ibn and stage < len(blocks))
        for block in range(count):
            x = _bottleneck(x, width, 1 if block else stride, options, f"layer{stage}.{block}")
    return keras.Model(images, x, name=name)


def _bottleneck(tensor, width: int, stride: int, kind: _Block, path: str):
    """Block `(B, H, W, C)` → `(B, H / stride, W / stride, 4 · width)`."""
    inner = int(width * kind.base_width / 64) * kind.groups
    is_first = stride > 1 or tensor.shape[-1] != EXPANSION * width
    x = units.convolution(tensor, inner * kind.scales, 1, name=f"{path}.conv1")
    x = (_instance_batch if kind.ibn else units.normalize)(x, name=f"{path}.bn1")
    x = layers.Activation("relu", name=f"{path}.bn1.relu")(x)
    if kind.scales > 1:
        x = _hierarchical(x, kind, stride, is_first, path)
    else:
        names, options = _names(path, 2), {"stride": stride, "groups": kind.groups}
        x = residual.normalized(x, inner, 3, names=names, **options)
    x = residual.normalized(x, EXPANSION * width, 1, names=_names(path, 3), relu=False)
    if kind.squeeze:
        x = _squeeze_excite(x, f"{path}.se")
    if is_first:
        names = f"{path}.downsample.0", f"{path}.downsample.1"
        tensor = residual.normalized(
            tensor, EXPANSION * width, 1, names=names, relu=False, stride=stride
        )
    return residual.add([x, tensor], path)


def _names(path: str, number: int) -> tuple[str, str]:
    return f"{path}.conv{number}", f"{path}.bn{number}"


def _hierarchical(tensor, kind: _Block, stride: int, is_first: bool, path: str):
    """Res2Net's 3 × 3 convolutions: each part is added to the result of the part before.

    In the first block of a stage the parts stay apart, and the last one is averaged.
    """
    parts = ops.split(tensor, kind.scales, axis=-1)
    options = {"stride": stride, "groups": kind.groups}
    done = []
    for i, part in enumerate(parts[:-1]):
        x = part
        if done and not is_first:
            x = layers.Add(name=f"{path}.add{i}")([done[-1], x])
        names = f"{path}.convs.{i}", f"{path}.bns.{i}"
        done.append(residual.normalized(x, part.shape[-1], 3, names=names, **options))
    last = parts[-1]
    if is_first:  # PyTorch counts the padding
        last = layers.ZeroPadding2D(1, name=f"{path}.pool.padding")(last)
        last = layers.AveragePooling2D(3, stride, name=f"{path}.pool")(last)
    return layers.Concatenate(name=f"{path}.concatenation")([*done, last])


def _instance_batch(tensor, *, name: str):
    """IBN-a: instance normalisation of the first half of the channels, BatchNorm of the rest."""
    half = tensor.shape[-1] // 2
    first, rest = ops.split(tensor, [half], axis=-1)
    first = layers.GroupNormalization(half, epsilon=units.EPSILON, name=f"{name}.IN")(first)
    rest = units.normalize(rest, name=f"{name}.BN")
    return layers.Concatenate(name=f"{name}.concatenation")([first, rest])


def _squeeze_excite(tensor, path: str):
    """Multiplies every channel by a gate that is computed from the means of all channels."""
    channels = tensor.shape[-1]
    gate = layers.GlobalAveragePooling2D(keepdims=True, name=f"{path}.pool")(tensor)
    gate = layers.Conv2D(max(channels // REDUCTION, 8), 1, activation="relu", name=f"{path}.fc1")(
        gate
    )
    gate = layers.Conv2D(channels, 1, activation="sigmoid", name=f"{path}.fc2")(gate)
    return layers.Multiply(name=f"{path}.product")([tensor, gate])
