"""The retrieval command on files."""

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from eval import mean_ap
from retrieval import search
from retrieval.embeddings import EmbeddingsWriter


@pytest.fixture
def files(tmp_path):
    """A circle of six index images and two queries; the third query is ignored."""
    for name, ids, angles in (
        ("index", list("abcdef"), [0, 10, 20, 90, 100, 110]),
        ("query", ["q1", "q2", "q3"], [-1, 111, 50]),
    ):
        radians = np.radians(angles)
        vectors = np.stack([np.cos(radians), np.sin(radians)], axis=1)
        with EmbeddingsWriter(
            str(tmp_path / name), 2, model_digest="ab", source="angles"
        ) as writer:
            writer.append(ids, vectors)
    (tmp_path / "solution.csv").write_text(
        "id,images,Usage\nq1,a c,Public\nq2,e d x,Private\nq3,None,Ignored\nq4,a,Private\n"
    )
    return tmp_path


def arguments(files, *more):
    named = {"index": "index", "query": "query", "solution": "solution.csv"}
    return [word for key, name in named.items() for word in (f"--{key}", str(files / name))] + [
        *more
    ]


# q1 ranks a b c ...: (1 + 2/3) / 2. q2 ranks f e d ...: (1/2 + 2/3) / 3. q4 has no embedding: 0.
MAP = pytest.approx((5 / 6 + 7 / 18 + 0) / 3)


@pytest.mark.parametrize("kind", ["exact", "scann", "auto"])
def test_command_prints_and_writes(files, capsys, kind):
    output = files / "scores.json"
    assert mean_ap.main(arguments(files, "--search", kind, "--output", str(output))) == 0
    assert json.loads(output.read_text()) == {
        "map_at_100": MAP,
        "public_map_at_100": pytest.approx(5 / 6),  # q1
        "private_map_at_100": pytest.approx(7 / 36),  # q2 and q4
        "recall_at_1": pytest.approx(1 / 3),
        "recall_at_3": pytest.approx(2 / 3),
        "recall_at_5": pytest.approx(2 / 3),
        "recall_at_10": pytest.approx(2 / 3),
        "precision_at_1": pytest.approx(1 / 3),
        "precision_at_3": pytest.approx(4 / 9),
        "precision_at_5": pytest.approx(4 / 15),
        "precision_at_10": pytest.approx(4 / 30),
        "share_of_relevant_at_100": pytest.approx((1 + 2 / 3) / 3),
        "r_precision": pytest.approx((1 / 2 + 2 / 3) / 3),
        "map_at_r": pytest.approx((1 / 2 + 7 / 18) / 3),
        "digix_score": pytest.approx((1 / 3 + (5 / 6 + 7 / 18) / 3) / 2),
        "mean_position": pytest.approx((1 + 2 + 101) / 3),
        "median_position": 2,
        "queries": 3,
        "ignored": 1,
        "unanswered": 1,
        "not_in_index": 1,
        "search": "scann" if kind == "scann" else "exact",
    }
    printed = capsys.readouterr().out.splitlines()
    assert printed[:4] == [
        "map_at_100                0.4074",
        "public_map_at_100         0.8333",
        "private_map_at_100        0.1944",
        "recall_at_1               0.3333",
    ]


def test_predictions_give_the_same_scores(files):
    predictions = str(files / "predictions.csv")
    argv = ["--index", str(files / "index"), "--query", str(files / "query")]
    assert search.main([*argv, "--output", predictions]) == 0
    solution = str(files / "solution.csv")
    result = mean_ap.evaluate(predictions=predictions, solution=solution)
    assert result["map_at_100"] == MAP
    assert result["search"] == "predictions"


def test_fewer_ranks(files):
    result = mean_ap.evaluate(
        index=[str(files / "index")],
        query=[str(files / "query")],
        solution=str(files / "solution.csv"),
        k=2,
        bootstrap=20,
    )
    assert result["map_at_2"] == pytest.approx((0.5 + 0.25 + 0) / 3)
    assert "recall_at_1_interval" in result
    assert "recall_at_5" not in result


def test_an_ensemble_of_the_same_member_changes_nothing(files):
    twice = {"index": [str(files / "index")] * 2, "query": [str(files / "query")] * 2}
    solution = str(files / "solution.csv")
    assert mean_ap.evaluate(**twice, solution=solution, weights=[0.3, 2])["map_at_100"] == MAP


