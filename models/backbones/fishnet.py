"""FishNet, which goes down to S/32, up to S/4 and down again (Sun et al., arXiv:1901.03495).

Neither keras.applications, keras-hub nor keras-cv has it. Layers are named as in the authors'
public `fishnet99` and `fishnet150`, whose weights fit; its classifier "fish.fish.9.4.1" is left
out.
"""

from collections.abc import Sequence

import keras
from keras import layers, ops

from models.backbones import units

TAIL, BODY, HEAD = 3, 3, 3  # stages that go down, up, and down again
REDUCTION = 16  # of the neck's squeeze and excite
# Beginnings of names in the published files that the backbone does not have.
IGNORED = ("fish.fish.9.4.1.",)


def build_fishnet99(*, name: str = "backbone") -> keras.Model:
    """Builds FishNet-99, up to its pooling.

    It has 15.6 million parameters; the published 16.6 million are with the classifier of 1000
    classes (1056 · 1000 + 1000).

    Args:
        name: the model's.

    Returns:
        Model: `(B, S, S, 3)` normalised image → `(B, S/32, S/32, 1056)`, S a multiple of 32.

    Reference:
        Sun et al., FishNet: A Versatile Backbone for Image, Region, and Pixel Level Prediction,
        arXiv:1901.03495.
    """
    return fish_net(
        (64, 128, 256, 512, 512, 512, 384, 256, 320, 832, 1600),
        (2, 2, 6, 2, 1, 1, 1, 1, 2, 2),
        (1, 1, 1, 1, 1, 4),
        name=name,
    )


def fish_net(
    channels: Sequence[int],
    blocks: Sequence[int],
    transfers: Sequence[int],
    *,
    name: str = "backbone",
) -> keras.Model:
    """Builds a FishNet of any size.

    Args:
        channels: of the stem, and of the blocks of the ten stages: three of the tail, the neck,
            three of the body, three of the head.
        blocks: of the ten stages.
        transfers: blocks on the way of an earlier feature map to each stage of body and head.
        name: the model's.

    Returns:
        Model: `(B, S, S, 3)` → `(B, S/32, S/32, F)`, where F is half the channels of the last
        stage with those that were handed on to it.
    """
    images = keras.Input((None, None, 3))
    features = [_stem(images, channels[0])]  # (B, S/4, S/4, C)
    for i in range(TAIL):
        x = _blocks(features[-1], channels[i + 1], blocks[i], f"fish.fish.{i}.0")
        features.append(layers.MaxPooling2D(2, name=f"fish.fish.{i}.pool")(x))
    features.append(_neck(features[-1], channels[TAIL + 1], blocks[TAIL], f"fish.fish.{TAIL}"))
    for i in range(TAIL + 1, TAIL + 1 + BODY + HEAD):
        features.append(_refine(features, channels[i + 1], blocks[i], transfers[i - TAIL - 1]))
    return keras.Model(images, _squeeze(features[-1], f"fish.fish.{i}.3"), name=name)


def _refine(features, filters, blocks, transfers):
    """Goes up or down once more, and joins an earlier map of that resolution."""
    i = len(features) - 1  # number of the stage
    path, number = f"fish.fish.{i}", i - TAIL - 1
    body = number < BODY
    x = _blocks(
        features[-1],
        filters,
        blocks,
        f"{path}.0",
        dilation=2**number if body else 1,
        refine=body,
    )
    x = (layers.UpSampling2D if body else layers.MaxPooling2D)(2, name=f"{path}.2")(x)  # nearest
    # The body goes up past the maps of the tail, the head down past those of the body.
    earlier = features[TAIL - 1 - number] if body else features[2 * (TAIL + BODY) + 1 - i]
    y = _blocks(earlier, earlier.shape[-1], transfers, f"{path}.1")
    return layers.Concatenate(name=f"{path}.concatenate")([x, y])


