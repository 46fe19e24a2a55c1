"""Embedding in parts gives the same bytes: whatever their size, stopped anywhere, and by Beam."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT
from networks import run, save_model, write_bad_table

import files
import jobs
from export import embed as command
from export import parts
from export.embed import Counts
from export.request import OtherRequestError
from retrieval import embeddings

RESULT = ["embeddings.npy", "ids.txt", "manifest.json", "rejects.csv"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def table(photographs, tmp_path_factory):
    return write_bad_table(photographs, tmp_path_factory.mktemp("with bad ones"))


def contents(folder):
    """The bytes of all files, and the names of the folders."""
    return {
        path.relative_to(folder).as_posix(): path.is_file() and path.read_bytes()
        for path in folder.rglob("*")
    }


def changed(folder):
    return {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


@pytest.fixture(scope="module")
def expected(model, table, tmp_path_factory):
    """The contents of the finished embeddings of `table`."""
    folder = tmp_path_factory.mktemp("expected")
    assert run(model, table, folder) == Counts(96, 3)
    assert sorted(contents(folder)) == RESULT
    return contents(folder)


def test_the_size_of_the_parts_does_not_matter(model, table, expected, tmp_path):
    for size in (1, 49, 4096):
        run(model, table, tmp_path / str(size), images_per_part=size)
        assert contents(tmp_path / str(size)) == expected


def test_a_complete_directory_is_left_alone(model, table, expected, tmp_path, capsys):
    run(model, table, tmp_path)
    before = changed(tmp_path)
    argv = ["--model", model, "--table", table, "--output", str(tmp_path), "--batch-size", "7"]
    for more in ([], ["--overwrite"], ["--runner", "DirectRunner"]):
        assert command.main([*argv, *more]) == 3
        assert "nothing to do: 96 images, 3 rejected" in capsys.readouterr().out
    assert changed(tmp_path) == before
    (tmp_path / "ids.txt").unlink()
    assert run(model, table, tmp_path).is_new
    assert contents(tmp_path) == expected


def test_another_request_is_refused(model, table, photographs, expected, tmp_path, capsys):
    run(model, table, tmp_path)
    before = changed(tmp_path)
    other = ["--model", model, "--table", str(photographs / "train.csv")]
    other += ["--output", str(tmp_path)]
    assert command.main(other) == 1
    assert "which holds other embeddings" in capsys.readouterr().err
    with pytest.raises(OtherRequestError):
        run(model, table, tmp_path, batch_size=8)
    assert changed(tmp_path) == before
    assert command.main([*other, "--overwrite"]) == 0
    assert len(embeddings.load(str(tmp_path)).ids) == 96
    (tmp_path / "manifest.json").unlink()
    shutil.rmtree(tmp_path)
    (tmp_path / "parts").mkdir(parents=True)
    (tmp_path / "parts" / "request.json").write_text('{"request": "another"}')
    with pytest.raises(OtherRequestError):
        run(model, table, tmp_path)
    run(model, table, tmp_path, overwrite=True)
    assert contents(tmp_path) == expected


def interrupted(model, table, output, monkeypatch, name, calls):
    """Runs until the function `name` of os is called for the `calls`-th time, and stops there."""
    original, count = getattr(os, name), 0

    def stop(*args, **kwargs):
        nonlocal count
        count += 1
        if count == calls:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, name, stop)
        with pytest.raises(KeyboardInterrupt):
            run(model, table, output)


@pytest.mark.parametrize("renames", range(1, 14))
def test_stopped_before_any_renaming(model, table, expected, tmp_path, monkeypatch, renames):
    """request.json, eight parts, rejects.csv, embeddings.npy, ids.txt, manifest.json."""
    interrupted(model, table, tmp_path, monkeypatch, "replace", renames)
    (tmp_path / "embeddings.npy.partial").write_bytes(b"left by kill -9")
    written = {path: stat for path, stat in changed(tmp_path).items() if path.suffix == ".npz"}
    assert len(written) == min(renames - 2, 8) if renames > 1 else not written
    seen = []
    original = parts._save

    def save(path, *arguments):
        seen.append(path)
        original(path, *arguments)

    monkeypatch.setattr(parts, "_save", save)
    assert run(model, table, tmp_path) == Counts(96, 3)
    assert len(seen) == 8 - len(written)
    assert contents(tmp_path) == expected


def test_stopped_while_the_parts_are_removed(model, table, expected, tmp_path, monkeypatch):
    interrupted(model, table, tmp_path, monkeypatch, "unlink", 3)
    assert (tmp_path / "manifest.json").is_file()
    assert run(model, table, tmp_path) == Counts(96, 3, is_new=False)
    assert contents(tmp_path) == expected


def test_a_damaged_part_is_named(model, table, expected, tmp_path, monkeypatch, capsys):
    interrupted(model, table, tmp_path, monkeypatch, "replace", 10)
    part = next((tmp_path / "parts").glob("*.npz"))
    whole = part.read_bytes()
    argv = ["--model", model, "--table", table, "--output", str(tmp_path), "--batch-size", "7"]
    argv += ["--images-per-part", "14"]
    middle = len(whole) // 2
    for damaged in (b"", whole[:-9], whole[:middle] + bytes(9) + whole[middle + 9 :]):
        part.write_bytes(damaged)
        assert command.main(argv) == 1
        assert f"{part}: this part is damaged; remove it" in capsys.readouterr().err
    part.unlink()
    assert command.main(argv) == 3
    assert contents(tmp_path) == expected


def test_beam_gives_the_same_bytes(model, table, expected, tmp_path, capsys):
    pytest.importorskip("apache_beam")
    argv = ["--model", model, "--table", table, "--output", str(tmp_path), "--batch-size", "7"]
    argv += ["--images-per-part", "28", "--runner", "DirectRunner"]
    assert command.main(argv) == 3
    assert "96 images, 3 rejected" in capsys.readouterr().out
    assert contents(tmp_path) == expected


def test_beam_and_this_process_take_over_from_each_other(
    model, table, expected, tmp_path, monkeypatch
):
    pytest.importorskip("apache_beam")
    beam = jobs.Beam("DirectRunner")
    interrupted(model, table, tmp_path / "a", monkeypatch, "replace", 5)
    run(model, table, tmp_path / "a", beam=beam)
    assert contents(tmp_path / "a") == expected

    def fail(pipeline):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("apache_beam.Pipeline.run", fail)
        with pytest.raises(KeyboardInterrupt):
            run(model, table, tmp_path / "b", beam=beam)
    assert any((tmp_path / "b" / "tasks").iterdir())
    run(model, table, tmp_path / "b")
    assert contents(tmp_path / "b") == expected


def test_parts_are_tasks_of_a_cluster(model, table):
    pytest.importorskip("apache_beam")
    for runner in ("DataflowRunner", "FlinkRunner", "SparkRunner"):
        options = ["--project=museum-data", "--region=europe-west1"]
        options += ["--temp_location=gs://museum-data/tmp"] if runner == "DataflowRunner" else []
        beam = jobs.Beam(runner, tuple(options), "gs://museum-data/out/tasks")
        pipeline = jobs.make_pipeline(parts.embed_part, [f"{beam.folder}/a.json"], beam)
        steps = pipeline.to_runner_api().components.transforms.values()
        assert "embed_part" in {step.unique_name for step in steps}


def test_an_output_in_a_bucket(model, table, expected):
    """ram:// is TensorFlow's file system in memory; it stands for a bucket."""
    run(model, table, "ram://bucket/out", images_per_part=28)
    assert {name: files.read(f"ram://bucket/out/{name}") for name in RESULT} == expected
    assert list(files.walk("ram://bucket/out")) == [("ram://bucket/out", RESULT)]
    assert run(model, table, "ram://bucket/out") == Counts(96, 3, is_new=False)


