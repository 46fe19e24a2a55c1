"""The download against a real server: whole, interrupted, damaged, incomplete."""

import csv
import hashlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from synthetic_gldv2 import ARCHIVES, make_tar, serve, unpacked, write_bucket

from tfrecords_tools import download as command
from tfrecords_tools.mirroring import mirror, transfer
from tfrecords_tools.readers import tars

TAR = "train/images_001.tar"
CSV = "metadata/train_attribution.csv"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_bucket(tmp_path_factory.mktemp("bucket"))


@pytest.fixture
def bucket(original, tmp_path):
    """A bucket that the test may damage."""
    root = shutil.copytree(original.root, tmp_path / "bucket")
    return type(original)(root, original.images, original.landmarks, original.clean)


@pytest.fixture
def server(bucket):
    with serve(bucket.root) as running:
        yield running


@pytest.fixture
def get(server, tmp_path):
    """Downloads to tmp_path/gldv2 without long waits."""

    def run(**options):
        defaults = {
            "base_url": server.url, "archives": ARCHIVES, "workers": 3, "stream": None,
            "timeout": 0.3, "attempts": 4, "pause": 0.01,
        }  # fmt: skip
        return command.download(str(tmp_path / "gldv2"), **{**defaults, **options})

    return run


def published(root):
    """The files that a full download brings, md5s aside."""
    return {
        file.relative_to(root).as_posix(): file.read_bytes()
        for file in root.rglob("*")
        if file.is_file() and "md5sum" not in file.parts
    }


def check_equal(bucket, output):
    for path, data in published(bucket.root).items():
        assert (output / path).read_bytes() == data, path
    assert not list(output.rglob("*.partial*"))


def ids_of(path):
    with open(path, newline="") as file:
        return {line["id"] for line in csv.DictReader(file)}


def test_all_parts_arrive_once(bucket, server, get, tmp_path):
    summary = get()
    assert summary == command.Summary(
        19, 0, {}, dict.fromkeys(ARCHIVES, 0), dict.fromkeys(ARCHIVES, 0)
    )
    assert summary.exit_code == 0
    assert str(summary) == "19 files downloaded and checked, 0 kept, 0 failed"
    check_equal(bucket, tmp_path / "gldv2")
    server.log.clear()
    again = get()
    assert (again.downloaded, again.kept, again.exit_code) == (0, 19, 0)
    assert server.log == []


def test_a_lost_record_costs_hashes_and_no_download(server, get, tmp_path):
    get()
    (tmp_path / "gldv2" / mirror.RECORD_NAME).write_text("{")
    server.log.clear()
    assert (get().downloaded, get().kept) == (19, 19)
    assert {r.path.split("/")[0] for r in server.log if r.method == "GET"} == {"md5sum"}


def test_a_changed_file_is_mended(bucket, server, get, tmp_path):
    get()
    for path in (TAR, CSV):
        file = tmp_path / "gldv2" / path
        file.write_bytes(file.read_bytes()[:-1000])
    assert get().downloaded == 2
    check_equal(bucket, tmp_path / "gldv2")


@pytest.mark.parametrize(
    ("faults", "statuses", "has_range"),
    [
        (["close"], [200, 206], [False, True]),
        (["close", "close", "close"], [200, 206, 206, 206], [False, True, True, True]),
        (["stall"], [200, 206], [False, True]),
        (["503", "503"], [503, 503, 200], [False, False, False]),
        (["close", "500"], [200, 500, 206], [False, True, True]),
        (["close", "whole"], [200, 200], [False, True]),
        (["close", "416"], [200, 416, 200], [False, True, False]),
    ],
)
def test_goes_on_after(faults, statuses, has_range, bucket, server, get, tmp_path):
    server.faults = {f"GET {TAR}": list(faults)}
    assert get(parts=["train"]).exit_code == 0
    assert [r.status for r in server.requests(TAR)] == statuses
    assert [r.range is not None for r in server.requests(TAR)] == has_range
    assert (tmp_path / "gldv2" / TAR).read_bytes() == bucket.archive(TAR).read_bytes()


