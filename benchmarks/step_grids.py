"""The settings of post-processing that post_processing.py tries, and how a chosen one is called."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

from retrieval.reranking import steps

_TOPS = (1, 2, 3, 5, 10, 20, 30)
# By kind of step, the step and the values of each option that are tried.
GRIDS: dict[str, tuple[str, Mapping[str, Sequence]]] = {
    "learned whitening": (
        "learned_whitening",
        {"dimension": (32, 64, 128, 256), "shrinkage": (0.01, 0.1, 0.3, 0.6)},
    ),
    "PCA": (
        "pca",
        {
            "dimension": (32, 64, 128, 256),
            "whiten": (0.0, 0.25, 0.5, 1.0),
            "fit_on": ("reference", "index"),
        },
    ),
    "index expansion": ("expand_index", {"rule": ("average", "decaying"), "top": _TOPS}),
    "query expansion": ("expand_queries", {"top": _TOPS, "alpha": (0.0, 1.0, 3.0)}),
    "k-reciprocal": (
        "k_reciprocal",
        {"k1": (10, 20, 30, 40), "k2": (1, 3, 6, 10, 15), "lambda_value": (0.1, 0.3, 0.5)},
    ),
    "diffusion": (
        "diffusion",
        {
            "neighbours": (10, 20, 50),
            "query_neighbours": (3, 5, 10),
            "gamma": (1.0, 3.0),
            "alpha": (0.9, 0.99),
        },
    ),
}
# What goes together, one of each: projection, index, queries, re-ranking.
KINDS = (
    ("learned whitening", "PCA"),
    ("index expansion",),
    ("query expansion",),
    ("k-reciprocal", "diffusion"),
)
ALL = ("learned whitening", "index expansion", "query expansion", "k-reciprocal")


def candidates(kind: str) -> Iterator[str]:
    """Yields the texts of a kind's grid."""
    step, grid = GRIDS[kind]
    for values in itertools.product(*grid.values()):
        options = ",".join(f"{option}={value}" for option, value in zip(grid, values, strict=True))
        yield f"{step}:{options}"


def subsets() -> list[tuple[str, ...]]:
    """Returns the sets of kinds with at most one of each, in the order of the grids."""
    kinds = [(None, *kind) for kind in KINDS]
    return [tuple(filter(None, names)) for names in itertools.product(*kinds)]


def label_of(text: str) -> str:
    """Returns what a step does in words: "PCA 128", "query expansion (alpha 0, top 3)"."""
    step, name = steps.parse(text), kind_of(text)
    options = dict(step.options)
    if "dimension" in options:
        name += f" {options.pop('dimension')}"
    if step.name == "pca":
        power = options.pop("whiten", 0)
        name += f", whitening to the power {power:g}" if power else ""
    words = [_words(option, value) for option, value in sorted(options.items())]
    return f"{name} ({', '.join(words)})" if words else name


def kind_of(text: str) -> str:
    """Returns the kind of a step, the key of its grid."""
    name = steps.parse(text).name
    return next(kind for kind, (step, _) in GRIDS.items() if step == name)


def _words(option: str, value: object) -> str:
    if option == "rule":
        return str(value)
    if option == "fit_on":
        return f"fitted on {'the training set' if value == 'reference' else f'the {value}'}"
    return f"{option.removesuffix('_value').replace('_', ' ')} {value:g}"