def test_errors_are_sentences(files, capsys):
    (files / "solution.csv").write_text("id,images,Usage\nq1,a,Public\n")
    assert mean_ap.main(arguments(files)) == 1
    assert "error: expected predictions for queries of the solution" in capsys.readouterr().err
    (files / "solution.csv").write_text("id,images,Usage\nq1,,\nq2,,\nq3,None,Ignored\n")
    assert mean_ap.main(arguments(files)) == 1
    assert "relevant images" in capsys.readouterr().err
    assert mean_ap.main(["--predictions", "none.csv", "--solution", "none.csv"]) == 1
    assert "none.csv" in capsys.readouterr().err


def test_real_solution_files_are_read(shared, tmp_path):
    # A ranking that lists the right answers first scores 1 in all that its length allows.
    folder = shared / "data" / "grocery"
    rows = (folder / "retrieval_solution.csv").read_text().splitlines()[1:]
    fields = [row.split(",") for row in rows]
    path = tmp_path / "predictions.csv"
    answered = [f"{query},{images}" for query, images, usage in fields if usage != "Ignored"]
    path.write_text("\n".join(["id,images", *answered]) + "\n")
    done = subprocess.run(
        [sys.executable, str(ROOT / "eval" / "mean_ap.py"), "--predictions", str(path),
         "--solution", str(folder / "retrieval_solution.csv")],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    values = dict(line.split() for line in done.stdout.splitlines())
    assert (values["map_at_100"], values["recall_at_1"]) == ("1.0000", "1.0000")
    assert (values["queries"], values["ignored"], values["unanswered"]) == ("1158", "319", "0")


def test_files_per_query_per_class_and_submission(files):
    (files / "classes.csv").write_text("id,label\nq1,x\nq2,y\nq4,y\n")
    names = {"per-query": "q.csv", "per-class": "c.json", "write-predictions": "p.csv"}
    written = [word for key, name in names.items() for word in (f"--{key}", str(files / name))]
    assert mean_ap.main(arguments(files, *written, "--labels", str(files / "classes.csv"))) == 0
    rows = (files / "q.csv").read_text().splitlines()
    assert rows[0].startswith("query,positives,found,first_position,map_at_100,")
    assert [row.split(",")[0] for row in rows[1:]] == ["q1", "q2", "q4"]
    classes = json.loads((files / "c.json").read_text())
    assert [(row["class"], row["queries"]) for row in classes] == [("y", 2), ("x", 1)]
    assert (files / "p.csv").read_text().splitlines()[:2] == ["id,images", "q1,a b c d e f"]
    again = mean_ap.evaluate(predictions=str(files / "p.csv"), solution=str(files / "solution.csv"))
    assert again["map_at_100"] == MAP


def test_predictions_outside_the_index(files, capsys):
    (files / "p.csv").write_text("id,images\nq1,a z\n")
    (files / "index.csv").write_text("id\na\nb\n")
    argv = ["--predictions", str(files / "p.csv"), "--solution", str(files / "solution.csv")]
    assert mean_ap.main([*argv, "--index-ids", str(files / "index.csv")]) == 1
    assert "1 others, first 'z' in line 2" in capsys.readouterr().err
    assert mean_ap.main(argv) == 0


def test_broken_embeddings_are_named(files, capsys):
    vectors = np.load(files / "index" / "embeddings.npy")
    vectors[[1, 4]] = np.nan
    np.save(files / "index" / "embeddings.npy", vectors)
    for kind in ("exact", "scann"):
        assert mean_ap.main(arguments(files, "--search", kind)) == 1
        error = capsys.readouterr().err
        assert f"in {files / 'index'}. Received: NaN or infinity for 'b', 'e'" in error
    with EmbeddingsWriter(str(files / "index"), 3, model_digest="ab", source="x") as writer:
        writer.append(["a"], np.eye(3)[:1])
    assert mean_ap.main(arguments(files)) == 1
    error = capsys.readouterr().err
    assert f"of dimension 3 as in {files / 'index'}. Received: 2 in {files / 'query'}" in error
    with EmbeddingsWriter(str(files / "index"), 2, model_digest="ab", source="x"):
        pass
    assert mean_ap.main(arguments(files)) == 1
    assert f"expected embeddings in {files / 'index'}. Received: none" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more",
    [
        ["--k", "0"],
        ["--per-class", "c.csv"],
        ["--bootstrap", "-1"],
    ],
)
def test_usage_errors(files, more, capsys):
    with pytest.raises(SystemExit) as stopped:
        mean_ap.main(arguments(files, *more))
    assert stopped.value.code == 2
    assert "expected" in capsys.readouterr().err
