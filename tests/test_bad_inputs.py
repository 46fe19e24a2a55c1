"""Every bad input through the commands: what the user sees, and that docs/bad_inputs.md says so."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys

import pytest
import tensorflow as tf
from bad_commands import GROUPS, option
from bad_images import JPEG
from bad_inputs import (
    CONVERTED,
    EMBEDDED,
    FILES,
    FOLDER,
    IMAGES,
    KEPT,
    NOT_EMBEDDED,
    ROWS,
    TREE,
    UNSEEN,
    WITHOUT_PERMISSION,
    document,
)
from conftest import ROOT
from PIL import Image

from input_pipeline import ops, schema
from tfrecords_tools import check, write
from tfrecords_tools.readers import tables

SECONDS = 60  # then a command waits or reads for ever
# Nothing is unreadable for root.
CASES = [
    case
    for case in (*IMAGES, *FILES, *ROWS)
    if case.name != WITHOUT_PERMISSION or os.geteuid() != 0
]
COMMANDS = {
    f"{group}: {name}": case for group, cases in GROUPS.items() for name, case in cases.items()
}


@pytest.fixture(autouse=True)
def _time_limit():
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)


def run(arguments, limit="pass"):
    """Runs write.py as a process of its own; returns the exit code and what it printed."""
    code = (
        f"import resource, sys; from tfrecords_tools import write; {limit}; "
        "sys.exit(write.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    return done.returncode, done.stdout + done.stderr


def shown(text):
    """The start of a text, of a path its last part, as rejects.csv can hold it."""
    return text.strip().rsplit("/", 1)[-1][:40].encode(errors="replace").decode()


def read_rejects(folder):
    with open(folder / "rejects.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_shards(folder):
    """Returns {id: encoded bytes}; TensorFlow must decode what is kept, at the stored size."""
    found = {}
    for path in folder.glob("*.tfrec"):
        for record in tf.data.TFRecordDataset(str(path)):
            parsed = ops.parse()({"serialized": record})
            name = parsed[schema.ID].numpy().decode()
            image = tf.io.decode_image(parsed[schema.ENCODED], channels=3, expand_animations=False)
            assert image.shape[:2] == (parsed[schema.HEIGHT], parsed[schema.WIDTH]), name
            found[name] = parsed[schema.ENCODED].numpy()
    return found


@dataclasses.dataclass(frozen=True)
class Conversion:
    folder: os.PathLike
    cells: list[dict[str, str]]  # of each of CASES
    code: int
    text: str


@pytest.fixture(scope="module")
def conversion(tmp_path_factory):
    """All CASES in one conversion, in 2 GiB of memory."""
    folder = tmp_path_factory.mktemp("bad")
    photos = folder / "photos"
    photos.mkdir()
    (photos / "good.jpg").write_bytes(JPEG)
    lines = []
    for number, case in enumerate(CASES):
        usual = {"id": f"row{number}", "label": "7", "path": f"{number}.jpg", "is_clean": "1"}
        lines.append(usual | dict(case.cells))
        case.make(photos / (lines[-1]["path"] if case.outcome == KEPT else f"{number}.jpg"))
    (photos / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    limit = f"resource.setrlimit(resource.RLIMIT_AS, ({2 * 2**30},) * 2)"
    command = ["--table", str(photos / "t.jsonl"), "--output", str(folder / "out")]
    return Conversion(folder, lines, *run([*command, "--workers", "1"], limit))


def test_images_files_and_rows(conversion):
    assert conversion.code == 3, conversion.text
    assert "Traceback" not in conversion.text
    shards = read_shards(conversion.folder / "out")
    found = {
        (shown(row["id"]), shown(row["path"])): row["reason"]
        for row in read_rejects(conversion.folder / "out")
    }
    expected = {}
    for case, cells in zip(CASES, conversion.cells, strict=True):
        key = shown(cells["id"]), shown(cells["path"])
        expected[key] = case.outcome
        if case.outcome in (KEPT, CONVERTED):
            original = (conversion.folder / "photos" / cells["path"]).read_bytes()
            found[key] = KEPT if shards.pop(cells["id"]) == original else CONVERTED
    assert len(expected) == len(CASES)
    assert found == expected
    assert not shards
    assert not (conversion.folder / "photos" / "a-program-ran").exists()


def test_a_tree(tmp_path):
    for case in TREE:
        path = tmp_path / "tree" / case.cells["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        case.make(path)
    command = ["--folder", str(tmp_path / "tree"), "--output", str(tmp_path / "out")]
    assert write.main(command) == 3
    rejects = {shown(row["path"]): row["reason"] for row in read_rejects(tmp_path / "out")}
    for case in TREE:
        outcome = rejects.pop(shown(case.cells["path"]), None)
        assert outcome == (None if case.outcome in (KEPT, UNSEEN) else case.outcome), case.name
    assert not rejects
    kept = [case.cells["path"].removesuffix(".jpg") for case in TREE if case.outcome == KEPT]
    assert sorted(read_shards(tmp_path / "out")) == sorted(name.replace(" ", "_") for name in kept)


@pytest.mark.parametrize("name", COMMANDS)
def test_commands(name, tmp_path, capsys):
    make, code, text = COMMANDS[name]
    arguments = make(tmp_path)
    main = check.main if "check.py" in name else write.main
    capsys.readouterr()
    received = main(arguments)
    output = "".join(capsys.readouterr())
    assert (received, text in output) == (code, True), output


@pytest.mark.parametrize(
    ("size", "text"), [(10_000, "disk I/O error"), (200_000, "File too large")]
)
def test_a_full_disk(tmp_path, size, text):
    """A limit on the size of files stands for it; with more space the command goes on."""
    command = option()(tmp_path)
    for number in range(3):
        image = Image.effect_noise((500, 500), 99)
        image.save(tmp_path / f"{number}.jpg", quality=95)
    limit = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size},) * 2)"
    code, output = run(command, limit)
    assert (code, text in output, "Traceback" in output) == (1, True, False), output
    assert not list((tmp_path / "out").glob("*.partial"))
    assert run(command)[0] == 0


class Describer(tf.Module):
    """The smallest model that embed.py takes: the mean colour."""

    @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 3), tf.uint8, ops.Square(8).name)])
    def resized(self, images):
        colours = tf.reduce_mean(tf.cast(images, tf.float32), (1, 2)) + 1.0
        return {"global_descriptor": tf.math.l2_normalize(colours, axis=1)}


def test_embedding(conversion, tmp_path, capsys):
    """embed.py leaves out what it cannot decode, and neither stops nor waits."""
    from export import embed

    model = Describer()
    signatures = {"resized": model.resized}
    tf.saved_model.save(model, str(tmp_path / "model"), signatures=signatures)
    info = {"model_digest": "0", "squares": [{"size": 8}], "weights": [1.0], "dimension": 3}
    (tmp_path / "model" / "waymark.json").write_text(json.dumps(info))
    photos = conversion.folder / "photos"
    command = ["--model", str(tmp_path / "model"), "--images", str(photos)]
    assert embed.main([*command, "--output", str(tmp_path / "out")]) == 3
    rejects = {row["id"]: row["reason"] for row in read_rejects(tmp_path / "out")}
    for case, cells in zip(CASES, conversion.cells, strict=True):
        if case in (*IMAGES, *FILES) and case.outcome != tables.MISSING and case.name != FOLDER:
            is_kept = case.outcome in (KEPT, CONVERTED)
            expected = case.name in EMBEDDED or (is_kept and case.name not in NOT_EMBEDDED)
            assert (cells["path"] not in rejects) == expected, case.name
    assert str(photos) not in "".join(rejects.values())


def test_the_documentation_is_up_to_date():
    text = (ROOT / "docs" / "bad_inputs.md").read_text("utf-8")
    assert text == document(), "python tests/bad_inputs.py > docs/bad_inputs.md"


def test_there_are_no_fewer():
    assert len(IMAGES) + len(FILES) + len(ROWS) + len(TREE) + len(COMMANDS) >= 140
