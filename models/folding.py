"""A network with frozen BatchNorm, run for training in fewer passes over its activations.

Layers, variables and saved model stay as they are; only the way from the images to the embedding
is gone differently:

- a convolution and the BatchNorm after it are one convolution, whose kernel is multiplied by
  γ/√(σ² + ε) inside the step. γ's gradient then comes from the kernel's, and not from another
  pass over the activations;
- swish keeps its input alone for the gradient;
- blocks can keep their input alone, and are computed again for the gradient.
"""

import dataclasses
import functools
from collections.abc import Sequence

import keras
from keras import ops, tree

from models.activations import swish
from models.graph import Call, Slot, calls_between

DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D, *DEPTHWISE)


@dataclasses.dataclass(frozen=True)
class FoldedCall(Call):
    """A convolution with the BatchNorm after it.

    Attributes:
        norm: the BatchNorm; `layer` is the convolution.
    """

    norm: keras.layers.BatchNormalization


def embed(model: keras.Model, output, images, *, rematerialize: int = 0):
    """Runs a model in inference mode, for training.

    Args:
        model: functional, `(B, S, S, 3)` uint8 → anything.
        output: the model's symbolic tensor to compute, `(B, D)`.
        images: `(B, S, S, 3)`.
        rematerialize: the first so many blocks keep only their input for the gradient.

    Returns:
        What `output` is for the images, with the same gradients as the plain call up to rounding.
    """
    first, calls, last = calls_between(model, output)
    calls = fold(calls)
    values = {first: images}
    done = 0
    for block in blocks(calls)[:rematerialize]:
        values = _run_again_later(block, values)
        done += len(block)
    return _run(calls[done:], values)[last]


def fold(calls: Sequence[Call]) -> list[Call]:
    """Joins every convolution with the BatchNorm that alone uses its result.

    Args:
        calls: of `calls_between`.

    Returns:
        The calls, with a `FoldedCall` in the place of such a BatchNorm.
    """
    makers = {call.outputs[0]: call for call in calls}
    users = [number for call in calls for number in call.inputs]
    folded = {id(call): call for call in calls}
    for call in calls:
        before = makers.get(call.inputs[0])
        if before and users.count(before.outputs[0]) == 1 and _foldable(before.layer, call.layer):
            del folded[id(before)]
            folded[id(call)] = FoldedCall(
                before.layer, before.arguments, call.outputs, norm=call.layer
            )
    return list(folded.values())


def blocks(calls: Sequence[Call]) -> list[list[Call]]:
    """Cuts a network where one tensor is all that goes on, at the narrow ends of its blocks.

    That is after the sum of a block and its input, and where a convolution follows on a
    convolution without an activation. What comes after the last cut is in no block.
    """
    users = {number: call for call in calls for number in call.inputs}  # the last of each
    places = {id(call): i for i, call in enumerate(calls)}
    found, start, alive = [], 0, set()
    for i, call in enumerate(calls):
        alive = {n for n in (*alive, *call.outputs) if n in users and places[id(users[n])] > i}
        if len(alive) == 1 and _ends_block(call, users.get(call.outputs[0])):
            found.append(list(calls[start : i + 1]))
            start = i + 1
    return found


def _ends_block(call: Call, user: Call | None) -> bool:
    linear = isinstance(call, FoldedCall) and type(getattr(user, "layer", None)) in CONVOLUTIONS
    return linear or type(call.layer) is keras.layers.Add


def _foldable(layer, norm) -> bool:
    return (
        type(norm) is keras.layers.BatchNormalization
        and type(layer) in CONVOLUTIONS
        and layer.activation is keras.activations.linear
        and layer.data_format == "channels_last"
        and norm.axis in (-1, layer.rank + 1)
    )


def _run(calls: Sequence[Call], values: dict) -> dict:
    """Returns `values` and what the calls make of them, by number."""
    values = dict(values)
    for call in calls:
        args, kwargs = tree.map_structure(
            lambda leaf: values[leaf.number] if isinstance(leaf, Slot) else leaf, call.arguments
        )
        results = tree.flatten(_apply(call, args, kwargs))
        values.update(zip(call.outputs, results, strict=True))
    return values


def _apply(call: Call, args: tuple, kwargs: dict):
    if isinstance(call, FoldedCall):
        return _convolve(call.layer, call.norm, args[0])
    if isinstance(call.layer, keras.layers.Activation) and _is_swish(call.layer.activation):
        return swish(args[0])
    return call.layer(*args, **kwargs)


def _is_swish(activation) -> bool:
    # The efficientnet package has a function of its own by that name, x·σ(x).
    return activation is keras.activations.silu or activation.__name__ == "swish"


def _convolve(layer, norm, inputs):
    """Returns the convolution with its BatchNorm by stored statistics, `(B, …, F)`."""
    factor = ops.rsqrt(norm.moving_variance + norm.epsilon)  # (F,)
    if norm.scale:
        factor = factor * norm.gamma
    shift = -norm.moving_mean * factor
    if norm.center:
        shift = shift + norm.beta
    if layer.use_bias:
        shift = shift + layer.bias * factor
    kernel = layer.kernel * _per_kernel_channel(layer, factor)
    folded = [(layer.kernel, kernel)]
    if layer.use_bias:
        folded.append((layer.bias, ops.zeros_like(layer.bias)))
    with keras.StatelessScope(state_mapping=folded):
        outputs = layer(inputs)
    return ops.cast(ops.cast(outputs, shift.dtype) + shift, outputs.dtype)


def _per_kernel_channel(layer, factor):
    """Returns a factor per output channel in a shape that multiplies the layer's kernel."""
    if isinstance(layer, DEPTHWISE):
        return ops.reshape(factor, layer.kernel.shape[-2:])
    return factor


def _run_again_later(calls: Sequence[Call], values: dict) -> dict:
    """Returns the one value, by number, that goes on after the calls of a block."""
    ((start, begin),) = values.items()
    layers = [call.layer for call in calls] + [getattr(call, "norm", None) for call in calls]
    variables = {id(v): v for layer in layers for v in getattr(layer, "trainable_variables", ())}
    variables = list(variables.values())
    end = calls[-1].outputs[0]

    def block(begin, *weights):
        with keras.StatelessScope(state_mapping=list(zip(variables, weights, strict=True))):
            return _run(calls, {start: begin})[end]

    weights = [ops.cast(variable, variable.dtype) for variable in variables]
    if keras.backend.is_float_dtype(begin.dtype):
        return {end: keras.remat(block)(begin, *weights)}
    return {end: keras.remat(functools.partial(block, begin))(*weights)}  # uint8 has no gradient
