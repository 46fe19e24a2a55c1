"""The recognition command: votes, files, and running where TensorFlow is not installed."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from eval import gap
from retrieval.embeddings import EmbeddingsWriter
from retrieval.search import Answers

# Makes TensorFlow and Keras as absent as on a machine without them.
WITHOUT_TENSORFLOW = """
import runpy, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "keras"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
sys.argv = sys.argv[1:]
"""
AS_FILE = WITHOUT_TENSORFLOW + "runpy.run_path(sys.argv[0], run_name='__main__')"
AS_MODULE = (
    WITHOUT_TENSORFLOW + "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)


@pytest.fixture
def files(tmp_path):
    """Two labels, three index images, four queries: three right, wrong, unlabelled, missing."""
    for name, ids, angles in (
        ("index", ["a", "b", "c"], [0, 90, 100]),
        ("query", ["q1", "q2", "q3"], [5, 80, 40]),
    ):
        radians = np.radians(angles)
        vectors = np.stack([np.cos(radians), np.sin(radians)], axis=1)
        with EmbeddingsWriter(
            str(tmp_path / name), 2, model_digest="ab", source="angles"
        ) as writer:
            writer.append(ids, vectors)
    (tmp_path / "labels.csv").write_text("id,label\na,1\nb,2\nc,2\n")
    (tmp_path / "solution.csv").write_text(
        "id,landmarks,Usage\nq1,1,Public\nq2,1,Public\nq3,,Public\nq4,2,Public\n"
    )
    return tmp_path


def arguments(files, *more):
    named = {"index": "index", "query": "query", "labels": "labels.csv", "solution": "solution.csv"}
    return [word for key, name in named.items() for word in (f"--{key}", str(files / name))] + [
        *more
    ]


# q1 is right with cos 5 degrees, q2 is wrong with cos 10, q3 has no label, q4 no prediction.
EXPECTED = {
    "gap": pytest.approx(1 / 3),
    "top_1": pytest.approx(1 / 3),
    "top_1_error": pytest.approx(2 / 3),
    "queries": 4,
    "labelled": 3,
    "predicted": 3,
    "search": "exact",
}


def test_command_prints_and_writes(files, capsys):
    output = files / "new" / "scores.json"
    assert gap.main(arguments(files, "--output", str(output))) == 0
    assert json.loads(output.read_text()) == EXPECTED
    assert capsys.readouterr().out.splitlines() == [
        "gap          0.3333",
        "top_1        0.3333",
        "top_1_error  0.6667",
        "queries      4",
        "labelled     3",
        "predicted    3",
        "search       exact",
    ]


def test_bootstrap_adds_intervals(files, capsys):
    output = files / "scores.json"
    argv = arguments(files, "--output", str(output), "--bootstrap", "50")
    assert gap.main(argv) == 0
    low, high = json.loads(output.read_text())["gap_interval"]
    assert 0 <= low <= 1 / 3 <= high <= 1
    assert f"gap_interval          {low:.4f} to {high:.4f}" in capsys.readouterr().out


def test_predictions_from_a_file(files):
    (files / "p.csv").write_text("id,landmarks\nq1,1 0.9\nq2,1 0.8\nq4,2 0.95\n")
    result = gap.evaluate(predictions=str(files / "p.csv"), solution=str(files / "solution.csv"))
    assert result["gap"] == result["top_1"] == 1
    assert result["search"] == "predictions"


def answers(positions, similarities, ids):
    queries = tuple(f"q{n}" for n in range(len(positions)))
    return Answers(queries, ids, np.array(positions), np.float32(similarities), "exact")


def test_neighbours_vote_with_their_similarities():
    labels = {"a": "x", "b": "y", "c": "y", "d": "z"}
    found = gap.vote(
        answers([[0, 1, 2], [3, 1, 0]], [[0.75, 0.5, 0.5], [0.5, 0.25, 0.125]], tuple("abcd")),
        labels,
    )
    assert found == {"q0": ("y", 1.0), "q1": ("z", 0.5)}


@pytest.mark.parametrize(("labels", "winner"), [(("10", "9"), "9"), (("10", "9b"), "10")])
def test_equal_sums_go_to_the_first_label(labels, winner):
    named = dict(zip("ab", labels, strict=True))
    found = gap.vote(answers([[0, 1]], [[0.5, 0.5]], ("a", "b")), named)
    assert found["q0"] == (winner, 0.5)


def test_votes_equal_the_slow_version():
    rng = np.random.default_rng(0)
    ids = tuple(f"i{n}" for n in range(50))
    labels = {image: str(rng.integers(6)) for image in ids}
    positions = np.stack([rng.permutation(50)[:7] for _ in range(40)])
    similarities = rng.integers(-4, 5, (40, 7)) / 4  # many equal sums, some negative
    found = gap.vote(answers(positions, similarities, ids), labels)
    for row, prediction in enumerate(found.values()):
        sums: dict[str, float] = {}
        for position, similarity in zip(positions[row], similarities[row], strict=True):
            label = labels[ids[position]]
            sums[label] = sums.get(label, 0) + similarity
        assert prediction == min(sums.items(), key=lambda item: (-item[1], int(item[0])))


def test_errors_are_sentences(files, capsys):
    (files / "labels.csv").write_text("id,label\na,1\n")
    assert gap.main(arguments(files)) == 1
    assert "error: expected a label for every index image" in capsys.readouterr().err
    (files / "solution.csv").write_text("id,landmarks\nq1,\n")
    assert gap.main(arguments(files)) == 1
    assert "a label for at least one query" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ["--solution", "s"],
        ["--solution", "s", "--index", "i"],
        ["--solution", "s", "--predictions", "p", "--index", "i"],
        ["--solution", "s", "--predictions", "p", "--bootstrap", "-1"],
        ["--solution", "s", "--index", "i", "--query", "q"],
    ],
)
def test_usage_errors(argv, capsys):
    with pytest.raises(SystemExit) as stopped:
        gap.main(argv)
    assert stopped.value.code == 2
    assert "expected" in capsys.readouterr().err


@pytest.mark.parametrize("code", [AS_FILE, AS_MODULE])
def test_runs_without_tensorflow(files, code):
    as_file = code == AS_FILE
    command = [sys.executable, "-c", code, str(ROOT / "eval" / "gap.py") if as_file else "eval.gap"]
    output = str(files / "scores.json")
    done = subprocess.run(
        [*command, *arguments(files, "--search", "scann", "--output", output)],
        cwd=files if as_file else ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((files / "scores.json").read_text()) == {**EXPECTED, "search": "scann"}


@pytest.mark.parametrize(
    "script",
    [
        "eval/gap.py",
        "eval/mean_ap.py",
        "eval/revisited.py",
        "eval/compare.py",
        "retrieval/search.py",
    ],
)
def test_starts_from_anywhere(tmp_path, script):
    """As a file; as a module it is the same, see `test_runs_without_tensorflow`."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, str(ROOT / script), "--help"],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"usage: python {script}" in done.stdout


