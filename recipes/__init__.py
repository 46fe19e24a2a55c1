"""What to train: one file per published system, data only."""

import importlib

from recipes.schema import Recipe

NAMES = ("glr2020_1st", "demo", "grocery", "omniglot", "tiny")


def load(name: str) -> Recipe:
    """Returns the recipe of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in NAMES:
        raise ValueError(f"--recipe: expected one of {', '.join(NAMES)}. Received: {name!r}")
    return importlib.import_module(f"recipes.{name}").RECIPE
