"""Training a detector, as a user runs it, and going on."""

import csv
import json
import os
import shutil

import keras
import numpy as np
import pytest
from detectors import SIZES, save_backbone
from image_files import jpeg, write_table

from detection import fit
from detection.predict import Info

HEADER = ("id", "path", "xmin", "ymin", "xmax", "ymax", "label")


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    """Four images with a box each, and three bad rows."""
    folder = tmp_path_factory.mktemp("boxes")
    rows = []
    for number in range(4):
        (folder / f"{number}.jpg").write_bytes(jpeg(number, (60, 40)))
        rows.append((f"i{number}", f"{number}.jpg", 5, 5, 45, 35, "cup"))
    rows += [("i0", "0.jpg", 5, 5, 90, 35, "cup"), ("i1", "1.jpg", 9, 5, 5, 35, "cup")]
    rows.append(("lost", "lost.jpg", 0, 0, 5, 5, "cup"))
    return write_table(folder / "boxes.csv", rows, HEADER)


@pytest.fixture(scope="module")
def command(boxes, tmp_path_factory):
    path = save_backbone(tmp_path_factory.mktemp("trained") / "model.keras")
    sizes = [text for name, size in SIZES.items() for text in (f"--{name.replace('_', '-')}", size)]
    run = ["--batch-size", 2, "--warmup-epochs", 0, "--epochs", 1, "--log-every", 1]
    return ["--boxes", boxes, "--backbone", path, *map(str, [*sizes, *run])]


@pytest.fixture(scope="module")
def model(command, tmp_path_factory):
    """A workdir, trained in two steps."""
    workdir = str(tmp_path_factory.mktemp("detector") / "workdir")
    assert fit.main([*command, "--workdir", workdir]) == 0
    return workdir


def test_training(model, command, capsys):
    assert [row["id"] for row in read(f"{model}/rejects.csv")] == ["i1", "i0", "lost"]
    assert Info.load(model) == Info(("cup",), 64, 3)
    with open(f"{model}/log.jsonl", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    assert [row["step"] for row in rows if row["event"] == "train"] == [1, 2]
    again = [*command, "--workdir", model]
    assert fit.main(again) == 0
    assert "finished before" in capsys.readouterr().out
    assert fit.main([*again, "--seed", "5"]) == 2
    assert "begun with another settings" in capsys.readouterr().err


def test_training_goes_on(model, command, tmp_path, capsys):
    """Without its model a workdir is one whose training was killed after the last checkpoint."""
    workdir = str(tmp_path / "again")
    shutil.copytree(model, workdir)
    os.remove(f"{workdir}/model.keras")
    assert fit.main([*command, "--workdir", workdir]) == 0
    assert "goes on from the checkpoint of step 2" in capsys.readouterr().out
    first, second = (keras.saving.load_model(f"{w}/model.keras") for w in (model, workdir))
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_training_with_wrong_arguments(command, tmp_path, capsys):
    assert fit.main([*command, "--workdir", str(tmp_path / "w"), "--image-size", "80"]) == 2
    assert "expected a multiple of 32" in capsys.readouterr().err
    assert fit.main([*command, "--workdir", str(tmp_path / "v"), "--batch-size", "5"]) == 2
    assert "expected at least one batch of 5 images" in capsys.readouterr().err
    bad = write_table(tmp_path / "bad.csv", [("a", "a.jpg", 0, 0, 5, 5, "")], HEADER)
    assert fit.main([*command, "--workdir", str(tmp_path / "u"), "--boxes", bad]) == 2
    assert "none that can be used" in capsys.readouterr().err
    assert read(tmp_path / "u" / "rejects.csv")[0]["id"] == "a"
    headless = str(tmp_path / "headless.keras")
    keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()]).save(headless)
    assert fit.main([*command, "--workdir", str(tmp_path / "t"), "--backbone", headless]) == 2
    assert "the layers 'normalize' and 'backbone'" in capsys.readouterr().err
