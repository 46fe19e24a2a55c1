"""Calls as text, NAME:OPTION=VALUE,OPTION=VALUE: the steps, losses and image ops of a recipe.

>>> parse("jitter:amount=0.2", {"jitter": jitter}, "an op")
Call(name='jitter', options={'amount': 0.2})
"""

import ast
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence

_COMMA = re.compile(r",(?![^(]*\))")  # outside of parentheses


@dataclasses.dataclass(frozen=True)
class Call:
    """A function's name and its options.

    Attributes:
        name: key of the table that it was looked up in.
        options: keyword arguments.
    """

    name: str
    options: Mapping[str, object]

    def __str__(self) -> str:
        options = ",".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.name}:{options}" if options else self.name


def parse(
    text: str, functions: Mapping[str, Callable], what: str, given: Sequence[str] = ()
) -> Call:
    """Reads one call and checks it against the function's signature, without calling it.

    Args:
        text: NAME or NAME:OPTION=VALUE,...; what is left out has its default. Values are Python
            literals, or words where a text is expected.
        functions: by name, with annotations.
        what: "a step", "a loss": for the errors.
        given: parameters that the caller supplies and a text may not.

    Raises:
        ValueError: there is no such function or option, a value is of another kind, or one without
            a default is missing.
    """
    name, _, listed = text.partition(":")
    if name not in functions:
        raise ValueError(f"expected {what} among {', '.join(functions)}. Received: {text!r}")
    signature = inspect.signature(functions[name], eval_str=True)
    parameters = {
        key: value
        for key, value in signature.parameters.items()
        if key not in given and value.kind is not value.VAR_KEYWORD
    }
    options = {}
    for part in filter(None, _COMMA.split(listed)):
        option, equals, value = part.partition("=")
        option = option.strip()
        if not equals or option not in parameters or option in options:
            raise ValueError(
                f"expected {name} with each of {', '.join(parameters)} at most once. "
                f"Received: {part!r} in {text!r}"
            )
        options[option] = value_of(value, parameters[option].annotation, f"{name}:{option}")
    needed = [
        option
        for option, parameter in parameters.items()
        if parameter.default is parameter.empty and option not in options
    ]
    if needed:
        raise ValueError(f"expected {', '.join(needed)} for {name}. Received: {text!r}")
    return Call(name, options)


def value_of(text: str, annotation: object, where: str) -> object:
    """Returns the value that a text stands for; ValueError if it is of another kind."""
    if annotation is str:
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if not accepts(annotation, value):
        kind = getattr(annotation, "__name__", annotation)
        raise ValueError(f"{where}: expected {kind}. Received: {text!r}")
    return value


def accepts(annotation: object, value: object) -> bool:
    """Whether a value is what an annotation asks for: plain types, unions, tuples of one type."""
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else ()
    if options:
        return any(accepts(option, value) for option in options)
    if typing.get_origin(annotation) is tuple:
        item_type = typing.get_args(annotation)[0]
        return isinstance(value, tuple) and all(accepts(item_type, item) for item in value)
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, annotation)
