"""Commands that cannot work, or that find a folder in disorder; see bad_inputs.

Each group is {name: (what prepares a folder and returns the arguments, exit code, what is printed,
in part)}.
"""

import gzip
import os
import pathlib
from collections.abc import Callable

import pyarrow as pa
from image_files import jpeg, write_table
from pyarrow import parquet

from input_pipeline import schema
from tfrecords_tools.conversion import plan
from tfrecords_tools.conversion.catalogue import CATALOGUE_NAME
from tfrecords_tools.write import write

HEAD = "id,label,path\n"


def photos(folder: pathlib.Path) -> str:
    """Makes three photographs and their table."""
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(jpeg(number))
    return write_table(folder / "t.csv", [(f"i{n}", str(n % 2), f"{n}.jpg") for n in range(3)])


def table(data: bytes | str, name: str = "bad.csv") -> Callable[[pathlib.Path], list[str]]:
    """A conversion of a table of these bytes."""

    def make(folder):
        photos(folder)
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
        return ["--table", str(folder / name), "--output", str(folder / "out")]

    return make


def place(prepare: Callable[[str], None]) -> Callable[[pathlib.Path], list[str]]:
    """A conversion of a table that `prepare` makes where it is told to."""

    def make(folder):
        prepare(str(folder / "bad.csv"))
        return ["--table", str(folder / "bad.csv"), "--output", str(folder / "out")]

    return make


def option(*arguments: str) -> Callable[[pathlib.Path], list[str]]:
    """A conversion of good photographs with these options."""

    def make(folder):
        command = ["--table", photos(folder), "--images-per-shard", "2", *arguments]
        return [*command, "--output", str(folder / "out")]

    return make


def output(prepare: Callable[[pathlib.Path], None]) -> Callable[[pathlib.Path], list[str]]:
    """A conversion of good photographs into a folder that `prepare` has been at."""

    def make(folder):
        command = option()(folder)
        prepare(folder / "out")
        return command

    return make


def finished(prepare: Callable[[pathlib.Path], None]) -> Callable[[pathlib.Path], list[str]]:
    """The same conversion again, after `prepare` has been at its result."""

    def after(out):
        table = f"table:{out.parent / 't.csv'}"
        write(str(out), sources=[table], images_per_shard=2, stream=None, workers=1)
        prepare(out)

    return output(after)


def unlisted(prepare: Callable[[pathlib.Path], None]) -> Callable[[pathlib.Path], list[str]]:
    """A conversion that was stopped, and `prepare` has been at its catalogue."""

    def after(out):
        out.mkdir()
        prepare(out / CATALOGUE_NAME)

    return output(after)


def inside(folder):
    photos(folder)
    return ["--folder", str(folder), "--output", str(folder / "out")]


def empty_tree(folder):
    (folder / "photos").mkdir()
    return ["--folder", str(folder / "photos"), "--output", str(folder / "out")]


def check(prepare: Callable[[pathlib.Path], None]) -> Callable[[pathlib.Path], list[str]]:
    """The check of a finished set that `prepare` has been at."""

    def make(folder):
        return finished(prepare)(folder)[-1:]

    return make


def damage_pages(path: pathlib.Path) -> None:
    """Overwrites all pages of an SQLite file but the first."""
    import sqlite3

    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE facts (name TEXT, value TEXT)")
        rows = (("a" * 50, "b" * 50) for _ in range(1000))
        database.executemany("INSERT INTO facts VALUES (?, ?)", rows)
    database.close()
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xaa" * (len(data) - 4096))


def older_catalogue(path: pathlib.Path) -> None:
    """An SQLite file with a table of that name and other columns."""
    import sqlite3

    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE facts (key TEXT)")
        database.execute("CREATE TABLE images (key TEXT)")
    database.close()


def first_shard(out: pathlib.Path) -> pathlib.Path:
    return min(out.glob("*.tfrec"))


