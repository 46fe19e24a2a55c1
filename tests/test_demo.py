"""The drawn data: bytes, splits, labels, solutions and resuming."""

import collections
import csv
import hashlib
import json
import math
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from demo import draw as drawing
from demo.camera import View, faces, paint, projection
from demo.canvas import Canvas
from demo.landmarks import KINDS, generator, landmark
from demo.materials import smooth_noise
from demo.openings import SHAPES, outline
from demo.plan import LABELS, SIZES, class_counts, plan
from demo.shapes import Panel
from demo.sheet import contact_sheet

ROOT = pathlib.Path(__file__).resolve().parents[1]
TABLES = ("train", "index", "query", "query_nomatch")


def _read(folder: pathlib.Path, name: str) -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _digests(folder: pathlib.Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return drawing.draw(tmp_path_factory.mktemp("demo") / "tiny", size="tiny", workers=1)


def test_bytes_do_not_depend_on_workers(tiny, tmp_path):
    other = drawing.draw(tmp_path / "two", size="tiny", workers=2)
    assert _digests(other) == _digests(tiny)


def test_missing_photographs_are_drawn_again_with_the_same_bytes(tiny, tmp_path, capfd):
    before = _digests(tiny)
    chosen = [tiny / row["path"] for name in TABLES for row in _read(tiny, name)[::9]]
    kept = tiny / _read(tiny, "train")[1]["path"]
    stamp = kept.stat().st_mtime_ns
    for path in chosen:
        path.unlink()
    capfd.readouterr()
    drawing.draw(tiny, size="tiny", workers=1)
    assert _digests(tiny) == before
    assert kept.stat().st_mtime_ns == stamp
    assert f"draw: {len(chosen)}/{len(chosen)}" in capfd.readouterr().err


def test_finished_folder_is_left_as_it_is(tiny, capfd):
    stamps = {path: path.stat().st_mtime_ns for path in tiny.rglob("*")}
    assert drawing.main(["--output", str(tiny), "--size", "tiny"]) == 0
    assert {path: path.stat().st_mtime_ns for path in tiny.rglob("*")} == stamps
    assert capfd.readouterr().err == ""


def test_a_stopped_drawing_goes_on(tiny, tmp_path):
    folder = tmp_path / "stopped"
    command = [sys.executable, "demo/draw.py", "--output", str(folder), "--size", "tiny"]
    process = subprocess.Popen([*command, "--workers", "2"], cwd=ROOT, stderr=subprocess.PIPE)
    until = time.monotonic() + 30
    while not any(folder.rglob("*.jpg")) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=30)
    assert process.returncode == 130, message
    assert b"goes on" in message
    assert b"Traceback" not in message
    assert not list(folder.glob("*.csv"))
    assert json.loads((folder / "manifest.json").read_text())["finished"] is False
    with pytest.raises(ValueError, match="Received"):
        drawing.draw(folder, size="tiny", seed=1, workers=1)
    drawing.draw(folder, size="tiny", workers=1)
    assert _digests(folder) == _digests(tiny)


def test_other_options_and_foreign_folders_are_errors(tiny, tmp_path, capfd):
    before = _digests(tiny)
    assert drawing.main(["--output", str(tiny), "--size", "tiny", "--seed", "5"]) == 2
    message = capfd.readouterr().err
    assert "'seed': 5" in message
    assert "'seed': 0" in message
    assert _digests(tiny) == before
    (tmp_path / "images").mkdir()
    with pytest.raises(ValueError, match=r"manifest\.json"):
        drawing.draw(tmp_path, size="tiny", workers=1)
    for wrong in ({"seed": -1}, {"size": "huge"}, {"workers": 0}):
        with pytest.raises(ValueError, match="Received"):
            drawing.draw(tmp_path / "new", **wrong)


