"""The embeddings directory: what is written is read, and nothing half written is."""

import contextlib
import json

import ml_dtypes
import numpy as np
import pytest

import files
from retrieval import embeddings, search
from retrieval.embeddings import EmbeddingsWriter
from retrieval.nearest import searchers
from retrieval.stored import precision


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
        "version": 2,
        "count": 25,
        "dimension": 3,
        "dtype": "float32",
        "normalized": True,
        "loss": {"max_cosine_error": 0.0, "mean_cosine_error": 0.0},
        "model_digest": "ab",
        "source": "t.csv",
        "rejected": 3,
        "checksums": loaded.manifest["checksums"],
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
        ("version", 3, "'version': 3"),
        ("version", "2", "'version': '2'"),
        ("dtype", "float64", "dtype of this version .* Received: 'float64'"),
        ("dtype", "int8", "scales.npy"),
        ("format", "other", "'format': 'other'"),
        ("normalized", False, "'normalized': False"),
        ("count", 3, r"<f4 \(3, 3\)"),
        ("count", None, "expected a count"),
        ("dimension", 4, r"<f4 \(2, 4\) for float32 .* <f4 \(2, 3\)"),
    ],
)
def test_load_refuses_parts_that_do_not_fit(tmp_path, key, value, message):
    write(tmp_path, ["a", "b"], units(2, 3))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, key: value}))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        embeddings.load(str(tmp_path))


@pytest.mark.parametrize("text", ["[]", "{", "[" * 100_000])
def test_load_refuses_a_manifest_that_is_none(tmp_path, text):
    write(tmp_path, ["a", "b"], units(2, 3))
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json"):
        embeddings.load(str(tmp_path))


def test_reads_version_1(tmp_path):
    vectors = units(4, 3)
    np.save(tmp_path / "embeddings.npy", vectors)
    (tmp_path / "ids.txt").write_text("a\nb\nc\nd\n")
    about = {"format": "waymark-embeddings", "version": 1, "count": 4, "dimension": 3}
    about |= {"dtype": "float32", "normalized": True, "model_digest": "ab", "source": "t"}
    (tmp_path / "manifest.json").write_text(json.dumps(about | {"rejected": 0}))
    loaded = embeddings.load(str(tmp_path))
    assert loaded.ids == ("a", "b", "c", "d")
    np.testing.assert_array_equal(loaded.vectors, vectors)
    (tmp_path / "manifest.json").write_text(json.dumps(about | {"dtype": "float16"}))
    with pytest.raises(ValueError, match="dtype of this version"):
        embeddings.load(str(tmp_path))


def test_load_refuses_ids_and_arrays_that_do_not_fit(tmp_path):
    write(tmp_path, ["a", "b"], units(2, 3))
    (tmp_path / "ids.txt").write_text("a\n")
    with pytest.raises(ValueError, match=r"expected 2 ids .* Received: 1 ids"):
        embeddings.load(str(tmp_path))
    (tmp_path / "embeddings.npy").write_bytes(b"not an array")
    with pytest.raises(ValueError, match=r"whole \.npy file"):
        embeddings.load(str(tmp_path))


