"""Ids that are held as hashes, against a set that holds them whole."""

import io

import numpy as np
import pytest

from retrieval.stored import unique_ids
from retrieval.stored.unique_ids import UniqueIds


def pieces():
    """Ids in pieces of very different sizes, some of them seen before."""
    rng = np.random.default_rng(0)
    for _ in range(400):
        yield [f"é{number}" for number in rng.integers(20_000, size=rng.choice([0, 1, 2, 20]))]


@pytest.mark.parametrize("hashes", [hash, len])
def test_the_same_ids_are_refused_as_by_a_set(monkeypatch, hashes):
    monkeypatch.setattr(unique_ids, "hash", hashes, raising=False)
    known, refused = [], 0
    with UniqueIds() as ids:
        for piece in pieces():
            if len({*known, *piece}) == len(known) + len(piece):
                ids.check(piece)
                ids.add(piece)
                known += piece
            else:
                refused += 1
                with pytest.raises(ValueError, match="more than once: 'é"):
                    ids.check(piece)
        assert ids.count == len(known) > 1000
        assert refused > 20
        file = io.BytesIO()
        ids.write(file)
    assert file.getvalue().decode().splitlines() == known


def test_repeated_ids_are_named():
    with UniqueIds() as ids:
        ids.check(["a", "b", "c"])
        ids.add(["a", "b", "c"])
        with pytest.raises(ValueError, match=r"more than once: 'a', 'c'$"):
            ids.check(["c", "d", "a"])
