"""Layers as PyTorch has them: explicit symmetric padding, its BatchNorm, its names.

The name of a layer is its path in the public PyTorch module, so that `conversion` needs no table.
"""

import keras
from keras import layers

EPSILON = 1e-5
MOMENTUM = 0.9  # PyTorch writes 0.1, the share of the new


def convolution(
    tensor,
    filters: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
    bias: bool = False,
    name: str,
):
    """Applies a convolution padded on every side by dilation·(kernel − 1)/2, as PyTorch does.

    Args:
        tensor: `(B, H, W, C)`.
        filters: channels F of the result.
        kernel: side of the square kernel, odd.
        stride, groups, dilation: of the convolution; as many groups as channels and filters are
            a depthwise convolution.
        bias: whether it has one.
        name: the layer's.

    Returns:
        `(B, ⌈H / stride⌉, ⌈W / stride⌉, F)`.
    """
    padding = dilation * (kernel - 1) // 2
    if padding and stride > 1:  # else "same" pads alike
        tensor = layers.ZeroPadding2D(padding, name=f"{name}.padding")(tensor)
    shared = {
        "strides": stride,
        "padding": "valid" if stride > 1 else "same",
        "dilation_rate": dilation,
        "use_bias": bias,
        "name": name,
    }
    if groups > 1 and groups == filters == tensor.shape[-1]:
        return layers.DepthwiseConv2D(kernel, **shared)(tensor)
    return layers.Conv2D(filters, kernel, groups=groups, kernel_initializer=_he_normal(), **shared)(
        tensor
    )


def normalize(tensor, *, name: str):
    """Applies PyTorch's BatchNorm: ε = 1e-5, 0.1 of the new statistics."""
    return layers.BatchNormalization(epsilon=EPSILON, momentum=MOMENTUM, name=name)(tensor)


def _he_normal() -> keras.initializers.Initializer:
    """Kaiming's normal initialisation by fan-out, torchvision's for its ResNets."""
    return keras.initializers.VarianceScaling(
        2.0, mode="fan_out", distribution="untruncated_normal"
    )