KILLER = """
import os, pathlib, random, signal, sys, time
from export import embed
folder, argv = pathlib.Path(sys.argv[1]), sys.argv[2:]
for parts in (0, 1, 5, 10, 15, 15):
    child = os.fork()  # nothing of TensorFlow has run yet
    if child == 0:
        os._exit(embed.main(argv))
    ended = 0
    while not ended and len(list(folder.glob("parts/*.npz"))) < parts:
        time.sleep(0.001)
        ended = os.waitpid(child, os.WNOHANG)[0]
    time.sleep(random.random() / 200)
    if not ended:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    print("kept", len(list(folder.glob("parts/*.npz"))), flush=True)
"""


def test_killed_at_several_moments(model, table, expected, tmp_path):
    argv = ["--model", model, "--table", table, "--output", str(tmp_path / "out")]
    argv += ["--batch-size", "7", "--images-per-part", "7"]
    killer = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path / "out"), *argv],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert killer.returncode == 0, killer.stderr
    lines = [line.split() for line in killer.stdout.splitlines()]
    kept = [int(words[1]) for words in lines if words[0] == "kept"]
    assert len(kept) == 6
    assert 0 < kept[1] <= kept[2] < 15
    run(model, table, tmp_path / "out", images_per_part=7)
    assert contents(tmp_path / "out") == expected
