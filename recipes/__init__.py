"""What to train: one file per published system, data only. A new file here is a new recipe."""

import importlib
import pkgutil

from recipes import twins
from recipes.schema import Recipe

NOT_RECIPES = ("layout", "schema", "settings", "twins")
NAMES = tuple(m.name for m in pkgutil.iter_modules(__path__) if m.name not in NOT_RECIPES)


def load(name: str) -> Recipe:
    """Returns the recipe of that name; NAME_tiny and NAME_small are its twins, see `twins`.

    Raises:
        ValueError: there is none.
    """
    whole, _, kind = name.rpartition("_")
    if whole in NAMES and kind in twins.SIZES:
        return twins.twin(load(whole), kind)
    if name not in NAMES:
        raise ValueError(
            f"--recipe: expected one of {', '.join(NAMES)}, or with _tiny or _small behind it. "
            f"Received: {name!r}"
        )
    return importlib.import_module(f"recipes.{name}").RECIPE
