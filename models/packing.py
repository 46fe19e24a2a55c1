"""Convolutions of few channels over rows of several pixels, for a TPU's memory.

A TPU keeps the last dimension of an array in tiles of 128: 32 channels take the room and the
traffic of 128. So four neighbouring pixels of a row become one position with 4·32 channels, which
is the same memory read in another shape, and a convolution over pixels becomes a convolution over
positions, whose kernel holds the same weights in more places and zeros elsewhere. The matrix unit
multiplies 128 × 128 at a time in either case.
"""

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops

from models import fused

LANES = 128


@dataclasses.dataclass(frozen=True)
class Packed:
    """Feature map with several pixels of a row in one position.

    Attributes:
        tensor: `(B, H, W/factor, factor·C)`.
        factor: pixels in one position.
    """

    tensor: Any
    factor: int

    @property
    def shape(self) -> tuple:
        """`(B, H, W, C)`, unpacked."""
        batch, height, width, channels = self.tensor.shape
        return batch, height, width * self.factor, channels // self.factor

    def like(self, tensor) -> "Packed":
        """Returns the result of an operation on every pixel and channel by itself."""
        return Packed(tensor, self.factor)


def unpack(value):
    """Returns the plain `(B, H, W, C)` of a `Packed`; anything else as it is."""
    if not isinstance(value, Packed):
        return value
    return ops.reshape(value.tensor, value.shape)


def mean_over_pixels(value: Packed, *, keepdims: bool = False):
    """Returns the mean over height and width, `(B, C)`, or `(B, 1, 1, C)` with `keepdims`."""
    batch, _, _, channels = value.shape
    means = ops.mean(value.tensor, axis=(1, 2))  # (B, factor·C)
    means = ops.mean(ops.reshape(means, (batch, value.factor, channels)), axis=1)
    return ops.reshape(means, (batch, 1, 1, channels)) if keepdims else means


def per_channel(value: Packed, vector):
    """Returns `(…, C)` in the shape of the packed channels, `(…, factor·C)`."""
    return ops.tile(vector, (1,) * (len(vector.shape) - 1) + (value.factor,))


def convolution(layer, norm, value):
    """Returns `fused.convolution` of a feature map as `Packed`, or None where that does not fit.

    Args:
        layer, norm: the convolution and its BatchNorm.
        value: `Packed`, or `(B, H, W, C)` to begin with.
    """
    plan = _plan(layer, value)
    if plan is None:
        return None
    before, after = plan
    if not isinstance(value, Packed):
        batch, height, width, channels = value.shape
        value = Packed(
            ops.reshape(value, (batch, height, width // before, before * channels)), before
        )
    kernel, shift = fused.folded_weights(layer, norm)
    select, _, step = _selection(layer, value.shape[2], before, after)
    kernel = _over_positions(ops.cast(kernel, layer.compute_dtype), select, layer)
    outputs = ops.conv(
        ops.cast(value.tensor, layer.compute_dtype),
        kernel,
        strides=[layer.strides[0], step],
        padding="same",
    )
    return Packed(fused.add_shift(outputs, ops.tile(shift, (after,))), after)


def _plan(layer, value) -> tuple[int, int] | None:
    """Returns how many pixels the convolution's input and output hold in a position."""
    plain = not isinstance(value, Packed)
    if type(layer) not in (keras.layers.Conv2D, keras.layers.DepthwiseConv2D):
        return None
    if None in value.shape or layer.padding != "same" or set(layer.dilation_rate) != {1}:
        return None
    if getattr(layer, "groups", 1) != 1 or getattr(layer, "depth_multiplier", 1) != 1:
        return None
    stride = layer.strides[1]
    channels = getattr(layer, "filters", None) or layer.kernel.shape[2]
    after = 2 ** int(np.log2(max(1, LANES // channels)))
    while value.shape[2] % (after * stride):
        after //= 2
        if not after:
            return None
    before = after * stride if plain else value.factor
    width = value.shape[2]
    if after == 1 or (after * stride) % before:
        return None
    return (before, after) if _same_padding_fits(layer, width, before, after) else None


def _same_padding_fits(layer, width: int, before: int, after: int) -> bool:
    """Whether "same" padding of the positions is "same" padding of the pixels."""
    select, first, step = _selection(layer, width, before, after)
    positions, outputs = width // before, width // layer.strides[1] // after
    total = max((outputs - 1) * step + select.shape[1] - positions, 0)
    return total // 2 == -first


def _selection(layer, width: int, before: int, after: int) -> tuple[np.ndarray, int, int]:
    """Returns where the columns of a kernel over pixels lie in the one over positions.

    Returns:
        `(k, T, before, after)` of 0 and 1: [j, t, a, q] is 1 where column j of the kernel joins
        pixel a of position t and pixel q of the output; the number of the first position, seen
        from the output's; and the stride in positions.
    """
    columns, stride = layer.kernel_size[1], layer.strides[1]
    outputs = -(-width // stride)
    left = max((outputs - 1) * stride + columns - width, 0) // 2
    pixel = np.arange(after)[:, None] * stride + np.arange(columns) - left  # (after, k)
    position, first = pixel // before, (pixel // before).min()
    select = np.zeros((columns, position.max() - first + 1, before, after), "float32")
    for q, j in np.ndindex(pixel.shape):
        select[j, position[q, j] - first, pixel[q, j] % before, q] = 1
    return select, int(first), after * stride // before


def _over_positions(kernel, select: np.ndarray, layer):
    """Returns the kernel over positions, `(k, T, before·C, after·F)`."""
    if type(layer) is keras.layers.DepthwiseConv2D:
        kernel = kernel * ops.eye(kernel.shape[2], dtype=kernel.dtype)  # (k, k, C, C)
    rows, _, channels, filters = kernel.shape
    _, positions, before, after = select.shape
    kernel = ops.einsum("ijco,jtaq->itacqo", kernel, ops.cast(select, kernel.dtype))
    return ops.reshape(kernel, (rows, positions, before * channels, after * filters))
