"""An index in a directory: against exact search over the same rows, and against damage."""

import json
import os
import shutil

import numpy as np
import pytest
from test_approximate import clusters

from retrieval import embeddings, index
from retrieval.embeddings import EmbeddingsWriter
from retrieval.indexing import index_changes, index_files, stored_index
from retrieval.indexing.stored_index import Index

COUNT, ADDED, D = 1500, 150, 24


def write(path, ids, vectors, digest="model-a"):
    with EmbeddingsWriter(
        str(path), vectors.shape[1], model_digest=digest, source="a table"
    ) as writer:
        writer.append(ids, vectors)
    return str(path)


def names(prefix, count):
    return [f"{prefix}{number:05d}" for number in range(count)]


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Embeddings directories: base, more (of other ids), query, and their vectors."""
    folder = tmp_path_factory.mktemp("sets")
    vectors, queries = clusters(COUNT + ADDED, D)
    return {
        "base": write(folder / "base", names("a", COUNT), vectors[:COUNT]),
        "more": write(folder / "more", names("b", ADDED), vectors[COUNT:]),
        "query": write(folder / "query", names("q", 10), queries),
        "ids": names("a", COUNT) + names("b", ADDED),
        "vectors": vectors,
        "queries": queries,
    }


@pytest.fixture(scope="module")
def built(sets, tmp_path_factory):
    """An index that ScaNN searches, to be copied before it is changed."""
    path = str(tmp_path_factory.mktemp("built") / "index")
    index_changes.build(path, [sets["base"]], search="scann", k=10, recall=0.99, builds=1)
    return path


@pytest.fixture
def copied(built, tmp_path):
    return shutil.copytree(built, tmp_path / "index")


def expected_ids(sets, rows, k=10):
    """The answers of a plain product over some rows of base and more."""
    order = np.argsort(-(sets["queries"] @ sets["vectors"][rows].T), axis=1, kind="stable")
    return [[sets["ids"][rows[row]] for row in answers[:k]] for answers in order]


def found_ids(opened, sets, k=10):
    ids, queries = opened.read_queries([sets["query"]])
    rows, _ = opened.search(np.asarray(queries), k)
    return list(opened.rankings(ids, rows).values())


def shared(found, expected):
    pairs = zip(found, expected, strict=True)
    return np.mean([len(set(one) & set(other)) / len(other) for one, other in pairs])


def test_what_is_built_is_found_again(built, sets):
    opened = Index(built)
    assert len(opened) == COUNT
    expected = expected_ids(sets, np.arange(COUNT))
    # Ten queries: 0.99 less three standard errors of their recalls, 0.05 each.
    assert shared(found_ids(opened, sets), expected) > 0.94
    exactly, _ = opened.search_exactly(sets["queries"], 10)
    assert [[opened.ids[row] for row in rows] for rows in exactly] == expected
    manifest = opened.manifest
    assert manifest.models == ("model-a",)
    assert (manifest.measured.k, manifest.measured.rows) == (10, COUNT)
    assert manifest.sources[0].embeddings == (sets["base"],)
    folder = os.path.join(built, "1")
    assert sorted(os.listdir(folder)) == [
        "curve.json", "curve.svg", "ids.txt", "scann", "vectors.f32",
    ]  # fmt: skip


def test_small_indexes_are_searched_exactly(sets, tmp_path):
    path = str(tmp_path / "index")
    opened = index_changes.build(path, [sets["base"]])
    assert opened.manifest.parameters is None
    assert found_ids(opened, sets) == expected_ids(sets, np.arange(COUNT))
    index_changes.add(path, [sets["more"]])
    gone = [*names("a", 100), "b00003"]
    opened = index_changes.delete(path, gone)
    rows = np.array([row for row, image in enumerate(sets["ids"]) if image not in set(gone)])
    assert len(opened) == len(rows)
    assert found_ids(opened, sets) == expected_ids(sets, rows)
    assert opened.check(k=5).recall == 1


def test_added_rows_are_found_and_deleted_ones_are_not(copied, sets):
    opened = index_changes.add(copied, [sets["more"]])
    assert opened.manifest.generation == 1  # not built again
    rows = np.arange(COUNT + ADDED)
    assert shared(found_ids(opened, sets), expected_ids(sets, rows)) > 0.94
    # All added ones that the queries have among their answers are gone.
    gone = sorted({image for answers in expected_ids(sets, rows, 40) for image in answers})[:100]
    opened = index_changes.delete(copied, gone)
    rows = np.array([row for row, image in enumerate(sets["ids"]) if image not in set(gone)])
    assert len(opened) == len(rows)
    found = found_ids(opened, sets)
    assert not {image for answers in found for image in answers} & set(gone)
    assert shared(found, expected_ids(sets, rows)) > 0.94
    assert opened.check(k=10).recall > 0.97
    # The same ids may come again.
    again = [row for row, image in enumerate(sets["ids"]) if image in gone]
    path = write(copied.parent / "again", [sets["ids"][r] for r in again], sets["vectors"][again])
    assert len(index_changes.add(copied, [path])) == COUNT + ADDED


def test_many_changes_build_again(copied, sets):
    opened = index_changes.delete(copied, names("a", COUNT)[::4])
    assert opened.manifest.generation == 2
    assert opened.manifest.removed == 0
    rows = np.setdiff1d(np.arange(COUNT), np.arange(0, COUNT, 4))
    assert opened.manifest.count == opened.manifest.built == len(rows)
    assert opened.manifest.parameters is not None
    assert shared(found_ids(opened, sets), expected_ids(sets, rows)) > 0.94
    assert not (copied / "1").exists()
    assert opened.manifest.sources[0].embeddings == (sets["base"],)
    index_files.verify(str(copied), opened.manifest)


def test_everything_deleted(sets, tmp_path):
    path = str(tmp_path / "index")
    index_changes.build(path, [sets["more"]])
    opened = index_changes.delete(path, names("b", ADDED))
    assert len(opened) == 0
    assert opened.search(sets["queries"], 5)[0].shape == (10, 0)
    assert len(index_changes.add(path, [sets["base"]])) == COUNT


def test_an_ensemble_is_joined_with_the_weights_of_the_index(sets, tmp_path):
    other, other_queries = clusters(COUNT, 8, seed=1)
    second = write(tmp_path / "second", names("a", COUNT)[::-1], other[::-1], "model-b")
    second_query = write(tmp_path / "second-query", names("q", 10), other_queries, "model-b")
    path = str(tmp_path / "index")
    index_changes.build(path, [sets["base"], second], weights=[1.0, 0.5])
    opened = Index(path)
    queries = np.asarray(opened.read_queries([sets["query"], second_query])[1])
    similarities = opened.search(queries, 10)[1]
    products = sets["queries"] @ sets["vectors"][:COUNT].T + 0.25 * other_queries @ other.T
    np.testing.assert_allclose(similarities, -np.sort(-products, axis=1)[:, :10], atol=1e-5)
    with pytest.raises(ValueError, match="each of the 2 models"):
        opened.read_queries([sets["query"]])
    with pytest.raises(ValueError, match="model-a"):
        opened.read_queries([second_query, sets["query"]])


def test_another_model_is_refused(built, copied, sets, tmp_path):
    foreign = write(tmp_path / "foreign", ["x", "y"], clusters(2, D)[0], "model-b")
    with pytest.raises(ValueError, match=r"'model-a'.*foreign by 'model-b'"):
        Index(built).read_queries([foreign])
    with pytest.raises(ValueError, match="foreign by 'model-b'"):
        index_changes.add(copied, [foreign])
    with pytest.raises(ValueError, match="foreign by 'model-b'"):
        index_changes.build(str(tmp_path / "new"), [sets["base"]], queries=[foreign])


def test_ids_that_do_not_fit(copied, sets):
    with pytest.raises(ValueError, match="'a00000', 'a00001'"):
        index_changes.add(copied, [sets["base"]])
    with pytest.raises(ValueError, match=r"ids of the index.*'b00000'"):
        index_changes.delete(copied, ["a00001", "b00000"])
    assert len(Index(copied)) == COUNT


def test_a_killed_writer_leaves_the_state_before(copied, sets):
    before = found_ids(Index(copied), sets)
    with open(copied / "1" / "vectors.f32", "ab") as file:
        file.write(b"half a row")
    with open(copied / "1" / "ids.txt", "ab") as file:
        file.write(b"half an i")
    (copied / "2").mkdir()
    (copied / "manifest.json.partial").write_text("{")
    assert found_ids(Index(copied), sets) == before
    opened = index_changes.add(copied, [sets["more"]])
    assert len(opened) == COUNT + ADDED
    index_files.verify(str(copied), opened.manifest)
    assert sorted(path.name for path in copied.iterdir()) == [".lock", "1", "manifest.json"]


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("vectors.f32", lambda data: data[:100] + b"\x00" + data[101:], "other bytes in the rows"),
        ("vectors.f32", lambda data: data[:-4], "float32 of shape"),
        ("ids.txt", lambda data: data.replace(b"a00007", b"a00008"), "other bytes in the rows"),
        ("ids.txt", lambda data: data[:-7], "1500 ids"),
        ("scann/scann_assets.pbtxt", lambda data: b"", "ScaNN's files"),
    ],
)
def test_damage_is_found(copied, name, damage, message):
    path = copied / "1" / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=message):
        Index(copied).check()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "newer Waymark.*Received: 2"),
        ({"version": "1"}, "Received: '1'"),
        ({"format": "waymark-embeddings"}, "the format 'waymark-index'"),
        ({"colour": 1}, "whole"),
        ({"sources": 7}, "whole"),
    ],
)
def test_other_manifests_are_refused(copied, change, message):
    path = copied / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        Index(copied)


def test_directories_that_are_no_index(sets, tmp_path):
    with pytest.raises(FileNotFoundError, match="expected an index"):
        Index(str(tmp_path))
    with pytest.raises(ValueError, match="the format"):
        Index(sets["base"])
    with pytest.raises(ValueError, match="an index or an empty folder"):
        index_changes.build(sets["base"], [sets["base"]])
    assert not stored_index.is_index(sets["base"])
    assert embeddings.load(sets["base"]).ids[0] == "a00000"  # untouched


def test_an_index_is_replaced(copied, sets):
    opened = index_changes.build(copied, [sets["more"]])
    assert opened.manifest.generation == 2
    assert len(opened) == ADDED
    assert stored_index.is_index(copied)
    assert sorted(path.name for path in copied.iterdir()) == [".lock", "2", "manifest.json"]


def test_tuning_again(copied, sets):
    index_changes.add(copied, [sets["more"]])
    index_changes.delete(copied, names("a", 10))
    opened = index_changes.tune(copied, k=20, recall=0.9)
    assert (opened.manifest.k, opened.manifest.wanted) == (20, 0.9)
    assert opened.manifest.measured.rows == COUNT + ADDED - 10
    assert opened.manifest.measured.recall > 0.9
    assert opened.check().recall > 0.88
    opened = index_changes.tune(copied, recall=0.5, queries=[sets["query"]])
    assert opened.manifest.measured.queries == 10


def test_commands(sets, tmp_path, capsys):
    path, csv = str(tmp_path / "index"), str(tmp_path / "answers.csv")
    run = ["build", "--embeddings", sets["base"], "--output", path, "--search", "scann"]
    assert index.main([*run, "--k", "10", "--recall", "0.95", "--builds", "1"]) == 0
    printed = capsys.readouterr()
    assert "1,500 images, 24 dimensions" in printed.out
    assert "recall@10 0.9" in printed.out
    assert "chosen" in printed.err
    assert index.main(["add", "--index", path, "--embeddings", sets["more"]]) == 0
    assert "since the build 150 added and 0 deleted" in capsys.readouterr().out
    (tmp_path / "gone.txt").write_text("a00001\nb00001\n")
    assert index.main(["delete", "--index", path, "--ids", str(tmp_path / "gone.txt")]) == 0
    assert index.main(["tune", "--index", path, "--recall", "0.9", "--seconds", "0"]) == 0
    assert index.main(["check", "--index", path]) == 0
    assert index.main(["info", "--index", path]) == 0
    assert "1,648 images" in capsys.readouterr().out
    run = ["search", "--index", path, "--query", sets["query"], "--k", "10", "--output", csv]
    assert index.main([*run, "--exact"]) == 0
    assert "10 queries, 10 of 1,648 images each" in capsys.readouterr().out
    rows = np.setdiff1d(np.arange(COUNT + ADDED), [1, COUNT + 1])
    lines = (tmp_path / "answers.csv").read_text().splitlines()
    answers = [" ".join(line) for line in expected_ids(sets, rows)]
    assert lines == ["id,images", *(f"q{i:05d},{line}" for i, line in enumerate(answers))]
    assert index.main(run) == 0


def test_commands_that_fail(sets, tmp_path, capsys):
    assert index.main(["info", "--index", str(tmp_path)]) == 1
    assert "error: expected an index" in capsys.readouterr().err
    path = str(tmp_path / "index")
    assert index.main(["build", "--embeddings", sets["base"], "--output", path]) == 0
    (tmp_path / "none.txt").write_text("\n")
    assert index.main(["delete", "--index", path, "--ids", str(tmp_path / "none.txt")]) == 1
    assert index.main(["tune", "--index", path]) == 1
    assert "exact search" in capsys.readouterr().err
    run = ["build", "--embeddings", sets["base"], "--output", path, "--search", "scann"]
    assert index.main([*run, "--seconds", "-1"]) == 1
    assert "expected seconds of at least 0. Received: -1.0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        index.main(["build", "--output", path])