def change_shard(out: pathlib.Path) -> None:
    data = bytearray(first_shard(out).read_bytes())
    data[len(data) // 2] ^= 1
    first_shard(out).write_bytes(data)


def other_photo(out: pathlib.Path) -> None:
    """Another conversion of the same folder."""
    write_table(out.parent / "t.csv", [("other", "1", "1.jpg")])


def packed_table(folder):
    """Half a gigabyte without a line end, half a megabyte when packed."""
    with gzip.open(folder / "bad.csv.gz", "wb", compresslevel=1) as file:
        file.write(HEAD.encode())
        for _ in range(512):
            file.write(b"a" * 2**20)
    return ["--table", str(folder / "bad.csv.gz"), "--output", str(folder / "out")]


def parquet_called_csv(path: str) -> None:
    parquet.write_table(pa.table({"id": ["a"], "label": ["1"], "path": ["0.jpg"]}), path)


LINES = '{"id": "i0", "label": 1, "path": "0.jpg"}\n{"id": "i1", "label": 1, "path": "1.jpg"}\n'
ROWS = "i0,1,0.jpg\ni1,1,1.jpg\n"
NOT_UTF8 = "expected CSV in UTF-8"
TOO_LONG = "characters in a line. Received: more"
A_FILE = "expected a file. Received"
ANOTHER = "belongs to another conversion"
WRITTEN = "shards written"

TABLES = {
    "no such file": (place(lambda path: None), 2, "which does not exist"),
    "folder": (place(os.mkdir), 2, A_FILE),
    "named pipe": (place(os.mkfifo), 2, A_FILE),
    "/dev/zero": (place(lambda p: os.symlink("/dev/zero", p)), 2, A_FILE),
    "no bytes": (table(""), 2, "Received: []"),
    "header only": (table(HEAD), 1, "expected at least one usable image"),
    "column missing": (table("id,path\na,0.jpg\n"), 2, "expected the columns ['label']"),
    "column twice": (table("id,label,path,id\n"), 2, "expected one column 'id'. Received: 2"),
    "semicolons": (table((HEAD + ROWS).replace(",", ";")), 2, "Received: ['id;label;path']"),
    "UTF-16": (table((HEAD + ROWS).encode("utf-16")), 2, NOT_UTF8),
    "Latin-1": (table((HEAD + "é,1,0.jpg\n").encode("latin-1")), 2, NOT_UTF8),
    "byte order mark": (table("\ufeff" + HEAD + ROWS), 0, "2 images"),
    "row with a cell too many": (
        table(HEAD + ROWS + "a,1,x,y.jpg\n"),
        2,
        "line 4: expected the 3 cells",
    ),
    "row with a cell too few": (table(HEAD + ROWS + "a,1\n"), 3, "1 no path"),
    "quote that is never closed": (
        table(HEAD + 'a,1,"0.jpg\n' + ROWS),
        2,
        "unexpected end of data",
    ),
    "cell of 1 MB": (table(HEAD + "a" * 10**6), 2, "field larger than field limit"),
    "packed 512 MB without a line end": (packed_table, 2, TOO_LONG),
    "Parquet called .csv": (place(parquet_called_csv), 2, NOT_UTF8),
    "CSV called .parquet": (table(HEAD + ROWS, "bad.parquet"), 2, "expected a Parquet file"),
    "Parquet, cut off": (table(b"PAR1" + bytes(99), "bad.parquet"), 2, "expected a Parquet file"),
    "JSON-lines with half a line": (
        table(LINES + '{"id": "i', "bad.jsonl"),
        2,
        "line 3: expected one JSON object per line",
    ),
    "JSON array instead of lines": (
        table("[\n1,\n2]", "bad.json"),
        2,
        "line 1: expected one JSON object per line",
    ),
    "JSON nested 100,000 deep": (
        table("[" * 10**5, "bad.json"),
        2,
        "line 1: expected one JSON object per line",
    ),
    "JSON-lines with an object as the id": (
        table('{"id": {}, "label": 1, "path": 1}', "bad.json"),
        2,
        "expected text or a number in the column 'id'",
    ),
    "gzip, cut off": (
        table(gzip.compress((HEAD + ROWS).encode())[:-9], "bad.csv.gz"),
        2,
        "expected a gzip file",
    ),
    "gzip, damaged at its end, and not UTF-8 in it": (
        table(gzip.compress((HEAD + "é,1,0.jpg\n").encode("latin-1"))[:-9], "bad.csv.gz"),
        2,
        NOT_UTF8,
    ),
    "not packed, called .gz": (table(HEAD + ROWS, "bad.csv.gz"), 2, "expected a gzip file"),
}
FOLDERS = {
    "no such folder": (
        lambda f: ["--folder", str(f / "x"), "--output", str(f / "o")],
        2,
        "expected a folder with one folder per class",
    ),
    "empty folder": (empty_tree, 1, "expected at least one usable image"),
    "output inside the folder of images": (inside, 2, "expected an output outside the images'"),
}
OPTIONS = {
    "no source": (
        lambda f: ["--output", str(f / "o")],
        2,
        "expected a table, a folder or another source",
    ),
    "unknown kind of source": (option("--from", "zip:photos.zip"), 2, "[NAME=]KIND:PLACE"),
    "--max-side 0": (option("--max-side", "0"), 2, "expected max_side >= 1. Received: 0"),
    "--quality 101": (
        option("--quality", "101"),
        2,
        "expected a quality from 1 to 100. Received: 101",
    ),
    "--images-per-shard 0": (
        option("--images-per-shard", "0"),
        2,
        "expected images_per_shard >= 1. Received: 0",
    ),
    "--workers 0": (option("--workers", "0"), 2, "expected workers >= 1. Received: 0"),
    "--split ../x": (option("--split", "../x"), 2, "expected a split name of a-z, 0-9 and _"),
    "--split of 300 letters": (option("--split", "x" * 300), 2, "expected a split name"),
    "--split train_clean": (option("--split", "train_clean"), 2, "expected a split other than"),
}
OUTPUT = {
    "a file": (output(lambda out: out.write_text("x")), 2, "expected a folder for the shards"),
    "below a file": (lambda f: [*option()(f)[:-1], str(f / "t.csv" / "out")], 1, "Not a directory"),
    "a folder where nothing can be written": (
        lambda f: [*option()(f)[:-1], "/proc/self"],
        1,
        "/proc/self/catalogue.sqlite3: unable to open database file",
    ),
    "of another conversion": (finished(other_photo), 1, ANOTHER),
    "shards without plan.json": (
        finished(lambda out: (out / plan.PLAN_NAME).unlink()),
        1,
        "expected an empty folder or one that this command began",
    ),
    "plan.json damaged": (
        finished(lambda out: (out / plan.PLAN_NAME).write_text("{")),
        1,
        "expected two digests",
    ),
    "manifest.json damaged": (
        finished(lambda out: (out / schema.MANIFEST_NAME).write_bytes(b"\xff")),
        0,
        "0 shards written, 2 kept",
    ),
    "manifest.json is a list": (
        finished(lambda out: (out / schema.MANIFEST_NAME).write_text("[]")),
        0,
        "0 shards written, 2 kept",
    ),
    "rejects.csv damaged": (
        finished(lambda out: (out / plan.REJECTS_NAME).write_bytes(b"\xff,\n\0")),
        0,
        "0 shards written, 2 kept",
    ),
    "a shard that was cut": (
        finished(lambda out: os.truncate(first_shard(out), 50)),
        0,
        "1 shards written, 1 kept",
    ),
    "catalogue is no SQLite file": (
        unlisted(lambda path: path.write_bytes(b"x" * 9999)),
        0,
        WRITTEN,
    ),
    "catalogue with damaged pages": (unlisted(damage_pages), 0, WRITTEN),
    "catalogue of another version": (unlisted(older_catalogue), 0, WRITTEN),
    "catalogue is a folder": (
        unlisted(lambda path: path.mkdir()),
        1,
        "unable to open database file",
    ),
}
CHECK = {
    "a bit of a shard flipped": (check(change_shard), 1, "checksum"),
    "a shard that was cut": (check(lambda out: os.truncate(first_shard(out), 50)), 1, "cut off"),
    "a shard that is gone": (check(lambda out: first_shard(out).unlink()), 1, "expected"),
    "manifest.json damaged": (
        check(lambda out: (out / schema.MANIFEST_NAME).write_text("{")),
        1,
        "manifest.json",
    ),
    "no set at all": (lambda f: [str(f)], 2, "expected a data directory"),
}
GROUPS = {
    "Tables": TABLES,
    "Folders": FOLDERS,
    "Options": OPTIONS,
    "The output folder": OUTPUT,
    "tfrecords_tools/check.py": CHECK,
}
