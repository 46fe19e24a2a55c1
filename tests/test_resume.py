"""Conversions that were stopped, are complete, or are only tried: what a further command does."""

import os

import pytest
from conversions import folder_bytes, quiet, read_rejects, read_split, shard_bytes
from image_files import encode, jpeg, picture, write_photos, write_table
from PIL import Image

from input_pipeline import schema
from tfrecords_tools.conversion import shards
from tfrecords_tools.conversion.plan import ConversionError
from tfrecords_tools.write import main, preview


def test_a_complete_set_is_left_alone(tmp_path, capsys):
    table = write_table(tmp_path / "t.csv", [*write_photos(tmp_path, 6), ("x", "0", "x.jpg")])
    command = ["--table", table, "--output", str(tmp_path / "out")]
    assert main(command) == 3
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    capsys.readouterr()
    assert main([*command, "--workers", "2"]) == 3
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == times
    output = capsys.readouterr().out
    assert "nothing to do" in output
    assert "1 missing" in output


def test_missing_and_damaged_shards_are_written_again(tmp_path):
    table = write_table(tmp_path / "t.csv", write_photos(tmp_path, 40))
    out = tmp_path / "out"
    quiet(out, table=table, images_per_shard=5)
    expected, manifest = shard_bytes(out), (out / "manifest.json").read_bytes()
    gone, cut, swapped, other, *kept = sorted(expected)
    (out / gone).unlink()
    (out / cut).write_bytes(expected[cut][:-10])
    (out / swapped).write_bytes(expected[other])
    (out / (gone + ".partial")).write_bytes(b"half a shard")
    times = {name: (out / name).stat().st_mtime_ns for name in kept}
    summary = quiet(out, table=table, images_per_shard=5)
    assert (summary.written, summary.kept) == (3, len(kept) + 1)
    assert "3 shards written, 6 kept, 40 images" in str(summary)
    assert shard_bytes(out) == expected
    assert (out / "manifest.json").read_bytes() == manifest
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == times
    assert not list(out.glob("*.partial"))


@pytest.mark.parametrize("damage", ["gone", "cut", "other", "equal size", "folder"])
def test_images_changed_while_the_shards_are_written_are_left_out(tmp_path, damage, capsys):
    """After the dry run, which inspects, the images change; the work goes on without them."""
    rows = write_photos(tmp_path, 12)
    out, table = tmp_path / "out", write_table(tmp_path / "t.csv", rows)
    preview(str(out), sources=[f"table:{table}"], stream=None)
    photo = tmp_path / rows[4][2]
    data = photo.read_bytes()
    photo.unlink()
    if damage == "folder":
        photo.mkdir()
    elif damage != "gone":
        reversed_end = data[:-4] + data[-3:-5:-1] + data[-2:]
        changed = {"cut": data[:-9], "other": jpeg(99, (30, 30)), "equal size": reversed_end}
        photo.write_bytes(changed[damage])
    assert main(["--table", table, "--output", str(out)]) == 3
    reason = {"gone": "missing", "folder": "not a file"}.get(damage, shards.CHANGED)
    assert read_rejects(out) == {rows[4][0]: reason}
    assert "note: 1 more turned out unusable while they were written" in capsys.readouterr().out
    manifest = schema.Manifest.load(str(out))
    assert manifest.rejected == 1
    assert sum(manifest.clean_counts) + manifest.images("validation") == 11
    ids = {r["id"].decode() for split in manifest.splits for r in read_split(out, split)}
    assert ids == {row[0] for row in rows} - {rows[4][0]}
    assert main(["--table", table, "--output", str(out)]) == 3
    assert "nothing to do" in capsys.readouterr().out


def test_a_dry_run_says_what_will_happen_and_writes_no_shard(tmp_path, capsys):
    rows = write_photos(tmp_path, 20, classes=4)
    (tmp_path / "large.png").write_bytes(encode(picture(1, (90, 60)), "PNG"))
    rows += [("large", "0", "large.png"), ("gone", "7", "gone.jpg")]
    table = write_table(tmp_path / "t.csv", rows)
    command = ["--table", table, "--max-side", "40", "--output", str(tmp_path / "out")]
    assert main([*command, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:6]] == [
        ["train_clean", "17", "images"],
        ["validation", "4", "images"],
        ["classes", "4"],
        ["rejected", "1", "(1", "missing)"],
        ["shrunk", "1", "to", "JPEG"],
        ["note:", "1", "classes", "have", "no", "usable", "image", "and", "get", "no", "label"],
    ]
    assert [line.split()[:2] for line in lines if "#" in line] == [["5-9", "4"]]
    assert lines[-2].startswith("disk: about 0.00 GB in shards of up to 1000 images")
    assert shard_bytes(tmp_path / "out") == {}
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert main([*command[:-1], str(tmp_path / "at_once")]) == 3
    assert main(command) == 3
    assert folder_bytes(tmp_path / "out") == folder_bytes(tmp_path / "at_once")
    capsys.readouterr()
    assert main([*command, "--dry-run"]) == 0
    assert "nothing to do: 2 shards are complete" in capsys.readouterr().out
    assert folder_bytes(tmp_path / "out") == folder_bytes(tmp_path / "at_once")


