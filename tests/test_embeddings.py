"""The embeddings directory: what is written is read, and nothing half written is."""

import json

import numpy as np
import pytest

from retrieval import embeddings, search
from retrieval.embeddings import EmbeddingsWriter


def units(count, dimension, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((count, dimension), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write(directory, ids, vectors, digest="ab"):
    with EmbeddingsWriter(
        str(directory), vectors.shape[1], model_digest=digest, source="a table"
    ) as writer:
        writer.append(ids, vectors)
    return str(directory)


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_round_trip_in_pieces(tmp_path):
    vectors = units(25, 3)
    ids = [f"id{i}é" for i in range(25)]
    with EmbeddingsWriter(str(tmp_path / "out"), 3, model_digest="ab", source="t.csv") as writer:
        for first in range(0, 25, 10):
            writer.append(ids[first : first + 10], vectors[first : first + 10])
        writer.reject()
        writer.reject(2)
    loaded = embeddings.load(str(tmp_path / "out"))
    assert loaded.ids == tuple(ids)
    np.testing.assert_allclose(loaded.vectors, vectors, rtol=1e-6)
    assert isinstance(loaded.vectors, np.memmap)
    assert loaded.manifest == {
        "format": "waymark-embeddings",
        "version": 1,
        "count": 25,
        "dimension": 3,
        "dtype": "float32",
        "normalized": True,
        "model_digest": "ab",
        "source": "t.csv",
        "rejected": 3,
    }
    assert names(tmp_path / "out") == ["embeddings.npy", "ids.txt", "manifest.json"]


def test_rounding_is_evened_out(tmp_path):
    write(tmp_path, ["a"], np.float32([[0.6 * 1.01, 0.8 * 1.01]]))
    np.testing.assert_allclose(embeddings.load(str(tmp_path)).vectors, [[0.6, 0.8]], rtol=1e-6)


def test_an_empty_directory_of_embeddings(tmp_path):
    write(tmp_path, [], np.zeros((0, 5), np.float32))
    loaded = embeddings.load(str(tmp_path))
    assert loaded.ids == ()
    assert loaded.vectors.shape == (0, 5)


def test_nothing_appears_before_the_end_or_after_an_error(tmp_path):
    def interrupted():
        with EmbeddingsWriter(str(tmp_path / "new"), 2, model_digest="ab", source="t") as writer:
            writer.append(["a"], np.float32([[1, 0]]))
            with pytest.raises(FileNotFoundError, match="finished"):
                embeddings.load(str(tmp_path / "new"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path / "new") == []


def test_an_error_keeps_the_earlier_result(tmp_path):
    write(tmp_path, ["a"], np.float32([[1, 0]]))
    with (
        pytest.raises(ValueError, match="norm 2"),
        EmbeddingsWriter(str(tmp_path), 2, model_digest="cd", source="t") as writer,
    ):
        writer.append(["b"], np.float32([[0, 2]]))
    assert embeddings.load(str(tmp_path)).ids == ("a",)
    write(tmp_path, ["b"], np.float32([[0, 1]]))
    assert embeddings.load(str(tmp_path)).ids == ("b",)


@pytest.mark.parametrize(
    ("ids", "vectors", "message"),
    [
        (["a", "b"], [[1, 0]], r"shape \(2, 2\). Received: \(1, 2\)"),
        (["a"], [[1, 0, 0]], r"Received: \(1, 3\)"),
        (["a"], [[0, 0]], "norm 0 for 'a'"),
        (["a"], [[np.nan, 0]], "norm nan"),
        (["a b"], [[1, 0]], "white space. Received: 'a b'"),
        (["a\u2028b"], [[1, 0]], "white space"),
        ([""], [[1, 0]], "white space"),
        (["a", "a"], [[1, 0], [0, 1]], "more than once: 'a'"),
        (["old"], [[1, 0]], "more than once: 'old'"),
    ],
)
def test_refuses_bad_rows(tmp_path, ids, vectors, message):
    with EmbeddingsWriter(str(tmp_path), 2, model_digest="ab", source="t") as writer:
        writer.append(["old"], np.float32([[1, 0]]))
        with pytest.raises(ValueError, match=message):
            writer.append(ids, np.float32(vectors))
    assert embeddings.load(str(tmp_path)).ids == ("old",)


def test_a_closed_writer_refuses(tmp_path):
    writer = EmbeddingsWriter(str(tmp_path), 2, model_digest="ab", source="t")
    with pytest.raises(ValueError, match="closed writer"):
        writer.append(["a"], np.float32([[1, 0]]))
    with writer:
        writer.append(["a"], np.float32([[1, 0]]))
        writer.close()
    assert embeddings.load(str(tmp_path)).ids == ("a",)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", 2, "'version': 2"),
        ("format", "other", "'format': 'other'"),
        ("normalized", False, "'normalized': False"),
        ("count", 3, "expected 3 ids"),
        ("dimension", 4, r"float32 \(2, 4\)"),
    ],
)
def test_load_refuses_parts_that_do_not_fit(tmp_path, key, value, message):
    write(tmp_path, ["a", "b"], units(2, 3))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, key: value}))
    with pytest.raises(ValueError, match=message):
        embeddings.load(str(tmp_path))


