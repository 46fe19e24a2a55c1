"""A functional model as the list of its layers' calls, so that it can be run in another way."""

import dataclasses
from typing import Any

import keras
from keras import tree


@dataclasses.dataclass(frozen=True)
class Slot:
    """The place of a value among the arguments of a call."""

    number: int


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a layer.

    Attributes:
        layer: the layer or operation.
        arguments: (args, kwargs), with a `Slot` in the place of every tensor.
        outputs: numbers of the values that it makes.
        channels: last dimension of the first of them.
    """

    layer: Any
    arguments: tuple
    outputs: tuple[int, ...]
    channels: int

    @property
    def inputs(self) -> list[int]:
        """Numbers of the values that it needs."""
        return [leaf.number for leaf in tree.flatten(self.arguments) if isinstance(leaf, Slot)]


def calls_between(model: keras.Model, output) -> tuple[int, list[Call], int]:
    """Lists the calls that lead from the input of a functional model to one of its tensors.

    Models inside the model are taken apart into their layers.

    Args:
        model: with one input.
        output: a symbolic tensor of the model, such as `model.get_layer(name).output`.

    Returns:
        The input's number, the calls in an order that works, and the output's number.
    """
    numbers = _Numbers()
    calls = list(_calls(model, numbers))
    first, last = numbers[model.input], numbers[output]
    needed, kept = {last}, []
    for call in reversed(calls):
        if needed.intersection(call.outputs):
            needed.update(call.inputs)
            kept.append(call)
    return first, kept[::-1], last


class _Numbers:
    """Numbers for symbolic tensors; the same for a tensor inside a model and outside of it."""

    def __init__(self):
        self._numbers = {}

    def __getitem__(self, tensor) -> int:
        return self._numbers.setdefault(id(tensor), len(self._numbers))

    def unite(self, tensor, known) -> None:
        self._numbers[id(tensor)] = self[known]


def _calls(model: keras.Model, numbers: _Numbers):
    # Keras has no public list of a model's calls; this is what Functional.call goes through.
    by_depth = model._nodes_by_depth
    for depth in sorted(by_depth, reverse=True):
        for node in by_depth[depth]:
            if node.is_input:
                continue
            layer = node.operation
            if isinstance(layer, keras.Model) and hasattr(layer, "_nodes_by_depth"):
                for inner, outer in zip(layer.inputs, node.input_tensors, strict=True):
                    numbers.unite(inner, outer)
                yield from _calls(layer, numbers)
                for outer, inner in zip(node.outputs, layer.outputs, strict=True):
                    numbers.unite(outer, inner)
            else:
                yield _call(node, numbers)


def _call(node, numbers: _Numbers) -> Call:
    def slot(leaf):
        return Slot(numbers[leaf]) if isinstance(leaf, keras.KerasTensor) else leaf

    return Call(
        node.operation,
        tree.map_structure(slot, (tuple(node.arguments.args), dict(node.arguments.kwargs))),
        tuple(numbers[output] for output in node.outputs),
        node.outputs[0].shape[-1],
    )
