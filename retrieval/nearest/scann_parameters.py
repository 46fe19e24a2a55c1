"""The parameters of an approximate index: what ScaNN builds, and how it is searched."""

from __future__ import annotations

import dataclasses
import math

# From so many vectors on ScaNN is faster than the matrix product.
WORTH_FROM = 20_000
# Fewer vectors than this give no meaningful partition.
SMALLEST_TREE = 1000
# Quantised scores of this many vectors cost less than 0.3 ms per query; looking into all leaves
# of small indexes keeps recall@100 above 0.99 even for vectors without any clusters.
_LEAST_VECTORS_SEARCHED = 50_000
# Codes of at most this many blocks per vector: longer ones cost as much as they gain.
_MOST_BLOCKS = 512
RESCORINGS = ("bfloat16", "float32")


@dataclasses.dataclass(frozen=True)
class Parameters:
    """How an index is built, and how it is searched.

    The last two can be changed at every search, the others ask for another build.

    Attributes:
        leaves: parts of the partition.
        block: dimensions that share a code of four bits.
        anisotropic: threshold of the anisotropic loss for the codes (0.2 for unit vectors in the
            paper); None for the reconstruction error, which is better where k is large: then the
            answers are not nearly parallel to the query.
        soar: whether each vector is in a second leaf, chosen for the queries that miss the first.
        rescoring: what the candidates are rescored with: the "float32" rows, or their "bfloat16"
            copies (half the memory, a sixth to a fifth faster).
        training: rows that the partition and the codes are trained on.
        leaves_to_search: parts looked into per query; more raises recall and time.
        candidates: vectors rescored for each answer asked for, at least 1.
    """

    leaves: int
    block: int = 2
    anisotropic: float | None = None
    soar: bool = False
    rescoring: str = "bfloat16"
    training: int = 250_000
    leaves_to_search: int = 1
    candidates: float = 10.0

    def __post_init__(self) -> None:
        counts = self.leaves, self.block, self.training, self.leaves_to_search
        if min(counts) < 1 or not self.candidates >= 1:
            raise ValueError(f"expected numbers of at least 1. Received: {self}")
        if self.rescoring not in RESCORINGS:
            expected = " or ".join(RESCORINGS)
            raise ValueError(f"expected rescoring {expected}. Received: {self.rescoring!r}")


def suggest(count: int, dimension: int, k: int = 100, recall: float = 0.99) -> Parameters:
    """Returns parameters that reach the recall on most data; `tuning.tune` finds faster ones.

    About 2 sqrt(N) leaves; an eighth of them searched for recall 0.99, more for more, and at least
    as many as hold 50,000 and 10 k vectors; training on all vectors up to 250,000 (with 40,000 of
    200,000 the same recall needs half again as many leaves).

    Args:
        count: N.
        dimension: D.
        k: the number of neighbours to be asked for.
        recall: the wanted recall@k, below 1.
    """
    if not 0 < recall < 1:
        raise ValueError(f"expected a recall between 0 and 1. Received: {recall}")
    if min(count, dimension, k) < 1:
        raise ValueError(f"expected numbers of at least 1. Received: {(count, dimension, k)}")
    leaves = max(1, round(2 * math.sqrt(count)))
    share = math.sqrt(0.01 / max(1 - recall, 1e-4)) / 8
    enough = max(10 * k, _LEAST_VECTORS_SEARCHED) / count
    return Parameters(
        leaves=leaves,
        block=max(2, math.ceil(dimension / _MOST_BLOCKS)),
        training=min(count, 250_000),
        leaves_to_search=math.ceil(round(leaves * min(1.0, max(share, enough)), 6)),
        candidates=10.0,
    )
