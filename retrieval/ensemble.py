"""Ensembles: the descriptors of several models for the same images, joined by id.

Reference: Jeon, "1st Place Solution to Google Landmark Retrieval 2020", arXiv:2009.05132.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from retrieval.embeddings import Embeddings
from retrieval.stored import precision
from retrieval.stored.unique_ids import few

COMBINATIONS = ("concatenate", "scores", "sum")
MISSING = ("error", "drop")


@dataclasses.dataclass(frozen=True)
class Alignment:
    """The images that all members have.

    Attributes:
        ids: N ids, in the order of the first member.
        rows: for each member the rows of these ids, (N,) int64; None where they are all its rows
            in its own order.
        missing: for each member the ids of other members that it lacks, in their order.
    """

    ids: tuple[str, ...]
    rows: tuple[np.ndarray | None, ...]
    missing: tuple[tuple[str, ...], ...]

    def report(self) -> str:
        """Returns one line for each member that lacks ids; "" if none does."""
        return "\n".join(
            f"member {number} lacks {len(ids):,} ids that others have ({few(ids)})"
            for number, ids in enumerate(self.missing, 1)
            if ids
        )


def align(members: Sequence[Embeddings]) -> Alignment:
    """Finds the rows of the ids that all members have, and who lacks which.

    Raises:
        ValueError: without members.
    """
    if not members:
        raise ValueError("expected at least one member. Received: none")
    first = members[0].ids
    if all(member.ids == first for member in members):
        return Alignment(first, (None,) * len(members), ((),) * len(members))
    known = [set(member.ids) for member in members]
    every = dict.fromkeys(image for member in members for image in member.ids)
    missing = tuple(tuple(image for image in every if image not in ids) for ids in known)
    common = set.intersection(*known)
    ids = tuple(image for image in first if image in common)
    return Alignment(ids, tuple(_rows_of(ids, member.ids) for member in members), missing)


def join(
    members: Sequence[Embeddings],
    weights: Sequence[float] | None = None,
    *,
    combine: str = "concatenate",
    missing: str = "error",
) -> tuple[tuple[str, ...], np.ndarray | precision.Rows]:
    """Joins the members of an ensemble to one descriptor per image, by id.

    Nothing is copied: rows are joined when they are read, and `numpy.asarray` makes them an array.

    - "concatenate": every member's L2-normalised row times the member's weight, side by side, not
      normalised again (arXiv:2009.05132). The inner product of two images is sum w^2 cos.
    - "scores": the same with sqrt(w / sum w): the inner product is the weighted mean of the
      members' cosines, sum w cos / sum w, so that searching it is averaging the scores.
    - "sum": the weighted rows added and L2-normalised; the members have one dimension.

    Args:
        members: at least one, with the same ids in any order.
        weights: one positive number per member; all 1 if absent.
        combine: see above.
        missing: what to do if a member lacks ids of another: "error", or "drop" them (`align` says
            which these are).

    Returns:
        ids (N) in the first member's order and the vectors, (N, sum of D) or (N, D): an array-like
        that gives float32 rows by slices. The only member with weight 1 is returned as it is.

    Raises:
        ValueError: if ids are missing in a member, or weights or dimensions do not fit.
    """
    if combine not in COMBINATIONS:
        raise ValueError(f"expected one of {', '.join(COMBINATIONS)}. Received: {combine!r}")
    if missing not in MISSING:
        raise ValueError(f"expected missing ids to be one of {MISSING}. Received: {missing!r}")
    weights = check_weights(len(members), weights)
    alignment = align(members)
    if missing == "error" and (report := alignment.report()):
        raise ValueError(f"expected the same ids in every member. Received: {report}")
    if not alignment.ids and any(member.ids for member in members):
        raise ValueError("expected ids that all members have. Received: none")
    if len(members) == 1 and (weights == [1.0] or combine == "scores"):
        return alignment.ids, members[0].vectors
    vectors = [member.vectors for member in members]
    if combine == "sum":
        return alignment.ids, SummedRows(vectors, alignment.rows, weights)
    if combine == "scores":
        weights = [math.sqrt(weight / sum(weights)) for weight in weights]
    return alignment.ids, ConcatenatedRows(vectors, alignment.rows, weights)


class ConcatenatedRows(precision.Rows):
    """The members' rows times their weights, side by side.

    Args:
        members: each (Nm, Dm) float32 or `precision.Rows`.
        rows: for each member the row of every image, (N,) int64, or None for all in their order.
        weights: one number per member.
    """

    def __init__(
        self,
        members: Sequence[np.ndarray | precision.Rows],
        rows: Sequence[np.ndarray | None],
        weights: Sequence[float],
    ) -> None:
        count = len(members[0] if rows[0] is None else rows[0])
        super().__init__((count, self._dimension([member.shape[1] for member in members])))
        self.members = members
        self.rows = rows
        self.weights = [np.float32(weight) for weight in weights]

    def read(self, rows: slice | np.ndarray) -> np.ndarray:
        """Returns float32 (n, sum of D): the rows of a slice or of row numbers."""
        pieces = [
            member[rows if own is None else own[rows]]
            for member, own in zip(self.members, self.rows, strict=True)
        ]
        joined = np.empty((len(pieces[0]), self.shape[1]), np.float32)
        start = 0
        for piece, weight in zip(pieces, self.weights, strict=True):
            np.multiply(piece, weight, out=joined[:, start : start + piece.shape[1]])
            start += piece.shape[1]
        return joined

    def release(self) -> None:
        """Takes what was read of memory maps out of this process's memory."""
        for member in self.members:
            precision.release(member)

    def _dimension(self, dimensions: list[int]) -> int:
        return sum(dimensions)


