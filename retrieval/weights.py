"""Searches the weights of an ensemble on a labelled set: `python retrieval/weights.py DIR DIR ...`.

Every image of the set queries the others, and mAP@100 decides. Use images that are not the test's.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Callable, Sequence

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import numpy as np

from retrieval import embeddings, ensemble
from retrieval.embeddings import Embeddings
from retrieval.projecting import validation

# Factors by which one weight is changed, the coarse ones first.
FACTORS = (2.0, 2**0.5, 2**0.25)


@dataclasses.dataclass(frozen=True)
class Step:
    """One try.

    Attributes:
        weights: one per member.
        score: mAP@k on the labelled set.
        is_best: whether it is better than all before.
    """

    weights: tuple[float, ...]
    score: float
    is_best: bool


@dataclasses.dataclass(frozen=True)
class Search:
    """What a search has found.

    Attributes:
        weights: the best, the largest being 1.
        score: their mAP@k.
        steps: all tries in their order.
    """

    weights: tuple[float, ...]
    score: float
    steps: tuple[Step, ...]


def search_weights(
    members: Sequence[Embeddings],
    labels: Sequence | np.ndarray,
    *,
    combine: str = "concatenate",
    k: int = 100,
    start: Sequence[float] | None = None,
    factors: Sequence[float] = FACTORS,
    on_step: Callable[[Step], None] | None = None,
    memory_mb: int = 1024,
) -> Search:
    """Finds weights by changing one at a time: deterministic, as exact search and the order are.

    For each factor, every member's weight is multiplied and divided by it, and the change is kept
    if the score rises, until no change helps; then the next, finer factor. The score does not
    depend on the weights' common scale.

    Args:
        members: at least two, with the same ids.
        labels: N classes, of the ids of the first member, equal for images of one class.
        combine: see `ensemble.join`.
        k: ranks of the score, see `validation.leave_one_out_map`.
        start: weights to begin with; all 1 if absent.
        factors: greater than 1.
        on_step: is told every try.
        memory_mb: working memory of the search in MiB.

    Raises:
        ValueError: if the members, labels or weights do not fit.
    """
    if len(members) < 2:
        raise ValueError(f"expected at least two members. Received: {len(members)}")
    if not all(factor > 1 for factor in factors):
        raise ValueError(f"expected factors greater than 1. Received: {list(factors)}")
    steps: list[Step] = []
    known: dict[tuple[float, ...], float] = {}

    def score(weights: tuple[float, ...]) -> float:
        if weights not in known:
            _, vectors = ensemble.join(members, weights, combine=combine)
            value = validation.leave_one_out_map(vectors, labels, k, memory_mb=memory_mb)
            is_best = value > max(known.values(), default=-1.0)
            known[weights] = value
            steps.append(Step(weights, value, is_best))
            if on_step is not None:
                on_step(steps[-1])
        return known[weights]

    best = _scaled(ensemble.check_weights(len(members), start))
    score(best)
    for factor in factors:
        best = _climb(best, factor, score)
    return Search(best, known[best], tuple(steps))


def _climb(
    best: tuple[float, ...], factor: float, score: Callable[[tuple[float, ...]], float]
) -> tuple[float, ...]:
    """Changes single weights by a factor as long as that raises the score."""
    while True:
        before = best
        for member in range(len(best)):
            for change in (factor, 1 / factor):
                tried = list(best)
                tried[member] *= change
                if score(_scaled(tried)) > score(best):
                    best = _scaled(tried)
                    break
        if best == before:
            return best


def _scaled(weights: Sequence[float]) -> tuple[float, ...]:
    """Divides by the largest; rounded, so that a way there and back meets the same weights."""
    return tuple(float(f"{weight / max(weights):.6g}") for weight in weights)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog="python retrieval/weights.py",
        description="Searches an ensemble's weights: leave-one-out mAP@100 on a labelled set.",
    )
    parser.add_argument("members", nargs="+", metavar="DIR", help="embeddings of the same images")
    parser.add_argument("--labels", required=True, metavar="TABLE", help="CSV, Parquet, JSON-lines")
    parser.add_argument("--id-column", default="id", help="default: %(default)s")
    parser.add_argument("--label-column", default="label", help="default: %(default)s")
    parser.add_argument("--combine", choices=ensemble.COMBINATIONS, default="concatenate")
    parser.add_argument("--start", nargs="+", type=float, metavar="W", help="default: all 1")
    parser.add_argument("--memory-mb", type=int, default=1024, help="default: %(default)s")
    parser.add_argument("--output", metavar="JSON", help="the best weights and every step")
    options = parser.parse_args(argv)
    try:
        members = [embeddings.load(directory) for directory in options.members]
        labels = validation.read_labels(
            options.labels,
            members[0].ids,
            id_column=options.id_column,
            label_column=options.label_column,
        )
        found = search_weights(
            members,
            labels,
            combine=options.combine,
            start=options.start,
            on_step=lambda step: print(_line(step), flush=True),
            memory_mb=options.memory_mb,
        )
        if options.output:
            embeddings.write_json(options.output, dataclasses.asdict(found))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    words = " ".join(f"{weight:g}" for weight in found.weights)
    print(f"best of {len(found.steps)}: --weights {words}, mAP@100 {found.score:.4f}")
    return 0


def _line(step: Step) -> str:
    words = " ".join(f"{weight:<8.4g}" for weight in step.weights)
    return f"mAP@100 {step.score:.4f}  weights {words}{' *' if step.is_best else ''}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
