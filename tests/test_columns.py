"""Named columns of CSV, Parquet and JSON-lines, against what was written."""

import gzip
import json
import tracemalloc

import pyarrow as pa
import pytest
from pyarrow import parquet

from columns import column_names, read_columns

NAMES = ["id", "landmark_id", "is_clean"]
ROWS = [("a", "7", "true"), ("ä b", "9007199254740993", "false"), ("c", "", "")]
VALUES = [("a", 7, True), (" ä b ", 9007199254740993, False), ("c", None, None)]


def write_csv(path, text):
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def write_json(path, entries):
    return write_csv(path, "".join(json.dumps(entry) + "\n" for entry in entries))


def write_parquet(path, **columns):
    parquet.write_table(pa.table(columns), path, row_group_size=2)
    return str(path)


def write_any(folder, kind):
    """The same three rows as each kind of table."""
    path = folder / f"t{kind}"
    if "parquet" in kind:
        return write_parquet(path, **dict(zip(NAMES, zip(*VALUES, strict=True), strict=True)))
    if "json" in kind.lower():
        return write_json(path, [dict(zip(NAMES, row, strict=True)) for row in VALUES])
    return write_csv(
        path, "id,landmark_id,is_clean\r\na,7,true\r\n ä b ,9007199254740993,false\nc,"
    )


KINDS = [".csv", ".csv.gz", ".parquet", ".jsonl", ".jsonl.gz", ".ndjson", ".JSON", ".txt"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_rows_from_each_kind(tmp_path, kind):
    table = write_any(tmp_path, kind)
    assert column_names(table) == NAMES
    assert list(read_columns(table, NAMES)) == ROWS
    swapped = list(read_columns(table, ["is_clean", None, "id", "id"]))
    assert swapped == [(row[2], "", row[0], row[0]) for row in ROWS]
    with pytest.raises(ValueError, match=r"expected the columns \['url'\]. Received: \['id', "):
        list(read_columns(table, ["id", "url"]))


@pytest.mark.parametrize("kind", [".csv", ".csv.gz", ".parquet", ".jsonl"])
def test_in_a_bucket(tmp_path, kind):
    import tensorflow as tf

    remote = f"ram://columns/t{kind}"
    tf.io.gfile.makedirs("ram://columns")
    tf.io.gfile.copy(write_any(tmp_path, kind), remote, overwrite=True)
    assert column_names(remote) == NAMES
    assert list(read_columns(remote, NAMES)) == ROWS
    with pytest.raises(FileNotFoundError, match="which does not exist"):
        column_names(f"ram://columns/none{kind}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_that_is_not_there(tmp_path, kind):
    for read in (column_names, lambda path: read_columns(path, ["id"])):
        with pytest.raises(FileNotFoundError, match="which does not exist"):
            read(str(tmp_path / f"none{kind}"))


def test_csv_as_programs_write_it(tmp_path):
    text = '\ufeff id ,title,\r\n\r\na,"x, ""y""\r\nz",\n , ,\nb,"",,,\n'
    table = write_csv(tmp_path / "t.csv", text)
    assert column_names(table) == ["id", "title", ""]
    assert list(read_columns(table, ["id", "title"])) == [("a", 'x, "y"\r\nz'), ("b", "")]
    old = write_csv(tmp_path / "old.csv", "id,title\ra,x\rb,y\r")
    assert list(read_columns(old, ["title"])) == [("x",), ("y",)]
    bare = write_csv(tmp_path / "bare.csv", "id\n")
    assert list(read_columns(bare, ["id"])) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"expected the columns \['id'\]. Received: \[\]"),
        (b"id,id\n1,2\n", "expected one column 'id'. Received: 2"),
        (b"id,path\na,b\nc,d,e\n", "line 3: expected the 2 cells .* Received: 3 cells"),
        (b"id\n" + b"a\n" * 70000 + b"\xe4\nb\n", r"after line 70001: expected CSV in UTF-8"),
        (b'id\na\n"' + b"x" * 140000, r"after line 3: expected CSV in UTF-8. .*larger than"),
        (b"PAR1\x00\xff", "after line 0: expected CSV in UTF-8"),
    ],
)
def test_what_is_no_csv(tmp_path, data, message):
    table = write_csv(tmp_path / "t.csv", data)
    with pytest.raises(ValueError, match=message):
        list(read_columns(table, ["id"]))


