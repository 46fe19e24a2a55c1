"""The whole main job on tiny data, in one process, as `./run demo` does it."""

import csv
import dataclasses
import json

import numpy as np
import pytest

import end_to_end
import recipes
from demo import draw
from eval.page import run
from eval.page.inputs import from_json
from retrieval import embeddings
from retrieval.nearest.searchers import make_searcher
from retrieval.projecting import covariance, transforms
from retrieval.reranking import k_reciprocal


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


def slow_scores(source, rankings):
    """mAP@100 and recall@1 from the tables, one query at a time; rankings are ids by query id."""
    labels = {row["id"]: row["label"] for row in read(source / "index.csv")}
    truths = {row["id"]: row["label"] for row in read(source / "query.csv")}
    precisions, first = [], []
    for image, truth in truths.items():
        right = [labels[other] == truth for other in rankings[image]]
        total = sum(label == truth for label in labels.values())
        hits = [sum(right[: k + 1]) / (k + 1) for k in range(len(right)) if right[k]]
        precisions.append(sum(hits) / min(total, 100))
        first.append(right[0])
    return [np.mean(precisions), np.mean(first)]


def slow_gap(source, rankings, confidence):
    """GAP of the label of the nearest image, from the tables."""
    labels = {row["id"]: row["label"] for row in read(source / "index.csv")}
    truths = {row["id"]: row["label"] for row in read(source / "query.csv")}
    order = sorted(rankings, key=lambda image: (-confidence[image], image))
    marks = [labels[rankings[image][0]] == truths.get(image) for image in order]
    precisions = [sum(marks[: i + 1]) / (i + 1) for i, right in enumerate(marks) if right]
    return sum(precisions) / len(truths)


def rows_of(workdir):
    return {(row["name"], row["search"]): row for row in results_of(workdir)["rows"]}


def test_members_scores_equal_a_slow_evaluation_of_their_embeddings(job):
    source, workdir = job
    rows = rows_of(workdir)
    assert len(rows) == 2 * (2 * 3 + 1)
    for name in (f"{member} stage {stage}" for member in ("A", "B") for stage in (1, 2, 3)):
        folder = workdir / "embeddings" / name.replace(" ", "-")
        index, query = (embeddings.load(str(folder / part)) for part in ("index", "query"))
        # Neighbours of the tiny network that differ by 1e-8 may change places; nothing else may.
        searcher = make_searcher("exact", index.vectors, 100, ids=index.ids)
        order, _ = searcher.search(query.vectors, 100)
        similarities = np.asarray(query.vectors, float) @ np.asarray(index.vectors, float).T
        in_order = np.take_along_axis(similarities, order, axis=1)
        best_first = -np.sort(-similarities, axis=1)[:, :100]
        np.testing.assert_allclose(in_order, best_first, atol=1e-6)
        rankings = {
            image: [index.ids[i] for i in row] for image, row in zip(query.ids, order, strict=True)
        }
        confidence = dict(zip(query.ids, in_order[:, 0], strict=True))
        row = rows[name, "exact"]
        expected = [*slow_scores(source, rankings), slow_gap(source, rankings, confidence)]
        received = [row["map_at_100"], row["recall_at_1"], row["gap"]]
        np.testing.assert_allclose(received, expected, atol=1e-9)


def test_ensemble_ranking_is_in_order_and_its_score_that_of_a_slow_evaluation(job):
    source, workdir = job
    index, query = ({}, {})
    for vectors, part in ((index, "index"), (query, "query")):
        for member, weight in (("A", 1.0), ("B", 0.8)):
            found = embeddings.load(str(workdir / "embeddings" / f"{member}-stage-3" / part))
            for image, vector in zip(found.ids, found.vectors.astype(float), strict=True):
                vectors.setdefault(image, []).extend(weight * vector)
    rankings = {row["id"]: row["images"].split() for row in read(workdir / "rankings.csv")}
    assert rankings.keys() == query.keys()
    for image, ranking in rankings.items():
        assert len(ranking) == len(set(ranking)) == min(100, len(index))
        similarities = [np.dot(query[image], index[other]) for other in ranking]
        assert (np.diff(similarities) < 1e-6).all()
    row = rows_of(workdir)["ensemble", "exact"]
    received = [row["map_at_100"], row["recall_at_1"]]
    np.testing.assert_allclose(received, slow_scores(source, rankings), atol=1e-9)


def test_scann_finds_what_exact_search_finds(job):
    """On so few images it compares with all; neighbours that differ by 1e-8 may change places."""
    assert {search for _, search in rows_of(job[1])} == {"exact", "scann"}
    for name in ("A-stage-3", "B-stage-3"):
        folder = job[1] / "embeddings" / name
        index, query = (embeddings.load(str(folder / part)) for part in ("index", "query"))
        count = len(index.ids)
        found, _ = make_searcher("scann", index.vectors, count).search(query.vectors, count)
        similarities = np.asarray(query.vectors) @ np.asarray(index.vectors).T
        assert (np.sort(found, axis=1) == np.arange(count)).all()
        in_order = np.take_along_axis(similarities, found, axis=1)
        np.testing.assert_allclose(in_order, -np.sort(-similarities, axis=1), atol=1e-6)


def test_steps_that_are_fitted_on_the_training_set_get_it(job, capsys):
    """The score is that of the same functions on the embeddings; the report takes them, too."""
    steps = ("learned_whitening:dimension=4,shrinkage=0.5", "k_reciprocal:k1=5")
    recipe = recipes.load("tiny")
    recipe = dataclasses.replace(recipe, members=recipe.members[:1], post_processing=steps)
    one = end_to_end.Job(recipe, str(job[0]), str(job[1]))
    members = [(member, member.last_stage) for member in recipe.members]
    for member, stage in members:
        end_to_end.embed(one, member, stage)
    found = end_to_end.score(one, "fitted", members, "exact", steps)
    assert "--reference-labels" in capsys.readouterr().out
    sets = {}
    for part in ("query", "index", "train"):
        folders = (job[1] / "embeddings" / f"{m.name}-stage-3" / part for m, _ in members)
        loaded = [embeddings.load(str(folder)) for folder in folders]
        weights = [member.weight for member, _ in members]
        weighted = [w * np.asarray(e.vectors) for w, e in zip(weights, loaded, strict=True)]
        sets[part] = loaded[0].ids, np.concatenate(weighted, axis=1)
    names = {row["id"]: row["label"] for row in read(job[0] / "train.csv")}
    classes = np.unique([names[image] for image in sets["train"][0]], return_inverse=True)[1]
    pairs = covariance.within_class_pairs(classes)
    whitening = transforms.fit_learned_whitening(sets["train"][1], *pairs, 4, shrinkage=0.5)
    queries, vectors = (whitening.apply(sets[part][1]) for part in ("query", "index"))
    positions, _ = k_reciprocal.rerank(queries, vectors, k1=5, k=100)
    rankings = {
        image: [sets["index"][0][place] for place in row]
        for image, row in zip(sets["query"][0], positions, strict=True)
    }
    received = [found["map_at_100"], found["recall_at_1"]]
    np.testing.assert_allclose(received, slow_scores(job[0], rankings), atol=1e-3)  # near ties
    inputs = from_json(end_to_end._inputs_of_report(one), str(job[1]))
    assert run.load(inputs).positions.shape == positions.shape


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


def test_tpu_is_asked_for_by_the_training(job, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TPU_NAME", "grpc://127.0.0.1:9")
    assert end_to_end.main([*arguments(job[0], tmp_path), "--tpu"]) == 2
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1].endswith("--tpu")
    assert "no TPU answers" in captured.err
