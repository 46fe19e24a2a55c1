"""Embeddings files of other tools are read as their own libraries wrote them."""

import h5py
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from retrieval.stored import formats

IDS = [f"i{number}é" for number in range(23)]
VECTORS = np.random.default_rng(0).standard_normal((23, 5), dtype=np.float32)


def read(source):
    assert (source.count, source.dimension) == VECTORS.shape
    pieces = list(source.pieces())
    ids = [image for names, _ in pieces for image in names]
    return ids, np.concatenate([vectors for _, vectors in pieces])


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(formats, "_PIECE", 40)  # 8 rows of 5


def npy(folder, vectors, **_):
    np.save(folder / "v.npy", vectors)
    (folder / "ids.txt").write_text("".join(f"{image}\n" for image in IDS))
    return {"path": str(folder / "v.npy"), "ids": str(folder / "ids.txt")}


def npz(folder, vectors, *, save=np.savez):
    save(folder / "v.npz", features=vectors, ids=np.array(IDS), labels=np.arange(23))
    return {"path": str(folder / "v.npz")}


def packed(folder, vectors):
    return npz(folder, vectors, save=np.savez_compressed)


def lists(folder, vectors, kind=None):
    column = pa.array(list(vectors), kind) if kind else pa.array(list(vectors))
    table = pa.table({"id": IDS, "label": np.arange(23), "embedding": column})
    parquet.write_table(table, folder / "v.parquet", row_group_size=9)
    return {"path": str(folder / "v.parquet")}


def fixed_lists(folder, vectors):
    return lists(folder, vectors, pa.list_(pa.from_numpy_dtype(vectors.dtype), 5))


def hdf5(folder, vectors):
    with h5py.File(folder / "v.h5", "w") as file:
        file["group/descriptors"] = vectors
        file["ids"] = IDS
        file["labels"] = np.arange(23)
    return {"path": str(folder / "v.h5")}


@pytest.mark.parametrize("write", [npy, npz, packed, lists, fixed_lists, hdf5])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_reads_what_was_written(tmp_path, write, dtype):
    vectors = VECTORS.astype(dtype)
    ids, found = read(formats.open_source(**write(tmp_path, vectors)))
    assert ids == IDS
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, vectors.astype(np.float32))


def test_pieces_are_read_twice_alike(tmp_path):
    source = formats.open_source(**npz(tmp_path, VECTORS))
    assert len(list(source.pieces())) == 3
    np.testing.assert_array_equal(read(source)[1], VECTORS)


def test_whole_numbers_are_ids_and_vectors(tmp_path):
    np.savez(tmp_path / "v.npz", x=np.arange(6).reshape(3, 2), id=np.array([7, 8, 9]))
    source = formats.open_source(str(tmp_path / "v.npz"))
    ((ids, vectors),) = source.pieces()
    assert ids == ["7", "8", "9"]
    assert vectors.tolist() == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize("ending", ["txt", "csv", "jsonl", "npy", "parquet"])
def test_ids_in_a_file_of_their_own(tmp_path, ending):
    path = str(tmp_path / f"names.{ending}")
    if ending == "npy":
        np.save(path, np.array(["a", "b"]))
    elif ending == "parquet":
        parquet.write_table(pa.table({"name": ["a", "b"]}), path)
    else:
        text = {"txt": "a\r\nb", "csv": "x,name\n1,a\n2,b\n", "jsonl": '{"name":"a"}\n{"name":"b"}'}
        with open(path, "w") as file:
            file.write(text[ending])
    assert formats.read_ids(path, "name") == ["a", "b"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "none.npy"}, "Received: none.npy"),
        ({"path": "v.npy"}, r"expected ids, in a file of their own.*v.npy \(23, 5\) float32"),
        ({"path": "v.npy", "ids": "short.txt"}, "expected 23 ids. Received: 2"),
        ({"path": "v.npy", "ids": "none.txt"}, "Received: none.txt"),
        ({"path": "cube.npy", "ids": "short.txt"}, r"one matrix of numbers.*\(2, 2, 2\)"),
        ({"path": "objects.npy", "ids": "short.txt"}, "Python objects"),
        ({"path": "objects.npz"}, "pickled objects"),
        ({"path": "two.npz"}, r"one matrix of numbers.*a \(2, 2\) float64, b \(2, 3\) float64"),
        ({"path": "two.npz", "vectors_name": "c"}, "a matrix 'c'"),
        ({"path": "columns.npz", "ids": "short.txt"}, "Received: columns"),
        ({"path": "short.txt"}, "expected .npy, .npz"),
        ({"path": "damaged.npz"}, "damaged.npz: "),
        ({"path": "damaged.h5"}, "damaged.h5: "),
        ({"path": "damaged.parquet"}, "damaged.parquet: "),
        ({"path": "ragged.parquet"}, "row 1: expected 2 numbers. Received: 1"),
        ({"path": "null.parquet"}, "row 1: expected 2 numbers. Received: None"),
        ({"path": "inner.parquet"}, "expected numbers .* Received: null"),
        ({"path": "flat.parquet"}, r"one column of lists. Received: \['id', 'x'\]"),
        ({"path": "ragged.parquet", "id_name": "name"}, "ids in the column 'name'"),
    ],
)
def test_says_what_is_wrong(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    np.save("v.npy", VECTORS)
    np.save("cube.npy", np.zeros((2, 2, 2)))
    np.save("objects.npy", np.array([["a", None]], object))
    np.savez("objects.npz", x=np.ones((2, 2)), ids=np.array(["a", None], object))
    np.savez("two.npz", a=np.ones((2, 2)), b=np.ones((2, 3)), ids=np.array(["a", "b"]))
    np.savez("columns.npz", x=np.asfortranarray(np.ones((2, 3))))
    for name in ("damaged.npz", "damaged.h5", "damaged.parquet", "short.txt"):
        with open(name, "w") as file:
            file.write("a\nb\n")
    for name, values in (
        ("ragged", [[1.0, 2.0], [3.0]]),
        ("null", [[1.0, 2.0], None]),
        ("inner", [[1.0, 2.0], [None, 3.0]]),
        ("flat", [1.0, 2.0]),
    ):
        parquet.write_table(pa.table({"id": ["a", "b"], "x": values}), f"{name}.parquet")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        list(formats.open_source(**arguments).pieces())
