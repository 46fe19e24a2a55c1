"""What to train: one file per published system, data only."""

import importlib

from recipes import twins
from recipes.schema import Recipe

NAMES = (
    "glr2020_1st",
    "aliproducts",
    "bag_of_tricks",
    "digix_cgd",
    "landmark_recognition_2020",
    "renet",
    "taobao_live",
    "demo",
    "grocery",
    "omniglot",
    "tiny",
)


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