def test_files_per_query_per_class_and_submission(files):
    names = {"per-query": "q.json", "per-class": "c.csv", "write-predictions": "p.csv"}
    written = [word for key, name in names.items() for word in (f"--{key}", str(files / name))]
    assert gap.main(arguments(files, *written)) == 0
    rows = json.loads((files / "q.json").read_text())
    assert [row["right"] for row in rows] == [1, 0, 0, 0]
    assert (files / "c.csv").read_text().splitlines()[1] == "2,1,0,0.0,1,0.0,"
    again = gap.evaluate(predictions=str(files / "p.csv"), solution=str(files / "solution.csv"))
    assert again == {**EXPECTED, "search": "predictions"}
    with pytest.raises(SystemExit):
        gap.main(["--solution", "s", "--predictions", "p", "--write-predictions", "x"])


def test_unlabelled_queries_can_be_left_out(files, capsys):
    # Without q3 the ranking is q1 right, q2 wrong; with it the same, as q3 comes last.
    (files / "p.csv").write_text("id,landmarks\nq3,9 1.0\nq1,1 0.9\n")
    argv = ["--predictions", str(files / "p.csv"), "--solution", str(files / "solution.csv")]
    for more, expected in (([], 0.5 / 3), (["--ignore-unlabelled"], 1 / 3)):
        output = str(files / "out.json")
        assert gap.main([*argv, *more, "--output", output]) == 0
        assert json.loads((files / "out.json").read_text())["gap"] == pytest.approx(expected)
    (files / "p.csv").write_text("id,landmarks\nq1,1 0.9\nq9,1 0.9\n")
    assert gap.main(argv) == 1
    assert "1 others, first 'q9' in line 3" in capsys.readouterr().err
