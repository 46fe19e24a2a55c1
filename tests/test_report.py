"""The results page: its numbers, its choice of rankings, and that it needs nothing else."""

import html.parser
import json
import math
import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT
from image_files import write_photos, write_table

from eval import charts, gallery, report

ROWS = [
    # name, member, stage, pixels, search, mAP@100, R@1, GAP
    ("A stage 1", "A", 1, 64, "exact", 0.3120, 0.500, 0.301),
    ("A stage 1", "A", 1, 64, "scann", 0.3110, 0.499, 0.300),
    ("A stage 2", "A", 2, 96, "exact", 0.3434, 0.480, math.nan),
    ("A stage 2", "A", 2, 96, "scann", 0.3420, 0.499, 0.322),
    ("ensemble", "ensemble", None, None, "exact", 0.4021, 0.500, 0.401),
    ("ensemble", "ensemble", None, None, "scann", 0.4000, 0.612, 0.322),
]
KEYS = ("name", "member", "stage", "pixels", "search", "map_at_100", "recall_at_1", "gap")


def rows():
    return [dict(zip(KEYS, row, strict=True)) for row in ROWS]


def write_log(path, stage, epochs):
    path.parent.mkdir(parents=True)
    lines = []
    for epoch in range(1, epochs + 1):
        about = {"stage": stage, "epoch": epoch, "step": 10 * epoch}
        values = {"loss": 4 / epoch, "accuracy": 1 - 1 / (epoch + 1)}
        lines.append({"event": "train", **about, **values, "learning_rate": 1e-3 / epoch})
        lines.append({"event": "validation", **about, **values})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"event": "tra')


@pytest.fixture
def workdir(tmp_path):
    """A job of one member and two stages: 6 queries and 12 index images of 3 labels."""
    photos = tmp_path / "photos"
    photos.mkdir()
    table = write_photos(photos, 18)
    queries, index = table[:6], table[6:]
    write_table(photos / "query.csv", queries)
    write_table(photos / "index.csv", index)
    right = {q: [i for i, label, _ in index if label == own] for q, own, _ in queries}
    solution = [(query, " ".join(images), "Public") for query, images in right.items()]
    solution.append(("nomatch", "None", "Public"))
    write_table(photos / "solution.csv", solution, ("id", "images", "Usage"))
    ranked = [image for image, _, _ in index]
    predictions = [(query, " ".join(ranked)) for query in right] + [("nomatch", ranked[0])]
    write_table(tmp_path / "rankings.csv", predictions, ("id", "images"))
    for stage, epochs in ((1, 3), (2, 2)):
        write_log(tmp_path / "A" / f"stage-{stage}" / "log.jsonl", stage, epochs)
    results = {
        "title": "Demo <script>alert(1)</script>",
        "dataset": "<b>photos</b>",
        "seconds": {"convert": 1.25, "train": 75.2},
        "rows": rows(),
        "curves": [
            {"member": "A", "stage": s, "pixels": 32 * s + 32, "log": f"A/stage-{s}/log.jsonl"}
            for s in (1, 2)
        ],
        "rankings": {
            "predictions": "rankings.csv",
            "solution": "photos/solution.csv",
            "query_table": "photos/query.csv",
            "index_table": "photos/index.csv",
        },
    }
    (tmp_path / "results.json").write_text(json.dumps(results))
    return tmp_path


def write_page(workdir):
    output = workdir / "report.html"
    report.write_report(results=str(workdir / "results.json"), output=str(output))
    return output.read_text(encoding="utf-8")