def test_the_rest_is_asked_for_from_the_byte_it_stopped_at(bucket, server, get):
    server.faults = {f"GET {TAR}": ["close"]}
    get(parts=["train"])
    size = bucket.archive(TAR).stat().st_size
    start = int(server.requests(TAR)[1].range.removeprefix("bytes=").removesuffix("-"))
    # Less than one chunk of 64 kB may be lost of what was sent.
    assert 0 <= size * 7 // 10 - start < 2**16
    assert start > 0


def test_head_is_asked_again(server, get):
    server.faults = {f"HEAD {TAR}": ["503", "503"], "GET md5sum/train/md5.images_001.txt": ["503"]}
    assert get(parts=["train"]).exit_code == 0


def test_a_file_that_changed_meanwhile_is_started_anew(bucket, server, get, tmp_path):
    server.faults = {f"GET {CSV}": ["close"]}
    assert get(parts=["metadata"], attempts=1).failures.keys() == {CSV}
    part = tmp_path / "gldv2" / (CSV + ".partial")
    assert part.stat().st_size > 0
    # As long as before: only the ETag tells.
    old = bucket.archive(CSV).read_bytes()
    bucket.archive(CSV).write_bytes(old.replace(b"CC-BY", b"CC-00"))
    assert get(parts=["metadata"]).exit_code == 0
    assert [(r.range is None, r.status) for r in server.requests(CSV)] == [
        (True, 200), (False, 200),
    ]  # fmt: skip
    assert (tmp_path / "gldv2" / CSV).read_bytes() == bucket.archive(CSV).read_bytes()


def test_attempts_are_counted_from_the_last_new_byte(server, get):
    server.faults = {f"GET {TAR}": ["503", "503", "close", "503"]}
    assert get(parts=["train"], attempts=3).exit_code == 0


def test_gives_up_after_the_attempts_and_goes_on_the_next_time(bucket, server, get, tmp_path):
    server.faults = {f"GET {TAR}": ["close", "503", "503"]}
    summary = get(parts=["train"], attempts=3)
    assert summary.exit_code == 1
    assert summary.failures.keys() == {TAR}
    assert "after 3 failures in a row, the last: the server answered 503" in summary.failures[TAR]
    assert not (tmp_path / "gldv2" / TAR).exists()
    server.log.clear()
    again = get(parts=["train"])
    assert (again.exit_code, again.downloaded, again.kept) == (0, 1, 5)
    assert [r.status for r in server.requests(TAR)] == [206]


def test_wrong_md5_is_an_error_of_that_file(bucket, server, get, tmp_path):
    good = bucket.archive(TAR).read_bytes()
    bucket.archive(TAR).write_bytes(good[:5000] + b"!" + good[5001:])
    summary = get(parts=["train"])
    assert summary.exit_code == 1
    assert summary.failures.keys() == {TAR}
    expected, found = (hashlib.md5(data).hexdigest() for data in (good, served(bucket)))  # noqa: S324
    assert f"expected the md5 {expected}. Received: {found}" in summary.failures[TAR]
    assert len(server.requests(TAR)) == 1
    assert sorted(file.name for file in (tmp_path / "gldv2" / "train").glob("*.tar")) == [
        "images_000.tar", "images_002.tar", "images_003.tar",
    ]  # fmt: skip
    assert ids_of(tmp_path / "gldv2" / "missing_train.csv") == bucket.ids_in(TAR)
    bucket.archive(TAR).write_bytes(good)
    assert get(parts=["train"]).exit_code == 0
    check_listed(tmp_path / "gldv2", missing=False, unexpected=False)


def served(bucket):
    return bucket.archive(TAR).read_bytes()


def check_listed(output, *, missing, unexpected):
    assert (output / "missing_train.csv").exists() == missing
    assert (output / "unexpected_train.csv").exists() == unexpected


def test_pieces_that_do_not_fit_are_downloaded_once_more(bucket, server, get, tmp_path):
    server.faults = {f"GET {TAR}": ["close"]}
    get(parts=["train"], attempts=1)
    part = tmp_path / "gldv2" / (TAR + ".partial")
    data = part.read_bytes()
    part.write_bytes(b"!" + data[1:])
    assert get(parts=["train"]).exit_code == 0
    assert [r.status for r in server.requests(TAR)] == [200, 206, 200]


