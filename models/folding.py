"""A network with frozen BatchNorm, run for training in fewer passes over its activations.

Layers, variables and saved model stay as they are; only the way from the images to the embedding
is gone differently:

- a convolution and the BatchNorm after it are one convolution, whose kernel is multiplied by
  γ/√(σ² + ε) inside the step. γ's gradient then comes from the kernel's, and not from another
  pass over the activations;
- swish keeps its input alone for the gradient;
- blocks can keep their input alone, and are computed again for the gradient.
"""

import collections
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import keras
from keras import ops, tree

from models import fused, packing
from models.activations import swish
from models.graph import Call, Slot, calls_between


@dataclasses.dataclass(frozen=True)
class FoldedCall(Call):
    """A convolution with the BatchNorm after it.

    Attributes:
        norm: the BatchNorm; `layer` is the convolution.
    """

    norm: keras.layers.BatchNormalization


@dataclasses.dataclass(frozen=True)
class ExcitedCall(FoldedCall):
    """A multiplication (squeeze and excite) with the pointwise convolution after it.

    Its arguments are those of the multiplication.
    """


def embed(model: keras.Model, output, images, *, rematerialize: int = 0, vmem: int | None = None):
    """Runs a model in inference mode, for training.

    Args:
        model: functional, `(B, S, S, 3)` uint8 → anything.
        output: the model's symbolic tensor to compute, `(B, D)`.
        images: `(B, S, S, 3)`.
        rematerialize: the first so many blocks keep only their input for the gradient.
        vmem: bytes of vector memory of the TPU core that this is for; None is another device. On
            a TPU, arithmetic costs less than memory and traffic: layers of few channels run
            packed, see `models.packing`, and blocks whose widest feature map fits into the vector
            memory keep only their input as well, which is then read back instead of theirs.

    Returns:
        What `output` is for the images, with the same gradients as the plain call up to rounding.
    """
    first, calls, last = calls_between(model, output)
    calls = fold(calls)
    values = {first: images}
    done = 0
    for i, block in enumerate(blocks(calls)):
        (begin,) = values.values()
        again = i < rematerialize or (vmem is not None and _widest(block, begin) <= vmem)
        values = _run_block(block, values, vmem is not None, again)
        done += len(block)
    return _run(calls[done:], values, vmem is not None)[last]


def fold(calls: Sequence[Call]) -> list[Call]:
    """Joins calls that are better done together.

    Args:
        calls: of `calls_between`.

    Returns:
        The calls, with a `FoldedCall` in the place of a BatchNorm that alone uses the result of a
        convolution, and an `ExcitedCall` where that alone uses the result of a multiplication.
    """
    return _join_neighbours(_join_neighbours(calls, _fold), _excite)


def _join_neighbours(calls: Sequence[Call], join: Callable) -> list[Call]:
    """Replaces a call, and the one that makes its first input for it alone, by `join` of both."""
    users = collections.Counter(number for call in calls for number in call.inputs)
    kept = {}  # by what they make
    for call in calls:
        maker = kept.get(call.inputs[0]) if users[call.inputs[0]] == 1 else None
        joined = join(maker, call) if maker else None
        if joined:
            del kept[maker.outputs[0]]
        kept[call.outputs[0]] = joined or call
    return list(kept.values())


def _fold(before: Call, call: Call) -> Call | None:
    if not fused.is_foldable(before.layer, call.layer):
        return None
    return FoldedCall(before.layer, before.arguments, call.outputs, call.channels, norm=call.layer)


def _excite(before: Call, call: Call) -> Call | None:
    if type(before.layer) is not keras.layers.Multiply or not isinstance(call, FoldedCall):
        return None
    if len(before.inputs) != 2 or not fused.is_pointwise(call.layer):
        return None
    return ExcitedCall(call.layer, before.arguments, call.outputs, call.channels, norm=call.norm)


def blocks(calls: Sequence[Call]) -> list[list[Call]]:
    """Cuts a network where one tensor is all that goes on, at the narrow ends of its blocks.

    That is after the sum of a block and its input, and where a convolution follows on a
    convolution without an activation. What comes after the last cut is in no block.
    """
    users = collections.defaultdict(list)
    for i, call in enumerate(calls):
        for number in call.inputs:
            users[number].append(i)
    found, start, alive = [], 0, set()
    for i, call in enumerate(calls):
        alive = {number for number in (*alive, *call.outputs) if max(users[number], default=0) > i}
        followers = [calls[user].layer for user in users[call.outputs[0]]]
        if len(alive) == 1 and _ends_block(call, followers):
            found.append(list(calls[start : i + 1]))
            start = i + 1
    return found


