"""Bad inputs of the report and of the commands of retrieval/; see bad_evaluations."""

import pathlib
from collections.abc import Callable

import numpy as np
from bad_evaluations import (
    Make,
    damaged,
    doubled,
    embed,
    embeddings,
    foreign,
    nothing,
    smaller,
    unfinished,
)

from eval import report
from retrieval import index, search
from retrieval.indexing import index_changes


def searched(change: Callable[[pathlib.Path], None], *more: str) -> Make:
    """The same for retrieval/search.py."""

    def make(folder):
        arguments = embeddings(change)(folder)
        return [*arguments[:4], "--output", str(folder / "out.csv"), *more]

    return make


def built(
    command: str, change: Callable[[pathlib.Path], None], *more: str, given: bool = True
) -> Make:
    """An index of three images, the queries, and a command of retrieval/index.py."""

    def make(folder):
        embed(folder / "index", "a b c")
        embed(folder / "query", "q1 q2")
        if command != "build":
            index_changes.build(str(folder / "built"), [str(folder / "index")])
        change(folder)
        place = ["--index", str(folder / "built")] if given else []
        return [command, *place, *(word.format(folder) for word in more)]

    return make


def cut_vectors(folder: pathlib.Path) -> None:
    """Takes the last bytes off the index' vectors."""
    path = folder / "built" / "1" / "vectors.f32"
    path.write_bytes(path.read_bytes()[:-4])


def flipped(folder: pathlib.Path) -> None:
    """Changes a byte of the index' vectors."""
    path = folder / "built" / "1" / "vectors.f32"
    path.write_bytes(b"\x01" + path.read_bytes()[1:])


SEARCH = {
    "NaN in an embedding": (searched(damaged(np.nan)), 1, "NaN or infinity"),
    "query twice among embeddings": (searched(doubled), 1, "more than once: 'q1'"),
    "embeddings of another dimension": (searched(smaller), 1, "dimension 4. Received: 3"),
    "embeddings of another model": (searched(foreign), 1, "same model as the index, 'ab'"),
    "embeddings that were not finished": (searched(unfinished), 1, "query"),
    "no such embeddings": (
        lambda f: ["--index", str(f / "x"), "--query", str(f / "x"), "--output", str(f / "o")],
        1,
        "x",
    ),
    "unknown step": (searched(nothing, "--steps", "qe"), 1, "expected a step among transform"),
    "step without its labelled set": (
        searched(nothing, "--steps", "label_aware"), 1, "expected a labelled set",
    ),
    "weights for other members": (searched(nothing, "--weights", "1", "2"), 1, "one per member"),
    "--k 0": (searched(nothing, "--k", "0"), 1, "k of at least 1. Received: 0"),
    "no output": (lambda f: ["--index", "x", "--query", "x"], 2, "--output"),
}  # fmt: skip
INDEX = {
    "no images": (
        built("build", lambda f: embed(f / "index", ""), "--embeddings", "{}/index", "--output",
              "{}/built", given=False),
        1,
        "expected embeddings of at least one image",
    ),
    "output that is something else": (
        built("build", nothing, "--embeddings", "{}/index", "--output", "{}/query", given=False),
        1,
        "expected an index or an empty folder",
    ),
    "embeddings in place of an index": (
        lambda f: [built("info", nothing)(f)[0], "--index", str(f / "index")],
        1,
        "expected the format 'waymark-index'",
    ),
    "ids that are there already": (
        built("add", nothing, "--embeddings", "{}/index"), 1, "(delete them first)",
    ),
    "embeddings of another model": (
        built("add", foreign, "--embeddings", "{}/query"), 1, "same model as the index, 'ab'",
    ),
    "embeddings of another dimension": (
        built("search", smaller, "--query", "{}/query", "--output", "{}/o.csv"),
        1,
        "dimension 4. Received: 3",
    ),
    "query twice among embeddings": (
        built("search", doubled, "--query", "{}/query", "--output", "{}/o.csv"),
        1,
        "more than once: 'q1'",
    ),
    "NaN in a query": (
        built("search", damaged(np.nan), "--query", "{}/query", "--output", "{}/o.csv"),
        1,
        "NaN or infinity in row 1",
    ),
    "id that the index lacks": (
        built("delete", lambda f: (f / "gone.txt").write_text("a\nx\n"), "--ids", "{}/gone.txt"),
        1,
        "expected ids of the index. Received: 'x'",
    ),
    "file that was cut": (built("check", cut_vectors), 1, "expected float32 of shape (3, 4)"),
    "file that was changed": (built("check", flipped), 1, "other bytes in the rows"),
}  # fmt: skip
REPORT = {
    "solution of another index": (
        lambda f: [*embeddings(nothing, solution="id,images\nq1,x\n")(f)[:6], "--output", "o"],
        1,
        "'q2'",
    ),
    "embeddings of another model": (
        lambda f: [*embeddings(foreign)(f), "--output", str(f / "o.html")], 1, "same model",
    ),
    "no solution": (lambda f: ["--index", "x", "--query", "x", "--output", "o"], 2, "--solution"),
}  # fmt: skip
GROUPS = {
    "eval/report.py": (report.main, REPORT),
    "retrieval/search.py": (search.main, SEARCH),
    "retrieval/index.py": (index.main, INDEX),
}
