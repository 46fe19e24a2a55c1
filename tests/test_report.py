"""The results page: its numbers, what it says of untrusted text, and that it needs nothing else."""

import base64
import hashlib
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from image_files import write_table
from pages import ROWS, Reader, data_of, write_embeddings, write_job, write_run

from eval import gap, mean_ap, report
from eval.page import gallery, sections

EVIL = "</script><img/src=x/onerror=alert(1)>\"'&<!--"


@pytest.fixture
def workdir(tmp_path):
    write_job(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A job's folder and its page, which no test changes."""
    folder = tmp_path_factory.mktemp("job")
    write_job(folder)
    return folder, write_page(folder)


def write_page(workdir):
    output = workdir / "report.html"
    report.write_job_report(results=str(workdir / "results.json"), output=str(output))
    return output.read_text(encoding="utf-8")


def plain(reader):
    return re.sub(r"\s+", " ", " ".join(reader.text))


def test_page_of_a_job_shows_its_rows_and_escapes_every_text(written):
    reader = Reader(written[1])
    text = plain(reader)
    for row in ROWS:
        assert row[0] in text
        for value in row[5:]:
            assert math.isnan(value) or f"{value:.3f}" in text
    for words in ("64 px", "96 px", "1.2 s", "1 min 15 s", "1 min 16 s", "6 queries", "24 images"):
        assert words in text
    assert "<b>photos</b>" in text
    assert "Demo <script>alert(1)</script>" in text
    assert not reader.open


def test_numbers_are_those_of_the_commands(tmp_path):
    inputs = write_run(tmp_path, noise=2.5)
    given = {"index": inputs.index, "query": inputs.query, "bootstrap": 1000}
    scores = mean_ap.evaluate(solution=inputs.solution, **given)
    scores |= gap.evaluate(solution=inputs.recognition_solution, labels=inputs.index_table, **given)
    output = tmp_path / "page.html"
    report.write_report(inputs, str(output))
    text = plain(Reader(output.read_text()))
    names = {"map_at_100": "mAP@100", "recall_at_1": "R@1", "recall_at_5": "R@5", "gap": "GAP",
             "precision_at_10": "P@10", "map_at_r": "MAP@R", "top_1": "top-1"}  # fmt: skip
    assert 0.2 < scores["map_at_100"] < 0.9
    for name, label in names.items():
        low, high = scores[f"{name}_interval"]
        assert f"{label} {scores[name]:.3f} {low:.3f} to {high:.3f}" in text
    low, high = scores["mean_position_interval"]
    assert f"mean position {scores['mean_position']:.1f} {low:.1f} to {high:.1f}" in text
    report.write_report(inputs, str(output), bootstrap=0)
    text = plain(Reader(output.read_text()))
    assert f"mAP@100 {scores['map_at_100']:.3f} mean average" in text
    assert "interval" not in text.replace("Value and interval", "")


def test_a_prediction_file_in_place_of_the_search_gives_the_same_page(tmp_path):
    inputs = write_run(tmp_path)
    predictions = str(tmp_path / "predictions.csv")
    mean_ap.evaluate(
        solution=inputs.solution,
        index=inputs.index,
        query=inputs.query,
        write_predictions=predictions,
    )
    command = ["--index", *inputs.index, "--query", *inputs.query, "--solution", inputs.solution]
    command += ["--index-table", inputs.index_table, "--query-table", inputs.query_tables[0]]
    command += ["--recognition-solution", inputs.recognition_solution]
    pages = []
    for name, more in (("a", []), ("b", ["--predictions", predictions])):
        output = tmp_path / f"{name}.html"
        assert report.main([*command, *more, "--output", str(output)]) == 0
        pages.append(output.read_text())
    found = pages[1].replace("Rankings of a prediction file", "Exact search")
    # The similarities are found by two ways of multiplying, which differ in the last digit.
    charts = re.compile(r"<svg.*?</svg>", re.DOTALL)
    assert charts.sub("", found) == charts.sub("", pages[0])


def test_predictions_that_do_not_fit_are_named(tmp_path):
    inputs = write_run(tmp_path)
    solution = {"index": inputs.index, "query": inputs.query, "solution": inputs.solution}
    images = (tmp_path / "index" / "ids.txt").read_text().split()
    file = write_table(tmp_path / "p.csv", [("unknown", images[0])], ("id", "images"))
    with pytest.raises(ValueError, match="unknown"):
        sections.load(report.Inputs(**solution, predictions=file))
    few = write_embeddings(tmp_path / "few", ["id000"], [[1.0] * 8])
    file = write_table(tmp_path / "p.csv", [("id001", images[0])], ("id", "images"))
    with pytest.raises(ValueError, match=r"expected embeddings of every query.*'id001'"):
        sections.load(report.Inputs(**solution | {"query": [few]}, predictions=file))
    some = write_embeddings(tmp_path / "some", ["other"], [[1.0] * 8])
    right = [(f"id{row:03d}", " ".join(images)) for row in range(6)]
    file = write_table(tmp_path / "p.csv", right, ("id", "images"))
    with pytest.raises(ValueError, match="whose embeddings the index lacks"):
        sections.load(report.Inputs(**solution | {"index": [some]}, predictions=file))
    other = write_embeddings(tmp_path / "other", ["id000"], [[1.0] * 8], digest="cd")
    with pytest.raises(ValueError, match="the same model"):
        sections.load(report.Inputs(**solution | {"query": [other]}, predictions=file))


def test_page_loads_nothing_and_runs_its_own_script_only(written):
    page = written[1]
    assert "http:" not in page
    assert "https:" not in page
    assert "@import" not in page
    reader = Reader(page)
    assert not reader.all("link")
    assert not reader.all("iframe")
    for _, attributes in reader.elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("src", "data:").startswith("data:")
        for name in ("href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)", page))
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", page, flags=re.DOTALL)
    assert [attributes.strip() for attributes, _ in scripts] == [
        'type="application/json" id="map-data"',
        "",
    ]
    digest = base64.b64encode(hashlib.sha256(scripts[1][1].encode()).digest()).decode()
    policy = [m["content"] for m in reader.all("meta") if "http-equiv" in m]
    assert policy == [
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    ]
    assert not re.search(r"\b(fetch|XMLHttpRequest|innerHTML|eval|import)\b", scripts[1][1])


