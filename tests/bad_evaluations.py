"""Bad inputs of the evaluation commands, and what the user sees of each.

A case is (what makes the files and gives the arguments, the exit code, a text that is shown).
"""

import json
import pathlib
from collections.abc import Callable

import numpy as np

from eval import compare, gap, mean_ap, revisited
from retrieval.embeddings import EmbeddingsWriter

Make = Callable[[pathlib.Path], list[str]]

RETRIEVAL = "id,images,Usage\nq1,a b,Public\nq2,c,Private\n"
RECOGNITION = "id,landmarks,Usage\nq1,7,Public\nq2,,Private\n"
LABELS = "id,label\na,7\nb,7\nc,9\n"
TRUTH = {
    "imlist": ["a", "b", "c"],
    "qimlist": ["q1", "q2"],
    "gnd": [{"easy": [0], "hard": [], "junk": []}, {"easy": [2], "hard": [], "junk": [1]}],
}


def table(text: str | bytes, solution: str = RETRIEVAL) -> Make:
    """A prediction file."""

    def make(folder):
        (folder / "p.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
        (folder / "s.csv").write_text(solution)
        return ["--predictions", str(folder / "p.csv"), "--solution", str(folder / "s.csv")]

    return make


def label_table(text: str) -> Make:
    """A prediction file of recognition."""
    return table(text, RECOGNITION)


def solution(text: str) -> Make:
    """A solution for good predictions."""
    return table("id,images\nq1,a\n", text)


def embed(folder: pathlib.Path, ids: str, size: int = 4, digest: str = "ab") -> None:
    """Writes an embeddings directory of unit vectors."""
    with EmbeddingsWriter(str(folder), size, model_digest=digest, source="test") as writer:
        if ids:
            writer.append(ids.split(), np.eye(size)[: len(ids.split())])


def embeddings(change: Callable[[pathlib.Path], None], **files: str) -> Make:
    """Embeddings of three images and two queries that `change` has been at."""

    def make(folder):
        embed(folder / "index", "a b c")
        embed(folder / "query", "q1 q2")
        (folder / "s.csv").write_text(files.get("solution", RETRIEVAL))
        (folder / "l.csv").write_text(files.get("labels", LABELS))
        change(folder)
        named = {"index": "index", "query": "query", "solution": "s.csv"}
        if files:
            named["labels"] = "l.csv"
        return [word for name, path in named.items() for word in (f"--{name}", str(folder / path))]

    return make


def nothing(folder: pathlib.Path) -> None:
    """Leaves all as it is."""


def by_embeddings(change: Callable[[pathlib.Path], None]) -> Make:
    """Embeddings for the revisited protocol."""

    def make(folder):
        arguments = embeddings(change)(folder)
        return [*arguments[:4], *ground_truth("")(folder)[:2], "--queries", "cropped"]

    return make


def doubled(folder: pathlib.Path) -> None:
    """Gives both queries one id."""
    (folder / "query" / "ids.txt").write_text("q1\nq1\n")


def smaller(folder: pathlib.Path) -> None:
    """Makes the queries' dimension another."""
    embed(folder / "query", "q1 q2", size=3)


def foreign(folder: pathlib.Path) -> None:
    """Makes the queries another model's."""
    embed(folder / "query", "q1 q2", digest="cd")


def unfinished(folder: pathlib.Path) -> None:
    """Takes the manifest of the queries."""
    (folder / "query" / "manifest.json").unlink()


def damaged(value: float) -> Callable[[pathlib.Path], None]:
    """Puts a value into the second query's vector."""

    def change(folder):
        path = folder / "query" / "embeddings.npy"
        vectors = np.load(path)
        vectors[1, 0] = value
        np.save(path, vectors)

    return change


def ground_truth(predictions: str, **changes: object) -> Make:
    """Predictions for the revisited protocol, and a ground truth with changes."""

    def make(folder):
        (folder / "gnd.json").write_text(json.dumps(TRUTH | changes))
        (folder / "p.csv").write_text(predictions)
        return [
            "--ground-truth", str(folder / "gnd.json"), "--predictions", str(folder / "p.csv"),
            "--queries", "cropped",
        ]  # fmt: skip

    return make


def index_ids(folder):
    (folder / "i.csv").write_text("id\na\nb\n")
    return [*table("id,images\nq1,a\nq2,b x\n")(folder), "--index-ids", str(folder / "i.csv")]


def two_runs(folder):
    arguments = table("id,images\nq1,a\nq2,c\n")(folder)
    (folder / "b.csv").write_text("id,images\nq1,a\nq7,c\n")
    return [*arguments[2:], "--a", arguments[1], "--b", str(folder / "b.csv")]


MEAN_AP = {
    "no bytes": (table(""), 1, "expected the columns id, images"),
    "a header alone": (table("id,images\n"), 1, "expected at least one row"),
    "columns of recognition": (table("id,landmarks\nq1,7 0.5\n"), 1, "Received: id, landmarks"),
    "a column twice": (table("id,images,id\nq1,a,q1\n"), 1, "one column 'id'"),
    "query that the solution lacks": (table("id,images\nq1,a\nq9,a\n"), 1, "'q9' in line 3"),
    "query twice": (table("id,images\nq1,a\nq1,b\n"), 1, "that no earlier row has in line 3"),
    "row without an id": (table("id,images\n,a\n"), 1, "expected a value of 'id' in line 2"),
    "row that is cut off": (table("id,images\nq1,a\nq2"), 1, "expected 2 fields in line 3"),
    "row with a cell too many": (table("id,images\nq1,a,b\n"), 1, "expected 2 fields in line 2"),
    "quote that is never closed": (table('id,images\nq1,"a\nq2,b\n'), 1, "unexpected end of data"),
    "Latin-1": (table(b"id,images\nq1,\xe9\n"), 1, "expected CSV in UTF-8"),
    "image outside --index-ids": (index_ids, 1, "first 'x' in line 3"),
    "image twice in a ranking": (table("id,images\nq1,a a b\n"), 0, "map_at_100"),
    "solution without relevant images": (
        solution("id,images,Usage\nq1,None,Ignored\n"), 1, "expected a solution with relevant",
    ),
    "solution of another index": (
        embeddings(lambda folder: None, solution="id,images\nq1,x\nq2,y\n"),
        1,
        "expected an index with the solution's images. Received: none of 2",
    ),
    "NaN in an embedding": (embeddings(damaged(np.nan)), 1, "Received: NaN or infinity for 'q2'"),
    "infinity in an embedding": (
        embeddings(damaged(np.inf)), 1, "Received: NaN or infinity for 'q2'",
    ),
    "query twice among embeddings": (
        embeddings(doubled), 1, "query: expected unique ids. Received more than once: 'q1'",
    ),
    "embeddings of another dimension": (
        embeddings(smaller), 1, "expected embeddings of dimension 4",
    ),
    "embeddings that were not finished": (embeddings(unfinished), 1, "query"),
    "embeddings of another model": (
        embeddings(foreign),
        1,
        "embedded by the same model as the index, 'ab'",
    ),
    "no embeddings": (embeddings(lambda folder: embed(folder / "index", "")), 1, "Received: none"),
    "--k 0": (lambda f: [*table("id,images\nq1,a\n")(f), "--k", "0"], 2, "Received: 0"),
    "neither embeddings nor predictions": (
        lambda f: ["--solution", str(f)], 2, "expected either --index and --query",
    ),
}  # fmt: skip
GAP = {
    "label without a score": (label_table("id,landmarks\nq1,7\n"), 1, "Received: '7' for 'q1'"),
    "two labels": (label_table("id,landmarks\nq1,7 0.5 8 0.4\n"), 1, 'one "label score"'),
    "score NaN": (label_table("id,landmarks\nq1,7 nan\n"), 1, "in line 2"),
    "query that the solution lacks": (
        label_table("id,landmarks\nq1,7 0.5\nq9,\n"), 1, "'q9' in line 3",
    ),
    "solution without labels": (
        table("id,landmarks\nq1,7 1\n", "id,landmarks\nq1,\n"), 1, "a label for at least one query",
    ),
    "index image without a label": (
        embeddings(lambda f: None, solution=RECOGNITION, labels="id,label\na,7\n"),
        1,
        "expected a label for every index image. Received none for 2: 'b', 'c'",
    ),
    "label with white space": (
        embeddings(lambda f: None, solution=RECOGNITION, labels="id,label\na,Big Ben\n"),
        1,
        "Received: 'Big Ben' for 'a'",
    ),
    "no bytes": (label_table(""), 1, "expected the columns id, landmarks"),
    "query twice": (
        label_table("id,landmarks\nq1,7 0.5\nq1,7 0.4\n"), 1, "that no earlier row has in line 3",
    ),
    "NaN in an embedding": (
        embeddings(damaged(np.nan), solution=RECOGNITION, labels=LABELS),
        1,
        "Received: NaN or infinity for 'q2'",
    ),
    "query twice among embeddings": (
        embeddings(doubled, solution=RECOGNITION, labels=LABELS), 1, "more than once: 'q1'",
    ),
    "embeddings of another dimension": (
        embeddings(smaller, solution=RECOGNITION, labels=LABELS),
        1,
        "expected embeddings of dimension 4",
    ),
    "query of the embeddings that the solution lacks": (
        embeddings(nothing, solution="id,landmarks\nq1,7\n", labels=LABELS), 1, "'q2'",
    ),
    "--index without --labels": (
        embeddings(nothing), 2, "expected --labels with --index",
    ),
}  # fmt: skip
REVISITED = {
    "query missing": (ground_truth("id,images\nq1,a\n"), 1, "1 missing ('q2')"),
    "query unknown": (ground_truth("id,images\nq1,a\nq2,a\nq3,a\n"), 1, "1 unknown ('q3')"),
    "images of other names": (ground_truth("id,images\nq1,x\nq2,y\n"), 1, "such as 'a'"),
    "image twice in a ranking": (ground_truth("id,images\nq1,a a\nq2,c\n"), 1, "Received: twice"),
    "entry of gnd missing": (
        ground_truth("id,images\nq1,a\nq2,c\n", gnd=[]), 1, "one entry of gnd for each of 2",
    ),
    "position behind the database": (
        ground_truth("", gnd=[{"easy": [3]}, {}]), 1, "query 'q1': expected positions below 3",
    ),
    "no bytes": (ground_truth(""), 1, "expected the columns id, images"),
    "ground truth that is no JSON": (
        lambda f: [*ground_truth("")(f)[2:], "--ground-truth", str(f / "p.csv")], 1, "p.csv",
    ),
    "NaN in an embedding": (
        by_embeddings(damaged(np.nan)), 1, "Received: NaN or infinity for 'q2'",
    ),
    "query twice among embeddings": (by_embeddings(doubled), 1, "more than once: 'q1'"),
    "embeddings of another dimension": (
        by_embeddings(smaller), 1, "expected embeddings of dimension 4",
    ),
    "not said whether queries are cropped": (
        lambda f: ground_truth("id,images\n")(f)[:-2], 2, "--queries",
    ),
}  # fmt: skip
COMPARE = {
    "a run with an unknown query": (two_runs, 1, "'q7' in line 3"),
    "three paths as a run": (lambda f: [*two_runs(f), "x", "y"], 1, "Received: 3 paths"),
    "--resamplings 0": (lambda f: [*two_runs(f), "--resamplings", "0"], 2, "Received: 0"),
}
GROUPS = {
    "eval/mean_ap.py": (mean_ap.main, MEAN_AP),
    "eval/gap.py": (gap.main, GAP),
    "eval/revisited.py": (revisited.main, REVISITED),
    "eval/compare.py": (compare.main, COMPARE),
}