def test_what_is_no_gzip_file(tmp_path):
    (tmp_path / "t.csv.gz").write_bytes(b"id\na\n")
    whole = gzip.compress(b"id\n" + bytes(range(48, 120)) * 100)
    (tmp_path / "u.csv.gz").write_bytes(whole[:-20])
    for name in ("t.csv.gz", "u.csv.gz"):
        with pytest.raises(ValueError, match=f"{name}: expected a gzip file. Received: "):
            list(read_columns(str(tmp_path / name), ["id"]))


def test_json_lines_may_differ_in_their_keys(tmp_path):
    entries = [{"id": "a"}, {}, {"id": 1.0, "label": 2.5}, {"label": float("nan"), "x": None}]
    table = write_json(tmp_path / "t.jsonl", entries)
    assert column_names(table) == ["id", "label", "x"]
    expected = [("a", ""), ("", ""), ("1", "2.5"), ("", "")]
    assert list(read_columns(table, ["id", "label"])) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"expected the columns \['id'\]. Received: \[\]"),
        ('{"id": 1}\n\n["id"]\n', r"line 3: expected one JSON object per line. Received: '\["),
        ('{"id": 1}\n{"id": \n', "line 2: expected one JSON object per line"),
        ("[" * 100000, "line 1: expected one JSON object per line"),
        ('{"id": 1}\n{"id": [2]}\n', r"line 2: expected text or a number in the column 'id'"),
        ('{"id": {"oid": 1}}\n', r"line 1: expected text .* Received: \{'oid': 1\}"),
        (b'{"id": 1}\n{"id": "\xe4"}\n', "after line 1: expected JSON-lines in UTF-8"),
    ],
)
def test_what_is_no_json_lines(tmp_path, text, message):
    table = write_csv(tmp_path / "t.jsonl", text)
    with pytest.raises(ValueError, match=message):
        list(read_columns(table, ["id"]))


def test_types_of_parquet(tmp_path):
    table = write_parquet(
        tmp_path / "t.parquet",
        category=pa.array(["x", None, "y"]).dictionary_encode(),
        big=pa.array([2**64 - 1, None, 0], pa.uint64()),
        real=pa.array([7.0, None, 0.25]),
        raw=pa.array([b" a ", "ä".encode(), None]),
        **{"a.b": pa.array([1, 2, 3], pa.int8())},
        nested=pa.array([None, None, [1]]),
        broken=pa.array([b"a", b"b", b"\xff"]),
    )
    names = ["category", "big", "real", "raw", "a.b"]
    assert list(read_columns(table, names)) == [
        ("x", "18446744073709551615", "7", "a", "1"),
        ("", "", "", "ä", "2"),
        ("y", "0", "0.25", "", "3"),
    ]
    assert list(read_columns(table, [None])) == [("",)] * 3
    with pytest.raises(ValueError, match=r"row 3: expected text .* 'nested'. Received: \[1\]"):
        list(read_columns(table, ["nested"]))
    with pytest.raises(ValueError, match=r"row 3: expected text .* 'broken'. .* not UTF-8"):
        list(read_columns(table, ["broken"]))


def test_what_is_no_parquet(tmp_path):
    for name, data in (("a.parquet", b"id\na\n"), ("b.parquet", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=f"{name}: expected a Parquet file. Received: "):
            column_names(str(tmp_path / name))


@pytest.mark.parametrize("kind", [".csv", ".parquet", ".jsonl"])
def test_memory_does_not_grow_with_the_table(tmp_path, kind):
    ids = [f"{number:064x}" for number in range(40000)]
    if kind == ".parquet":
        table = str(tmp_path / "t.parquet")
        parquet.write_table(pa.table({"id": ids}), table)
    elif kind == ".jsonl":
        table = write_json(tmp_path / "t.jsonl", ({"id": text} for text in ids))
    else:
        table = write_csv(tmp_path / "t.csv", "\n".join(["id", *ids]))
    next(read_columns(table, ["id"]))  # imports
    tracemalloc.start()
    count = sum(1 for _ in read_columns(table, ["id"]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == len(ids)
    assert peak < 3e6  # all of them would take 4.5e6
