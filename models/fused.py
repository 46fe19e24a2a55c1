"""Layers in the forms in which a frozen network is trained: see `models.folding`."""

import keras
from keras import ops

DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D, *DEPTHWISE)


def is_foldable(layer, norm) -> bool:
    """Whether `folded_weights` holds for this layer with this layer after it."""
    return (
        type(norm) is keras.layers.BatchNormalization
        and type(layer) in CONVOLUTIONS
        and layer.activation is keras.activations.linear
        and layer.data_format == "channels_last"
        and norm.axis in (-1, layer.rank + 1)
    )


def is_pointwise(layer) -> bool:
    """Whether a layer is a convolution of single pixels."""
    return (
        type(layer) is keras.layers.Conv2D
        and layer.groups == 1
        and {*layer.kernel_size, *layer.strides} == {1}
    )


def folded_weights(layer, norm):
    """Returns kernel and shift, float32, of a convolution with its frozen BatchNorm."""
    factor = ops.rsqrt(norm.moving_variance + norm.epsilon)  # (F,)
    if norm.scale:
        factor = factor * norm.gamma
    shift = -norm.moving_mean * factor
    if norm.center:
        shift = shift + norm.beta
    if layer.use_bias:
        shift = shift + layer.bias * factor
    if isinstance(layer, DEPTHWISE):
        return layer.kernel * ops.reshape(factor, layer.kernel.shape[-2:]), shift
    return layer.kernel * factor, shift


def convolution(layer, norm, inputs):
    """Returns the convolution with its BatchNorm by stored statistics, `(B, …, F)`."""
    kernel, shift = folded_weights(layer, norm)
    folded = [(layer.kernel, kernel)]
    if layer.use_bias:
        folded.append((layer.bias, ops.zeros_like(layer.bias)))
    with keras.StatelessScope(state_mapping=folded):
        outputs = layer(inputs)
    return add_shift(outputs, shift)


def excited_convolution(layer, norm, inputs, gate, *, for_tpu: bool = False):
    """Returns `convolution` of `inputs · gate`, for a pointwise convolution.

    The gate multiplies the kernel of each image rather than the image. What the gradients to gate
    and kernel both need, for every image the sum over its pixels of inputs times gradient, is then
    one product, and `inputs · gate` and its gradient are never written. Where an image has few
    pixels for its channels, the images' kernels are more than the images, and this is not done.

    Args:
        layer, norm: the convolution and its BatchNorm.
        inputs: `(B, H, W, C)`.
        gate: `(B, 1, 1, C)`.
        for_tpu: in operations that XLA fuses on a TPU; else in matrix products.

    Returns:
        `(B, H, W, F)`.
    """
    batch, height, width, channels = inputs.shape
    # Measured: on a TPU from 4 pixels a channel, on a CPU from one.
    if None in inputs.shape or height * width < (4 if for_tpu else 1) * channels:
        return convolution(layer, norm, inputs * gate)
    kernel, shift = folded_weights(layer, norm)  # (1, 1, C, F), (F,)
    inputs = ops.cast(inputs, layer.compute_dtype)
    gate = ops.cast(gate, layer.compute_dtype)
    if for_tpu:
        return add_shift(_gated_product(inputs, gate, kernel), shift)
    kernels = ops.cast(ops.reshape(gate, (batch, channels, 1)), "float32") * kernel[0]  # (B, C, F)
    pixels = ops.reshape(inputs, (batch, height * width, channels))
    outputs = ops.matmul(pixels, ops.cast(kernels, inputs.dtype))  # (B, H·W, F)
    return add_shift(ops.reshape(outputs, (batch, height, width, -1)), shift)


def add_shift(outputs, shift):
    """Adds in float32: rounding the shift would cost more than rounding the sum."""
    return ops.cast(ops.cast(outputs, "float32") + shift, outputs.dtype)


@ops.custom_gradient
def _gated_product(inputs, gate, kernel):
    """Returns `inputs · gate · kernel`, `(B, H, W, F)`."""
    narrow = ops.cast(kernel, inputs.dtype)

    def gradient(*args, upstream=None):
        upstream = args[0] if upstream is None else upstream  # (B, H, W, F)
        products = ops.cast(_products_per_image(inputs, upstream), "float32")  # (B, C, F)
        factors = ops.cast(ops.reshape(gate, (*products.shape[:2], 1)), "float32")  # (B, C, 1)
        gate_gradient = ops.sum(products * kernel[0], axis=2)  # (B, C)
        back = ops.conv(upstream, ops.transpose(narrow, (0, 1, 3, 2)), padding="valid")
        return (
            back * gate,
            ops.cast(ops.reshape(gate_gradient, gate.shape), gate.dtype),
            ops.reshape(ops.sum(products * factors, axis=0), kernel.shape),
        )

    return ops.conv(inputs * gate, narrow, padding="valid"), gradient


def _products_per_image(left, right):
    """Returns Σ over the pixels of left·right, `(B, C, F)`, of `(B, H, W, C)` and `(B, H, W, F)`.

    As a grouped convolution with the images as channels: on a TPU, XLA computes the swish before
    `left` inside of that, and would write it first for a batch of matrix products.
    """
    batch, height, width, channels = left.shape
    kernel = ops.reshape(ops.transpose(right, (1, 2, 0, 3)), (height, width, 1, -1))
    images_as_channels = ops.transpose(left, (3, 1, 2, 0))  # (C, H, W, B)
    products = ops.conv(images_as_channels, kernel, padding="valid")  # (C, 1, 1, B·F)
    return ops.transpose(ops.reshape(products, (channels, batch, -1)), (1, 0, 2))
