"""Similarities that rounding cannot tell apart, computed again so that ties are ties.

A matrix product in float32 rounds differently at different places of a tile, on several kinds of
processors: copies of one image would be ordered by their place in the index. What lies closer
together than the rounding is computed anew in float64 and rounded once.
"""

from __future__ import annotations

import numpy as np

from retrieval.stored import precision

_BYTES = 1 << 23  # of the rows that are gathered at a time
# Of one float32 operation. A sum of D products of one sign is off by 0.17 sqrt(D) as much (standard
# deviation), others by less: sqrt(D) as much is beyond what the difference of two sums shows.
_RELATIVE_ERROR = 2.0**-23


def tolerances(queries: np.ndarray, largest_norm: float) -> np.ndarray:
    """Returns how far two computed similarities of equal ones can be apart, (Q,) float32.

    Args:
        queries: (Q, D) float32.
        largest_norm: of the vectors.
    """
    relative = _RELATIVE_ERROR * np.sqrt(queries.shape[1])
    return (relative * largest_norm * np.linalg.norm(queries, axis=1)).astype(np.float32)


def settle(
    queries: np.ndarray,
    vectors: np.ndarray | precision.Rows,
    positions: np.ndarray,
    similarities: np.ndarray,
    tolerance: np.ndarray,
) -> None:
    """Replaces similarities that are closer together than rounding by exact ones, in place.

    Args:
        queries: (Q, D) float32.
        vectors: (N, D).
        positions: (Q, k) of the answers.
        similarities: (Q, k) float32, falling; those of close neighbours in a row are replaced by
            their float64 values, rounded to float32.
        tolerance: (Q,), see `tolerances`.
    """
    close = similarities[:, :-1] - similarities[:, 1:] <= tolerance[:, None]  # (Q, k - 1)
    unclear = np.zeros(similarities.shape, bool)
    unclear[:, :-1] = close
    unclear[:, 1:] |= close
    rows, columns = np.nonzero(unclear)
    order = np.argsort(positions[rows, columns], kind="stable")  # reads a memory map forwards
    rows, columns = rows[order], columns[order]
    step = max(1, _BYTES // (24 * queries.shape[1]))
    for first in range(0, len(rows), step):
        row, column = rows[first : first + step], columns[first : first + step]
        found = np.asarray(vectors[positions[row, column]], np.float64)  # (n, D)
        similarities[row, column] = np.einsum("nd,nd->n", found, queries[row])
        precision.release(vectors)
