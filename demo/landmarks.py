"""The landmarks: each is defined by its number and the seed alone."""

from collections.abc import Callable

import numpy as np

from demo.bridges import bridge
from demo.civic import dome, gate, temple
from demo.facades import house
from demo.interiors import interior
from demo.monuments import column, fountain, sculpture, statue
from demo.shapes import Landmark
from demo.signs import billboard, mural, shop
from demo.towers import church, keep, lighthouse, pagoda, skyscraper

Kind = Callable[[np.random.Generator, np.random.Generator], Landmark]

# Landmarks that share a style are of one kind with similar colours, materials and shapes.
STYLES = 220

KINDS: tuple[tuple[Kind, float], ...] = (
    (house, 0.24), (church, 0.09), (skyscraper, 0.08), (lighthouse, 0.04), (pagoda, 0.03),
    (keep, 0.05), (dome, 0.06), (temple, 0.05), (gate, 0.04), (bridge, 0.07), (statue, 0.05),
    (column, 0.02), (fountain, 0.02), (sculpture, 0.02), (billboard, 0.03), (shop, 0.04),
    (mural, 0.02), (interior, 0.10),
)  # fmt: skip

# What a random generator is for: the first number after the seed.
STYLE, DETAIL, CHOICE, PHOTO, SCENERY, TABLES = range(6)


def generator(seed: int, *numbers: int) -> np.random.Generator:
    """An independent random generator for the seed and the numbers."""
    return np.random.default_rng([seed, *numbers])


def landmark(seed: int, number: int) -> Landmark:
    """The landmark with this number: the same for the same seed, whatever else is drawn."""
    family = int(generator(seed, CHOICE, number).integers(STYLES))
    style = generator(seed, STYLE, family)
    shares = np.cumsum([share for _, share in KINDS])
    chosen = int(np.searchsorted(shares, style.random() * shares[-1], side="right"))
    kind = KINDS[min(chosen, len(KINDS) - 1)][0]
    return kind(style, generator(seed, DETAIL, number))
