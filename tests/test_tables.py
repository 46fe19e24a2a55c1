"""Which rows of a table or a tree are used, and why the others are not."""

import os
import time

import pytest
from image_files import write_table

from tfrecords_tools.readers import tables
from tfrecords_tools.readers.tables import Reject, Row


def read_table(table, **options):
    return list(tables.read_table(table, **options))


def read_folder(folder, **options):
    return list(tables.read_folder(str(folder), **options))


def test_a_table_with_the_usual_columns(tmp_path):
    table = write_table(tmp_path / "t.csv", [("a", "7", "x/a.jpg"), ("b", "3", "b.png")])
    assert read_table(table) == [
        Row("a", "7", f"{tmp_path}/x/a.jpg", True, 0, None),
        Row("b", "3", f"{tmp_path}/b.png", True, 0, None),
    ]


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
    assert result == [Row("a", "7", f"{tmp_path}/a.jpg", False)]


def test_the_column_is_clean_is_found(tmp_path):
    rows = [("a", "7", "a.jpg", "1"), ("b", "7", "b.jpg", "0"), ("c", "7", "c.jpg", "maybe")]
    table = write_table(tmp_path / "t.csv", rows, ("id", "label", "path", "is_clean"))
    *good, bad = read_table(table)
    assert [row.is_clean for row in good] == [True, False]
    assert bad == Reject("c", "c.jpg", "is_clean is neither 0 nor 1")


def test_bad_rows_are_rejected_with_a_reason(tmp_path):
    rows = [
        ("", "1", "a.jpg"),
        ("a", "", "a.jpg"),
        ("a", "1", "a.jpg"),
        ("a", "1", "other.jpg"),  # that is for the catalogue to find
        ("b", "1", ""),
        ("c d", "1", "c.jpg"),
        ("e\nf", "1", "e.jpg"),
        ("g",),
    ]
    result = read_table(write_table(tmp_path / "t.csv", rows))
    reasons = [row.reason if isinstance(row, Reject) else "" for row in result]
    assert reasons == [
        tables.NO_ID,
        tables.NO_LABEL,
        "",
        "",
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
    (row,) = read_table(table, images=str(folder / "images"))
    if is_inside:
        assert row.path.startswith(f"{folder}/")
        assert ".." not in row.path
    else:
        assert row == Reject("a", path, tables.OUTSIDE)


def test_a_path_is_judged_as_it_is_written(tmp_path):
    """Links are not followed for it: who may make links in a folder may also copy files there."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path)
    table = write_table(tmp_path / "data" / "t.csv", [("a", "1", "link/../../a.jpg")])
    assert read_table(table) == [Reject("a", "link/../../a.jpg", tables.OUTSIDE)]


def test_paths_in_a_bucket():
    assert tables.locate("gs://bucket/data", "x/../a.jpg") == "gs://bucket/data/a.jpg"
    assert tables.locate("gs://bucket/data", "/etc/passwd") == "/etc/passwd"
    assert tables.locate("/data", "gs://bucket/a.jpg") == "gs://bucket/a.jpg"


def test_relative_folders_mean_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_table("t.csv", [("a", "1", "a.jpg"), ("b", "1", "../b.jpg")])
    first, second = read_table("t.csv")
    assert first == Row("a", "1", f"{tmp_path}/a.jpg")
    assert second == Reject("b", "../b.jpg", tables.OUTSIDE)


def test_labels_are_optional_for_an_index(tmp_path):
    table = write_table(tmp_path / "t.csv", [("a", "a.jpg")], ("id", "path"))
    assert read_table(table, needs_label=False) == [Row("a", "", f"{tmp_path}/a.jpg", True)]
    with pytest.raises(ValueError, match=r"expected the columns \['label'\]"):
        read_table(table)


def test_a_byte_order_mark_and_empty_lines_do_no_harm(tmp_path):
    (tmp_path / "t.csv").write_bytes("\ufeffid,label,path\r\n\r\nä,1,ä.jpg\r\n\r\n".encode())
    assert read_table(str(tmp_path / "t.csv")) == [Row("ä", "1", f"{tmp_path}/ä.jpg", True)]


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
    make_files(tmp_path, "tower/1.jpg", "tower/2.jpg", "tower/2.png", "Old Bridge/1.png")
    make_files(
        tmp_path, "tower/near/my photo.jpg", "tower/.hidden.jpg", ".cache/3.jpg", "loose.jpg"
    )
    assert read_folder(tmp_path) == [
        Reject("loose", "loose.jpg", tables.NO_LABEL),
        Row("Old_Bridge/1", "Old Bridge", f"{tmp_path}/Old Bridge/1.png"),
        Row("tower/1", "tower", f"{tmp_path}/tower/1.jpg"),
        Row("tower/2.jpg", "tower", f"{tmp_path}/tower/2.jpg"),  # two files would be tower/2
        Row("tower/2.png", "tower", f"{tmp_path}/tower/2.png"),
        Row("tower/near/my_photo", "tower", f"{tmp_path}/tower/near/my photo.jpg"),
    ]
    rows = read_folder(f"{tmp_path}/", needs_label=False)
    assert rows[0] == Row("loose", "", f"{tmp_path}/loose.jpg")
    assert len(rows) == 6


def test_a_tree_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="one folder per class"):
        read_folder(str(tmp_path / "none"))


def test_links_of_a_tree(tmp_path):
    """Files behind links are images as others; links in a circle end."""
    make_files(tmp_path, "outside/a.jpg", "tree/tower/1.jpg")
    (tmp_path / "tree" / "tower" / "2.jpg").symlink_to(tmp_path / "outside" / "a.jpg")
    (tmp_path / "tree" / "tower" / "up").symlink_to("..")
    (tmp_path / "tree" / "tower" / "self.jpg").symlink_to("self.jpg")
    ids = [row.id for row in read_folder(tmp_path / "tree")]
    assert ids == ["tower/1", "tower/2", "tower/self", "tower/up"]


def test_a_large_flat_folder_is_listed_at_once(tmp_path):
    """20,000 names; time that grows with their square would take half a minute."""
    for number in range(20000):
        (tmp_path / f"{number}.jpg").touch()
    start = time.process_time()
    assert len(read_folder(tmp_path, needs_label=False)) == 20000
    assert time.process_time() - start < 5


def test_names_and_texts_that_cannot_be_stored(tmp_path):
    (tmp_path / "tower").mkdir()
    try:
        open(os.fsencode(tmp_path) + b"/tower/\xe4.jpg", "wb").close()
    except OSError:
        pytest.skip("this file system has Unicode names only")
    (reject,) = read_folder(tmp_path)
    assert reject == Reject("tower/?", "tower/?.jpg", tables.NOT_UNICODE)
    lines = ['{"id": "\\ud800", "label": 1, "path": "a.jpg"}']
    lines += ['{"id": "a", "label": "\\udfff", "path": "a.jpg"}']
    lines += ['{"id": "b", "label": 1, "path": "\\u0000"}']
    lines += ['{"id": "c\\u0007", "label": 1, "path": "c.jpg"}']
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    assert [row.reason for row in read_table(str(tmp_path / "t.jsonl"))] == [
        tables.NOT_UNICODE,
        tables.NOT_UNICODE,
        tables.NUL_IN_PATH,
        tables.CONTROL,
    ]
