"""A conversion is stopped in every way, and the same command ends with the same bytes."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from conversions import folder_bytes
from image_files import encode, jpeg, picture, write_photos, write_table

from tfrecords_tools.conversion.catalogue import CATALOGUE_NAME, Catalogue


def command(table, out, *options):
    """The command line, which works in processes from 1,000 images on."""
    program = [sys.executable, "tfrecords_tools/write.py", "--table", table, "--output", str(out)]
    return [*program, "--workers", "3", *options]


def start(words, **options):
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(words, cwd=ROOT, **pipes, **options)


def run(words, **options):
    """Returns (exit code, what was printed as errors)."""
    with start(words, **options) as process:
        _, errors = process.communicate(timeout=300)
    return process.returncode, errors


def wait_for(condition, process):
    while process.poll() is None and not condition():
        time.sleep(0.002)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A table of 1,200 images, 30 copies among them, and the folder of one undisturbed run."""
    folder = tmp_path_factory.mktemp("many")
    photos = [jpeg(seed, (12, 8)) for seed in range(60)]
    rows = []
    for number in range(1200):
        # Bytes behind the end mark are allowed; so all differ, but for the first 30.
        data = photos[number % 60] + b"%d\xff\xd9" % (number if number >= 60 else number % 30)
        (folder / f"{number}.jpg").write_bytes(data)
        rows.append((f"id{number}", number % 40, f"{number}.jpg"))
    rows.append(("gone", "1", "gone.jpg"))
    table = write_table(folder / "t.csv", rows)
    words = command(table, folder / "once", "--images-per-shard", "4")
    assert run(words)[0] == 3
    return words, folder_bytes(folder / "once")


def into(words, out):
    """The command with another output."""
    return [str(out) if word.endswith("/once") else word for word in words]


def shards_in(out):
    return len(list(out.glob("*.tfrec")))


def test_kills_at_random_moments(many, tmp_path):
    """Five kills, one after the other, while rows are listed, inspected, compared and written."""
    words, expected = many
    moments = np.random.default_rng(4)
    out = tmp_path / "out"
    for _ in range(5):
        with start(into(words, out)) as process:
            time.sleep(moments.uniform(0.2, 1.4))
            process.kill()
    assert run(into(words, out))[0] == 3
    assert folder_bytes(out) == expected


@pytest.mark.parametrize("when", ["inspecting", "writing"])
def test_kills_at_a_chosen_moment(many, tmp_path, when):
    words, expected = many
    out = tmp_path / "out"
    with start(into(words, out)) as process:
        is_writing = when == "writing"
        wait_for(
            lambda: shards_in(out) > 5 if is_writing else (out / CATALOGUE_NAME).exists(), process
        )
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert (out / CATALOGUE_NAME).exists()
    assert not (out / "manifest.json").exists()
    finished = {path: path.stat().st_mtime_ns for path in out.glob("*.tfrec")}
    assert bool(finished) == is_writing
    assert run(into(words, out))[0] == 3
    assert folder_bytes(out) == expected
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


def test_ctrl_c(many, tmp_path):
    """The terminal sends it to all processes of the command."""
    words, expected = many
    out = tmp_path / "out"
    with start(into(words, out), start_new_session=True) as process:
        wait_for(lambda: shards_in(out) > 2, process)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "write.py: stopped; the same command goes on from here\n" in errors
    assert run(into(words, out))[0] == 3
    assert folder_bytes(out) == expected


def children(pid):
    """Process ids below one."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):  # it has just ended
            continue
        if parent == pid:
            child = int(path.parent.name)
            found += [child, *children(child)]
    return found


def test_the_loss_of_a_worker_ends_the_command(many, tmp_path):
    """As where the system kills one for want of memory."""
    words, expected = many
    out = tmp_path / "out"
    with start(into(words, out)) as process:
        wait_for(lambda: shards_in(out) > 2, process)
        newest = max(children(process.pid))
        os.kill(newest, signal.SIGKILL)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "Traceback" not in errors
    assert "write.py: a process at work on write_shard has ended with exit code -9" in errors
    assert run(into(words, out))[0] == 3
    assert folder_bytes(out) == expected


def test_a_second_command_in_the_same_folder(tmp_path):
    table = write_table(tmp_path / "t.csv", write_photos(tmp_path, 3))
    out = tmp_path / "out"
    out.mkdir()
    with Catalogue(str(out / CATALOGUE_NAME)):  # as the first command has it
        code, errors = run(command(table, out))
        assert code == 1
        assert "expected no other command at work on this folder" in errors
        assert "Traceback" not in errors
    assert run(command(table, out))[0] == 0


LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.mark.parametrize("limit", [6_000, 100_000])
def test_a_full_disk(tmp_path, limit):
    """No file may grow beyond `limit` bytes: first the catalogue fails, then a shard."""
    rows = []
    for number in range(12):
        (tmp_path / f"{number}.png").write_bytes(encode(picture(number, (250, 250)), "PNG"))
        rows.append((f"id{number}", number % 3, f"{number}.png"))
    table = write_table(tmp_path / "t.csv", rows)
    assert run(command(table, tmp_path / "once"))[0] == 0
    expected = folder_bytes(tmp_path / "once")
    assert max(map(len, expected.values())) > 150_000
    out = tmp_path / "out"

    for _ in range(2):
        code, errors = run([sys.executable, "-c", LIMITED, str(limit), *command(table, out)])
        assert code == 1
        assert "Traceback" not in errors
        assert errors.splitlines()[-1].startswith("write.py: ")
        assert not list(out.glob("*.tfrec*"))
        assert not (out / "manifest.json").exists()
    assert run(command(table, out))[0] == 0
    assert folder_bytes(out) == expected
