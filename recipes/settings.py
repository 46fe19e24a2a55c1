"""Changes a recipe by texts such as "stage.epochs=1", the words of `--set`."""

import ast
import dataclasses
import types
import typing

from recipes.schema import Recipe


def _accepts(annotation: object, value: object) -> bool:
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else ()
    if options:
        return any(_accepts(option, value) for option in options)
    if typing.get_origin(annotation) is tuple:
        item_type = typing.get_args(annotation)[0]
        return isinstance(value, tuple) and all(_accepts(item_type, item) for item in value)
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, annotation)


def replace(table, name: str, text: str):
    """Returns `table` with the field `name` set to what `text` says.

    `text` is read as a Python literal, else as a word: "3", "1e-3", "None", "gem".

    Raises:
        ValueError: no such field, or a value of another kind.
    """
    kind = type(table).__name__.lower()
    first, _, rest = name.partition(".")
    hints = typing.get_type_hints(type(table))
    if first not in hints:
        raise ValueError(f"--set {kind}.{name}: {kind} has {', '.join(hints)}")
    if rest:
        return dataclasses.replace(table, **{first: replace(getattr(table, first), rest, text)})
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if not _accepts(hints[first], value):
        raise ValueError(
            f"--set {kind}.{name}: expected {getattr(hints[first], '__name__', hints[first])}. "
            f"Received: {text!r}"
        )
    return dataclasses.replace(table, **{first: value})


def override(recipe: Recipe, settings: typing.Sequence[str]) -> Recipe:
    """Returns the recipe with `--set` texts applied to all its stages, models or itself.

    Args:
        recipe: the recipe.
        settings: texts such as "stage.epochs=1", "model.pooling=gem", "recipe.seed=3",
            "stage.augmentation.flip=False".

    Raises:
        ValueError: the text names no field or has a value of another kind.
    """
    for setting in settings:
        target, equals, text = setting.partition("=")
        table, _, name = target.partition(".")
        if not equals or not name or table not in ("stage", "model", "recipe"):
            raise ValueError(
                "--set: expected stage.FIELD=VALUE, model.FIELD=VALUE or recipe.FIELD=VALUE. "
                f"Received: {setting!r}"
            )
        if table == "stage":
            stages = tuple(replace(stage, name, text) for stage in recipe.stages)
            recipe = dataclasses.replace(recipe, stages=stages)
        elif table == "model":
            members = tuple(
                dataclasses.replace(member, model=replace(member.model, name, text))
                for member in recipe.members
            )
            recipe = dataclasses.replace(recipe, members=members)
        else:
            recipe = replace(recipe, name, text)
    return recipe
