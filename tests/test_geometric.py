"""Geometric verification on drawn photographs, and its order by hand."""

import numpy as np
import pytest
from PIL import Image
from test_local_features import texture, turned

from retrieval.reranking import geometric

pytest.importorskip("cv2")


def test_verified_answers_come_first_by_their_inliers():
    positions = np.array([[4, 3, 2, 1, 0]])
    counts = np.array([[5, 12, 9, 30]])
    assert geometric.by_inliers(positions, counts, 10).tolist() == [[1, 3, 4, 2, 0]]
    assert geometric.by_inliers(positions, counts, 31).tolist() == [[4, 3, 2, 1, 0]]


def test_the_photograph_of_the_same_thing_comes_first(tmp_path, capsys):
    """The third answer shows the query's texture, turned; the fifth is no image at all."""
    paths = []
    for number, image in enumerate([texture(2), texture(3), turned(texture(1), 20), texture(4)]):
        paths.append(str(tmp_path / f"{number}.png"))
        image.save(paths[-1])
    paths.append(str(tmp_path / "broken.jpg"))
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    query = str(tmp_path / "query.jpg")
    texture(1).save(query)
    found = geometric.rerank([query], paths, np.array([[0, 4, 1, 2, 3]]), candidates=4)
    assert found.tolist() == [[2, 0, 4, 1, 3]]
    error = capsys.readouterr().err
    assert "1 photographs could not be read and match none" in error
    assert "broken.jpg" in error


def test_a_photograph_of_too_many_pixels_is_refused(tmp_path, monkeypatch):
    Image.new("L", (30, 30)).save(tmp_path / "large.png")
    monkeypatch.setattr(geometric, "MOST_PIXELS", 899)
    with pytest.raises(ValueError, match=r"expected at most 899 pixels\. Received: 30 x 30"):
        geometric.read_grey(str(tmp_path / "large.png"))


def test_numbers_and_paths_are_checked():
    with pytest.raises(ValueError, match=r"each of 1 queries\. Received: 20, 0, 1 paths"):
        geometric.rerank(["q"], ["i"], np.zeros((1, 1), int), inliers=0)
