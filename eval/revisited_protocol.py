"""The protocol of revisited Oxford and Paris (Radenovic et al., CVPR 2018, arXiv:1803.11285).

Every query has easy, hard and junk images. Each of three settings calls some of them positives and
takes others out of the ranking as junk; all the rest is wrong:

    setting   positives     junk
    easy      easy          junk + hard
    medium    easy + hard   junk
    hard      hard          junk + easy

Queries are described from their box alone (`bbx`); a descriptor of the whole photograph is another
protocol, whose numbers do not compare.
"""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Mapping, Sequence

import numpy as np

import files
from eval import scores
from eval.scores import Score
from retrieval.stored.unique_ids import few

SETTINGS = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
KINDS = ("easy", "hard", "junk")
_WRONG, _POSITIVE, _JUNK = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class Truth:
    """The images of one query by kind, as positions in the database, int64."""

    easy: np.ndarray
    hard: np.ndarray
    junk: np.ndarray


@dataclasses.dataclass(frozen=True)
class GroundTruth:
    """The ground truth of one benchmark.

    Attributes:
        images: names of the N database images.
        queries: names of the Q queries.
        truths: one per query.
    """

    images: tuple[str, ...]
    queries: tuple[str, ...]
    truths: tuple[Truth, ...]


@dataclasses.dataclass(frozen=True)
class Judged:
    """One setting's values per query, NaN for a query without positives.

    Attributes:
        average_precision: (Q,) float64.
        precision: (Q,) float64 by k.
        positives: (Q,) int64, the number of positives.
    """

    average_precision: np.ndarray
    precision: Mapping[int, np.ndarray]
    positives: np.ndarray

    def scores(self, *, bootstrap: int = 0, seed: int = 0) -> dict[str, Score]:
        """Returns map and precision_at_<k>, means over the queries with positives."""
        columns = {"map": self.average_precision}
        columns |= {f"precision_at_{k}": values for k, values in self.precision.items()}
        return scores.means(columns, bootstrap=bootstrap, seed=seed)


def read_ground_truth(path: str) -> GroundTruth:
    """Reads `{"imlist": [...], "qimlist": [...], "gnd": [{"easy", "hard", "junk", "bbx"}]}`.

    These are the names of the images, of the queries, and per query the positions of its images in
    `imlist`, as in the published gnd_roxford5k and gnd_rparis6k, saved as JSON.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is something else, naming the query.
    """
    try:
        content = json.loads(files.read(path))
    except ValueError as error:
        raise ValueError(
            f"{path}: expected JSON with imlist, qimlist and gnd. Received: {error}"
        ) from None
    keys = content if isinstance(content, dict) else ()
    missing = [key for key in ("imlist", "qimlist", "gnd") if key not in keys]
    if missing:
        raise ValueError(f"{path}: expected imlist, qimlist and gnd. Received no {missing}")
    images, queries = tuple(content["imlist"]), tuple(content["qimlist"])
    for names, what in ((images, "imlist"), (queries, "qimlist")):
        _check_names(path, names, what)
    if len(content["gnd"]) != len(queries):
        raise ValueError(
            f"{path}: expected one entry of gnd for each of {len(queries)} queries. "
            f"Received: {len(content['gnd'])}"
        )
    truths = tuple(
        _truth(entry, len(images), f"{path}, query {name!r}")
        for name, entry in zip(queries, content["gnd"], strict=True)
    )
    return GroundTruth(images, queries, truths)


