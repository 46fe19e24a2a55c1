"""The whole main job on tiny data, in one process, as `./run demo` does it."""

import csv
import json

import numpy as np
import pytest

import end_to_end
from demo import draw
from retrieval import embeddings


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """(source, workdir) of a finished job, on real pictures drawn small."""
    folder = tmp_path_factory.mktemp("job")
    source, workdir = folder / "photographs", folder / "run"
    assert draw.main(["--output", str(source), "--size", "tiny", "--workers", "1"]) == 0
    assert end_to_end.main(arguments(source, workdir)) == 0
    return source, workdir


def arguments(source, workdir):
    return ["--recipe", "tiny", "--source", str(source), "--workdir", str(workdir)]


def results_of(workdir):
    return json.loads((workdir / "results.json").read_text())


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def slow_scores(source, index, query):
    """mAP@100, recall@1 and GAP from the tables, one query at a time (vectors by id)."""
    labels = {row["id"]: row["label"] for row in read(source / "index.csv")}
    truths = {row["id"]: row["label"] for row in read(source / "query.csv")}
    precisions, first, best = [], [], []
    for image, vector in query.items():
        ranking = sorted(index, key=lambda other: -float(vector @ index[other]))[:100]
        right = [image in truths and labels[other] == truths[image] for other in ranking]
        best.append((float(vector @ index[ranking[0]]), right[0]))
        if image not in truths:
            continue
        total = sum(label == truths[image] for label in labels.values())
        hits = [sum(right[: k + 1]) / (k + 1) for k in range(len(right)) if right[k]]
        precisions.append(sum(hits) / min(total, 100))
        first.append(right[0])
    best.sort(key=lambda pair: -pair[0])
    marks = np.array([right for _, right in best])
    gap = (np.cumsum(marks) / np.arange(1, len(marks) + 1) * marks).sum() / len(truths)
    return np.mean(precisions), np.mean(first), gap


def vectors_by_id(folder):
    found = embeddings.load(str(folder))
    return dict(zip(found.ids, found.vectors.astype(float), strict=True))


def test_results_equal_a_slow_evaluation_of_the_embeddings(job):
    source, workdir = job
    rows = {(row["name"], row["search"]): row for row in results_of(workdir)["rows"]}
    assert len(rows) == 2 * (2 * 3 + 1)
    parts = {}
    for member in ("A", "B"):
        for stage in (1, 2, 3):
            folder = workdir / "embeddings" / f"{member}-stage-{stage}"
            index, query = vectors_by_id(folder / "index"), vectors_by_id(folder / "query")
            parts[member] = (index, query)
            check(rows, f"{member} stage {stage}", slow_scores(source, index, query))
    weighted = [
        {image: np.concatenate([parts["A"][i][image], 0.8 * parts["B"][i][image]]) for image in ids}
        for i, ids in enumerate(parts["A"])
    ]
    check(rows, "ensemble", slow_scores(source, *weighted))


def check(rows, name, expected):
    for search in ("exact", "scann"):
        row = rows[name, search]
        received = [row["map_at_100"], row["recall_at_1"], row["gap"]]
        np.testing.assert_allclose(received, expected, atol=1e-9)


def test_everything_is_there_and_told(job):
    _, workdir = job
    results = results_of(workdir)
    assert {"convert", "train", "export", "embed", "evaluate"} <= set(results["seconds"])
    assert all((workdir / curve["log"]).is_file() for curve in results["curves"])
    assert (workdir / "models" / "ensemble" / "saved_model.pb").is_file()
    page = (workdir / "report.html").read_text()
    best = max(row["map_at_100"] for row in results["rows"])
    assert f"{best:.3f}" in page


def test_a_second_run_does_nothing(job, capsys):
    source, workdir = job
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*.npy")}
    assert end_to_end.main(arguments(source, workdir)) == 0
    output = capsys.readouterr().out
    assert "$ python" not in output
    assert "ensemble" in output
    assert before == {path: path.stat().st_mtime_ns for path in workdir.rglob("*.npy")}


def test_errors_end_the_job_with_their_exit_code(tmp_path, capsys):
    assert end_to_end.main(["--recipe", "none"]) == 2
    assert "--recipe: expected one of" in capsys.readouterr().err
    assert end_to_end.main(arguments(tmp_path / "nowhere", tmp_path / "run")) == 2
    assert "train.csv" in capsys.readouterr().err
