"""Steps as text: `k_reciprocal:k1=20,k2=6,lambda_value=0.3`, in the order in which they run.

A recipe holds such texts, and `retrieval/search.py --steps` takes them. Everything is checked when
the text is read, before any work.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import time
from collections.abc import Mapping, Sequence
from typing import TextIO

from progress import format_seconds
from retrieval.reranking.post_processing import STEPS, State

_TYPES = {"int": int, "float": (int, float), "str": str, "bool": bool}


@dataclasses.dataclass(frozen=True)
class Step:
    """A step and its options.

    Attributes:
        name: one of `post_processing.STEPS`.
        options: its keyword arguments.
    """

    name: str
    options: Mapping[str, int | float | str | bool]

    def __call__(self, state: State) -> State:
        """Does it."""
        return STEPS[self.name](state, **self.options)

    def __str__(self) -> str:
        options = ",".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.name}:{options}" if options else self.name


def parse(text: str) -> Step:
    """Reads one step.

    Args:
        text: NAME or NAME:OPTION=VALUE,OPTION=VALUE; what is left out has its default.

    Raises:
        ValueError: if there is no such step or option, a value is of another kind, or one without a
            default is missing.
    """
    name, _, listed = text.partition(":")
    if name not in STEPS:
        raise ValueError(f"expected a step among {', '.join(STEPS)}. Received: {text!r}")
    parameters = dict(list(inspect.signature(STEPS[name]).parameters.items())[1:])
    options = {}
    for part in filter(None, listed.split(",")):
        option, equals, value = part.partition("=")
        if not equals or option not in parameters or option in options:
            raise ValueError(
                f"expected {name} with each of {', '.join(parameters)} at most once. "
                f"Received: {part!r} in {text!r}"
            )
        options[option] = _value(value, parameters[option].annotation, f"{name}:{option}")
    needed = [
        option
        for option, parameter in parameters.items()
        if parameter.default is parameter.empty and option not in options
    ]
    if needed:
        raise ValueError(f"expected {', '.join(needed)} for the step {name}. Received: {text!r}")
    return Step(name, options)


def run(state: State, texts: Sequence[str], *, stream: TextIO | None = None) -> State:
    """Runs steps one after the other, and the search that is still due at the end.

    Args:
        state: embeddings, and what the steps need besides.
        texts: see `parse`.
        stream: where each step's time goes; None for nowhere.

    Returns:
        The state with answers.

    Raises:
        ValueError: if a step is not understood (before any is run) or lacks what it needs.
    """
    steps = [parse(text) for text in texts]
    for number, step in enumerate(steps, 1):
        started = time.monotonic()
        state = step(state)
        if stream is not None:
            took = format_seconds(time.monotonic() - started)
            print(f"step {number} of {len(steps)}: {step}  {took}", file=stream)
    return state.ranked()


def _value(text: str, annotation: str, where: str) -> int | float | str | bool:
    if annotation == "str":
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    right = isinstance(value, _TYPES[annotation])
    if not right or (isinstance(value, bool) and annotation != "bool"):
        raise ValueError(f"expected {where} to be of type {annotation}. Received: {text!r}")
    return value