def _stem(images, channels):
    x = images
    for i, filters in enumerate((channels // 2, channels // 2, channels), start=1):
        x = units.convolution(x, filters, 3, stride=2 if i == 1 else 1, name=f"conv{i}.0")
        x = _activated(x, f"conv{i}.1")
    x = layers.ZeroPadding2D(1, name="pool1.padding")(x)  # no value is below zero
    return layers.MaxPooling2D(3, 2, name="pool1")(x)


def _activated(tensor, name):
    """BatchNorm and ReLU."""
    return layers.Activation("relu", name=f"{name}.relu")(units.normalize(tensor, name=name))


def _squeeze(tensor, path):
    """Halves the channels."""
    x = _activated(tensor, f"{path}.0")
    x = units.convolution(x, tensor.shape[-1] // 2, 1, name=f"{path}.2")
    return _activated(x, f"{path}.3")


def _neck(tensor, filters, blocks, path):
    """Blocks at the coarsest resolution, excited by their input."""
    x = _squeeze(tensor, f"{path}.0")
    x = units.convolution(x, 2 * filters, 1, bias=True, name=f"{path}.1")
    gate = _activated(x, f"{path}.3.0.0")
    gate = layers.GlobalAveragePooling2D(keepdims=True, name=f"{path}.3.0.2")(gate)
    gate = units.convolution(gate, filters // REDUCTION, 1, bias=True, name=f"{path}.3.0.3")
    gate = layers.Activation("relu", name=f"{path}.3.0.4")(gate)
    gate = units.convolution(gate, filters, 1, bias=True, name=f"{path}.3.0.5")
    gate = layers.Activation("sigmoid", name=f"{path}.3.0.6")(gate)  # (B, 1, 1, filters)
    x = _blocks(x, filters, blocks, f"{path}.2")
    x = layers.Multiply(name=f"{path}.excite")([x, gate])
    return layers.Add(name=f"{path}.sum")([x, gate])


def _blocks(tensor, filters, count, path, **options):
    for i in range(count):
        tensor = _block(tensor, filters, f"{path}.{i}", **options)
    return tensor


def _block(tensor, filters, path, *, dilation=1, refine=False):
    """Bottleneck of a fourth of the channels, with BatchNorm and ReLU before each convolution."""
    x = _activated(tensor, f"{path}.bn1")
    x = units.convolution(x, filters // 4, 1, name=f"{path}.conv1")
    x = _activated(x, f"{path}.bn2")
    x = units.convolution(x, filters // 4, 3, dilation=dilation, name=f"{path}.conv2")
    x = _activated(x, f"{path}.bn3")
    x = units.convolution(x, filters, 1, name=f"{path}.conv3")
    shortcut = tensor
    if tensor.shape[-1] != filters and refine:
        shortcut = ChannelSum(filters, name=f"{path}.squeeze")(tensor)
    elif tensor.shape[-1] != filters:
        shortcut = _activated(tensor, f"{path}.shortcut.0")
        shortcut = units.convolution(shortcut, filters, 1, name=f"{path}.shortcut.2")
    return layers.Add(name=f"{path}.sum")([x, shortcut])


@keras.saving.register_keras_serializable(package="waymark")
class ChannelSum(layers.Layer):
    """Adds up each few neighbouring channels: a shortcut to fewer channels without weights.

    Args:
        filters: channels F of the result.

    Call arguments:
        inputs: `(B, H, W, k·F)`.

    Input shape:
        `(B, H, W, k·F)`, k a whole number.

    Output shape:
        `(B, H, W, F)`.

    Example:
        >>> ChannelSum(2)(keras.ops.ones((1, 4, 4, 6))).shape
        TensorShape([1, 4, 4, 2])

    Reference:
        Sun et al., FishNet, arXiv:1901.03495, equation 4: the channel-wise reduction r.
    """

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters

    def build(self, input_shape):
        if input_shape[-1] % self.filters:
            raise ValueError(
                f"ChannelSum: expected channels in multiples of {self.filters}. "
                f"Received: inputs of shape {input_shape}"
            )

    def call(self, inputs):
        outer, channels = ops.shape(inputs)[:-1], inputs.shape[-1]
        neighbours = (*outer, self.filters, channels // self.filters)
        return ops.sum(ops.reshape(inputs, neighbours), axis=-1)  # (B, H, W, F)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.filters)

    def get_config(self) -> dict:
        return {**super().get_config(), "filters": self.filters}
