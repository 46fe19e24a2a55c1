"""Solutions and predictions as arrays of numbers, read without a Python object per image.

At the size of Google Landmarks v2 a prediction file holds 12 million ids. Arrow reads and splits
the tables, and every id becomes its number among the relevant images once; the judging is NumPy's.
A table that has anything unusual is read again by `eval.solutions`, which names file and line.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from eval import relevance, solutions
from eval.relevance import Relevance
from progress import ordered_map
from retrieval import search

_BLOCK = 2**25  # bytes of a table split at a time
_WORKERS = 4


class Vocabulary:
    """Ids of text and their numbers, in the order in which they are given.

    Args:
        ids: unique, a sequence of text or an Arrow array.
    """

    def __init__(self, ids: Any) -> None:
        self._ids = _text_array(ids)

    def __len__(self) -> int:
        return len(self._ids)

    def numbers(self, ids: Any) -> np.ndarray:
        """Returns the numbers (n,) int32 of ids, -1 for those that are not known."""
        from pyarrow import compute

        found = compute.index_in(_text_array(ids), value_set=self._ids)
        return compute.fill_null(found, -1).to_numpy(zero_copy_only=False)


@dataclasses.dataclass(frozen=True)
class Truths:
    """A retrieval solution.

    Attributes:
        queries: all ids of queries, those without relevant images too.
        offsets: (len(queries) + 1,) int64; the relevant images of query q are
            `images[offsets[q] : offsets[q + 1]]`, each once, ascending.
        images: int32 numbers of `vocabulary`.
        vocabulary: the images that are relevant to any query.
    """

    queries: tuple[str, ...]
    offsets: np.ndarray
    images: np.ndarray
    vocabulary: Vocabulary


@dataclasses.dataclass(frozen=True)
class Rankings:
    """Predictions for a solution.

    Attributes:
        rows: (P,) int64, the predictions' queries as rows of `Truths.queries`, each once.
        images: (P, depth) int32 numbers of `Truths.vocabulary`, best first; -1 for an image that is
            relevant to no query, and beyond the end of a query's predictions.
        empty: (P,) bool, queries without any image.
    """

    rows: np.ndarray
    images: np.ndarray
    empty: np.ndarray


def read_truths(path: str) -> Truths:
    """Reads `id,images[,Usage]`; see `solutions.read_retrieval_solution`."""
    try:
        return _read_truths(path)
    except _unusual():
        return truths_of(solutions.read_retrieval_solution(path))


def read_rankings(path: str, truths: Truths, depth: int) -> Rankings:
    """Reads `id,images`; see `solutions.read_retrieval_predictions`.

    Args:
        path: of the table.
        truths: the solution; its queries are the known ones.
        depth: how many images per query are kept.
    """
    relevance.check_k(depth)
    try:
        return _read_rankings(path, truths, depth)
    except _unusual():
        queries = frozenset(truths.queries)
        predictions = solutions.read_retrieval_predictions(path, queries=queries)
        return rankings_of(predictions, truths, depth)


def truths_of(solution: Mapping[str, Collection[str]]) -> Truths:
    """Returns a solution, the relevant ids per query id, as arrays."""
    lists = [tuple(images) for images in solution.values()]
    lengths = np.array([len(images) for images in lists], np.int64)
    tokens = _text_array(list(itertools.chain.from_iterable(lists)))
    return _truths(tuple(solution), lengths, tokens)


def rankings_of(predictions: Mapping[str, Sequence[str]], truths: Truths, depth: int) -> Rankings:
    """Returns predictions, ids per query id, best first, as arrays.

    Raises:
        ValueError: if a prediction's query is not in the solution.
    """
    rows = _rows_of(tuple(predictions), truths)
    lists = [images[:depth] for images in predictions.values()]
    lengths = np.array([len(images) for images in lists], np.int64)
    numbers = truths.vocabulary.numbers(list(itertools.chain.from_iterable(lists)))
    return Rankings(rows, _dense(numbers, lengths, depth), lengths == 0)


def rankings_of_answers(answers: search.Answers, truths: Truths, depth: int) -> Rankings:
    """Returns the first `depth` images that a search has found as arrays.

    Raises:
        ValueError: if a query is not in the solution, or no relevant image in the index.
    """
    rows = _rows_of(answers.query_ids, truths)
    numbers = truths.vocabulary.numbers(answers.index_ids)
    if len(truths.images) and not (numbers >= 0).any():
        raise ValueError(
            "expected an index with the solution's images. Received: none of "
            f"{len(truths.vocabulary):,}, whose ids are of another kind than "
            f"{answers.index_ids[0]!r}"
        )
    found = answers.positions[:, :depth]
    images = np.full((len(rows), depth), -1, np.int32)
    images[:, : found.shape[1]] = numbers[found]
    return Rankings(rows, images, np.zeros(len(rows), bool))


def not_in_index(index_ids: Sequence[str], truths: Truths) -> int:
    """Returns how many relevant images an index lacks; they are never found."""
    indexed = truths.vocabulary.numbers(index_ids)
    return len(truths.vocabulary) - int(np.count_nonzero(indexed >= 0))


def judge(truths: Truths, rankings: Rankings) -> Relevance:
    """Marks the right ranks; the same as `relevance.judge` of the same ids."""
    sizes = np.diff(truths.offsets)
    scored = np.flatnonzero(sizes)
    answer_of = np.full(len(truths.queries), -1)
    answer_of[rankings.rows] = np.arange(len(rankings.rows))
    rows = answer_of[scored]
    sizes = sizes[scored]
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    answered = rows >= 0
    answered[answered] = ~rankings.empty[rows[answered]]
    relevant = relevance.judge_codes(
        rankings.images, rows, offsets, truths.images, len(truths.vocabulary)
    )
    return Relevance(
        queries=tuple(map(truths.queries.__getitem__, scored.tolist())),
        relevant=relevant,
        positives=sizes,
        ignored=len(truths.queries) - len(scored),
        unanswered=int(np.count_nonzero(~answered)),
    )


def _read_truths(path: str) -> Truths:
    import pyarrow
    from pyarrow import compute

    queries, lengths, tokens = [], [], []
    for batch in _batches(path, ("id", "images"), optional="Usage"):
        cells = compute.ascii_trim_whitespace(batch.column(1))
        ignored = compute.equal(cells, "None")
        if batch.num_columns == 3:
            ignored = compute.or_(ignored, compute.equal(batch.column(2), "Ignored"))
        lists = compute.ascii_split_whitespace(compute.if_else(ignored, "", cells))
        found = lists.flatten()
        some = compute.not_equal(found, "")  # an empty cell is split to one empty text
        sizes = compute.list_value_length(lists).to_numpy()
        full = some.to_numpy(zero_copy_only=False)
        empty = np.repeat(np.arange(len(sizes)), sizes)[~full]
        lengths.append(sizes - np.bincount(empty, minlength=len(sizes)))
        queries += batch.column(0).to_pylist()
        tokens.append(found.filter(some))
    _check_queries(queries)
    return _truths(tuple(queries), np.concatenate(lengths), pyarrow.concat_arrays(tokens))


def _truths(queries: tuple[str, ...], lengths: np.ndarray, tokens: Any) -> Truths:
    """Numbers the relevant images (an Arrow array), `lengths` of which belong to each query."""
    coded = tokens.dictionary_encode()
    vocabulary = Vocabulary(coded.dictionary)
    rows = np.repeat(np.arange(len(queries)), lengths)
    pairs = np.sort(rows * len(vocabulary) + coded.indices.to_numpy())
    pairs = pairs[np.diff(pairs, prepend=-1) > 0]  # an image that is listed twice counts once
    rows, images = np.divmod(pairs, max(1, len(vocabulary)))
    offsets = np.searchsorted(rows, np.arange(len(queries) + 1))
    return Truths(queries, offsets, images.astype(np.int32), vocabulary)


def _read_rankings(path: str, truths: Truths, depth: int) -> Rankings:
    code = functools.partial(_code, vocabulary=truths.vocabulary, depth=depth)
    workers = min(_WORKERS, os.cpu_count() or 1)
    parts = list(ordered_map(code, _batches(path, ("id", "images")), workers=workers))
    queries = [query for ids, _, _ in parts for query in ids]
    _check_queries(queries)
    rows = _rows_of(queries, truths)
    images, empty = (np.concatenate([part[column] for part in parts]) for column in (1, 2))
    return Rankings(rows, images, empty)


def _code(batch: Any, vocabulary: Vocabulary, depth: int) -> tuple[list, np.ndarray, np.ndarray]:
    """Returns the ids, the images (n, depth) as numbers and the empty rows of a piece."""
    from pyarrow import compute

    cells = compute.ascii_trim_whitespace(batch.column(1))
    lists = compute.ascii_split_whitespace(cells)
    lengths = compute.list_value_length(lists).to_numpy()
    images = _dense(vocabulary.numbers(lists.flatten()), lengths, depth)
    empty = compute.equal(cells, "").to_numpy(zero_copy_only=False)
    return batch.column(0).to_pylist(), images, empty


def _dense(numbers: np.ndarray, lengths: np.ndarray, depth: int) -> np.ndarray:
    """Returns lists of `lengths` numbers that follow each other as (n, depth) int32; -1: none."""
    dense = np.full((len(lengths), depth), -1, np.int32)
    starts = np.cumsum(lengths) - lengths
    ranks = np.arange(len(numbers)) - np.repeat(starts, lengths)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    kept = ranks < depth
    dense[rows[kept], ranks[kept]] = numbers[kept]
    return dense


def _batches(path: str, columns: tuple[str, ...], optional: str | None = None) -> Iterator[Any]:
    """Yields the columns of a CSV table as text, a piece at a time; the optional one comes last.

    Raises:
        ValueError or another of `_unusual`: if the table is not as simple as it usually is.
    """
    import pyarrow
    from pyarrow import compute, csv

    header = solutions.column_names(path)
    if len(set(header)) < len(header):
        raise ValueError("a column twice")
    columns = [*columns, *([optional] if optional in header else [])]
    options = csv.ConvertOptions(
        include_columns=columns,
        column_types=dict.fromkeys(columns, pyarrow.string()),
        strings_can_be_null=False,
    )
    read = csv.ReadOptions(block_size=_BLOCK)
    # Arrow takes a quote that is never closed as closed at the end of the file.
    parse = csv.ParseOptions(quote_char=False)
    with csv.open_csv(path, read, parse, options) as reader:
        for batch in reader:
            if any(compute.any(compute.match_substring(c, '"')).as_py() for c in batch.columns):
                raise ValueError("quotes")
            yield batch


def _check_queries(queries: Sequence[str]) -> None:
    known = set(queries)
    if not known or "" in known or len(known) < len(queries):
        raise ValueError("no query, one without an id, or one twice")


def _rows_of(queries: Sequence[str], truths: Truths) -> np.ndarray:
    """Returns the rows (n,) int64 of queries in the solution."""
    row_of = dict(zip(truths.queries, range(len(truths.queries)), strict=True))
    if unknown := [query for query in queries if query not in row_of]:
        relevance.refuse_unknown(unknown)
    return np.array([row_of[query] for query in queries], np.int64)


def _text_array(ids: Any) -> Any:
    import pyarrow

    if isinstance(ids, pyarrow.Array):
        return ids
    return pyarrow.array(ids, pyarrow.string())


def _unusual() -> tuple[type[Exception], ...]:
    """What the fast reader raises for a table that `eval.solutions` should look at."""
    import pyarrow

    return ValueError, pyarrow.ArrowException
