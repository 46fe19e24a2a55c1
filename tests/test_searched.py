"""An index in place of the embeddings it was built of: the same answers, scores and refusals."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from test_approximate import clusters
from test_index import names, shared, write

from eval import compare, gap, mean_ap, revisited
from eval.page import run
from eval.page.inputs import Inputs
from retrieval import search
from retrieval.indexing import index_changes
from retrieval.indexing.stored_index import Index
from retrieval.search import Settings

COUNT, D, CLASSES = 1200, 16, 8
GONE = names("a", COUNT)[::7]


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Directories by name: embeddings, a ScaNN and an exact index of them, tables."""
    folder = tmp_path_factory.mktemp("sets")
    vectors, queries = clusters(COUNT, D)
    kept = np.setdiff1d(np.arange(COUNT), np.arange(0, COUNT, 7))
    rows = names("a", COUNT)
    paths = {
        "base": write(folder / "base", rows, vectors),
        "kept": write(folder / "kept", [rows[row] for row in kept], vectors[kept]),
        "query": write(folder / "query", names("q", len(queries)), queries),
        "foreign": write(folder / "foreign", names("q", len(queries)), queries, "model-b"),
    }
    for name, kind in (("scann", "scann"), ("exact", "auto")):
        paths[name] = str(folder / name)
        index_changes.build(paths[name], [paths["base"]], search=kind, k=20, recall=0.95, builds=1)
        paths[f"{name}-changed"] = shutil.copytree(paths[name], folder / f"{name}-changed")
        index_changes.delete(paths[f"{name}-changed"], GONE)
    classes = {image: row % CLASSES for row, image in enumerate(rows)}
    paths["labels"] = table(folder / "labels.csv", "id,label", classes)
    truths = {f"q{row:05d}": " ".join(rows[row + 1 :: CLASSES]) for row in range(len(queries))}
    paths["solution"] = table(folder / "solution.csv", "id,images", truths)
    truths = {f"q{row:05d}": row % CLASSES for row in range(len(queries))}
    paths["landmarks"] = table(folder / "landmarks.csv", "id,landmarks", truths)
    return {name: str(path) for name, path in paths.items()}


def table(path, header, rows):
    path.write_text(header + "\n" + "".join(f"{key},{value}\n" for key, value in rows.items()))
    return path


def answers(sets, index, *, query="query", **options):
    return search.answer([sets[index]], [sets[query]], **options)


@pytest.mark.parametrize(("index", "embedded"), [("exact", "base"), ("exact-changed", "kept")])
@pytest.mark.parametrize("k", [10, None])
def test_an_exact_index_answers_as_its_embeddings(sets, index, embedded, k):
    found, expected = (answers(sets, name, k=k) for name in (index, embedded))
    assert found.rankings() == expected.rankings()
    assert found.index_ids == expected.index_ids
    np.testing.assert_array_equal(found.similarities, expected.similarities)
    assert found.search == "exact"


@pytest.mark.parametrize(("index", "embedded"), [("scann", "base"), ("scann-changed", "kept")])
def test_an_index_of_scann_is_searched_as_it_was_built(sets, index, embedded):
    found = answers(sets, index, k=10)
    assert found.search == "scann"
    opened = Index(sets[index])
    _, queries = opened.read_queries([sets["query"]])
    rows = opened.search(np.asarray(queries), 20)[0][:, :10]  # as many as it is tuned for
    assert found.rankings() == opened.rankings(found.query_ids, rows)
    exactly, expected = answers(sets, index, k=10, search="exact"), answers(sets, embedded, k=10)
    assert exactly.rankings() == expected.rankings()
    assert exactly.search == "exact"


@pytest.mark.parametrize(
    "steps",
    [
        ["expand_queries:top=3"],
        ["pca:dimension=6", "k_reciprocal:k1=8"],
        ["expand_index:top=2", "expand_queries:top=3"],
        ["diffusion:neighbours=8,query_neighbours=4"],
        ["label_aware:neighbours=3"],
    ],
)
def test_steps_take_the_vectors_of_the_index(sets, steps):
    labelled = {"reference": [sets["base"]], "reference_labels": sets["labels"]}
    settings = Settings(steps=steps, **labelled)
    found, expected = (
        answers(sets, name, settings=settings, search="exact", k=30)
        for name in ("scann-changed", "kept")
    )
    assert found.rankings() == expected.rankings()


def test_steps_search_with_the_scann_of_the_index(sets):
    """Twice the same expansion: of the index' own answers, and by hand."""
    found = answers(sets, "scann-changed", settings=Settings(steps=["expand_queries:top=1"]))
    opened = Index(sets["scann-changed"])
    queries = np.asarray(opened.read_queries([sets["query"]])[1])
    first = opened.search(queries, 100)[0][:, 0]
    weights = np.einsum("nd,nd->n", queries, opened.vectors[first]) ** 3
    queries = queries + weights[:, None] * opened.vectors[first]
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    rows = opened.search(queries.astype(np.float32), 100)[0]
    expected = list(opened.rankings(found.query_ids, rows).values())
    # Rounding of the queries may exchange the last of a hundred.
    assert shared(list(found.rankings().values()), expected) > 0.98
    assert found.search == "scann"