def evaluate_revisited(
    rankings: Sequence[np.ndarray],
    truths: Sequence[Truth],
    setting: str,
    *,
    ks: Sequence[int] = (1, 5, 10),
) -> Judged:
    """Judges rankings in one setting, as the benchmark's evaluator does.

    Junk leaves the ranking before ranks are counted. With the zero-based ranks r_0 < r_1 < ... of
    the positives and m the number of positives, AP is the area under the trapezoids:

        AP = sum_j 1/m (p_j + q_j) / 2,   q_j = (j + 1) / (r_j + 1),   p_j = j / r_j, 1 if r_j = 0

    Precision@k is the share of positives among the first min(k, rank of the last positive), where
    ranks count from 1.

    A query without positives is dropped (NaN). A positive that a shortened ranking lacks is never
    found; it counts in m. A ranking has no ties.

    Args:
        rankings: per query positions in the database, best first.
        truths: per query; see `Truth`.
        setting: "easy", "medium" or "hard".
        ks: of precision@k.

    Raises:
        ValueError: if the setting is unknown, or a ranking has a position twice or outside of
            int64's not negative numbers.
    """
    if setting not in SETTINGS:
        raise ValueError(f"expected a setting among {', '.join(SETTINGS)}. Received: {setting!r}")
    if len(rankings) != len(truths):
        raise ValueError(f"expected {len(truths)} rankings. Received: {len(rankings)}")
    values, counts = [], []
    for number, (ranking, truth) in enumerate(zip(rankings, truths, strict=True)):
        positions, count = _positions(ranking, truth, setting, number)
        counts.append(count)
        nothing = [np.nan] * (1 + len(ks))
        values.append(
            [_average_precision(positions, count), *(_precision(positions, k) for k in ks)]
            if count
            else nothing
        )
    table = np.array(values, np.float64).reshape(len(truths), 1 + len(ks))
    precision = {k: table[:, 1 + number] for number, k in enumerate(ks)}
    return Judged(table[:, 0], precision, np.array(counts, np.int64))


def _positions(
    ranking: np.ndarray, truth: Truth, setting: str, number: int
) -> tuple[np.ndarray, int]:
    """Returns the zero-based ranks of the positives without junk, and how many positives exist."""
    positives, junk = (
        np.unique(np.concatenate([getattr(truth, kind) for kind in kinds]))
        for kinds in SETTINGS[setting]
    )
    ranking = np.asarray(ranking)
    size = 1 + max((int(part.max()) for part in (ranking, positives, junk) if part.size), default=0)
    if ranking.size and (int(ranking.min()) < 0 or np.bincount(ranking, minlength=size).max() > 1):
        raise ValueError(
            f"expected each position once and none below 0 in ranking {number}. Received: others"
        )
    kinds = np.full(size, _WRONG, np.int8)
    kinds[positives] = _POSITIVE
    kinds[junk] = _JUNK
    found = kinds[ranking]
    return np.flatnonzero(found[found != _JUNK] == _POSITIVE), len(positives)


def _average_precision(positions: np.ndarray, count: int) -> float:
    """Returns the trapezoidal AP of zero-based ranks, ascending, of `count` positives."""
    before = np.arange(len(positions))
    left = np.where(positions == 0, 1.0, before / np.maximum(positions, 1))
    right = (before + 1) / (positions + 1)
    return float(np.sum(left + right)) / (2 * count)


def _precision(positions: np.ndarray, k: int) -> float:
    if not len(positions):
        return 0.0
    k = min(int(positions[-1]) + 1, k)
    return np.count_nonzero(positions < k) / k


def _truth(entry: object, images: int, where: str) -> Truth:
    """Returns the checked entry of one query."""
    parts = {}
    for kind in KINDS:
        numbers = entry.get(kind) if isinstance(entry, dict) else None
        right = isinstance(numbers, list) and all(
            type(number) is int and 0 <= number < images for number in numbers
        )
        if not right:
            raise ValueError(
                f"{where}: expected positions below {images} as {kind!r}. "
                f"Received: {str(numbers)[:60]}"
            )
        parts[kind] = np.array(numbers, np.int64)
    return Truth(**parts)


def _check_names(path: str, names: Sequence[object], what: str) -> None:
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: expected names in {what}. Received: {str(names)[:60]}")
    repeated = [name for name, times in collections.Counter(names).items() if times > 1]
    if repeated:
        raise ValueError(f"{path}: expected every name once in {what}. Received: {few(repeated)}")
