"""The tables of Google Landmarks v2.1, read row by row with types that cannot be mixed.

Weyand et al., Google Landmarks Dataset v2, CVPR 2020, arXiv:2004.01804; the formats are those of
github.com/cvdfoundation/google-landmark. The images and the landmarks of train, index and test are
numbered apart: landmark 7 of train is not landmark 7 of index. So each has its type here, and two
values of different types are never equal: comparing them is a TypeError.
"""

import csv
import dataclasses
import os
import re
from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

import files

NONE = "None"  # what retrieval_solution has instead of images for a query that is not counted
USAGES = ("Public", "Private", "Ignored")

_ID = re.compile(r"[0-9a-f]{16}")
_NUMBER = re.compile(r"[0-9]{1,9}")


class _ImageId(str):
    """16 hexadecimal characters."""

    __slots__ = ()

    def __new__(cls, text: str):
        _check_mixing(cls, text)
        if not _ID.fullmatch(text):
            raise ValueError(f"expected an id of 16 hexadecimal characters. Received: {text!r}")
        return super().__new__(cls, text)

    def __eq__(self, other: object) -> bool:
        _check_mixing(type(self), other)
        return str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        _check_mixing(type(self), other)
        return str.__ne__(self, other)

    __hash__ = str.__hash__


class TrainId(_ImageId):
    """Id of an image of train."""

    __slots__ = ()


class IndexId(_ImageId):
    """Id of an image of index."""

    __slots__ = ()


class TestId(_ImageId):
    """Id of an image of test, a query."""

    __slots__ = ()
    __test__ = False  # no test, whatever pytest makes of the name


class _Landmark(int):
    """The number of a landmark, not negative."""

    __slots__ = ()

    def __new__(cls, number: str | int):
        _check_mixing(cls, number)
        if not _NUMBER.fullmatch(str(number)):
            raise ValueError(f"expected the number of a landmark. Received: {number!r}")
        return super().__new__(cls, number)

    def __eq__(self, other: object) -> bool:
        _check_mixing(type(self), other)
        return int.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        _check_mixing(type(self), other)
        return int.__ne__(self, other)

    __hash__ = int.__hash__


class TrainLandmark(_Landmark):
    """A landmark as train and the recognition solution number them."""

    __slots__ = ()


class IndexLandmark(_Landmark):
    """A landmark as index numbers them."""

    __slots__ = ()


def _check_mixing(kind: type, other: object) -> None:
    if isinstance(other, _ImageId | _Landmark) and type(other) is not kind:
        raise TypeError(
            f"expected {kind.__name__}: train, index and test are numbered apart. "
            f"Received: {type(other).__name__}({other!s})"
        )


class TrainImage(NamedTuple):
    """A row of train.csv."""

    id: TrainId
    url: str
    landmark: TrainLandmark


class CleanLandmark(NamedTuple):
    """A row of train_clean.csv: the images of a landmark that agree with each other."""

    landmark: TrainLandmark
    images: tuple[TrainId, ...]


class Attribution(NamedTuple):
    """A row of train_attribution.csv."""

    id: TrainId
    url: str
    author: str
    license: str
    title: str


class TrainCategory(NamedTuple):
    """A row of train_label_to_category.csv; the category is an address at Wikimedia."""

    landmark: TrainLandmark
    category: str


class IndexCategory(NamedTuple):
    """A row of index_label_to_category.csv."""

    landmark: IndexLandmark
    category: str


class TrainHierarchy(NamedTuple):
    """A row of train_label_to_hierarchical.csv."""

    landmark: TrainLandmark
    category: str
    supercategory: str
    hierarchical_label: str
    natural_or_human_made: str


class IndexHierarchy(NamedTuple):
    """A row of index_label_to_hierarchical.csv."""

    landmark: IndexLandmark
    category: str
    supercategory: str
    hierarchical_label: str
    natural_or_human_made: str


class IndexImage(NamedTuple):
    """A row of index_image_to_landmark.csv."""

    id: IndexId
    landmark: IndexLandmark


class RecognitionAnswer(NamedTuple):
    """A row of recognition_solution_v2.1.csv; no landmarks: the query shows none of train's."""

    id: TestId
    landmarks: tuple[TrainLandmark, ...]
    usage: str


class RetrievalAnswer(NamedTuple):
    """A row of retrieval_solution_v2.1.csv; no images: no metric counts the query."""

    id: TestId
    images: tuple[IndexId, ...]
    usage: str


RowT = TypeVar("RowT")