def test_load_refuses_repeated_ids(tmp_path):
    write(tmp_path, ["a", "b"], units(2, 3))
    (tmp_path / "ids.txt").write_text("a\na\n")
    with pytest.raises(ValueError, match="more than once: 'a'"):
        embeddings.load(str(tmp_path))


def test_join_weights_and_orders_by_id(tmp_path):
    first = embeddings.load(write(tmp_path / "a", ["x", "y"], np.float32([[1, 0], [0, 1]])))
    second = embeddings.load(write(tmp_path / "b", ["y", "x"], np.float32([[1], [-1]])))
    ids, vectors = embeddings.join([first, second], [0.5, 2])
    assert ids == ("x", "y")
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [[0.5, 0, -2], [0, 0.5, 2]]
    assert embeddings.join([first, second])[1].tolist() == [[1, 0, -1], [0, 1, 1]]


def test_join_of_one_member(tmp_path):
    member = embeddings.load(write(tmp_path, ["x"], np.float32([[0.6, 0.8]])))
    assert embeddings.join([member])[1] is member.vectors
    np.testing.assert_allclose(embeddings.join([member], [2])[1], [[1.2, 1.6]], rtol=1e-6)


def test_join_refuses_what_does_not_fit(tmp_path):
    first = embeddings.load(write(tmp_path / "a", ["x", "y"], units(2, 2)))
    second = embeddings.load(write(tmp_path / "b", ["x", "z", "w"], units(3, 2)))
    with pytest.raises(ValueError, match=r"lacks 1 ids of member 1 \('y'\) and has 2 .*'z', 'w'"):
        embeddings.join([first, second])
    for weights in ([1], [1, 0], [1, -1], [1, float("nan")], [1, float("inf")]):
        with pytest.raises(ValueError, match="weights"):
            embeddings.join([first, first], weights)
    with pytest.raises(ValueError, match="Received: none"):
        embeddings.join([])


def test_few_lists_some():
    assert embeddings.few(["a", "b"]) == "'a', 'b'"
    assert embeddings.few([str(i) for i in range(2000)], 2) == "'0', '1' and 1,998 more"


def test_search_writes_predictions_of_an_ensemble(tmp_path, capsys):
    index = [
        write(tmp_path / "ia", ["x", "y"], np.float32([[1, 0], [0, 1]]), "a"),
        write(tmp_path / "ib", ["y", "x"], np.float32([[1, 0], [0, 1]]), "b"),
    ]
    query = [
        write(tmp_path / "qa", ["q"], np.float32([[1, 0]]), "a"),  # says x
        write(tmp_path / "qb", ["q"], np.float32([[1, 0]]), "b"),  # says y
    ]
    output = tmp_path / "new" / "predictions.csv"
    for weights, expected in ((["2", "1"], "x y"), (["1", "2"], "y x")):
        argv = ["--index", *index, "--query", *query, "--weights", *weights]
        assert search.main([*argv, "--output", str(output)]) == 0
        assert output.read_text() == f"id,images\nq,{expected}\n"
    assert "1 queries, 2 of 2 images each, exact search" in capsys.readouterr().out
    answers = search.answer(index, query, weights=[1, 2], k=1)
    np.testing.assert_allclose(answers.similarities, [[4]])  # weights squared times cosines
    assert answers.rankings() == {"q": ["y"]}


def test_search_says_what_is_wrong(tmp_path, capsys):
    index = write(tmp_path / "i", ["x"], np.float32([[1, 0]]), "a")
    other = write(tmp_path / "q", ["q"], np.float32([[1, 0]]), "b")
    output = str(tmp_path / "p.csv")
    for query, message in (
        ([other], "embedded by the same model"),
        ([index, index], "1 index and 2 query"),
        ([str(tmp_path / "none")], "finished embeddings directory"),
    ):
        assert search.main(["--index", index, "--query", *query, "--output", output]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "p.csv").exists()


def test_long_searches_show_progress_and_change_nothing(tmp_path, monkeypatch, capsys):
    index = write(tmp_path / "i", [f"x{i}" for i in range(30)], units(30, 4))
    query = write(tmp_path / "q", [f"q{i}" for i in range(25)], units(25, 4, seed=1))
    whole = search.answer([index], [query], k=3)
    monkeypatch.setattr(search, "_PIECE", 10)
    pieces = search.answer([index], [query], k=3)
    np.testing.assert_array_equal(pieces.positions, whole.positions)
    assert "search: 25/25" in capsys.readouterr().err
