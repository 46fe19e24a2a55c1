"""Runs that the tests of the results page show, and a reader of the pages."""

import html.parser
import json
import re

import numpy as np
from image_files import write_photos, write_table

from eval.page import run as runs
from eval.page.inputs import Inputs
from eval.relevance import Relevance
from retrieval.embeddings import EmbeddingsWriter

ROWS = [
    # name, member, stage, pixels, search, mAP@100, R@1, GAP
    ("A stage 1", "A", 1, 64, "exact", 0.3120, 0.500, 0.301),
    ("A stage 1", "A", 1, 64, "scann", 0.3110, 0.499, 0.300),
    ("A stage 2", "A", 2, 96, "exact", 0.3434, 0.480, float("nan")),
    ("A stage 2", "A", 2, 96, "scann", 0.3420, 0.499, 0.322),
    ("ensemble", "ensemble", None, None, "exact", 0.4021, 0.500, 0.401),
    ("ensemble", "ensemble", None, None, "scann", 0.4000, 0.612, 0.322),
    ("post-processed", "ensemble", None, None, "exact", 0.4500, 0.520, 0.400),
]
KEYS = ("name", "member", "stage", "pixels", "search", "map_at_100", "recall_at_1", "gap")


def job_rows():
    return [dict(zip(KEYS, row, strict=True)) for row in ROWS]


def write_embeddings(folder, ids, vectors, digest="ab"):
    vectors = np.asarray(vectors, np.float32)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    with EmbeddingsWriter(str(folder), vectors.shape[1], model_digest=digest, source="t") as writer:
        writer.append(list(ids), vectors)
    return str(folder)


def write_run(folder, noise=0.9):
    """Writes 7 queries and 24 index images of 3 classes with photographs; returns the inputs.

    The last query has no right image; its photograph is in a table of its own.
    """
    photos = folder / "photos"
    photos.mkdir()
    table = write_photos(photos, 31)
    queries, index, nomatch = table[:6], table[6:30], table[30:]
    write_table(photos / "query.csv", queries)
    write_table(photos / "index.csv", index)
    write_table(photos / "nomatch.csv", [(nomatch[0][0], "99", nomatch[0][2])])
    right = {q: [i for i, label, _ in index if label == own] for q, own, _ in queries}
    solution = [(query, " ".join(images), "Public") for query, images in right.items()]
    solution.append((nomatch[0][0], "None", "Ignored"))
    write_table(photos / "solution.csv", solution, ("id", "images", "Usage"))
    labels = [(query, label, "Public") for query, label, _ in queries]
    labels.append((nomatch[0][0], "", "Public"))
    write_table(photos / "recognition.csv", labels, ("id", "landmarks", "Usage"))
    rng = np.random.default_rng(0)
    centres = {label: rng.normal(size=8) for label in ("0", "10", "20", "99")}
    for name, rows in (("index", index), ("query", [*queries, (nomatch[0][0], "99", "")])):
        vectors = [centres[label] + noise * rng.normal(size=8) for _, label, _ in rows]
        write_embeddings(folder / name, [image for image, _, _ in rows], vectors)
    return Inputs(
        index=[str(folder / "index")],
        query=[str(folder / "query")],
        solution=str(photos / "solution.csv"),
        recognition_solution=str(photos / "recognition.csv"),
        labels=str(photos / "index.csv"),
        index_table=str(photos / "index.csv"),
        query_tables=[str(photos / "query.csv"), str(photos / "nomatch.csv")],
    )


def write_log(path, stage, epochs):
    path.parent.mkdir(parents=True)
    lines = []
    for epoch in range(1, epochs + 1):
        about = {"stage": stage, "epoch": epoch, "step": 10 * epoch}
        values = {"loss": 4 / epoch, "accuracy": 1 - 1 / (epoch + 1)}
        lines.append({"event": "train", **about, **values, "learning_rate": 1e-3 / epoch})
        lines.append({"event": "validation", **about, **values})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"event": "tra')


def write_job(folder):
    """Writes `write_run` as the results of a job with two stages; returns the inputs."""
    inputs = write_run(folder)
    for stage, epochs in ((1, 3), (2, 2)):
        write_log(folder / "A" / f"stage-{stage}" / "log.jsonl", stage, epochs)
    results = {
        "title": "Demo <script>alert(1)</script>",
        "dataset": "<b>photos</b>",
        "seconds": {"convert": 1.25, "train": 75.2},
        "rows": job_rows(),
        "curves": [
            {"member": "A", "stage": s, "pixels": 32 * s + 32, "log": f"A/stage-{s}/log.jsonl"}
            for s in (1, 2)
        ],
        "inputs": {
            "index": ["index"],
            "query": ["query"],
            "solution": "photos/solution.csv",
            "recognition_solution": "photos/recognition.csv",
            "labels": "photos/index.csv",
            "index_table": "photos/index.csv",
            "query_tables": ["photos/query.csv", "photos/nomatch.csv"],
        },
    }
    (folder / "results.json").write_text(json.dumps(results))
    return inputs


def make_run(rankings, truths, index_ids, similarities=None):
    """Returns a Run without embeddings from rankings and right ids per query id."""
    depth = 100
    row_of = {image: row for row, image in enumerate(index_ids)}
    positions = np.full((len(rankings), depth), -1)
    for row, images in enumerate(rankings.values()):
        positions[row, : len(images)] = [row_of[image] for image in images]
    counted = [query for query in truths if truths[query]]
    relevant = np.zeros((len(counted), depth), bool)
    for row, query in enumerate(counted):
        images = rankings.get(query, ())
        relevant[row, : len(images)] = [image in truths[query] for image in images]
    ids = tuple(rankings)
    values = np.full((len(ids), runs.TOP), np.nan, np.float32)
    there = positions[:, : runs.TOP] >= 0
    falling = np.linspace(0.9, 0.5, runs.TOP, dtype=np.float32)
    values[there] = np.broadcast_to(falling, there.shape)[there]
    if similarities is not None:
        values[:, 0] = similarities
    unanswered = sum(not rankings.get(query) for query in counted)
    return runs.Run(
        query_ids=ids,
        index_ids=tuple(index_ids),
        queries=np.zeros((len(ids), 2), np.float32),
        query_rows=np.arange(len(ids)),
        vectors=np.zeros((len(index_ids), 2), np.float32),
        positions=positions,
        similarities=values,
        relevance=Relevance(
            queries=tuple(counted),
            relevant=relevant,
            positives=np.array([len(truths[query]) for query in counted]),
            ignored=len(truths) - len(counted),
            unanswered=unanswered,
        ),
        answers=np.array([ids.index(query) if query in ids else -1 for query in counted]),
        search="exact",
    )


def data_of(page):
    """Returns the data of the map."""
    return json.loads(re.search(r'id="map-data">(.*?)</script>', page)[1])


class Reader(html.parser.HTMLParser):
    """Collects the elements of a page, its visible text and what is left open."""

    VOID = ("meta", "img", "br", "col", "input")

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
        if self.open and self.open[-1] not in ("style", "title", "script"):
            self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]
