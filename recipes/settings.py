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


def replace(table, texts: typing.Sequence[tuple[str, str]]):
    """Returns `table` with fields set to what texts say, all at once.

    A text is read as a Python literal, else as a word: "3", "1e-3", "None", "gem".

    Args:
        table: a dataclass.
        texts: (field, text); "augmentation.flip" is a field of the table's field.

    Raises:
        ValueError: no such field, or a value of another kind.
    """
    kind = type(table).__name__.lower()
    hints = typing.get_type_hints(type(table))
    changes, inner = {}, {}
    for name, text in texts:
        first, _, rest = name.partition(".")
        if first not in hints:
            raise ValueError(f"--set {kind}.{name}: {kind} has {', '.join(hints)}")
        if rest:
            inner.setdefault(first, []).append((rest, text))
        else:
            changes[first] = _value(f"{kind}.{name}", hints[first], text)
    changes |= {name: replace(getattr(table, name), own) for name, own in inner.items()}
    return dataclasses.replace(table, **changes)


def _value(name: str, hint: object, text: str) -> object:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if not _accepts(hint, value):
        raise ValueError(
            f"--set {name}: expected {getattr(hint, '__name__', hint)}. Received: {text!r}"
        )
    return value


def override(recipe: Recipe, settings: typing.Sequence[str]) -> Recipe:
    """Returns the recipe with `--set` texts applied to all its stages, models or itself.

    The texts count together: fields that only fit each other can be changed in any order.

    Args:
        recipe: the recipe.
        settings: texts such as "stage.epochs=1", "model.pooling=gem", "recipe.seed=3",
            "stage.augmentation.flip=False".

    Raises:
        ValueError: the text names no field or has a value of another kind.
    """
    texts = {"stage": [], "model": [], "recipe": []}
    for setting in settings:
        target, equals, text = setting.partition("=")
        table, _, name = target.partition(".")
        if not equals or not name or table not in texts:
            raise ValueError(
                "--set: expected stage.FIELD=VALUE, model.FIELD=VALUE or recipe.FIELD=VALUE. "
                f"Received: {setting!r}"
            )
        texts[table].append((name, text))
    recipe = replace(recipe, texts["recipe"])
    return dataclasses.replace(
        recipe,
        stages=tuple(replace(stage, texts["stage"]) for stage in recipe.stages),
        members=tuple(
            dataclasses.replace(member, model=replace(member.model, texts["model"]))
            for member in recipe.members
        ),
    )
