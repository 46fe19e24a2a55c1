"""Detection AP: derived by hand, a slow oracle, and the values of pycocotools 2.0.11.

tests/golden/detection_ap.npz: `truth` (image, class, corners), `found` (the same and the score),
`ap` (classes, overlaps) and `stats` (AP, AP50, AP75) of COCOeval on them.
"""

import json

import numpy as np
import pytest
from conftest import ROOT
from image_files import write_table

from eval import detection

GOLDEN = ROOT / "tests" / "golden" / "detection_ap.npz"


def by_class(rows, width):
    found = {}
    for image, name, *values in rows:
        images = found.setdefault(int(name), {})
        images.setdefault(int(image), []).append(values[:width])
    return {n: {i: np.array(v) for i, v in images.items()} for n, images in found.items()}


def golden():
    with np.load(GOLDEN, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_hand_derived():
    # Two objects of 10 x 10. The best detection is exact (a hit at every overlap), the second
    # overlaps the other object by 5 x 10 of 150 (1/3, a miss), the third by 8/10 (a hit up to 0.8).
    truths = {"a": np.array([[0, 0, 10, 10], [20, 0, 30, 10]])}
    found = {
        "a": np.array([[25, 0, 35, 10, 0.8], [20, 0, 28, 10, 0.7], [0, 0, 10, 10, 0.9]], float)
    }
    values = detection.average_precisions(found, truths)
    # Up to 0.8: precision 1 up to a recall of 0.5 (51 of the 101 recalls), then 2/3 (50 of them).
    both, one = (51 + 50 * 2 / 3) / 101, 51 / 101
    np.testing.assert_allclose(values, [both] * 7 + [one] * 3, rtol=1e-12)


def test_overlaps():
    first = np.array([[0, 0, 4, 4], [0, 0, 0, 0]], float)
    second = np.array([[2, 2, 6, 6], [4, 0, 8, 4]], float)
    np.testing.assert_allclose(detection.overlaps(first, second), [[4 / 28, 0], [0, 0]])


def test_values_of_pycocotools():
    values = golden()
    truths, found = by_class(values["truth"], 4), by_class(values["found"], 5)
    for name in truths:
        own = detection.average_precisions(found[name], truths[name])
        np.testing.assert_allclose(own, values["ap"][name], atol=1e-12)
    result = detection.score(found, truths)
    received = [result["ap"], result["ap_50"], result["ap_75"]]
    np.testing.assert_allclose(received, values["stats"], atol=1e-12)
    assert result["boxes"] == len(values["truth"])
    assert result["detections"] == len(values["found"])


def slow_ap(found, truths, threshold):
    """One class, boxes and scores all different, by loops."""
    ranked = sorted(((row[4], image, row) for image in found for row in found[image]), reverse=True)
    taken, hits = set(), []
    for _, image, row in ranked:
        best, chosen = 0.0, None
        for number, box in enumerate(truths.get(image, ())):
            overlap = slow_overlap(row, box)
            if (image, number) not in taken and overlap > best:
                best, chosen = overlap, (image, number)
        hits.append(best >= threshold)
        if best >= threshold:
            taken.add(chosen)
    count = sum(len(boxes) for boxes in truths.values())
    curve = [(sum(hits[: n + 1]) / count, sum(hits[: n + 1]) / (n + 1)) for n in range(len(hits))]
    # COCO's own 101 numbers: 35 / 100 is not one of them, and a recall of 7 / 20 falls short.
    steps = np.linspace(0, 1, 101)
    return sum(max([p for r, p in curve if r >= step], default=0.0) for step in steps) / 101


def slow_overlap(a, b):
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


@pytest.mark.parametrize("seed", range(5))
def test_slow_oracle(seed):
    rng = np.random.default_rng(seed)
    truths, found = {}, {}
    for image in range(4):
        corner = rng.uniform(0, 30, (5, 2))
        truths[image] = np.concatenate([corner, corner + rng.uniform(5, 20, (5, 2))], axis=1)
        moved = truths[image][rng.integers(0, 5, 8)] + rng.normal(0, 1.5, (8, 4))
        found[image] = np.concatenate([moved, rng.uniform(size=(8, 1))], axis=1)
    values = detection.average_precisions(found, truths, (0.3, 0.5, 0.8))
    expected = [slow_ap(found, truths, threshold) for threshold in (0.3, 0.5, 0.8)]
    np.testing.assert_allclose(values, expected, atol=1e-12)


def test_nothing_found_and_nothing_there():
    truths = {"item": {"a": np.array([[0, 0, 1, 1.0]])}}
    assert detection.score({}, truths)["ap"] == 0
    with pytest.raises(ValueError, match="expected boxes of objects"):
        detection.score({}, {"item": {"a": np.zeros((0, 4))}})


def write_example(folder):
    boxes = write_table(
        folder / "boxes.csv",
        [("a", "a.jpg", 0, 0, 10, 10, "cup"), ("b", "b.jpg", "", "", "", "", "")],
        ("id", "path", "xmin", "ymin", "xmax", "ymax", "label"),
    )
    rows = [("a-0", "a", 0.9, "cup", 0, 0, 10, 10), ("b-0", "b", 0.8, "cup", 0, 0, 5, 5)]
    header = ("id", "source", "score", "label", "xmin", "ymin", "xmax", "ymax")
    return boxes, write_table(folder / "crops.csv", rows, header), rows, header


def test_command(tmp_path, capsys):
    boxes, crops, rows, header = write_example(tmp_path)
    output = str(tmp_path / "ap.json")
    assert detection.main(["--detections", crops, "--boxes", boxes, "--output", output]) == 0
    result = json.loads((tmp_path / "ap.json").read_text())
    assert result["ap"] == 1  # the false box of the empty image has a lower score
    assert (result["images"], result["boxes"], result["detections"]) == (2, 1, 2)
    wrong = write_table(tmp_path / "wrong.csv", [("c-0", "c", *rows[0][2:])], header)
    assert detection.main(["--detections", wrong, "--boxes", boxes]) == 1
    assert "Received: 1 others, such as 'c'" in capsys.readouterr().err


def test_labels_count_unless_told_otherwise(tmp_path):
    boxes, _, rows, header = write_example(tmp_path)
    other = write_table(tmp_path / "o.csv", [(*rows[0][:3], "jug", *rows[0][4:])], header)
    assert detection.evaluate(other, boxes)["ap"] == 0
    assert detection.evaluate(other, boxes, any_class=True)["ap"] == 1