def test_ids_and_classes_cannot_become_elements(tmp_path):
    inputs = write_run(tmp_path)
    for path in tmp_path.rglob("*"):
        if path.suffix in (".csv", ".txt"):
            text = path.read_text()
            text = (
                text.replace("id007", '"' + f"id007{EVIL}".replace('"', '""') + '"')
                if path.suffix == ".csv" and "solution" not in path.name
                else text.replace("id007", f"id007{EVIL}")
            )
            path.write_text(text)
    # The id stands in a list of ids, where it is one word; its class is as evil.
    table = tmp_path / "photos" / "index.csv"
    rows = [line.rsplit(",", 2) for line in table.read_text().splitlines()[1:]]
    quoted = '"' + f"20{EVIL}".replace('"', '""') + '"'
    rows = [[image, quoted if label == "20" else label, path] for image, label, path in rows]
    table.write_text("id,label,path\n" + "".join(",".join(row) + "\n" for row in rows))
    clean = tmp_path / "clean.html"
    report.write_report(inputs, str(clean), title=EVIL)
    page = clean.read_text()
    reader = Reader(page)
    assert not reader.open
    assert EVIL in plain(reader)
    assert EVIL not in page
    assert len(reader.all("script")) == 2
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in reader.all("img"))
    assert any("onerror" in name for name in data_of(page)["ids"])
    assert any("onerror" in name for name in data_of(page)["names"])


def test_long_ids_are_cut(tmp_path):
    vectors = np.eye(12, 3) + 0.1
    index = [f"{row:02d}" + "x" * 5000 for row in range(12)]
    folder = write_embeddings(tmp_path / "index", index, vectors)
    query = write_embeddings(tmp_path / "query", ["q" * 5000], vectors[:1])
    table = write_table(tmp_path / "s.csv", [("q" * 5000, index[0])], ("id", "images"))
    output = tmp_path / "page.html"
    report.write_report(report.Inputs([folder], [query], table), str(output))
    assert len(output.read_text()) < 150_000
    assert "x" * 60 not in output.read_text()
    assert data_of(output.read_text())["ids"][0] == "00" + "x" * 45 + "…"


def test_ids_in_the_page_are_unique_and_known(written):
    page = written[1]
    ids = [attributes["id"] for _, attributes in Reader(page).elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"url\(#([^)]*)\)", page)) | set(re.findall(r'href="#([^"]*)"', page))
    used |= set(re.findall(r'aria-(?:labelledby|describedby)="([^"]*)"', page))
    used |= set(re.findall(r'getElementById\("([^"]*)"\)', page))
    assert used <= set(ids)


