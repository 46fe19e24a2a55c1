"""The best of similarities that come in tiles: a running threshold, and a sort now and then."""

from __future__ import annotations

import numpy as np

_EMPTY = np.iinfo(np.uint64).max
_NOTHING = np.uint64(0xFF800000 << 32)  # minus infinity at position 0, see `keys_of`


class TopK:
    """The k best answers so far of some queries.

    What exceeds the k-th best is put beside the answers, and sorted in when there is no more room:
    a sort after every tile would take a tenth of the time of the products.

    Args:
        queries: B, their number.
        k: answers for each.
    """

    def __init__(self, queries: int, k: int) -> None:
        self.k = k
        self._keys = np.full((queries, 2 * k), _EMPTY)  # (B, 2 k), see `keys_of`
        self._keys[:, :k] = _NOTHING
        self._filled = np.full(queries, k)  # (B,)
        self._bound = np.full((queries, 1), -np.inf, np.float32)  # (B, 1), what is to be exceeded

    def add(self, products: np.ndarray, first: int, ranks: np.ndarray | None = None) -> None:
        """Adds a tile of similarities.

        Args:
            products: (B, C) similarities of the vectors first, first + 1, ...
            first: position of the tile's first vector, behind all positions added before: a vector
                as similar as the k-th best loses by the tie rule, so that the comparison is strict.
            ranks: (C,) what decides between equal similarities instead of the position; then a
                vector as similar as the k-th best may win.
        """
        survives = products > self._bound if ranks is None else products >= self._bound  # (B, C)
        found = np.count_nonzero(survives)
        if found == 0:
            return
        if found > 4 * self.k * len(products):
            # The first tile, or an index in an unlucky order: hardly more than k can be answers.
            survives &= products >= bound_of_kth(products, self.k)
        row, column = np.divmod(np.flatnonzero(survives), products.shape[1])
        per_row = np.bincount(row, minlength=len(products))
        if (self._filled + per_row).max() > 2 * self.k:
            self._sort(self._keys)
        slot = np.arange(len(row)) - np.repeat(np.cumsum(per_row) - per_row - self._filled, per_row)
        self._filled += per_row
        width = self._filled.max()
        keys = self._keys
        if width > 2 * self.k:
            keys = np.full((len(products), width), _EMPTY)
            keys[:, : self.k] = self._keys[:, : self.k]
        positions = first + column if ranks is None else ranks[column]
        keys[row, slot] = keys_of(products[row, column], positions)
        if keys is not self._keys:
            self._sort(keys)

    def best(self) -> np.ndarray:
        """Returns the keys (B, k) of the best, ascending; see `keys_of`."""
        self._sort(self._keys)
        return self._keys[:, : self.k]

    def _sort(self, keys: np.ndarray) -> None:
        keys.sort(axis=1)
        self._keys[:, : self.k] = keys[:, : self.k]
        self._keys[:, self.k :] = _EMPTY
        self._filled[:] = self.k
        self._bound = similarities_of(self._keys[:, self.k - 1 : self.k])


def bound_of_kth(products: np.ndarray, k: int) -> np.ndarray:
    """Returns (B, 1) numbers that are at most the k-th largest of each row of products (B, C).

    The k-th largest of the maxima of disjoint groups is one, since k groups each hold a product as
    large. It is close, and a tenth of the time of selecting among all products.
    """
    groups = 2 * k
    width = products.shape[1] // groups
    if width < 2:
        return np.float32([[-np.inf]])
    grouped = products[:, : width * groups].reshape(len(products), width, groups)
    return np.partition(grouped.max(axis=1), groups - k, axis=1)[:, groups - k, None]


def keys_of(similarities: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Returns one uint64 per answer whose ascending order is the order of answers.

    The upper half falls with the float32 similarity, the lower half is the position: no two are
    equal, so that any sort is right and the tie rule is part of the number.
    """
    bits = (similarities + np.float32(0)).view(np.uint32)  # + 0 turns -0.0 into 0.0
    return _reversed_order(bits).astype(np.uint64) << np.uint64(32) | positions.astype(np.uint64)


def similarities_of(keys: np.ndarray) -> np.ndarray:
    """Returns the float32 similarities inside `keys`."""
    return _reversed_order((keys >> np.uint64(32)).astype(np.uint32)).view(np.float32)


def _reversed_order(bits: np.ndarray) -> np.ndarray:
    """Maps the bits of float32 to integers in falling order of the floats; its own inverse."""
    negative = bits >> np.uint32(31) == 1
    return np.where(negative, bits, bits ^ np.uint32(0x7FFFFFFF))
