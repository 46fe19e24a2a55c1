"""Operations on whole embeddings directories, and their command."""

import json
import re

import numpy as np
import pytest

from retrieval import embeddings, ensemble, store
from retrieval.embeddings import EmbeddingsWriter
from retrieval.stored import checksums, formats, operations, verification

DTYPES = ("float32", "float16", "bfloat16", "int8")


def units(count, dimension=6, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((count, dimension), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write(directory, ids, vectors, digest="ab", dtype="float32", source="t", rejected=0):
    with EmbeddingsWriter(
        str(directory), vectors.shape[1], model_digest=digest, source=source, dtype=dtype
    ) as writer:
        writer.append(ids, vectors)
        writer.reject(rejected)
    return str(directory)


def names(first, last):
    return [f"i{number}" for number in range(first, last)]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(operations, "_PIECE", 42)  # 7 rows of 6
    monkeypatch.setattr(verification, "_PIECE", 42)


def snapshot(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("dtype", DTYPES)
def test_append_keeps_rows_bit_by_bit(tmp_path, dtype):
    first = write(tmp_path / "a", names(0, 20), units(20), dtype=dtype, rejected=2)
    second = write(tmp_path / "b", names(20, 31), units(11, seed=1), source="u", rejected=1)
    before = embeddings.load(first)
    stored = np.array(before.rows.stored)
    manifest = operations.append(first, [second])
    loaded = embeddings.load(first)
    assert loaded.ids == tuple(names(0, 31))
    np.testing.assert_array_equal(loaded.rows.stored[:20], stored)
    write(tmp_path / "c", names(20, 31), units(11, seed=1), dtype=dtype)
    expected = embeddings.load(str(tmp_path / "c"))
    np.testing.assert_array_equal(loaded.rows.stored[20:], expected.rows.stored)
    assert manifest["count"] == 31
    assert manifest["source"] == "t + u"
    assert manifest["rejected"] == 3
    losses = [part.manifest["loss"] for part in (before, expected)]
    means = [loss["mean_cosine_error"] for loss in losses]
    largest = max(loss["max_cosine_error"] for loss in losses)
    np.testing.assert_allclose(manifest["loss"]["max_cosine_error"], largest, rtol=1e-9)
    mean = (20 * means[0] + 11 * means[1]) / 31
    np.testing.assert_allclose(manifest["loss"]["mean_cosine_error"], mean, rtol=1e-9)
    assert verification.verify(first).problems == []


def test_what_is_refused_changes_nothing(tmp_path):
    first = write(tmp_path / "a", names(0, 20), units(20))
    before = snapshot(tmp_path / "a")
    for other, message in (
        (write(tmp_path / "b", names(19, 40), units(21)), "more than once: 'i19'"),
        (write(tmp_path / "c", ["x"], units(1), digest="cd"), "one model digest.*cd in"),
        (write(tmp_path / "d", ["x"], units(1, 5)), "one dimension.*5 in"),
        (str(tmp_path / "none"), "finished embeddings directory"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            operations.append(first, [other])
        assert snapshot(tmp_path / "a") == before


def test_an_interruption_changes_nothing(tmp_path, monkeypatch):
    first = write(tmp_path / "a", names(0, 20), units(20))
    second = write(tmp_path / "b", names(20, 40), units(20))
    before = snapshot(tmp_path / "a")
    copied = []

    def copy(self, ids, rows):
        copied.append(ids)
        if len(copied) == 4:
            raise KeyboardInterrupt
        return original(self, ids, rows)

    original = EmbeddingsWriter.copy
    monkeypatch.setattr(EmbeddingsWriter, "copy", copy)
    with pytest.raises(KeyboardInterrupt):
        operations.append(first, [second])
    assert snapshot(tmp_path / "a") == before


def test_merge_reports_duplicates(tmp_path):
    first = write(tmp_path / "a", names(0, 10), units(10), dtype="int8")
    second = write(tmp_path / "b", names(8, 15), units(7, seed=1), dtype="float16")
    output = str(tmp_path / "out")
    with pytest.raises(ValueError, match="Received 2 in several: 'i8', 'i9'"):
        operations.merge([first, second], output)
    assert not (tmp_path / "out").exists()
    merged = operations.merge([first, second], output, duplicates="first")
    assert merged.duplicates == ("i8", "i9")
    loaded = embeddings.load(output)
    assert loaded.ids == tuple(names(0, 15))
    assert loaded.manifest["dtype"] == "int8"
    np.testing.assert_array_equal(loaded.vectors[:10], np.asarray(embeddings.load(first).vectors))
    np.testing.assert_allclose(loaded.vectors[10:], units(7, seed=1)[2:], atol=0.01)
    assert verification.verify(output).problems == []
    # Into one of them, and from three of the same images.
    operations.merge([first, first, second], first, duplicates="first", dtype="float32")
    # Normalised once more, in float32.
    np.testing.assert_allclose(embeddings.load(first).vectors, loaded.vectors, atol=0.02)
    np.testing.assert_allclose(embeddings.load(first).vectors[:10], loaded.vectors[:10], rtol=3e-7)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("earlier", DTYPES)
def test_the_loss_of_conversions_is_a_bound(tmp_path, earlier, dtype):
    vectors = units(300, 32)
    first = write(tmp_path / "a", names(0, 300), vectors, dtype=earlier)
    manifest = operations.convert(first, str(tmp_path / "b"), dtype)
    loaded = embeddings.load(str(tmp_path / "b"))
    pair = [array.astype(np.float64) for array in (vectors, np.asarray(loaded.vectors))]
    pair = [array / np.linalg.norm(array, axis=1, keepdims=True) for array in pair]
    errors = np.square(pair[0] - pair[1]).sum(axis=1) / 2
    loss = manifest["loss"]
    # float32 rows are normalised once more: 1e-14 that is not counted.
    assert errors.max() <= loss["max_cosine_error"] * 1.01 + 1e-13
    assert errors.mean() <= loss["mean_cosine_error"] * 1.01 + 1e-13
    assert loss["max_cosine_error"] <= 5 * errors.max() + 1e-13
    if earlier in ("float32", dtype):
        np.testing.assert_allclose(loss["max_cosine_error"], errors.max(), rtol=0.01, atol=1e-13)
    assert verification.verify(str(tmp_path / "b")).problems == []


def damage_rows(folder):
    rows = np.load(folder / "embeddings.npy")
    rows[3] = np.nan
    rows[17] *= 1.5
    np.save(folder / "embeddings.npy", rows)


def damage_a_bit(folder):
    data = bytearray((folder / "embeddings.npy").read_bytes())
    data[-4] ^= 1  # the last digit of the last number
    (folder / "embeddings.npy").write_bytes(data)


def cut(folder):
    data = (folder / "embeddings.npy").read_bytes()
    (folder / "embeddings.npy").write_bytes(data[:-3])


def repeat_an_id(folder):
    text = (folder / "ids.txt").read_text()
    (folder / "ids.txt").write_text(text.replace("i7\n", "i6\n").replace("i9\n", "i 9\n"))


def drop_an_id(folder):
    text = (folder / "ids.txt").read_text()
    (folder / "ids.txt").write_text(text.replace("i7\n", ""))


@pytest.mark.parametrize(
    ("damage", "messages"),
    [
        (
            damage_rows,
            ["Received 2 others: .*row 3 .i3.: nan.*row 17 .i17.: 1.5", "rows 0 to"],
        ),
        (damage_a_bit, ["rows 16 to 23 are not what was written"]),
        (cut, [r"whole \.npy file"]),
        (repeat_an_id, ["once: 'i6'", "white space. Received: 'i 9'", "ids.txt is not"]),
        (drop_an_id, ["expected 20 ids. Received: 19", "ids.txt is not"]),
        (lambda folder: (folder / "manifest.json").unlink(), ["finished"]),
        (lambda folder: (folder / "ids.txt").unlink(), ["ids.txt"]),
    ],
)
def test_verify_names_what_is_wrong(tmp_path, monkeypatch, damage, messages):
    monkeypatch.setattr(checksums.RowChecksums.__init__, "__defaults__", (8,))
    directory = write(tmp_path, names(0, 20), units(20))
    assert verification.verify(directory).problems == []
    damage(tmp_path)
    found = verification.verify(directory)
    text = "\n".join(found.problems)
    for message in messages:
        assert any(re.search(message, problem) for problem in found.problems), text
    assert found.bad_rows == ([3, 17] if damage is damage_rows else [])


def test_verify_reads_the_scales(tmp_path):
    directory = write(tmp_path, names(0, 20), units(20), dtype="int8")
    scales = np.load(tmp_path / "scales.npy")
    scales[2] *= 1.001
    np.save(tmp_path / "scales.npy", scales)
    assert "scales 0 to" in verification.verify(directory).problems[0]


def test_import_normalises(tmp_path):
    vectors = np.float32([[3, 4], [0, 2e-3], [1e18, 0]])
    np.savez(tmp_path / "v.npz", ids=np.array(["a", "b", "c"]), x=vectors)
    source = formats.open_source(str(tmp_path / "v.npz"))
    manifest = operations.import_file(source, str(tmp_path / "out"), model="dinov2")
    assert manifest["model_digest"] == "dinov2"
    loaded = embeddings.load(str(tmp_path / "out"))
    assert loaded.ids == ("a", "b", "c")
    np.testing.assert_allclose(loaded.vectors, [[0.6, 0.8], [0, 1], [1, 0]], rtol=1e-6)
    for bad, word in ((0, "norm 0"), (np.nan, "norm nan"), (np.inf, "norm inf")):
        vectors[1] = bad
        np.savez(tmp_path / "v.npz", ids=np.array(["a", "b", "c"]), x=vectors)
        with pytest.raises(ValueError, match=f"with a direction. Received: {word} for 'b'"):
            operations.import_file(
                formats.open_source(str(tmp_path / "v.npz")), str(tmp_path / "new"), model="m"
            )
    assert not list((tmp_path / "new").iterdir())


def test_append_of_a_file(tmp_path):
    directory = write(tmp_path / "a", names(0, 3), units(3, 2), dtype="bfloat16")
    np.savez(tmp_path / "v.npz", ids=np.array(["x", "y"]), v=np.float64([[0, 5], [2, 0]]))
    source = formats.open_source(str(tmp_path / "v.npz"))
    operations.append(directory, [source])
    loaded = embeddings.load(directory)
    assert loaded.ids == ("i0", "i1", "i2", "x", "y")
    assert loaded.vectors[3:].tolist() == [[0, 1], [1, 0]]
    np.savez(tmp_path / "v.npz", ids=np.array(["z"]), v=np.ones((1, 3)))
    with pytest.raises(ValueError, match="Received: 3 in"):
        operations.append(directory, [formats.open_source(str(tmp_path / "v.npz"))])


@pytest.mark.parametrize("combine", ["concatenate", "scores", "sum"])
def test_a_joined_directory_ranks_as_the_ensemble(tmp_path, combine):
    members = [
        embeddings.load(write(tmp_path / "a", names(0, 50), units(50), "a")),
        embeddings.load(write(tmp_path / "b", names(0, 50)[::-1], units(50, seed=1), "b")),
    ]
    manifest = operations.write_joined(
        members, str(tmp_path / "out"), weights=[1, 0.5], combine=combine
    )
    joined = np.asarray(ensemble.join(members, [1, 0.5], combine=combine)[1])
    written = embeddings.load(str(tmp_path / "out")).vectors
    norms = np.linalg.norm(joined, axis=1, keepdims=True)
    np.testing.assert_allclose(written, joined / norms, atol=1e-6)
    np.testing.assert_allclose(norms, norms[0, 0], rtol=1e-6)
    other = operations.write_joined(
        members, str(tmp_path / "out"), weights=[1, 0.6], combine=combine
    )
    assert manifest["model_digest"] != other["model_digest"]


def run(capsys, *argv):
    status = store.main([str(word) for word in argv])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_commands(tmp_path, capsys):
    np.save(tmp_path / "v.npy", 3 * units(20))
    (tmp_path / "v.txt").write_text("".join(f"{name}\n" for name in names(0, 20)))
    made, small = tmp_path / "made", tmp_path / "small"
    status, out, _ = run(
        capsys, "import", tmp_path / "v.npy", made, "--ids", tmp_path / "v.txt", "--model", "m"
    )
    assert (status, out) == (0, f"{made}: 20 vectors of 6 dimensions, float32\n")
    status, out, _ = run(capsys, "convert", made, small, "--dtype", "int8")
    assert status == 0
    assert "20 vectors of 6 dimensions, int8, cosine error against float32 at most" in out
    more = write(tmp_path / "more", names(15, 25), units(10, seed=1), digest="m")
    status, _, err = run(capsys, "append", small, more)
    assert status == 1
    assert "error: expected unique ids" in err
    both = tmp_path / "both"
    status, out, _ = run(
        capsys, "merge", made, more, "--output", both, "--duplicates", "first", "--dtype", "float16"
    )
    assert status == 0
    assert out.startswith("5 ids in several: 'i15', 'i16', 'i17', 'i18', 'i19'\n")
    status, out, _ = run(capsys, "info", both)
    assert status == 0
    assert f"{both}: 25 vectors of 6 dimensions, float16" in out
    assert "model    m" in out
    status, out, _ = run(capsys, "verify", both, made)
    assert (status, out.count("no problems")) == (0, 2)
    damage_rows(made)
    status, out, _ = run(capsys, "verify", both, made)
    assert status == 1
    assert "row 3 (i3): nan" in out
    status, out, _ = run(capsys, "export", both, tmp_path / "out.npy")
    assert status == 0
    loaded = embeddings.load(str(both))
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), loaded.vectors)
    assert formats.read_ids(str(tmp_path / "out.ids.txt")) == list(loaded.ids)
    status, out, err = run(
        capsys, "join", both, more, "--output", tmp_path / "joined", "--missing", "drop"
    )
    assert status == 0
    assert "member 2 lacks 15 ids" in err
    assert "10 vectors of 12 dimensions, float32" in out
    assert json.loads((tmp_path / "joined" / "manifest.json").read_text())["count"] == 10


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["convert", "none", "out"], "finished embeddings directory"),
        (["import", "none.npy", "out", "--model", "m"], "none.npy"),
        (["export", "none", "out.txt"], "ending .npy"),
        (["merge", "none", "--output", "out"], "finished embeddings directory"),
    ],
)
def test_commands_say_what_is_wrong(tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    status, _, err = run(capsys, *argv)
    assert status == 1
    assert message in err
    assert not list(tmp_path.iterdir())