class Reader(html.parser.HTMLParser):
    """Collects the elements of a page, its visible text and what is left open."""

    VOID = ("meta", "img", "br", "col")

    def __init__(self, page):
        super().__init__()
        self.elements, self.text, self.open = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "title"):
            self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def test_metrics_table_by_hand():
    lines = report.metrics_table(rows())
    assert [line.name for line in lines] == ["A stage 1", "A stage 2", "ensemble"]
    assert [line.starts_member for line in lines] == [True, False, True]
    shown = [[(cell.text, cell.gain, cell.best) for cell in line.cells] for line in lines]
    none, minus = "\N{EN DASH}", "\N{MINUS SIGN}"
    exact = [
        [("0.312", "", False), ("0.500", "", True), ("0.301", "", False)],
        [("0.343", "+0.031", False), ("0.480", f"{minus}0.020", False), (none, "", False)],
        [("0.402", "+0.059", True), ("0.500", "±0.000", True), ("0.401", "+0.100", True)],
    ]
    scann = [
        [("0.311", "", False), ("0.499", "", False), ("0.300", "", False)],
        [("0.342", "+0.031", False), ("0.499", "±0.000", False), ("0.322", "+0.022", True)],
        [("0.400", "+0.058", True), ("0.612", "+0.113", True), ("0.322", "±0.000", True)],
    ]
    assert shown == [left + right for left, right in zip(exact, scann, strict=True)]


def test_headline_is_the_ensemble_with_exact_search():
    assert report.headline(rows()) == rows()[4]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (0.42, "0.4 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (75.2, "1 min 15 s"),
        (7300, "2 h 01 min"),
    ],
)
def test_duration(seconds, words):
    assert report.duration(seconds) == words


def test_page_shows_every_number_and_escapes_every_text(workdir):
    page = write_page(workdir)
    reader = Reader(page)
    text = " ".join(reader.text)
    for row in ROWS:
        assert row[0] in text
        for value in row[5:]:
            assert math.isnan(value) or f"{value:.3f}" in text
    for words in ("64 px", "96 px", "1.2 s", "1 min 15 s", "1 min 16 s", "6 queries", "12 images"):
        assert words in re.sub(r"\s+", " ", text)
    assert not reader.all("script")
    assert "<b>photos</b>" in text
    assert "Demo <script>alert(1)</script>" in text
    assert not reader.open


def test_page_loads_nothing(workdir):
    page = write_page(workdir)
    assert "http:" not in page
    assert "https:" not in page
    assert "@import" not in page
    reader = Reader(page)
    assert not reader.all("link")
    assert not reader.all("iframe")
    for _, attributes in reader.elements:
        assert attributes.get("src", "data:").startswith("data:")
        for name in ("href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)", page))


def test_ids_in_the_page_are_unique_and_known(workdir):
    page = write_page(workdir)
    ids = [attributes["id"] for _, attributes in Reader(page).elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"url\(#([^)]*)\)", page)) | set(re.findall(r'href="#([^"]*)"', page))
    used |= set(re.findall(r'aria-labelledby="([^"]*)"', page))
    assert used <= set(ids)


def test_charts_take_the_colours_of_the_page(workdir):
    page = write_page(workdir)
    charts_of_page = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(charts_of_page) == 4  # progress; loss, accuracy, learning rate of member A
    for chart in charts_of_page:
        assert "var(--ink)" in chart or "var(--muted)" in chart
        assert not re.search(r"#0[12]0[12]0", chart)
    assert "stage 1" in charts_of_page[1]
    assert "96 px" in charts_of_page[1]


def test_every_picture_and_chart_has_a_text(workdir):
    reader = Reader(write_page(workdir))
    pictures = reader.all("img")
    assert len(pictures) == 6 + 6 * 10
    assert all(picture["alt"] for picture in pictures)
    texts = [a["aria-label"] for a in reader.all("div") if a.get("role") == "img"]
    assert texts[0] == "mAP@100 by stage, exact search: A 0.312, 0.343; ensemble 0.402"
    assert texts[1].startswith(
        "A, loss by epoch: stage 1 train 4 to 1.33; stage 1 validation 4 to 1.33; stage 2"
    )


def test_right_and_wrong_are_marked_in_order(workdir):
    # The index goes through labels 0, 10, 20, 0, …: a query of label 10 is right at ranks 2, 5, 8.
    reader = Reader(write_page(workdir))
    marks = [item["class"] for item in reader.all("li")]
    by_query = [marks[start : start + 10] for start in range(0, len(marks), 10)]
    alts = [picture["alt"] for picture in reader.all("img")]
    queries = [alt.removeprefix("query id") for alt in alts if alt.startswith("query")]
    for query, shown in zip(queries, by_query, strict=True):
        first = int(query) % 3
        assert shown == ["right" if rank % 3 == first else "wrong" for rank in range(10)]
    assert alts[1].startswith("rank 1, ")
    assert "".join(reader.text).count("✓") == 1 + marks.count("right")  # 1: the legend


