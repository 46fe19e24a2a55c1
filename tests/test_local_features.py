"""SIFT and RANSAC on drawn and real pictures, and the check of doubtful images with them."""

import csv
import itertools
import sys

import numpy as np
import pytest
from image_files import encode
from PIL import Image

from retrieval.reranking import local_features
from tfrecords_tools.cleaning import verification
from tfrecords_tools.conversion import images

pytest.importorskip("cv2")


def texture(seed, size=(320, 240)):
    """Blobs of random sizes and greys: something that SIFT finds again."""
    rng = np.random.default_rng(seed)
    pixels = np.zeros((size[1], size[0]))
    for scale in (6, 16, 40):
        shape = (size[0] // scale + 2, size[1] // scale + 2)
        noise = Image.fromarray(rng.integers(0, 256, shape[::-1], dtype=np.uint8))
        pixels += np.asarray(noise.resize(size, Image.Resampling.BICUBIC), float)
    return Image.fromarray((pixels / 3).astype(np.uint8))


def turned(image, angle):
    return image.rotate(angle, expand=True).convert("RGB")


def test_inliers_of_one_and_of_two_things():
    first, second = texture(1), texture(2)
    features = [
        verification.extract(encode(image, kind))
        for image, kind in [(first, "PNG"), (turned(first, 30), "JPEG"), (second, "BMP")]
    ]
    assert features[0].descriptors.dtype == np.uint8
    assert len(features[0].points) == len(features[0].descriptors)
    assert local_features.count_inliers(features[0], features[1]) >= 100
    assert local_features.count_inliers(features[0], features[2]) < 10
    blank = verification.extract(encode(Image.new("RGB", (64, 64)), "PNG"))
    assert blank.points.shape == (0, 2)
    assert local_features.count_inliers(features[0], blank) == 0


def test_grocery_photographs(shared):
    """Photographs of one product match far more often than those of two of one shelf."""
    by_label = {}
    with open(shared / "data/grocery/query_packages.csv", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            by_label.setdefault(row["label"], []).append(shared / "data/grocery" / row["path"])
    features = [
        (label, verification.extract(path.read_bytes()))
        for label, paths in list(by_label.items())[:4]
        for path in paths[:3]
    ]
    matches = {True: [], False: []}
    for (label, one), (other_label, other) in itertools.combinations(features, 2):
        inliers = local_features.count_inliers(one, other)
        matches[label == other_label].append(inliers >= local_features.INLIERS)
    assert np.mean(matches[True]) > 0.4
    assert np.mean(matches[False]) < 0.1


def test_refused_images():
    for data in (b"", b"<html>", encode(texture(1), "JPEG")[:500]):
        with pytest.raises(images.RejectedImageError):
            verification.extract(data)


def test_two_matching_neighbors_verify(tmp_path):
    shown = texture(0)
    pictures = [shown, turned(shown, 20), turned(shown, 45), texture(1), texture(2)]
    paths = {row: str(tmp_path / f"{row}.jpg") for row in range(len(pictures))}
    for row, picture in enumerate(pictures):
        picture.save(paths[row])
    paths[5] = str(tmp_path / "broken.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"<html>")
    pairs = [
        (0, [3, 1, 5, 2]),  # two of four
        (1, [0, 4, 5]),  # one
        (2, [0, 1]),
        (3, [4, 0]),
        (4, []),
        (5, [0, 1, 2]),  # cannot be read
        (6, [0, 1]),  # the table names no path
    ]
    pairs = [(row, np.array(others, np.int64)) for row, others in pairs]
    verified, unreadable = verification.verify(pairs, paths, workers=2, stream=None)
    assert verified == [0, 2]
    assert unreadable == {5, 6}


def test_chunks_change_nothing(tmp_path, monkeypatch):
    shown = texture(0)
    paths = {row: str(tmp_path / f"{row}.png") for row in range(4)}
    for row, path in paths.items():
        (turned(shown, 10 * row) if row else texture(5)).save(path)
    pairs = [(row, np.array([r for r in range(4) if r != row])) for row in range(4)]
    whole = verification.verify(pairs, paths, workers=1, stream=None)
    monkeypatch.setattr(verification, "_CHUNK", 1)
    assert verification.verify(pairs, paths, workers=2, stream=None) == whole == ([1, 2, 3], set())


def test_without_opencv(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"waymark\[geometry\]"):
        verification.verify([], {}, workers=1, stream=None)
