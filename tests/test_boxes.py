"""Boxes from tables and COCO JSON: what is read, and what is left out with which reason."""

import json

import numpy as np
import pytest
from image_files import jpeg, write_table

from detection import boxes

HEADER = ("id", "path", "xmin", "ymin", "xmax", "ymax", "label")


def write_images(folder, *names):
    for seed, name in enumerate(names):
        (folder / name).write_bytes(jpeg(seed, (24, 16)))


def reasons(found):
    return [reason for _, reason in found.rejects]


def test_table(tmp_path):
    rows = [
        ("a", "a.jpg", 1, 2, 11.5, 12, "cup"),
        ("a", "a.jpg", 0, 0, 5, 5, ""),
        ("b", "b.jpg", "", "", "", "", ""),
    ]
    found = boxes.read_boxes(write_table(tmp_path / "b.csv", rows, HEADER))
    assert [image.id for image in found.images] == ["a", "b"]
    first, second = found.images
    np.testing.assert_array_equal(first.boxes, [[1, 2, 11.5, 12], [0, 0, 5, 5]])
    assert first.labels == ("cup", boxes.NO_NAME)
    assert first.path == str(tmp_path / "a.jpg")
    assert second.boxes.shape == (0, 4)
    assert (found.classes, found.num_boxes, found.rejects) == (("cup", "object"), 2, ())


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("a", "a.jpg", 5, 0, 5, 9, ""), "expected xmin < xmax and ymin < ymax"),
        (("a", "a.jpg", 0, 9, 5, 3, ""), "expected xmin < xmax and ymin < ymax"),
        (("a", "a.jpg", "nan", 0, 5, 9, ""), "expected finite corners"),
        (("a", "a.jpg", "left", 0, 5, 9, ""), "could not convert"),
        (("a", "a.jpg", "", 0, 5, 9, ""), "could not convert"),
        (("a", "../a.jpg", 0, 0, 5, 9, ""), "expected a path inside"),
        (("a b", "a.jpg", 0, 0, 5, 9, ""), "expected an id without white space"),
        (("good", "other.jpg", 0, 0, 5, 9, ""), "expected one path for an id"),
    ],
)
def test_bad_rows_are_left_out(tmp_path, row, reason):
    good = ("good", "good.jpg", 0, 0, 5, 5, "cup")
    found = boxes.read_boxes(write_table(tmp_path / "b.csv", [good, row], HEADER))
    assert found.num_boxes == 1
    assert len(found.rejects) == 1
    assert reason in reasons(found)[0]


def coco(**changes):
    fields = {
        "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}],
        "categories": [{"id": 3, "name": "cup"}],
        "annotations": [
            {"image_id": 7, "category_id": 3, "bbox": [1, 2, 10, 5]},
            {"image_id": 7, "category_id": 3, "bbox": [0, 0, 24, 16], "iscrowd": 1},
        ],
    }
    return {**fields, **changes}


def write_coco(folder, fields):
    (folder / "boxes.json").write_text(json.dumps(fields))
    return str(folder / "boxes.json")


def test_coco(tmp_path):
    found = boxes.read_boxes(write_coco(tmp_path, coco()), str(tmp_path / "photos"))
    assert [image.id for image in found.images] == ["7", "8"]
    np.testing.assert_array_equal(found.images[0].boxes, [[1, 2, 11, 7]])
    assert found.images[0].path == str(tmp_path / "photos" / "a.jpg")
    assert (found.classes, found.rejects) == (("cup",), ())


def test_bad_annotations_are_left_out(tmp_path):
    wrong = [
        {"image_id": 9, "category_id": 3, "bbox": [0, 0, 1, 1]},
        {"image_id": 7, "category_id": 4, "bbox": [0, 0, 1, 1]},
        {"image_id": 7, "category_id": 3, "bbox": [0, 0, 1]},
        {"image_id": 7, "category_id": 3, "bbox": [0, 0, -1, 1]},
        {"image_id": 7, "category_id": 3, "bbox": [0, "top", 1, 1]},
    ]
    found = boxes.read_boxes(write_coco(tmp_path, coco(annotations=wrong)))
    assert found.num_boxes == 0
    expected = ["not among the images", "has no name", "[x, y, width, height]", "xmin < xmax"]
    for reason, words in zip(reasons(found), [*expected, "four numbers"], strict=True):
        assert words in reason


def test_files_that_are_something_else(tmp_path):
    with pytest.raises(ValueError, match="Received: no \\['annotations'\\]"):
        boxes.read_boxes(write_coco(tmp_path, coco(annotations=None)))
    with pytest.raises(ValueError, match="a field is missing"):
        boxes.read_boxes(write_coco(tmp_path, coco(images=[{"id": 1}])))
    (tmp_path / "boxes.json").write_text("{")
    with pytest.raises(ValueError, match="expected COCO JSON"):
        boxes.read_boxes(str(tmp_path / "boxes.json"))
    with pytest.raises(ValueError, match="xmax"):
        boxes.read_boxes(write_table(tmp_path / "b.csv", [], HEADER[:4]))
    with pytest.raises(ValueError, match="Received: none"):
        boxes.read_boxes(write_table(tmp_path / "b.csv", [], HEADER))
    with pytest.raises(FileNotFoundError):
        boxes.read_boxes(str(tmp_path / "none.csv"))


def test_boxes_are_held_against_the_images(tmp_path):
    write_images(tmp_path, "a.jpg", "many.jpg")  # 24 x 16
    (tmp_path / "text.jpg").write_text("no image")
    rows = [
        ("a", "a.jpg", -0.5, 0, 24.9, 16, "cut"),
        ("a", "a.jpg", 0, 0, 16, 24, "high"),
        ("missing", "missing.jpg", 0, 0, 1, 1, "x"),
        ("text", "text.jpg", 0, 0, 1, 1, "x"),
        *[("many", "many.jpg", 0, 0, number + 1, 1, "x") for number in range(3)],
    ]
    found = boxes.read_boxes(write_table(tmp_path / "b.csv", rows, HEADER))
    done = []
    checked = boxes.check_images(found, max_boxes=2, advance=done.append)
    (image,) = checked.images
    np.testing.assert_array_equal(image.boxes, [[0, 0, 24, 16]])
    assert image.labels == ("cut",)
    assert sum(done) == 4
    assert [name for name, _ in checked.rejects] == ["a", "missing", "text", "many"]
    assert "inside 24 x 16 pixels" in reasons(checked)[0]
    assert "3 boxes, more than 2" in reasons(checked)[3]


def test_rejects_are_written(tmp_path):
    boxes.write_rejects(str(tmp_path / "r.csv"), [("a", 'box: "x", y')])
    assert (tmp_path / "r.csv").read_bytes() == b'id,reason\r\na,"box: ""x"", y"\r\n'
