"""Sources by name: what is read from where, and what a name in front of it does."""

import pytest
from conversions import quiet, read_split
from image_files import jpeg, write_photos, write_table
from own_shards import images, write_own

from input_pipeline import schema
from tfrecords_tools.conversion.options import Options
from tfrecords_tools.readers import sources, tables
from tfrecords_tools.readers.tables import Reject, Row


def read(*specifications, **options):
    return list(Options(sources=specifications, **options).rows())


@pytest.mark.parametrize(
    "specification",
    [
        "train.csv",
        "csv:train.csv",
        "table:",
        "=table:t.csv",
        "a b=table:t.csv",
        "a/b=table:t.csv",
        "Table:t.csv",
        "",
        " table:t.csv",
    ],
)
def test_what_is_no_source(specification):
    with pytest.raises(ValueError, match=r"\[NAME=\]KIND:PLACE") as raised:
        Options(sources=[specification])
    assert str(raised.value).endswith(f"Received: {specification!r}")


def test_a_place_may_hold_any_text(tmp_path):
    folder = tmp_path / "a=b table:c"
    folder.mkdir()
    table = write_table(folder / "t:train.csv", [("i", "1", "x.jpg")])
    expected = Row("i", "1", f"{folder}/x.jpg")
    assert read(f"table:{table}") == [expected]
    assert read(f"n.1-x_=table:{table}")[0].id == "n.1-x_:i"


def test_names_keep_ids_and_labels_apart(tmp_path):
    table = write_table(tmp_path / "t.csv", [("i", "1", "x.jpg"), ("j", "", "y.jpg")])
    assert read(f"table:{table}", f"shop=table:{table}") == [
        Row("i", "1", f"{tmp_path}/x.jpg"),
        Reject("j", "y.jpg", tables.NO_LABEL),
        Row("shop:i", "shop:1", f"{tmp_path}/x.jpg"),
        Reject("shop:j", "y.jpg", tables.NO_LABEL),
    ]
    rows = read(f"shop=table:{table}", split="index")
    assert [(row.id, row.label) for row in rows] == [("shop:i", "shop:1"), ("shop:j", "")]


def test_columns_and_images_are_those_of_all_tables(tmp_path):
    (tmp_path / "photos").mkdir()
    first = write_table(tmp_path / "a.csv", [("1", "x", "a.jpg", 0)], ("key", "kind", "file", "ok"))
    header = ("file", "kind", "key", "ok")
    second = write_table(tmp_path / "b.csv", [("b.jpg", "y", "2", 1)], header)
    names = {"id_column": "key", "label_column": "kind", "path_column": "file"}
    options = {"images": str(tmp_path / "photos"), "clean_column": "ok", **names}
    assert read(f"table:{first}", f"table:{second}", **options) == [
        Row("1", "x", f"{tmp_path}/photos/a.jpg", False),
        Row("2", "y", f"{tmp_path}/photos/b.jpg", True),
    ]
    with pytest.raises(ValueError, match="images belongs to a table"):
        Options(sources=["folder:x"], images="y")


def test_rows_are_read_as_they_are_needed(tmp_path):
    """The second source is not looked for before the first is at its end."""
    table = write_table(tmp_path / "t.csv", [("i", "1", "x.jpg")])
    rows = Options(sources=[f"table:{table}", f"table:{tmp_path}/none.csv"]).rows()
    assert next(rows).id == "i"
    with pytest.raises(FileNotFoundError, match=r"none\.csv"):
        next(rows)


def test_trees_are_known(tmp_path):
    specifications = ["table:folder:x", "folder:a", "n=folder:b", "shards:c"]
    assert sources.folders(specifications) == ["a", "b"]


def test_shards_become_shards_again(tmp_path):
    """Images, ids and class ids stay; of one split, or of all with a name before them."""
    (tmp_path / "own").mkdir()
    own = write_own(tmp_path / "own")
    known = {image_id: (encoded, label) for _, image_id, label, _, _, encoded in images()}
    out = tmp_path / "out"
    write_from = [f"shards:{own}:validation", f"all=shards:{own}"]
    manifest = quiet(out, sources=write_from, split="index").manifest
    records = read_split(out, "index")
    assert len(records) == 2 + len(known)
    class_ids = schema.Manifest.load(own).class_ids
    for record in records:
        image_id = record["id"].decode().removeprefix("all:")
        encoded, label = known[image_id]
        assert record["encoded"] == encoded
        name = manifest.class_ids[record["class/label"]]
        assert name.removeprefix("all:") == class_ids[label]
        assert name.startswith("all:") == record["id"].startswith(b"all:")


def test_a_tree_and_a_table_with_the_same_ids(tmp_path):
    rows = write_photos(tmp_path, 4, classes=1)
    (tmp_path / "tree" / "0").mkdir(parents=True)
    (tmp_path / "tree" / "0" / "id000.jpg").write_bytes(jpeg(9))
    table = write_table(tmp_path / "t.csv", [*rows, ("0/id000", "0", rows[0][2])])
    places = [f"folder:{tmp_path}/tree", f"table:{table}"]
    summary = quiet(tmp_path / "out", sources=places, validation="none")
    assert summary.rejects == {"duplicate id": 1}
    (record,) = [r for r in read_split(tmp_path / "out", "train_clean") if b"/" in r["id"]]
    assert record["encoded"] == jpeg(9)  # the first source has it