def test_charts_take_the_colours_of_the_page(written):
    page = written[1]
    charts_of_page = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    # progress; precision and recall twice; scores twice; loss, accuracy, learning rate
    assert len(charts_of_page) == 1 + 2 + 2 + 3
    for chart in charts_of_page:
        assert "var(--ink)" in chart or "var(--muted)" in chart
        assert not re.search(r"#0[12]0[12]0", chart)
    assert "stage 1" in charts_of_page[-1]
    assert "96 px" in charts_of_page[-1]


def test_every_picture_and_chart_has_a_text(written):
    reader = Reader(written[1])
    images = [picture for picture in reader.all("img") if picture.get("id") != "map-sheet"]
    assert len(images) >= 6 * 11
    assert all(picture["alt"] for picture in images)
    texts = [a["aria-label"] for a in reader.all("div") if a.get("role") == "img"]
    assert texts[0] == "mAP@100 by stage, exact search: A 0.312, 0.343; ensemble 0.402"
    assert any(
        text.startswith("A, loss by epoch: stage 1 train 4 to 1.33; stage 1 validation 4 to 1.33")
        for text in texts
    )


def test_right_and_wrong_are_marked_in_order(written):
    workdir, text = written
    inputs = report.from_json(report.read_results(workdir / "results.json")["inputs"], workdir)
    page = sections.load(inputs)
    # Ids end in their number, and classes come in turn.
    for row, query in enumerate(page.run.relevance.queries):
        shown = gallery.show(page.run, page.classes, row, page.queries, page.index)
        assert shown.query.data
        assert [right for _, right in shown.answers] == [
            int(picture.id[2:]) % 3 == int(query[2:]) % 3 for picture, _ in shown.answers
        ]
        assert [picture.id for picture, _ in shown.answers] == [
            page.run.index_ids[position] for position in page.run.positions[row, :10]
        ]
    reader = Reader(text)
    marks = [item["class"] for item in reader.all("li") if "class" in item]
    assert len(marks) == 6 * 10
    assert "".join(reader.text).count("✓") == 1 + marks.count("right")  # 1: the legend


def test_page_without_tables_says_what_it_can(tmp_path):
    inputs = write_run(tmp_path)
    output = tmp_path / "page.html"
    report.write_report(report.Inputs(inputs.index, inputs.query, inputs.solution), str(output))
    reader = Reader(output.read_text())
    text = plain(reader)
    assert not reader.open
    assert "GAP" not in text
    assert "Confused classes" not in text
    assert "it is right if the solution lists it" in text
    assert not reader.all("img")
    assert data_of(output.read_text())["names"] == [""]
    assert data_of(output.read_text())["kind"].count(3) == 1


def test_equal_inputs_give_an_equal_page(written):
    assert write_page(written[0]) == written[1]


def test_command_line_answers_from_another_folder(workdir):
    command = [sys.executable, "-W", "error", str(ROOT / "eval" / "report.py")]
    command += ["--results", "results.json", "--output", "page/report.html"]
    done = subprocess.run(command, cwd=workdir, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("page/report.html: 0.")
    assert os.listdir(workdir / "page") == ["report.html"]


def test_help_loads_no_heavy_library():
    code = "import sys; from eval import report\n"
    code += "heavy = {'matplotlib', 'sklearn', 'jinja2', 'tensorflow', 'keras'}\n"
    code += "print(sorted(heavy & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_command_line_says_what_is_missing(workdir, capsys):
    (workdir / "photos" / "index.csv").write_text("name,label\na,b\n")
    arguments = ["--results", str(workdir / "results.json"), "--output", str(workdir / "r.html")]
    assert report.main(arguments) == 1
    assert "expected the columns" in capsys.readouterr().err
    assert not (workdir / "r.html").exists()
    assert report.main(["--results", str(workdir / "none.json"), *arguments[2:]]) == 1
    assert "none.json" in capsys.readouterr().err
    (workdir / "results.json").write_text('{"title": "a"}')
    assert report.main(arguments) == 1
    assert "expected title, dataset, seconds, rows, curves, inputs" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [[], ["--index", "a", "--query", "b"], ["--results", "a", "--solution", "b"],
     ["--results", "a", "--bootstrap", "-1"]],
)  # fmt: skip
def test_usage_errors(arguments):
    with pytest.raises(SystemExit) as stop:
        report.main([*arguments, "--output", "page.html"])
    assert stop.value.code == 2