@dataclasses.dataclass(frozen=True)
class Table(Generic[RowT]):
    """One of the tables: `TRAIN.read("gldv2/metadata/train.csv")`.

    Attributes:
        path: where download.py puts it, below the set's folder.
        columns: its header line.
        parse: makes a row of the cells.
        has_lists: a cell holds ids separated by spaces, and none has a comma inside.
    """

    path: str
    columns: tuple[str, ...]
    parse: Callable[..., RowT]
    has_lists: bool = False

    def read(self, path: str | os.PathLike) -> Iterator[RowT]:
        """Yields the rows of a file, in memory of one row.

        Raises FileNotFoundError without the file; ValueError that names the line if the header or
        a row is not as published.
        """
        path = os.fspath(path)
        for number, cells in self._lines(path):
            if number == 1:
                if tuple(cells) != self.columns:
                    raise ValueError(
                        f"{path}: expected the header {','.join(self.columns)}. "
                        f"Received: {','.join(cells)[:200]}"
                    )
                continue
            try:
                yield self.parse(*_expect(cells, len(self.columns)))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None

    def _lines(self, path: str) -> Iterator[tuple[int, list[str]]]:
        """Yields (number of the line, cells); the first is there even in an empty file."""
        number = 0
        with files.open_file(path) as file:
            try:
                for number, cells in self._split(file):
                    if number == 1 and cells:
                        cells[0] = cells[0].removeprefix("\ufeff")
                    if cells or number == 1:
                        yield number, cells
            except (csv.Error, UnicodeDecodeError) as error:
                raise ValueError(
                    f"{path}, after line {number}: expected CSV in UTF-8. Received: {error}"
                ) from error
        if not number:
            yield 1, []

    def _split(self, lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
        if not self.has_lists:
            reader = csv.reader(lines)
            yield from ((reader.line_num, cells) for cells in reader)
            return
        # A landmark of 8,000 images fills more than csv's limit, which is one for the process.
        for number, line in enumerate(lines, start=1):
            text = line.strip("\r\n").replace('"', "")
            yield number, text.split(",") if text else []


def _expect(cells: list[str], count: int) -> list[str]:
    if len(cells) != count:
        raise ValueError(f"expected {count} cells. Received: {len(cells)}")
    return cells


def _usage(text: str) -> str:
    if text not in USAGES:
        raise ValueError(f"expected a Usage in {USAGES}. Received: {text!r}")
    return text


def _train_image(image: str, url: str, landmark: str) -> TrainImage:
    return TrainImage(TrainId(image), url, TrainLandmark(landmark))


def _clean_landmark(landmark: str, images: str) -> CleanLandmark:
    return CleanLandmark(TrainLandmark(landmark), tuple(map(TrainId, images.split())))


def _recognition_answer(query: str, landmarks: str, usage: str) -> RecognitionAnswer:
    truths = tuple(map(TrainLandmark, landmarks.split()))
    return RecognitionAnswer(TestId(query), truths, _usage(usage))


def _retrieval_answer(query: str, images: str, usage: str) -> RetrievalAnswer:
    is_ignored = _usage(usage) == "Ignored" or images.strip() == NONE
    truths = () if is_ignored else tuple(map(IndexId, images.split()))
    return RetrievalAnswer(TestId(query), truths, usage)


_CATEGORY = ("landmark_id", "category")
_HIERARCHY = (*_CATEGORY, "supercategory", "hierarchical_label", "natural_or_human_made")

TRAIN = Table("metadata/train.csv", ("id", "url", "landmark_id"), _train_image)
TRAIN_CLEAN = Table(
    "metadata/train_clean.csv", ("landmark_id", "images"), _clean_landmark, has_lists=True
)
TRAIN_ATTRIBUTION = Table(
    "metadata/train_attribution.csv",
    ("id", "url", "author", "license", "title"),
    lambda image, *texts: Attribution(TrainId(image), *texts),
)
TRAIN_CATEGORY = Table(
    "metadata/train_label_to_category.csv",
    _CATEGORY,
    lambda landmark, category: TrainCategory(TrainLandmark(landmark), category),
)
TRAIN_HIERARCHY = Table(
    "metadata/train_label_to_hierarchical.csv",
    _HIERARCHY,
    lambda landmark, *texts: TrainHierarchy(TrainLandmark(landmark), *texts),
)
INDEX = Table("metadata/index.csv", ("id",), IndexId)
INDEX_LANDMARKS = Table(
    "metadata/index_image_to_landmark.csv",
    ("id", "landmark_id"),
    lambda image, landmark: IndexImage(IndexId(image), IndexLandmark(landmark)),
)
INDEX_CATEGORY = Table(
    "metadata/index_label_to_category.csv",
    _CATEGORY,
    lambda landmark, category: IndexCategory(IndexLandmark(landmark), category),
)
INDEX_HIERARCHY = Table(
    "metadata/index_label_to_hierarchical.csv",
    _HIERARCHY,
    lambda landmark, *texts: IndexHierarchy(IndexLandmark(landmark), *texts),
)
TEST = Table("metadata/test.csv", ("id",), TestId)
RECOGNITION_SOLUTION = Table(
    "ground_truth/recognition_solution_v2.1.csv",
    ("id", "landmarks", "Usage"),
    _recognition_answer,
    has_lists=True,
)
RETRIEVAL_SOLUTION = Table(
    "ground_truth/retrieval_solution_v2.1.csv",
    ("id", "images", "Usage"),
    _retrieval_answer,
    has_lists=True,
)
TABLES = (
    TRAIN, TRAIN_CLEAN, TRAIN_ATTRIBUTION, TRAIN_CATEGORY, TRAIN_HIERARCHY,
    INDEX, INDEX_LANDMARKS, INDEX_CATEGORY, INDEX_HIERARCHY,
    TEST, RECOGNITION_SOLUTION, RETRIEVAL_SOLUTION,
)  # fmt: skip