class SummedRows(ConcatenatedRows):
    """The members' rows times their weights, added and L2-normalised; see `ConcatenatedRows`."""

    def read(self, rows: slice | np.ndarray) -> np.ndarray:
        """Returns float32 (n, D): the rows of a slice or of row numbers."""
        total = np.float32(0)
        for member, own, weight in zip(self.members, self.rows, self.weights, strict=True):
            total = total + member[rows if own is None else own[rows]] * weight
        norms = np.linalg.norm(total, axis=1, keepdims=True)  # (n, 1)
        if not np.all(norms > 1e-6):
            raise ValueError(
                "expected members whose sum has a direction. Received: rows that cancel, "
                f"{np.count_nonzero(~(norms > 1e-6))} of {len(norms)} read"
            )
        return total / norms

    def _dimension(self, dimensions: list[int]) -> int:
        if len(set(dimensions)) > 1:
            raise ValueError(f"expected members of one dimension to add. Received: {dimensions}")
        return dimensions[0]


def check_models(
    models: Sequence[str], members: Sequence[Embeddings], directories: Sequence[str]
) -> None:
    """Raises ValueError unless embeddings are by the models of an index, in their order.

    Args:
        models: the digest of each member's model.
        members: one per model.
        directories: of the members.
    """
    if len(members) != len(models):
        raise ValueError(
            f"expected embeddings by each of the {len(models)} models of the index. "
            f"Received: {len(members)} directories"
        )
    for digest, member, name in zip(models, members, directories, strict=True):
        if member.manifest["model_digest"] != digest:
            raise ValueError(
                f"expected all embedded by the same model as the index, {digest!r}. "
                f"Received: {name} by {member.manifest['model_digest']!r}"
            )


def check_weights(members: int, weights: Sequence[float] | None) -> list[float]:
    """Returns one float per member, 1 where none is given; ValueError if they do not fit."""
    if members == 0:
        raise ValueError("expected at least one member. Received: none")
    weights = [1.0] * members if weights is None else [float(weight) for weight in weights]
    if len(weights) != members:
        raise ValueError(f"expected {members} weights, one per member. Received: {len(weights)}")
    if not all(0 < weight < math.inf for weight in weights):
        raise ValueError(f"expected positive weights. Received: {weights}")
    return weights


def _rows_of(ids: tuple[str, ...], member_ids: tuple[str, ...]) -> np.ndarray | None:
    """Returns the member's row of every id, (N,) int64; None if these are all in their order."""
    if ids == member_ids:
        return None
    row_of = {image: row for row, image in enumerate(member_ids)}
    return np.array([row_of[image] for image in ids], np.int64)