@pytest.mark.parametrize("step", ["k_reciprocal:k1=8", "diffusion:neighbours=8"])
def test_neighbour_lists_are_those_of_the_index(sets, step):
    settings = Settings(steps=[step])
    found = answers(sets, "scann-changed", k=10, settings=settings)
    expected = answers(sets, "kept", k=10, settings=settings)
    # The index is tuned for recall 0.95.
    both = (list(one.rankings().values()) for one in (found, expected))
    assert shared(*both) > 0.8
    assert not {image for answers in found.rankings().values() for image in answers} & set(GONE)


def test_an_index_has_the_weights_of_its_ensemble(sets, tmp_path):
    other, other_queries = clusters(COUNT, 8, seed=1)
    second = write(tmp_path / "second", names("a", COUNT), other, "model-b")
    query = [sets["query"], write(tmp_path / "query", names("q", 10), other_queries, "model-b")]
    path = str(tmp_path / "index")
    index_changes.build(path, [sets["base"], second], weights=[1.0, 0.5], search="exact")
    expected = search.answer([sets["base"], second], query, weights=[1.0, 0.5], k=10)
    assert search.answer([path], query, k=10).rankings() == expected.rankings()
    for wrong, message in (
        ({"weights": [1.0, 1.0]}, r"no weights .*Received: \[1.0, 1.0\]"),
        ({"settings": Settings(combine="sum")}, "Received: None and 'sum'"),
    ):
        with pytest.raises(ValueError, match=message):
            search.answer([path], query, **wrong)
    with pytest.raises(ValueError, match="each of the 2 models"):
        search.answer([path], query[:1])
    with pytest.raises(ValueError, match="one index, or embeddings of every member"):
        search.answer([path, second], query)


def test_what_does_not_fit_is_refused(sets, tmp_path):
    with pytest.raises(ValueError, match=r"same model as the index, 'model-a'.*foreign"):
        answers(sets, "exact", query="foreign")
    with pytest.raises(ValueError, match="built with --search scann"):
        answers(sets, "exact", search="scann")
    with pytest.raises(ValueError, match="Received: 'faiss'"):
        answers(sets, "exact", search="faiss")
    empty = shutil.copytree(sets["exact"], tmp_path / "empty")
    index_changes.delete(str(empty), names("a", COUNT))
    with pytest.raises(ValueError, match="expected images in the index"):
        search.answer([str(empty)], [sets["query"]])
    settings = Settings(reference=[sets["foreign"]], reference_labels="x", steps=["label_aware"])
    with pytest.raises(ValueError, match="same model as the index"):
        answers(sets, "exact", settings=settings)


def test_commands_score_an_index(sets, tmp_path, capsys):
    """Every command gives of an exact index what it gives of its embeddings."""
    results = []
    for name in ("exact-changed", "kept"):
        source = {"index": [sets[name]], "query": [sets["query"]]}
        retrieval = {"solution": sets["solution"], **source}
        scores = [
            mean_ap.evaluate(**retrieval),
            gap.evaluate(solution=sets["landmarks"], labels=sets["labels"], **source),
            run.load(Inputs(**retrieval)),
        ]
        scores[2] = {
            field.name: np.asarray(getattr(scores[2], field.name)).tolist()
            for field in dataclasses.fields(scores[2])
            if field.name != "relevance"
        }
        results.append(scores)
    assert results[0] == results[1]
    runs = [[sets[name], sets["query"]] for name in ("exact-changed", "kept")]
    compared = compare.compare(solution=sets["solution"], a=runs[0], b=runs[1], resamplings=10)
    assert compared["map_at_100"].difference == 0
    output = tmp_path / "scores.json"
    argv = ["--index", sets["scann"], "--query", sets["query"], "--solution", sets["solution"]]
    assert mean_ap.main([*argv, "--output", str(output)]) == 0
    assert json.loads(output.read_text())["search"] == "scann"
    argv[3] = sets["foreign"]
    assert mean_ap.main(argv) == 1
    assert "same model as the index" in capsys.readouterr().err
    argv = ["--index", sets["scann"], "--query", sets["query"], "--output", str(output)]
    assert search.main([*argv, "--k", "5"]) == 0
    assert "10 queries, 5 of 1,200 images each, scann search" in capsys.readouterr().out


def test_revisited_ranks_the_whole_index(sets, tmp_path):
    images = names("a", COUNT)
    queries = names("q", 10)
    gnd = [{"easy": [row * 7 + 1], "hard": [row + 8], "junk": []} for row in range(10)]
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"imlist": images, "qimlist": queries, "gnd": gnd}))
    found, expected = (
        revisited.evaluate(
            ground_truth=str(truth), queries="cropped", index=[sets[name]], query=[sets["query"]]
        )
        for name in ("exact-changed", "kept")
    )
    assert found == expected
    assert found["not_ranked"] > 0