def test_files_agree_with_tables(tiny):
    rows = [row for name in TABLES for row in _read(tiny, name)]
    paths = {path.relative_to(tiny).as_posix() for path in tiny.rglob("*.jpg")}
    assert {row["path"] for row in rows} == paths
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        assert row["path"] == f"images/{int(row['label']):06d}/{row['id']}.jpg"
        assert len(row["id"]) == 16
        assert set(row["id"]) <= set("0123456789abcdef")
        with Image.open(tiny / row["path"]) as image:
            image.load()
            assert image.mode == "RGB"
            assert image.format == "JPEG"
            assert 256 <= max(image.size) <= 320
            assert min(image.size) >= 140
            # Not blank: a photograph has contrast.
            assert np.asarray(image.convert("L")).std() > 4
    assert json.loads((tiny / "manifest.json").read_text())["finished"] is True


def test_training_and_test_landmarks_are_disjoint(tiny):
    train, index, query, nomatch = ({row["label"] for row in _read(tiny, name)} for name in TABLES)
    assert not train & (index | query | nomatch)
    assert not nomatch & (index | query)
    assert query < index
    for photos in (plan(SIZES["full"], 0), plan(SIZES["tiny"], 0)):
        shown = {split: {(p.landmark, p.scene) for p in photos if p.split == split} for split in
                 TABLES}  # fmt: skip
        assert not shown["train"] & (shown["index"] | shown["query"] | shown["query_nomatch"])
        assert not shown["query_nomatch"] & (shown["index"] | shown["query"])


def test_solutions_agree_with_the_tables(tiny):
    index, query, nomatch = (_read(tiny, name) for name in TABLES[1:])
    retrieval = {row["id"]: row for row in _read(tiny, "retrieval_solution")}
    recognition = {row["id"]: row for row in _read(tiny, "recognition_solution")}
    assert set(retrieval) == set(recognition) == {row["id"] for row in query + nomatch}
    for row in query:
        relevant = [other["id"] for other in index if other["label"] == row["label"]]
        assert relevant
        assert sorted(retrieval[row["id"]]["images"].split()) == sorted(relevant)
        assert retrieval[row["id"]]["Usage"] == "Private"
        assert recognition[row["id"]]["landmarks"] == row["label"]
    for row in nomatch:
        assert retrieval[row["id"]] == {"id": row["id"], "images": "None", "Usage": "Ignored"}
        assert recognition[row["id"]]["landmarks"] == ""


def test_full_size_has_a_long_tail_mistakes_and_fewer_clean_classes():
    photos = plan(SIZES["full"], 0)
    by_split = collections.Counter(photo.split for photo in photos)
    assert 2000 <= by_split["train"] <= 2400
    assert 600 <= by_split["index"] <= 850
    assert by_split["query"] == 250
    assert by_split["query_nomatch"] == 60
    train = [photo for photo in photos if photo.split == "train"]
    counts = sorted(collections.Counter(photo.label for photo in train).values())
    assert len(counts) == 240
    assert (counts[0], counts[-1]) == (2, 40)
    assert counts == sorted(class_counts(SIZES["full"]))
    assert sum(counts[-48:]) > 0.5 * sum(counts)
    labels = sorted({photo.label for photo in photos})
    assert labels[-1] < LABELS
    assert labels != list(range(labels[0], labels[0] + len(labels)))
    assert len({photo.id for photo in photos}) == len(photos)


def test_clean_photographs_are_labelled_right():
    train = [photo for photo in plan(SIZES["full"], 3) if photo.split == "train"]
    of_label = collections.defaultdict(collections.Counter)
    for photo in train:
        of_label[photo.label][photo.landmark, photo.scene] += 1
    truth = {label: shown.most_common(1)[0][0] for label, shown in of_label.items()}
    wrong = [p for p in train if (p.landmark, p.scene) != truth[p.label]]
    assert len(wrong) == round(0.05 * len(train))
    assert not any(photo.is_clean for photo in wrong)
    clean = [photo for photo in train if photo.is_clean]
    assert 0.5 * len(train) < len(clean) < 0.8 * len(train)
    assert 150 < len({photo.label for photo in clean}) < len(truth)


def test_another_seed_gives_another_world():
    first, second = plan(SIZES["tiny"], 0), plan(SIZES["tiny"], 1)
    assert not {photo.id for photo in first} & {photo.id for photo in second}
    assert landmark(0, 0).panels[0].texture.image.tobytes() != (
        landmark(1, 0).panels[0].texture.image.tobytes()
    )