# The largest cosine error of a rounded unit vector: half the squared sum of rounding errors, each
# at most 2^-11 (float16) or 2^-8 / 2 (bfloat16) of its component; int8 rounds to 1/127 of the
# largest component, which is at most 0.5 of a row of 64 normal numbers.
@pytest.mark.parametrize(
    ("dtype", "bytes_each", "bound"),
    [
        ("float16", 2, 2**-22 / 2),
        ("bfloat16", 2, 2**-18),
        ("int8", 1, 64 * (0.5 / 127 / 2) ** 2 / 2),
    ],
)
def test_fewer_bytes_with_measured_loss(tmp_path, dtype, bytes_each, bound):
    vectors = units(500, 64)
    ids = [str(i) for i in range(500)]
    with EmbeddingsWriter(str(tmp_path), 64, model_digest="ab", source="t", dtype=dtype) as writer:
        for first in range(0, 500, 150):
            writer.append(ids[first : first + 150], vectors[first : first + 150])
    loaded = embeddings.load(str(tmp_path))
    read = np.asarray(loaded.vectors)
    assert (tmp_path / "embeddings.npy").stat().st_size == 128 + 500 * 64 * bytes_each
    pair = [array.astype(np.float64) for array in (vectors, read)]
    cosines = np.sum(pair[0] * pair[1], axis=1)
    cosines /= np.linalg.norm(pair[0], axis=1) * np.linalg.norm(pair[1], axis=1)
    loss = loaded.manifest["loss"]
    assert 0 < loss["max_cosine_error"] <= bound
    # The writer normalises once more: its float32 rounding, 1e-7, meets the error of a float16.
    np.testing.assert_allclose(loss["max_cosine_error"], 1 - cosines.min(), rtol=1e-3)
    np.testing.assert_allclose(loss["mean_cosine_error"], 1 - cosines.mean(), rtol=1e-3)
    # int8 rows have the norm 1 again; those of the floats have the mean of many roundings.
    norms = np.linalg.norm(pair[1], axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-6 if dtype == "int8" else 2e-3)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_rows_are_read_like_those_of_an_array(tmp_path, dtype):
    vectors = units(20, 5)
    with EmbeddingsWriter(str(tmp_path), 5, model_digest="a", source="t", dtype=dtype) as writer:
        writer.append([str(i) for i in range(20)], vectors)
    loaded = embeddings.load(str(tmp_path))
    whole = np.asarray(loaded.vectors)
    np.testing.assert_allclose(whole, vectors, atol=0.01)
    for rows in (loaded.vectors, loaded.rows):
        assert rows.shape == (20, 5)
        assert (len(rows), rows.ndim, rows.size, rows.dtype) == (20, 2, 100, np.float32)
        for chosen in (slice(3, 9), slice(18, 30), slice(None, None, 2), [4, 1, 1], 7, -1):
            np.testing.assert_array_equal(rows[chosen], whole[chosen])
        np.testing.assert_array_equal(rows[whole[:, 0] > 0], whole[whole[:, 0] > 0])
        with pytest.raises(IndexError):
            rows[20]
    with pytest.raises(TypeError, match="without columns"):
        loaded.rows[0, 1]


def test_every_finite_float16_and_bfloat16_is_read_as_it_is():
    bits = np.arange(65536, dtype=np.uint16)[:, None]
    for dtype, numbers in (("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)):
        expected = bits.view(numbers).astype(np.float32)
        finite = np.isfinite(expected)
        stored = bits.view(np.float16) if dtype == "float16" else bits
        found = precision.decode(stored, dtype)
        np.testing.assert_array_equal(
            found[finite].view(np.uint32), expected[finite].view(np.uint32)
        )


def test_refuses_another_dtype(tmp_path):
    with pytest.raises(ValueError, match=r"float16, bfloat16, int8\. Received: 'float64'"):
        EmbeddingsWriter(str(tmp_path), 5, model_digest="a", source="t", dtype="float64")


def stopped_at(monkeypatch, number):
    """Makes the number-th renaming or removal of a file fail, as a killed process stops there."""
    left = iter(range(number))

    def stopping(function):
        def call(*args):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return function(*args)

        return call

    for name in ("rename", "remove"):
        monkeypatch.setattr(files, name, stopping(getattr(files, name)))


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_replacement_that_is_stopped_leaves_the_old_or_the_new(tmp_path, monkeypatch, dtype):
    seen = set()
    for number in range(20):
        directory = tmp_path / str(number)
        with EmbeddingsWriter(str(directory), 3, model_digest="a", source="t") as writer:
            writer.append(["old"], units(1, 3))
        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            stopped_at(patch, number)
            with EmbeddingsWriter(
                str(directory), 3, model_digest="b", source="t", dtype=dtype
            ) as writer:
                writer.append(["new", "new2"], units(2, 3))
        loaded = embeddings.load(str(directory))
        is_new = loaded.manifest["model_digest"] == "b"
        assert loaded.ids == (("new", "new2") if is_new else ("old",))
        np.testing.assert_allclose(loaded.vectors, units(2 if is_new else 1, 3), atol=0.01)
        seen.add(is_new)
        write(directory, ["next"], units(1, 3))
        assert names(directory) == ["embeddings.npy", "ids.txt", "manifest.json"]
    assert seen == {False, True}


def test_load_refuses_repeated_ids(tmp_path):
    write(tmp_path, ["a", "b"], units(2, 3))
    (tmp_path / "ids.txt").write_text("a\na\n")
    with pytest.raises(ValueError, match="more than once: 'a'"):
        embeddings.load(str(tmp_path))


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
    monkeypatch.setattr(searchers, "_PIECE", 10)
    pieces = search.answer([index], [query], k=3)
    np.testing.assert_array_equal(pieces.positions, whole.positions)
    assert "search: 25/25" in capsys.readouterr().err
