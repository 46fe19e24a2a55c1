"""Thumbnails of the page: missing and broken files, files from elsewhere, and their size."""

import shutil

import numpy as np
from image_files import write_table
from pages import Reader, data_of, write_embeddings, write_run
from PIL import Image

from eval import report
from eval.page import pictures


def test_pictures_that_cannot_be_shown_become_placeholders(tmp_path):
    inputs, workdir = write_run(tmp_path), tmp_path
    index = workdir / "photos" / "index.csv"
    secret = workdir / "secret.jpg"
    shutil.copy(workdir / "photos" / "0" / "p006.jpg", secret)
    lines = index.read_text().splitlines()
    paths = ["gone.jpg", "broken.jpg", "cut.jpg", "empty.jpg"]
    paths += ["../secret.jpg", str(secret), "", "0"]
    for row, path in enumerate(paths, 1):
        image, label, _ = lines[row].split(",")
        lines[row] = f"{image},{label},{path}"
    index.write_text("\n".join(lines) + "\n")
    photos = workdir / "photos"
    (photos / "broken.jpg").write_bytes(b"not a picture")
    (photos / "cut.jpg").write_bytes(secret.read_bytes()[:200])
    (photos / "empty.jpg").write_bytes(b"")
    album = pictures.Album([str(index)])
    shown = [album.picture(line.split(",")[0], 64) for line in lines[1:]]
    assert [bool(picture.data) for picture in shown] == [False] * 8 + [True] * 16
    assert album.picture("unknown", 64) == pictures.Picture("unknown", "", "")
    sheet = pictures.sheet([(album, line.split(",")[0]) for line in lines[1:]], 16)
    assert list(sheet.cells) == [-1] * 8 + list(range(16))
    report.write_report(inputs, str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    assert '<span class="missing" role="img" aria-label="rank ' in page
    assert data_of(page)["cells"][:9] == [-1] * 8 + [0]


def test_pictures_of_noise_stay_small(tmp_path):
    """No picture is larger than 0.35 bytes per pixel and 2 kB, however little it can be packed."""
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    table = write_table(tmp_path / "t.csv", [(f"i{n}", "", "a.png") for n in range(100)])
    album = pictures.Album([table])
    picture = album.picture("i0", 320)
    assert 10_000 < len(picture.data) * 3 / 4 < 0.35 * 320 * 320 + 2000
    sheet = pictures.sheet([(album, f"i{n}") for n in range(100)], 64)
    assert len(sheet.data) * 3 / 4 < 0.35 * 640 * 640 + 2000
    # 16 rankings, 20 pairs, 2,000 points: what a page can hold at most, in base64
    rankings = 16 * (0.35 * 320**2 + 10 * 0.35 * 176**2 + 22_000) + 20 * 2 * (0.35 * 176**2 + 2000)
    assert (rankings + 0.35 * 2025 * 64**2) * 4 / 3 < 9e6


def test_real_photographs(tmp_path, shared):
    tables = shared / "data" / "grocery"
    index, queries = (
        [line.split(",")[0] for line in (tables / f"{name}.csv").read_text().splitlines()[1:301]]
        for name in ("index", "query")
    )
    lines = (tables / "retrieval_solution.csv").read_text().splitlines()
    solution = [line.split(",") for line in lines if line[:16] in queries]
    rng = np.random.default_rng(0)
    folders = [
        write_embeddings(tmp_path / name, ids, rng.normal(size=(len(ids), 16)))
        for name, ids in (("index", index), ("query", queries))
    ]
    inputs = report.Inputs(
        [folders[0]],
        [folders[1]],
        write_table(tmp_path / "solution.csv", solution, ("id", "images", "Usage")),
        index_table=str(tables / "index.csv"),
        query_tables=[str(tables / "query.csv")],
    )
    size = report.write_report(inputs, str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    assert len(Reader(page).all("img")) == 16 * 11 + 20 * 2 + 1
    assert -1 not in data_of(page)["cells"]
    assert 1_000_000 < size < 8_000_000