def _ends_block(call: Call, followers: list) -> bool:
    linear = isinstance(call, FoldedCall) and any(type(f) in fused.CONVOLUTIONS for f in followers)
    return linear or type(call.layer) is keras.layers.Add


def _widest(block: Sequence[Call], begin) -> int:
    """Returns the bytes of the widest feature map of a block, in two bytes per number."""
    pixels = math.prod(begin.shape[:3])
    return 2 * pixels * max(call.channels for call in block)


def _run(calls: Sequence[Call], values: dict, for_tpu: bool) -> dict:
    """Returns `values` and what the calls make of them, by number."""
    values = dict(values)
    for call in calls:
        args, kwargs = tree.map_structure(
            lambda leaf: values[leaf.number] if isinstance(leaf, Slot) else leaf, call.arguments
        )
        result = _run_packed(call, args) if for_tpu else None
        if result is None:
            args, kwargs = tree.map_structure(packing.unpack, (args, kwargs))
            result = _run_plain(call, args, kwargs, for_tpu)
        values.update(zip(call.outputs, tree.flatten(result), strict=True))
    return values


def _run_plain(call: Call, args: tuple, kwargs: dict, for_tpu: bool):
    if isinstance(call, ExcitedCall):
        first, second = args[0]
        if tuple(second.shape[1:3]) == (1, 1):
            return fused.excited_convolution(call.layer, call.norm, first, second, for_tpu=for_tpu)
        return fused.convolution(call.layer, call.norm, first * second)
    if isinstance(call, FoldedCall):
        return fused.convolution(call.layer, call.norm, *args)
    if _is_swish(call.layer):
        return swish(args[0])
    return call.layer(*args, **kwargs)


def _run_packed(call: Call, args: tuple):
    """Returns the result of a call as `packing.Packed`, or None where that does not fit."""
    values = tree.flatten(args)
    value = values[0]
    if type(call) is FoldedCall:
        return packing.convolution(call.layer, call.norm, value)
    if not isinstance(value, packing.Packed):
        return None
    if isinstance(call, ExcitedCall):
        gate = packing.per_channel(value, values[1])
        return packing.convolution(call.layer, call.norm, value.like(value.tensor * gate))
    if _is_swish(call.layer):
        return value.like(swish(value.tensor))
    if isinstance(call.layer, keras.layers.Dropout):  # inference
        return value
    if type(call.layer) is keras.layers.GlobalAveragePooling2D:
        return packing.mean_over_pixels(value, keepdims=call.layer.keepdims)
    if type(call.layer) is keras.layers.Add and len({type(v) for v in values}) == 1:
        return value.like(ops.add(values[0].tensor, values[1].tensor))
    return None


def _is_swish(layer) -> bool:
    if type(layer) is not keras.layers.Activation:
        return False
    # The efficientnet package has a function of its own by that name, x·σ(x).
    return layer.activation is keras.activations.silu or layer.activation.__name__ == "swish"


def _run_block(calls: Sequence[Call], values: dict, for_tpu: bool, again: bool) -> dict:
    """Returns the one value, by number, that goes on after the calls of a block.

    Args:
        calls, values, for_tpu: see `_run`.
        again: keep only the value at the beginning, and compute the block again for the gradient.
    """
    ((start, begin),) = values.items()
    end = calls[-1].outputs[0]
    if not again:
        return {end: _run(calls, values, for_tpu)[end]}
    layers = [call.layer for call in calls] + [getattr(call, "norm", None) for call in calls]
    variables = {id(v): v for layer in layers for v in getattr(layer, "trainable_variables", ())}
    variables = list(variables.values())
    made = []  # the result, of which `keras.remat` hands on the tensor

    def block(tensor, *weights):
        value = begin.like(tensor) if isinstance(begin, packing.Packed) else tensor
        with keras.StatelessScope(state_mapping=list(zip(variables, weights, strict=True))):
            made.append(_run(calls, {start: value}, for_tpu)[end])
        return getattr(made[-1], "tensor", made[-1])

    tensor = getattr(begin, "tensor", begin)
    weights = [ops.cast(variable, variable.dtype) for variable in variables]
    if keras.backend.is_float_dtype(tensor.dtype):
        result = keras.remat(block)(tensor, *weights)
    else:  # uint8 has no gradient
        result = keras.remat(functools.partial(block, tensor))(*weights)
    return {end: made[0].like(result) if isinstance(made[0], packing.Packed) else result}
