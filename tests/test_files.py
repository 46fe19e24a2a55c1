"""The same operations on local paths and on paths of TensorFlow's file systems."""

import os
import pathlib
import subprocess
import sys
import uuid

import pytest
from conftest import ROOT

import files

DATA = bytes(range(256)) * 5000  # 1.28 MB


@pytest.fixture(params=["local", "remote"])
def folder(request, tmp_path):
    """A folder on this machine, or one in TensorFlow's memory, which has paths with "://"."""
    path = str(tmp_path) if request.param == "local" else f"ram://{uuid.uuid4().hex}"
    files.make_folder(path)
    return path


def test_bytes_and_text_come_back(folder):
    files.write_bytes(f"{folder}/a", DATA)
    files.write_text(f"{folder}/b", "ä\r\nb\n")
    assert files.read(f"{folder}/a") == DATA
    assert files.read(f"{folder}/b") == b"\xc3\xa4\r\nb\n"
    assert files.size_of(f"{folder}/a") == len(DATA)
    with files.open_file(f"{folder}/b") as file:
        assert file.read() == "ä\r\nb\n"
    assert files.find(f"{folder}/*") == [f"{folder}/a", f"{folder}/b"]


@pytest.mark.parametrize(
    ("offset", "size"),
    [(0, 10), (5, 0), (7, None), (len(DATA) - 3, 10), (len(DATA), 5), (len(DATA) + 9, 5)],
)
def test_parts_of_a_file(folder, offset, size):
    files.write_bytes(f"{folder}/a", DATA)
    end = None if size is None else offset + size
    assert files.read(f"{folder}/a", offset, size) == DATA[offset:end]


def test_what_is_not_there(folder):
    assert not files.exists(f"{folder}/none")
    assert not files.is_folder(f"{folder}/none")
    for call in (files.read, files.size_of, files.open_file):
        with pytest.raises(FileNotFoundError, match="none"):
            call(f"{folder}/none")
    files.remove(f"{folder}/none")
    files.remove_folder(f"{folder}/none")
    assert files.find(f"{folder}/*") == []


def test_a_file_takes_the_place_of_another(folder):
    files.write_text(f"{folder}/a", "first")
    files.write_text(f"{folder}/a", "second")
    files.write_text(f"{folder}/b", "third")
    files.rename(f"{folder}/b", f"{folder}/a")
    assert files.read(f"{folder}/a") == b"third"
    assert not files.exists(f"{folder}/b")
    files.remove(f"{folder}/a")
    assert not files.exists(f"{folder}/a")


def test_walking_goes_by_names(folder):
    for name in ("z/2", "a/b/1", "a/2", "10", "9", "a/b/0", "B/1"):
        files.make_folder(os.path.dirname(f"{folder}/{name}"))
        files.write_text(f"{folder}/{name}", name)
    walked = [(parent.rstrip("/"), names) for parent, names in files.walk(folder)]
    assert walked == [
        (folder, ["10", "9"]),
        (f"{folder}/B", ["1"]),
        (f"{folder}/a", ["2"]),
        (f"{folder}/a/b", ["0", "1"]),
        (f"{folder}/z", ["2"]),
    ]
    files.remove_folder(f"{folder}/a")
    assert not files.exists(f"{folder}/a/b/1")
    assert files.is_folder(f"{folder}/z")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/./b//../c", "/a/c"),
        ("/../a", "/a"),
        ("gs://bucket/a/../../b", "gs://b"),
        ("gs://bucket/a/./b/", "gs://bucket/a/b"),
    ],
)
def test_absolute_paths(path, expected):
    assert files.absolute(path) == expected


def test_a_path_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert files.absolute("x/../y") == str(tmp_path / "y")
    assert files.absolute(pathlib.Path("y")) == str(tmp_path / "y")


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    """An error while it is written leaves what was there before."""
    files.write_text(str(tmp_path / "a"), "before")
    with pytest.raises(TypeError):
        files.write_bytes(str(tmp_path / "a"), "text")
    assert (tmp_path / "a").read_text() == "before"

    def fail(*_):
        raise OSError("stopped")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="stopped"):
        files.write_text(str(tmp_path / "a"), "after")
    assert (tmp_path / "a").read_text() == "before"


def test_only_files_are_read(tmp_path):
    """A pipe would be waited for and /dev/zero would never end."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "zero", "folder"):
        for call in (files.read, files.size_of):
            with pytest.raises(files.NotAFileError, match=f"not a file: '.*{name}'"):
                call(str(tmp_path / name))


def test_links_of_a_folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "up").symlink_to("..")
    (tmp_path / "a" / "self").symlink_to("self")
    (tmp_path / "a" / "gone").symlink_to("none")
    walked = list(files.walk(str(tmp_path)))
    assert walked == [(str(tmp_path), []), (f"{tmp_path}/a", ["gone", "self", "up"])]
    assert not files.exists(f"{tmp_path}/a/gone")
    files.remove(f"{tmp_path}/a/gone")
    assert not os.path.lexists(tmp_path / "a" / "gone")
    with pytest.raises(OSError, match="self"):
        files.read(f"{tmp_path}/a/self")


def test_tensorflow_is_loaded_for_buckets_only(tmp_path):
    program = (
        "import sys, files; path = sys.argv[1]; files.write_text(path, 'x'); files.read(path); "
        "files.find(path); files.remove(path); assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "a")], cwd=ROOT, check=True)


def test_the_path_of_a_folder_is_no_pattern(tmp_path):
    for name in ("a[b]", "ab"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.txt").touch()
    assert files.find_in(f"{tmp_path}/a[b]", "*.txt") == [f"{tmp_path}/a[b]/x.txt"]
    assert files.find(f"{tmp_path}/a[b]/*.txt") == [f"{tmp_path}/ab/x.txt"]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("before")
    with pytest.raises(TypeError), files.replacing(str(path)) as file:
        file.write(b"not text")
    assert path.read_text() == "before"
    with files.replacing(str(path)) as file:
        file.write("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]