def test_a_dry_run_binds_nobody_to_its_options(tmp_path):
    table = write_table(tmp_path / "t.csv", write_photos(tmp_path, 6))
    for side in (10, 20):
        preview(str(tmp_path / "out"), sources=[f"table:{table}"], max_side=side, stream=None)
    quiet(tmp_path / "out", table=table)
    quiet(tmp_path / "fresh", table=table)
    assert folder_bytes(tmp_path / "out") == folder_bytes(tmp_path / "fresh")


def test_a_dry_run_estimates_the_disk_that_is_used(tmp_path):
    for number in range(30):
        image = Image.frombytes("RGB", (300, 200), os.urandom(3 * 300 * 200))
        (tmp_path / f"{number}.png").write_bytes(encode(image, "PNG"))
    table = write_table(tmp_path / "t.csv", [(n, n % 2, f"{n}.png") for n in range(30)])
    text = preview(str(tmp_path / "out"), sources=[f"table:{table}"], stream=None)
    summary = quiet(tmp_path / "out", table=table)
    members = [shard for split in summary.manifest.splits.values() for shard in split]
    size = sum(shard.bytes for shard in members) / 1e9
    assert f"disk: about {size:.2f} GB" in text
    assert size > 0.005


def test_another_conversion_in_the_folder_is_an_error(tmp_path, capsys):
    rows = write_photos(tmp_path, 6)
    table = write_table(tmp_path / "t.csv", rows)
    out = tmp_path / "out"
    quiet(out, table=table)
    before = shard_bytes(out)
    command = ["--table", table, "--output", str(out)]
    assert main([*command, "--seed", "1"]) == 1
    assert "belongs to another conversion" in capsys.readouterr().err
    for changed in (rows[1:], [*rows[:-1], (rows[-1][0], "7", rows[-1][2])]):
        write_table(tmp_path / "t.csv", changed)
        assert main(command) == 1
    (out / "plan.json").unlink()
    assert main(command) == 1
    assert "without plan.json" in capsys.readouterr().err
    assert shard_bytes(out) == before


def test_changed_images_do_not_mix_with_finished_shards(tmp_path):
    rows = write_photos(tmp_path, 6)
    table = write_table(tmp_path / "t.csv", rows)
    quiet(tmp_path / "out", table=table, images_per_shard=1)
    expected = shard_bytes(tmp_path / "out")
    (tmp_path / "out" / min(expected)).unlink()
    photo = tmp_path / rows[0][2]
    original = photo.read_bytes()
    photo.write_bytes(jpeg(99, (30, 30)))
    with pytest.raises(ConversionError, match="that an earlier run of this command inspected"):
        quiet(tmp_path / "out", table=table, images_per_shard=1)
    photo.write_bytes(original)
    quiet(tmp_path / "out", table=table, images_per_shard=1)
    assert shard_bytes(tmp_path / "out") == expected


def test_a_stopped_conversion_outlives_a_command_with_other_options(tmp_path, monkeypatch):
    table = write_table(tmp_path / "t.csv", write_photos(tmp_path, 30))
    out = tmp_path / "out"
    stop_after(monkeypatch, count=2)
    with pytest.raises(KeyboardInterrupt):
        quiet(out, table=table, images_per_shard=1)
    monkeypatch.undo()
    before = folder_bytes(out)
    assert "catalogue.sqlite3" in before
    assert len(shard_bytes(out)) == 2
    with pytest.raises(ConversionError, match="belongs to another conversion"):
        quiet(out, table=table, images_per_shard=1, seed=1)
    assert folder_bytes(out) == before
    summary = quiet(out, table=table, images_per_shard=1)
    assert (summary.written, summary.kept) == (28, 2)


def stop_after(monkeypatch, count):
    """Ctrl-C when so many shards are there."""
    original = shards.write_shard
    done = []

    def write_shard(task):
        if len(done) == count:
            raise KeyboardInterrupt
        done.append(task)
        return original(task)

    monkeypatch.setattr(shards, "write_shard", write_shard)


def test_what_killed_commands_leave_goes(tmp_path):
    """One killed before its first shard, with other options; one between its last two steps."""
    table = write_table(tmp_path / "t.csv", write_photos(tmp_path, 5))
    out = tmp_path / "a [*] folder"
    out.mkdir()
    (out / "train_clean-00003-of-00009.tfrec.partial").write_bytes(b"half a shard")
    quiet(out, table=table)
    expected = folder_bytes(out)
    assert not any(name.endswith((".partial", ".sqlite3")) for name in expected)
    (out / "catalogue.sqlite3").write_bytes(b"of a command that had only to remove it")
    (out / "catalogue.sqlite3-journal").write_bytes(b"")
    assert quiet(out, table=table).findings is None
    assert folder_bytes(out) == expected