def test_a_file_the_server_lacks(bucket, server, get, tmp_path):
    bucket.archive(TAR).unlink()
    summary = get(parts=["train"])
    assert summary.exit_code == 1
    assert "404 Not Found" in summary.failures[TAR]
    assert len(server.requests(TAR, "HEAD")) == 1
    assert summary.missing == {"train": 60}


@pytest.mark.parametrize("text", ["", "<html>busy</html>", "d41d8cd9  images_001.tar"])
def test_an_md5_that_is_none(text, bucket, get):
    (bucket.root / "md5sum/train/md5.images_001.txt").write_text(text)
    assert "expected an md5" in get(parts=["train"]).failures[TAR]


def test_a_tar_that_was_broken_before_its_md5_was_taken(bucket, server, get):
    data = bucket.archive(TAR).read_bytes()
    bucket.replace(TAR, data[: len(data) // 2])
    summary = get(parts=["train"])
    assert summary.exit_code == 1
    assert "the tar is cut off" in summary.failures[TAR]
    get(parts=["train"])
    assert len(server.requests(TAR)) == 1


def test_missing_and_unexpected_images_are_listed(bucket, get, tmp_path, capsys):
    members = {unpacked(image): bucket.images["train"][image] for image in bucket.ids_in(TAR)}
    gone = sorted(bucket.ids_in(TAR))[:2]
    twice = next(iter(bucket.ids_in("train/images_000.tar")))
    members |= {
        unpacked("0123456789abcdef"): b"new",
        "notes\udcff.txt": b"other",
        unpacked(twice): b"again",
    }
    for image in gone:
        del members[unpacked(image)]
    good = bucket.archive(TAR).read_bytes()
    bucket.replace(TAR, make_tar(members))
    summary = get(parts=["train"])
    assert (summary.missing, summary.unexpected) == ({"train": 2}, {"train": 3})
    assert summary.exit_code == 3
    assert "missing: 2 images of train, listed in missing_train.csv" in str(summary)
    assert ids_of(tmp_path / "gldv2" / "missing_train.csv") == set(gone)
    with open(tmp_path / "gldv2" / "unexpected_train.csv", newline="") as file:
        lines = {line["member"]: line["reason"] for line in csv.DictReader(file)}
    assert lines == {
        "0123456789abcdef": "the part's table does not list it",
        "./notes\\udcff.txt": tars.NOT_AN_IMAGE,
        twice: "images_000.tar has it too",
    }
    bucket.replace(TAR, good)
    (tmp_path / "gldv2" / TAR).unlink()
    assert get(parts=["train"]).exit_code == 0
    check_listed(tmp_path / "gldv2", missing=False, unexpected=False)


def test_unpack_writes_every_image(bucket, get, tmp_path):
    assert get(unpack=True).exit_code == 0
    stamps = {}
    for part, images in bucket.images.items():
        for image, data in images.items():
            file = tmp_path / "gldv2" / part / unpacked(image)
            assert file.read_bytes() == data
            stamps[file] = file.stat().st_mtime_ns
    lost = next(iter(stamps))
    lost.unlink()
    assert get(unpack=True).exit_code == 0
    assert lost.exists()
    assert all(f.stat().st_mtime_ns == time for f, time in stamps.items() if f != lost)


def test_no_name_in_a_tar_is_a_path(bucket, get, tmp_path):
    image = sorted(bucket.ids_in(TAR))[0]
    members = {unpacked(i): bucket.images["train"][i] for i in bucket.ids_in(TAR)}
    del members[unpacked(image)]
    names = [f"../../../../{image}.jpg", "../../escape.jpg", "../escape.txt"]
    bucket.replace(TAR, make_tar({**members, **dict.fromkeys(names, b"evil")}))
    summary = get(parts=["train"], unpack=True)
    assert summary.unexpected == {"train": 2}
    inside = tmp_path / "gldv2" / "train" / unpacked(image)
    assert inside.read_bytes() == b"evil"  # the id is right, so it lies where that id belongs
    outside = {path.name for path in tmp_path.rglob("*") if "escape" in path.name}
    assert outside == set()


def test_first_archives_only(get):
    summary = get(first=1)
    assert summary.exit_code == 0
    assert summary.missing == {}
    assert summary.downloaded == 15


def test_no_room(server, get, tmp_path):
    server.faults = {f"HEAD {TAR}": ["huge"]}
    with pytest.raises(mirror.NoSpaceError, match=r"expected 20000\d\d\.\d GB free"):
        get()
    assert [r for r in server.log if r.method == "GET"] == []


def test_out_of_reach(server, get):
    with pytest.raises(transfer.DownloadError, match="given up after 2 failures in a row"):
        get(base_url="http://127.0.0.1:1", attempts=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": "ftp://x"}, "expected an address of http or https"),
        ({"parts": ["trian"]}, "expected parts of"),
        ({"parts": []}, "expected parts of"),
        ({"first": 0}, "first >= 1"),
        ({"workers": 0}, "workers"),
        ({"timeout": 0}, "timeout > 0"),
    ],
)
def test_wrong_arguments(options, message, get, server):
    with pytest.raises(ValueError, match=message):
        get(**options)
    assert server.log == []


def test_a_bucket_is_no_output():
    with pytest.raises(ValueError, match="expected a folder on this machine"):
        command.download("gs://bucket/gldv2")


def test_progress_is_shown(get, capsys):
    get(stream=sys.stderr)
    assert "download: 0 MB" in capsys.readouterr().err


def start(server, output, *options):
    script = ROOT / "tfrecords_tools" / "download.py"
    command_line = [sys.executable, script, "--output", output, "--base-url", server.url, *options]
    return subprocess.Popen(command_line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_killed_and_started_again(bucket, server, tmp_path):
    options = ["--parts", "train", "--first", "4", "--workers", "1"]
    output = tmp_path / "gldv2"
    server.faults = {f"GET {TAR}": ["stall"]}
    part = pathlib.Path(f"{output / TAR}.partial")
    process = start(server, output, *options)
    wait_until(lambda: part.exists() and part.stat().st_size >= 2**16)
    other = start(server, output, *options)
    assert f"another download writes to {output}" in other.communicate()[1]
    assert other.returncode == 1
    process.send_signal(signal.SIGKILL)
    process.communicate()
    server.log.clear()
    second = start(server, output, *options)
    out, err = second.communicate()
    assert second.returncode == 0, err
    assert out == "3 files downloaded and checked, 3 kept, 0 failed\n"
    assert [r.status for r in server.requests(TAR)] == [206]
    assert (output / TAR).read_bytes() == bucket.archive(TAR).read_bytes()


def test_the_published_layout(tmp_path_factory):
    """All 620 archives, one image each."""
    counts = command.ARCHIVES
    bucket = write_bucket(tmp_path_factory.mktemp("bucket"), archives=counts, images=counts)
    output = tmp_path_factory.mktemp("gldv2")
    with serve(bucket.root) as server:
        arguments = ["--output", str(output), "--base-url", server.url]
        assert command.main([*arguments, "--workers", "4"]) == 0
        assert command.main([*arguments, "--parts", "test"]) == 0
    check_equal(bucket, output)
    assert os.path.exists(output / "train/images_499.tar")


def test_exit_codes(server, bucket, tmp_path, capsys):
    arguments = ["--output", str(tmp_path / "x"), "--base-url", server.url, "--attempts", "1"]
    assert command.main([*arguments, "--parts", "ground_truth"]) == 0
    assert capsys.readouterr().out == "2 files downloaded and checked, 0 kept, 0 failed\n"
    assert command.main([*arguments, "--first", "0"]) == 2
    assert command.main([*arguments, "--parts", "metadata", "--base-url", "http://[::1]:1"]) == 1
    bucket.archive("ground_truth/retrieval_solution_v2.1.csv").unlink()
    (tmp_path / "x/ground_truth/retrieval_solution_v2.1.csv").unlink()
    assert command.main([*arguments, "--parts", "ground_truth"]) == 1
    assert "404 Not Found" in capsys.readouterr().out
