"""Changes a recipe by texts such as "stage.epochs=1", the words of `--set`."""

import dataclasses
import typing

from named_calls import value_of
from recipes.schema import Member, Recipe


def replace(table, texts: typing.Sequence[tuple[str, str]]):
    """Returns `table` with fields set to what texts say, all at once.

    A text is read as a Python literal, else as a word: "3", "1e-3", "None", "gem".

    Args:
        table: a dataclass.
        texts: (field, text).

    Raises:
        ValueError: no such field, or a value of another kind.
    """
    kind = type(table).__name__.lower()
    hints = typing.get_type_hints(type(table))
    changes = {}
    for name, text in texts:
        if name not in hints:
            raise ValueError(f"--set {kind}.{name}: {kind} has {', '.join(hints)}")
        changes[name] = value_of(text, hints[name], f"--set {kind}.{name}")
    return dataclasses.replace(table, **changes)


def override(recipe: Recipe, settings: typing.Sequence[str]) -> Recipe:
    """Returns the recipe with `--set` texts applied to all its stages, models or itself.

    The texts count together: fields that only fit each other can be changed in any order.

    Args:
        recipe: the recipe.
        settings: texts such as "stage.epochs=1", "model.pooling=gem", "recipe.seed=3",
            "stage.augmentation=('resize', 'random_flip')".

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
    changed = {name for name, _ in texts["stage"]}

    def changed_member(member: Member) -> Member:
        own = {name: value for name, value in member.stage.items() if name not in changed}
        return dataclasses.replace(member, model=replace(member.model, texts["model"]), stage=own)

    return dataclasses.replace(
        recipe,
        stages=tuple(replace(stage, texts["stage"]) for stage in recipe.stages),
        members=tuple(changed_member(member) for member in recipe.members),
    )