def test_pictures_that_cannot_be_shown_become_placeholders(workdir):
    index = workdir / "photos" / "index.csv"
    secret = workdir / "secret.jpg"
    shutil.copy(workdir / "photos" / "0" / "p006.jpg", secret)
    lines = index.read_text().splitlines()
    for row, path in enumerate(
        ("gone.jpg", "broken.jpg", "cut.jpg", "empty.jpg", "../secret.jpg", str(secret), "", "0"), 1
    ):
        image, label, _ = lines[row].split(",")
        lines[row] = f"{image},{label},{path}"
    index.write_text("\n".join(lines) + "\n")
    photos = workdir / "photos"
    (photos / "broken.jpg").write_bytes(b"not a picture")
    (photos / "cut.jpg").write_bytes(secret.read_bytes()[:200])
    (photos / "empty.jpg").write_bytes(b"")
    album = gallery.Album(str(index))
    shown = [album.picture(line.split(",")[0], 64) for line in lines[1:]]
    assert [bool(picture.data) for picture in shown] == [False] * 8 + [True] * 4
    assert album.picture("unknown", 64) == gallery.Picture("unknown", "", "")
    page = write_page(workdir)
    assert page.count('class="missing"') == 6 * 8
    assert '<span class="missing" role="img" aria-label="rank 1, ' in page
    assert "<span>id006</span>" in page


def test_equal_inputs_give_an_equal_page(workdir):
    assert write_page(workdir) == write_page(workdir)


def test_log_without_its_cut_off_line(workdir):
    stage = charts.read_stage(str(workdir / "A" / "stage-1" / "log.jsonl"), 1, 64)
    assert [row["loss"] for row in stage.train] == pytest.approx([4, 2, 4 / 3])
    assert len(stage.validation) == 3
    assert stage.epochs == 3
    assert charts.Stage(1, None, [], []).epochs == 0


def test_charts_of_a_job_that_logged_nothing():
    empty = charts.Stage(1, None, [], [])
    assert charts.curves([empty], "loss", "loss", "salt").startswith("<svg")
    assert charts.progress({}, None, {}).startswith("<svg")


def test_command_line_answers_from_another_folder(workdir):
    command = [sys.executable, "-W", "error", str(ROOT / "eval" / "report.py")]
    command += ["--results", "results.json", "--output", "page/report.html"]
    (workdir / "page").mkdir()
    done = subprocess.run(command, cwd=workdir, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("page/report.html: 0.")
    assert os.listdir(workdir / "page") == ["report.html"]


def test_command_line_says_what_is_missing(workdir, capsys):
    (workdir / "photos" / "index.csv").write_text("id,name\na,b\n")
    arguments = ["--results", str(workdir / "results.json"), "--output", str(workdir / "r.html")]
    assert report.main(arguments) == 1
    assert "expected the columns id, label, path" in capsys.readouterr().err
    assert not (workdir / "r.html").exists()
    assert report.main(["--results", str(workdir / "none.json"), *arguments[2:]]) == 1
    assert "none.json" in capsys.readouterr().err


def test_real_photographs_stay_below_five_megabytes(workdir, shared):
    tables = shared / "data" / "grocery"
    index = [line.split(",")[0] for line in (tables / "index.csv").read_text().splitlines()[1:]]
    queries = [line.split(",")[0] for line in (tables / "query.csv").read_text().splitlines()[1:]]
    ranked = [
        (query, " ".join((index[17 * row % 1347 :] + index)[:100]))
        for row, query in enumerate(queries)
    ]
    write_table(workdir / "rankings.csv", ranked, ("id", "images"))
    results = json.loads((workdir / "results.json").read_text())
    for key, name in (("solution", "retrieval_solution"), ("query_table", "query")):
        results["rankings"][key] = str(tables / f"{name}.csv")
    results["rankings"]["index_table"] = str(tables / "index.csv")
    (workdir / "results.json").write_text(json.dumps(results))
    page = write_page(workdir)
    assert len(Reader(page).all("img")) == 15 * 11
    assert 500_000 < len(page.encode()) < 5_000_000
