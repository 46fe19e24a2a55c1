"""Classes of queries and index images: their results, and which are taken for which."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from eval import breakdown
from eval.page.run import Run
from eval.recognition import Prediction

NO_CLASS = "(no class)"


@dataclasses.dataclass(frozen=True)
class Classes:
    """Classes as numbers, -1 where one is not known.

    Attributes:
        names: C names.
        query: (P,) int64, of `Run.query_ids`.
        index: (N,) int64, of `Run.index_ids`.
    """

    names: tuple[str, ...]
    query: np.ndarray
    index: np.ndarray

    def name(self, code: int) -> str:
        """Returns the name of a class, "" for -1."""
        return self.names[code] if code >= 0 else ""

    @property
    def known(self) -> bool:
        """Whether any query and any image of the index has a class."""
        return bool((self.query >= 0).any() and (self.index >= 0).any())


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Queries of one class whose first answer belongs to another.

    Attributes:
        of, by: the classes' numbers: queries of class `of` get an image of class `by`.
        count: of such queries.
        share: among the judged queries of class `of` that have an answer.
        back: queries of class `by` whose first answer belongs to class `of`.
        row: the query with the highest similarity among them, a row of `Run.query_ids`.
    """

    of: int
    by: int
    count: int
    share: float
    back: int
    row: int


def number(
    query_ids: Sequence[str],
    index_ids: Sequence[str],
    query_labels: Mapping[str, str],
    index_labels: Mapping[str, str],
) -> Classes:
    """Returns the classes of queries and index as numbers, named by numbers first, then by text."""
    of_query = [query_labels.get(image, "") for image in query_ids]
    of_index = [index_labels.get(image, "") for image in index_ids]
    names = sorted({*of_query, *of_index} - {""}, key=_by_number)
    code_of = {name: code for code, name in enumerate(names)} | {"": -1}
    query, index = (np.array([code_of[n] for n in part], np.int64) for part in (of_query, of_index))
    return Classes(tuple(names), query, index)


def labels_of_solution(solution: Mapping[str, Collection[str]]) -> dict[str, str]:
    """Returns one class per query of a recognition solution, the first by name of several."""
    return {query: min(labels, key=_by_number) for query, labels in solution.items() if labels}


def results(
    run: Run,
    classes: Classes,
    query_labels: Mapping[str, str],
    predictions: Mapping[str, Prediction],
    solution: Mapping[str, Collection[str]],
) -> breakdown.Table:
    """Returns one row per class of the queries that count, the hardest first.

    Columns: class, queries, images (of the class in the index), the metrics of
    `breakdown.rankings_per_class`, confused_with (the class that most of the wrong first answers
    belong to, "" for none), confused (how many) and, with recognition, precision: how often the
    class is right where it is predicted, None if it never is.
    """
    labels = {query: query_labels.get(query, NO_CLASS) for query in run.relevance.queries}
    depth = run.relevance.relevant.shape[1]
    table = dict(breakdown.rankings_per_class(run.relevance, labels, depth))
    names = np.array(classes.names, object)
    sizes = np.bincount(classes.index[classes.index >= 0], minlength=len(names))
    size_of = dict(zip(classes.names, sizes.tolist(), strict=True))
    most = {}
    for found in reversed(confusions(run, classes)):  # the largest is written last
        most[names[found.of]] = (names[found.by], found.count)
    table["images"] = [size_of.get(name, 0) for name in table["class"]]
    table["confused_with"] = [most.get(name, ("", 0))[0] for name in table["class"]]
    table["confused"] = [most.get(name, ("", 0))[1] for name in table["class"]]
    if solution:
        by_label = breakdown.recognition_per_class(predictions, solution)
        precision_of = dict(zip(by_label["class"], by_label["precision"], strict=True))
        table["precision"] = [precision_of.get(name) for name in table["class"]]
    return table


def confusions(run: Run, classes: Classes) -> list[Confusion]:
    """Returns all pairs of classes that are confused, by falling count, share, then by name.

    A query counts if it is judged, its class and that of its first answer are known and differ, and
    the first answer is wrong.
    """
    rows, positions = run.first_answers()
    judged = run.judged_rows()[rows]
    rows, positions, judged = (part[judged >= 0] for part in (rows, positions, judged))
    own, other = classes.query[rows], classes.index[positions]
    wrong = ~run.relevance.relevant[judged, 0] & (own >= 0) & (other >= 0) & (own != other)
    if not wrong.any():
        return []
    answered = np.bincount(own[own >= 0], minlength=len(classes.names))
    width = len(classes.names)
    keys = own[wrong] * width + other[wrong]
    # Of each pair the query with the highest similarity comes first.
    order = np.lexsort((rows[wrong], -run.similarities[rows[wrong], 0], keys))
    pairs, first, counts = np.unique(keys[order], return_index=True, return_counts=True)
    count_of = dict(zip(pairs.tolist(), counts.tolist(), strict=True))
    found = [
        Confusion(
            of=pair // width,
            by=pair % width,
            count=count,
            share=count / int(answered[pair // width]),
            back=count_of.get(pair % width * width + pair // width, 0),
            row=row,
        )
        for pair, count, row in zip(
            pairs.tolist(), counts.tolist(), rows[wrong][order][first].tolist(), strict=True
        )
    ]
    return sorted(found, key=lambda pair: (-pair.count, -pair.share, pair.of, pair.by))


def _by_number(name: str) -> tuple[int, int, str]:
    digits = name.lstrip("0")
    return (0, len(digits), digits + name) if name.isdecimal() else (1, 0, name)
