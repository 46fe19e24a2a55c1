"""Images that are byte for byte the same as another."""

import csv
import os

import pytest
from catalogues import inspect
from conversions import quiet
from image_files import jpeg, write_table

from tfrecords_tools.conversion import copies, inspection
from tfrecords_tools.conversion.catalogue import Catalogue
from tfrecords_tools.readers.tables import Row


def read_copies(directory):
    with open(directory / "copies.csv", newline="", encoding="utf-8") as file:
        return [tuple(row.values()) for row in csv.DictReader(file)]


def convert(folder, photos, **options):
    """Converts {(id, label): bytes}; returns the summary."""
    for (image_id, _), data in photos.items():
        (folder / f"{image_id}.jpg").write_bytes(data)
    rows = [(image_id, label, f"{image_id}.jpg") for image_id, label in photos]
    table = write_table(folder / "t.csv", rows)
    return quiet(folder / "out", table=table, **options)


def test_copies_are_listed_with_the_first_of_their_ids(tmp_path):
    one, two = jpeg(1), jpeg(2)
    photos = {
        ("c", "x"): one,
        ("a", "x"): one,
        ("d", "y"): one,
        ("b", "y"): two,
        ("e", "y"): two,
        ("f", "y"): jpeg(3),
    }
    summary = convert(tmp_path, photos, validation="none")
    assert read_copies(tmp_path / "out") == [
        ("a", "x", "train_clean", "c", "x", "train_clean"),
        ("a", "x", "train_clean", "d", "y", "train_clean"),
        ("b", "y", "train_clean", "e", "y", "train_clean"),
    ]
    assert summary.findings.copies == {
        copies.COPIES: 3,
        copies.OTHER_CLASS: 1,
        copies.BOTH_SPLITS: 0,
    }
    expected = "3 images are copies of another, byte for byte (1 of another class): copies.csv"
    assert expected in str(summary)


def test_copies_in_validation_and_training(tmp_path):
    """A class of four equal images gives one of them to validation."""
    photos = {(name, "x"): jpeg(1) for name in "abcd"}
    summary = convert(tmp_path, photos)
    (validation,) = [name for name in "abcd" if in_validation(tmp_path / "out", name)]
    expected = 3 if validation == "a" else 1
    assert summary.findings.copies[copies.BOTH_SPLITS] == expected
    assert f"{expected} in validation and in training" in str(summary)


def in_validation(directory, image_id):
    first, _, split, copy, _, copy_split = zip(*read_copies(directory), strict=True)
    splits = dict(zip(first + copy, split + copy_split, strict=True))
    return splits[image_id] == "validation"


def test_no_copies(tmp_path):
    summary = convert(tmp_path, {(name, "x"): jpeg(n) for n, name in enumerate("abc")})
    assert read_copies(tmp_path / "out") == []
    assert "copies" not in str(summary)


def test_equal_size_and_end_are_no_copies(tmp_path):
    """The files differ in one byte, in front of what is compared at first."""
    data = bytearray(jpeg(1))
    padding = b"\0" * 5000 + b"\xff\xd9"
    table = data.index(b"\xff\xdb") + 40  # in a table of factors
    photos = {("a", "x"): bytes(data) + padding, ("c", "x"): bytes(data) + padding}
    data[table] += 1
    photos["b", "x"] = bytes(data) + padding
    prints = {inspection.fingerprint(photo) for photo in photos.values()}
    assert len(prints) == len({len(photo) for photo in photos.values()}) == 1
    convert(tmp_path, photos)
    assert [(row[0], row[3]) for row in read_copies(tmp_path / "out")] == [("a", "c")]


def test_rejected_images_are_no_copies(tmp_path):
    cut = jpeg(1)[:-9]
    photos = {("a", "x"): cut, ("b", "x"): cut, ("c", "x"): jpeg(2)}
    assert convert(tmp_path, photos).findings.copies[copies.COPIES] == 0


@pytest.fixture
def catalogue():
    """1,000 images of which the first 500 are each copied once, and as many that only look so."""
    catalogue = Catalogue(":memory:")
    catalogue.fill((Row(f"i{n:04}", str(n % 7), f"/{n}") for n in range(1500)), 0)
    inspect(catalogue)
    catalogue.change("UPDATE images SET bytes = 9, fingerprint = number % 500")
    catalogue.plan("index", "none")
    return catalogue


def digest(place):
    number = place[0] - 1
    return [place[0], f"{number % 500 if number < 1000 else number:x}"]


def saved(catalogue, folder):
    copies.save(catalogue, str(folder))
    return read_copies(folder)


def test_a_stopped_comparison_goes_on(catalogue, tmp_path):
    """Half of the candidates are read, the other halves of the pairs only by the next command."""

    def stop(batches, files):
        assert files == 1500
        for number, batch in enumerate(batches):
            if number == 3:
                raise KeyboardInterrupt
            yield [digest(place) for place in batch]

    read = []

    def go_on(batches, files):
        assert files == 1500 - 3 * 200
        for batch in batches:
            read.extend(batch)
            yield [digest(place) for place in batch]

    with pytest.raises(KeyboardInterrupt):
        copies.compare(catalogue, stop)
    copies.compare(catalogue, go_on)
    assert len(read) == 900
    found = saved(catalogue, tmp_path)
    assert [(row[0], row[3]) for row in found] == [
        (f"i{n:04}", f"i{n + 500:04}") for n in range(500)
    ]


def test_files_that_are_gone_are_no_copies(catalogue, tmp_path):
    def run(batches, files):
        for batch in batches:
            yield [[place[0], None] if place[0] == 501 else digest(place) for place in batch]

    copies.compare(catalogue, run)
    found = saved(catalogue, tmp_path)
    assert len(found) == 499
    assert found[0][0] == "i0001"
    assert os.listdir(tmp_path) == ["copies.csv"]