@pytest.mark.parametrize("kind", [kind for kind, _ in KINDS], ids=lambda kind: kind.__name__)
def test_every_kind_draws_the_same_landmark_twice(kind):
    first, second, other = (kind(generator(7, 1), generator(7, 2, detail)) for detail in (0, 0, 1))
    images = [made.panels[-1].texture.image for made in (first, second, other)]
    assert images[0].tobytes() == images[1].tobytes() != images[2].tobytes()
    assert max(first.width, first.height) <= 1.15
    for panel in first.panels:
        assert math.isclose(float(np.dot(panel.right, panel.down)), 0.0, abs_tol=1e-9)
        # At least a tenth of the picture is painted.
        assert np.asarray(panel.texture.image.getchannel("A")).mean() > 25


def _straight_view() -> View:
    """A camera 2 units in front of the origin, with focal length 100 and centre (50, 40)."""
    position = np.array([0.0, 0.0, 2.0])
    matrix = projection(position, np.zeros(3), 100.0, (50.0, 40.0), 0.0)
    return View(matrix, position, 0.0, (100, 80))


def test_the_camera_projects_by_hand():
    view = _straight_view()
    assert view.project((0.0, 0.0, 0.0)) == pytest.approx((50, 40))
    assert view.project((0.5, 0.0, 0.0)) == pytest.approx((75, 40))  # 50 + 100 * 0.5 / 2
    assert view.project((0.0, 0.5, 1.0)) == pytest.approx((50, -10))  # 40 - 100 * 0.5 / 1
    assert view.pixels_per_unit((0.0, 0.0, 0.0)) == pytest.approx(50)


def test_a_panel_lands_where_its_corners_do():
    canvas = Canvas(20, 20)
    canvas.rect((0, 0, 10, 20), (200, 0, 0), glow=90)
    canvas.rect((10, 0, 20, 20), (0, 0, 200))
    panel = Panel(canvas.finish(), (-0.4, 0.2, 0.0), (0.8, 0.0, 0.0), (0.0, -0.4, 0.0))
    view, frame, glow = _straight_view(), Image.new("RGBA", (100, 80)), Image.new("L", (100, 80))
    assert faces(view, panel)
    assert not faces(view, panel._replace(right=(-0.8, 0.0, 0.0)))
    paint(view, panel, 0.5, frame, glow)
    # Corners: x = 50 - 100 * 0.4 / 2 = 30 to 70, y = 40 - 100 * 0.2 / 2 = 30 to 50.
    opaque = np.asarray(frame.getchannel("A")) == 255
    expected = np.zeros((80, 100), bool)
    expected[30:50, 30:70] = True
    assert (opaque == expected).all()
    assert frame.getpixel((40, 40)) == (100, 0, 0, 255)
    assert frame.getpixel((60, 40)) == (0, 0, 100, 255)
    assert (glow.getpixel((40, 40)), glow.getpixel((60, 40))) == (90, 0)


def test_drawing_helpers_by_hand():
    canvas = Canvas(4, 2)
    canvas.rect((1, 0, 3, 2), (10, 20, 30), glow=200)
    image, glow = canvas.finish()
    assert image.size == glow.size == (4, 2)
    assert image.getpixel((1, 1)) == (10, 20, 30, 255)
    assert glow.getpixel((1, 1)) == 200
    assert image.getpixel((0, 0))[3] == 0
    noise = smooth_noise(np.random.default_rng(0), 40, 60, 4)
    assert noise.shape == (40, 60)
    assert np.abs(noise).max() < 1.6
    for shape in SHAPES:
        xs, ys = zip(*outline((2.0, 3.0, 12.0, 33.0), shape), strict=True)
        assert min(xs) >= 2 - 1e-9
        assert max(xs) <= 12 + 1e-9
        assert min(ys) >= 3 - 1e-9
        assert max(ys) <= 33 + 1e-9


def test_contact_sheet_shows_the_rows(tiny):
    sheet = contact_sheet(tiny, "index.csv", rows=3, columns=4, cell=60)
    assert sheet.size == (240, 180)
    assert np.asarray(sheet)[2:58, 2:40].std() > 4
