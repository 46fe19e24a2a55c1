"""From images and videos to crops, embeddings and matches, by the commands a user runs."""

import csv
import re

import numpy as np
import pytest
from detectors import save_detector
from image_files import jpeg, write_table
from networks import save_model
from PIL import Image

from detection import detect, sources, videos
from detection.predict import Detector
from export import embed
from retrieval import match


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def size_of(path):
    with Image.open(path) as image:
        return image.size


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_detector(tmp_path_factory.mktemp("detector"))


@pytest.fixture
def photos(tmp_path):
    """A table of two images, one of an unsafe id, and two bad ones; column folder is kept."""
    (tmp_path / "a.jpg").write_bytes(jpeg(1, (80, 50)))
    (tmp_path / "b.jpg").write_bytes(jpeg(2, (30, 90)))
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    rows = [
        ("a", "a.jpg", "F"),
        ("../b:1", "b.jpg", "F"),
        ("bad", "bad.jpg", "F"),
        ("lost", "lost.jpg", "G"),
    ]
    return write_table(tmp_path / "photos.csv", rows, ("id", "path", "folder"))


def write_video(path, frames=12):
    cv2 = pytest.importorskip("cv2")
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for number in range(frames):
        writer.write(np.full((48, 64, 3), 20 * number, np.uint8))
    writer.release()
    return str(path)


def test_crops_to_matches(model, photos, tmp_path):
    """Images and a video to crops, crops to embeddings, embeddings to matches: files throughout."""
    found, shown = str(tmp_path / "found"), str(tmp_path / "shown")
    options = ["--model", model, "--threshold", "0", "--max-boxes", "3"]
    table = [*options, "--table", photos, "--keep", "folder", "--output", found]
    assert detect.main(table) == 3  # two are rejected
    rows = read(f"{found}/crops.csv")
    assert [row["source"] for row in rows] == ["a"] * 3 + ["../b:1"] * 3
    assert {row["folder"] for row in rows} == {"F"}
    assert {row["id"] for row in read(f"{found}/rejects.csv")} == {"bad", "lost"}
    for row in rows:
        box = [float(row[name]) for name in ("xmin", "ymin", "xmax", "ymax")]
        size = size_of(f"{found}/{row['path']}")
        expected = (np.ceil(box[2]) - np.floor(box[0]), np.ceil(box[3]) - np.floor(box[1]))
        np.testing.assert_allclose(size, np.maximum(expected, 1), atol=1)  # rounded in the table
        assert 0 <= box[0] <= box[2] <= (80 if row["source"] == "a" else 30)

    video = write_video(tmp_path / "film.avi")
    frames = [*options, "--video", video, "--frames", "2:14:4", "--output", shown]
    assert detect.main(frames) == 3
    rows = read(f"{shown}/crops.csv")
    assert [(row["source"], row["frame"]) for row in rows[::3]] == [
        ("film", "2"),
        ("film", "6"),
        ("film", "10"),
    ]
    assert read(f"{shown}/rejects.csv")[0]["id"] == "film-f000014"

    describer, matches = save_model(tmp_path), str(tmp_path / "matches.csv")
    for folder in (found, shown):
        source = ["--table", f"{folder}/crops.csv", "--output", f"{folder}/embedded"]
        assert embed.main(["--model", describer, *source]) == 0
    query = ["--query", f"{found}/embedded", "--query-table", f"{found}/crops.csv"]
    gallery = ["--video", f"{shown}/embedded", "--video-table", f"{shown}/crops.csv"]
    assert match.main([*query, *gallery, "--farthest", "4.1", "--output", matches]) == 0
    assert [(row["video"], row["folder"]) for row in read(matches)] == [("film", "F")]


def test_images_without_a_box(model, photos, tmp_path):
    output, detector = str(tmp_path / "none"), Detector(model, threshold=1.0)
    pictures = sources.TablePictures([photos])
    assert detect.detect(detector, pictures, output) == detect.Counts(4, 0, 2, 2)
    assert read(f"{output}/crops.csv") == []
    assert detect.detect(detector, pictures, output, when_none="whole").crops == 2
    rows = read(f"{output}/crops.csv")
    assert [(row["source"], row["score"], row["xmax"]) for row in rows] == [
        ("a", "0.0000", "80.00"),
        ("../b:1", "0.0000", "30.00"),
    ]
    assert size_of(f"{output}/{rows[0]['path']}") == (80, 50)


def test_detection_with_wrong_arguments(model, photos, tmp_path, capsys):
    output = ["--output", str(tmp_path / "o")]
    assert detect.main(["--model", str(tmp_path), "--table", photos, *output]) == 2
    told = capsys.readouterr()
    assert "workdir of a finished detection/fit.py" in told.err
    assert re.fullmatch(r"detection: [CG]PU.*, TensorFlow [\d.]+\n", told.out)
    options = ["--model", model, *output]
    assert detect.main([*options, "--table", photos, "--keep", "path"]) == 2
    assert "expected columns other than" in capsys.readouterr().err
    assert detect.main([*options, "--video", "a.avi", "--frames", "5:1:1"]) == 2
    assert "expected FIRST:LAST:STEP" in capsys.readouterr().err
    assert detect.main([*options, "--video", "a.avi", "--frames", "1:5:1"]) == 2
    assert "which do not exist" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        detect.main([*options, "--video", "a.avi"])


def test_frames_by_index(tmp_path):
    assert list(videos.parse_frames("80:380:20")) == list(range(80, 381, 20))  # 16, as published
    video = write_video(tmp_path / "film.avi")
    found = dict(videos.read_frames(video, videos.parse_frames("3:11:4")))
    assert list(found) == [3, 7, 11]
    for index, pixels in found.items():
        assert abs(pixels.mean() - 20 * index) < 3  # JPEG rounds
    (tmp_path / "text.avi").write_text("no video")
    with pytest.raises(ValueError, match="expected a video that OpenCV reads"):
        next(videos.read_frames(str(tmp_path / "text.avi"), range(1)))


def test_videos_that_do_not_decode_are_rejects(tmp_path):
    (tmp_path / "text.avi").write_text("no video")
    source = sources.VideoPictures([str(tmp_path / "text.avi")], range(2))
    assert source.count() == 2
    assert [picture.pixels for picture in source] == [None, None]
    with pytest.raises(ValueError, match="videos of different names"):
        sources.VideoPictures(["a/x.avi", "b/x.mp4"], range(2)).count()


def test_safe_names():
    assert sources.safe_name("0a1b-2.jpg") == "0a1b-2.jpg"
    names = [sources.safe_name(text) for text in ("a/b", "a_b/", "a b", "../a", "ä", "x" * 300)]
    assert len(set(names)) == len(names)
    for name in names:
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-")
        assert len(name) < 80
