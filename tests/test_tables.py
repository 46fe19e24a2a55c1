"""Which rows of a table or a tree are used, and why the others are not."""

import pytest
from image_files import write_table

from tfrecords_tools import tables
from tfrecords_tools.tables import Reject, Row, read_folder, read_table


def test_a_table_with_the_usual_columns(tmp_path):
    table = write_table(tmp_path / "t.csv", [("a", "7", "x/a.jpg"), ("b", "3", "b.png")])
    result = read_table(table)
    assert result.images == str(tmp_path)
    assert result.rows == [Row("a", "7", "x/a.jpg", True), Row("b", "3", "b.png", True)]
    assert result.rejects == []


def test_columns_can_be_named(tmp_path):
    header = ("landmark_id", "file", "key", "is_clean", "checked")
    table = write_table(tmp_path / "t.csv", [("7", "a.jpg", "a", "1", "False")], header)
    result = read_table(
        table,
        id_column="key",
        label_column="landmark_id",
        path_column="file",
        clean_column="checked",
    )
    assert result.rows == [Row("a", "7", "a.jpg", False)]


def test_the_column_is_clean_is_found(tmp_path):
    rows = [("a", "7", "a.jpg", "1"), ("b", "7", "b.jpg", "0"), ("c", "7", "c.jpg", "maybe")]
    table = write_table(tmp_path / "t.csv", rows, ("id", "label", "path", "is_clean"))
    result = read_table(table)
    assert [row.is_clean for row in result.rows] == [True, False]
    assert result.rejects == [Reject("c", "c.jpg", "is_clean is neither 0 nor 1")]


def test_bad_rows_are_rejected_with_a_reason(tmp_path):
    rows = [
        ("", "1", "a.jpg"),
        ("a", "", "a.jpg"),
        ("a", "1", "a.jpg"),  # the first good row of this id
        ("a", "1", "other.jpg"),
        ("b", "1", ""),
        ("c d", "1", "c.jpg"),
        ("e\nf", "1", "e.jpg"),
        ("g",),
    ]
    result = read_table(write_table(tmp_path / "t.csv", rows))
    assert result.rows == [Row("a", "1", "a.jpg", True)]
    assert [reject.reason for reject in result.rejects] == [
        tables.NO_ID,
        tables.NO_LABEL,
        tables.DUPLICATE_ID,
        tables.NO_PATH,
        tables.WHITE_SPACE,
        tables.WHITE_SPACE,
        tables.NO_PATH,
    ]


@pytest.mark.parametrize(
    ("path", "is_inside"),
    [
        ("a.jpg", True),
        ("x/../a.jpg", True),
        ("../images/a.jpg", True),
        ("../beside.jpg", True),  # in the table's own folder
        ("../../a.jpg", False),
        ("../../data2/a.jpg", False),  # a name that only begins like the table's folder
        ("/etc/passwd", False),
        ("{data}/images/a.jpg", True),
        ("{data}/../a.jpg", False),
        ("gs://bucket/a.jpg", False),
        ("..", False),
    ],
)
def test_paths_stay_in_the_folders_the_user_named(tmp_path, path, is_inside):
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    path = path.format(data=folder)
    table = write_table(folder / "t.csv", [("a", "1", path)])
    result = read_table(table, images=str(folder / "images"))
    assert len(result.rows) == is_inside
    assert result.rejects == ([] if is_inside else [Reject("a", path, tables.OUTSIDE)])


def test_paths_in_a_bucket():
    assert tables.locate("gs://bucket/data", "x/../a.jpg") == "gs://bucket/data/a.jpg"
    assert tables.locate("gs://bucket/data", "/etc/passwd") == "/etc/passwd"
    assert tables.locate("/data", "gs://bucket/a.jpg") == "gs://bucket/a.jpg"


def test_relative_folders_mean_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_table("t.csv", [("a", "1", "a.jpg"), ("b", "1", "../b.jpg")])
    result = read_table("t.csv")
    assert [row.id for row in result.rows] == ["a"]
    assert tables.locate(result.images, "a.jpg") == str(tmp_path / "a.jpg")


def test_labels_are_optional_for_an_index(tmp_path):
    table = write_table(tmp_path / "t.csv", [("a", "a.jpg")], ("id", "path"))
    assert read_table(table, needs_label=False).rows == [Row("a", "", "a.jpg", True)]
    with pytest.raises(ValueError, match=r"expected the columns \['label'\]"):
        read_table(table)


def test_a_byte_order_mark_and_empty_lines_do_no_harm(tmp_path):
    (tmp_path / "t.csv").write_bytes("\ufeffid,label,path\r\n\r\nä,1,ä.jpg\r\n\r\n".encode())
    assert read_table(str(tmp_path / "t.csv")).rows == [Row("ä", "1", "ä.jpg", True)]


def test_what_is_no_table(tmp_path):
    with pytest.raises(FileNotFoundError, match="which does not exist"):
        read_table(str(tmp_path / "none.csv"))
    (tmp_path / "latin.csv").write_bytes("id,label,path\nä,1,a.jpg\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.csv, after line \d: expected CSV in UTF-8"):
        read_table(str(tmp_path / "latin.csv"))
    (tmp_path / "empty.csv").write_bytes(b"")
    with pytest.raises(ValueError, match=r"expected the columns .* Received: \[\]"):
        read_table(str(tmp_path / "empty.csv"))


def make_files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_a_tree_with_one_folder_per_class(tmp_path):
    make_files(
        tmp_path, "tower/1.jpg", "tower/2.jpg", "Old Bridge/1.png", "tower/near/my photo.jpg"
    )
    make_files(tmp_path, "tower/.hidden.jpg", ".cache/3.jpg", "loose.jpg")
    result = read_folder(str(tmp_path))
    assert sorted((row.id, row.label, row.path) for row in result.rows) == [
        ("2", "tower", "tower/2.jpg"),
        ("Old_Bridge/1.png", "Old Bridge", "Old Bridge/1.png"),  # two files are called 1
        ("my_photo", "tower", "tower/near/my photo.jpg"),
        ("tower/1.jpg", "tower", "tower/1.jpg"),
    ]
    assert result.rejects == [Reject("loose", "loose.jpg", tables.NO_LABEL)]
    assert len(read_folder(str(tmp_path), needs_label=False).rows) == 5


def test_a_tree_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="one folder per class"):
        read_folder(str(tmp_path / "none"))
