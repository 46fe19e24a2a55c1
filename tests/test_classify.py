"""Averages of class probabilities against NumPy, and the command's errors against hand counts."""

import csv
import json
import os
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from export import classify
from export.classifier import Classifier, Member, class_names, scale_of
from export.views import parse
from input_pipeline import ops
from models.heads import CosineSoftmax
from models.storage import load_model
from recipes import layout

CLASSES = 8
SCALES = {"A": 20.0, "B": 7.5}  # the last ones of the logs
WEIGHTS = {"A": 1.0, "B": 0.8}  # the recipe's
STAGE, SIDE = 3, 48  # of the recipe "tiny"


def save_classifier(path, head):
    inputs = keras.Input((None, None, 3), dtype="uint8")
    features = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    features = keras.layers.Conv2D(8, 3, strides=2, activation="swish")(features)
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    embedding = keras.layers.Dense(16, name="bottleneck")(pooled)
    keras.Model(inputs, head(embedding)).save(path)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Finished models of two members, with their logs."""
    keras.utils.set_random_seed(1)
    folder = tmp_path_factory.mktemp("run")
    for member, scale in SCALES.items():
        directory = layout.stage_directory(str(folder), member, STAGE)
        os.makedirs(directory)
        path = layout.model_path(str(folder), member, STAGE)
        save_classifier(path, CosineSoftmax(CLASSES, name="head"))
        rows = [{"event": "train", "scale": 3.0}, {"event": "train", "scale": scale}]
        rows.append({"event": "validation", "scale": 1.0})
        with open(os.path.join(directory, "log.jsonl"), "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return str(folder)


def softmax(values):
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def by_hand(workdir, path, members=("A", "B")):
    """The weighted mean of the members' probabilities of one photograph, plain views."""
    image = ops.Square(SIDE)(ops.decode_image(tf.constant(path.read_bytes())))
    total = 0.0
    for member in members:
        model = load_model(layout.model_path(workdir, member, STAGE))
        cosines = np.float64(model(image[tf.newaxis])[0])
        total = total + WEIGHTS[member] * softmax(SCALES[member] * cosines)
    return total / sum(WEIGHTS[member] for member in members)


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_command_on_a_table_with_a_bad_file(workdir, shards, photographs, tmp_path, capsys):
    for name in ("3-1.jpg", "5-2.jpg"):
        shutil.copy(photographs / name, tmp_path)
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    table = [["id", "path"], ["one", "3-1.jpg"], ["bad", "bad.jpg"], ["two", "5-2.jpg"]]
    with open(tmp_path / "few.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(table)
    names = class_names(shards, "total")
    expected = [by_hand(workdir, photographs / name) for name in ("3-1.jpg", "5-2.jpg")]
    # Labelled so that "one" is right at once and "two" with its third guess.
    ranked = [np.argsort(-row) for row in expected]
    labels = tmp_path / "labels.csv"
    labels.write_text(
        f"id,label\none,{names[ranked[0][0]]}\ntwo,{names[ranked[1][2]]}\nbad,{names[0]}\nx,1\n"
    )
    output = tmp_path / "classes.csv"
    argv = ["--recipe", "tiny", "--workdir", workdir, "--classes", shards, "--top", "3"]
    argv += ["--table", str(tmp_path / "few.csv"), "--labels", str(labels)]
    assert classify.main([*argv, "--output", str(output)]) == 3
    told = capsys.readouterr().out
    assert told.startswith("classes: ")
    assert "A stage 3: 48 px, softmax of 20 times its head, weight 1" in told
    assert "top-1 error 66.67 %, top-3 error 33.33 %, 3 images" in told
    rows = read(output)
    assert [row["id"] for row in rows] == ["one", "two"]
    for row, order, probabilities in zip(rows, ranked, expected, strict=True):
        assert [row[f"label_{k + 1}"] for k in range(3)] == [names[c] for c in order[:3]]
        found = [float(row[f"probability_{k + 1}"]) for k in range(3)]
        np.testing.assert_allclose(found, probabilities[order[:3]], rtol=1e-4)
    assert read(f"{output}.rejects.csv") == [{"id": "bad", "reason": "not an image"}]


def test_command_on_a_split_of_shards_with_one_member(workdir, shards, tmp_path, capsys):
    argv = ["--recipe", "tiny", "--workdir", workdir, "--member", "B", "--scale", "2"]
    argv += ["--data", shards, "--split", "validation", "--batch-size", "3"]
    assert classify.main([*argv, "--output", str(tmp_path / "o.csv")]) == 0
    assert "softmax of 2 times" in capsys.readouterr().out
    rows = read(tmp_path / "o.csv")
    assert len(rows) == 7
    assert all(len(row) == 11 for row in rows)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.csv"]


def test_views_are_averaged_as_probabilities(workdir):
    """Also for flips, whose embeddings would be joined by their maximum; compiled by XLA."""
    path = layout.model_path(workdir, "A", STAGE)
    member = Member(path, ops.Square(32), 20.0, parse("flips"))
    classifier = Classifier([member], CLASSES, top=CLASSES)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    classes, probabilities = classifier([[image], None], 2)
    model = load_model(path)
    pictures = [image, image[:, ::-1], image[::-1], image[::-1, ::-1]]
    cosines = [np.float64(model(picture[None])[0]) for picture in pictures]
    expected = np.mean([softmax(20 * each) for each in cosines], axis=0)
    np.testing.assert_allclose(probabilities[0], expected[classes[0]], rtol=1e-4)
    assert np.argmax(expected) == classes[0, 0]
    assert probabilities[0].sum() == pytest.approx(1, abs=1e-6)


def test_linear_head_and_wrong_heads(tmp_path):
    keras.utils.set_random_seed(1)
    path = str(tmp_path / "linear.keras")
    save_classifier(path, keras.layers.Dense(6, name="head"))
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    member = Member(path, ops.Square(32), 1.0)
    classes, probabilities = Classifier([member], 6, top=2)([[image]], 4)
    logits = np.float64(load_model(path)(image[None])[0])
    np.testing.assert_allclose(probabilities[0], np.sort(softmax(logits))[::-1][:2], rtol=1e-4)
    assert classes[0, 0] == np.argmax(logits)
    with pytest.raises(ValueError, match=r"a layer 'head' of 7 classes. Received: 6"):
        Classifier([member], 7)
    with pytest.raises(ValueError, match=r"a top from 1 to 6 classes. Received: 1 models, top 9"):
        Classifier([member], 6, top=9)
    save_classifier(path, keras.layers.Dense(6, name="other"))
    with pytest.raises(ValueError, match="Received: none of that name"):
        Classifier([member], 6)


def test_classes_of_the_clean_set(shards):
    """Label 7 of the photographs, "93" in the table, has no clean image."""
    total, clean = class_names(shards, "total"), class_names(shards, "clean")
    assert len(total) == CLASSES
    assert [name for name in total if name not in clean] == ["93"]
    assert list(clean) == [name for name in total if name in clean]


def test_errors_of_the_command(workdir, shards, tmp_path, capsys):
    argv = ["--recipe", "tiny", "--workdir", str(tmp_path), "--data", shards]
    argv += ["--split", "validation", "--output", str(tmp_path / "o.csv")]
    assert classify.main(argv) == 2
    assert "expected the log of the training" in capsys.readouterr().err
    assert classify.main([*argv, "--scale", "3"]) == 2
    assert "train that stage first" in capsys.readouterr().err
    (tmp_path / "labels.csv").write_text("id,label\nx,1\n")
    good = ["--workdir", workdir, "--labels", str(tmp_path / "labels.csv")]
    assert classify.main([*argv, *good]) == 2
    assert "expected labels of the images" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        classify.main([*argv[:4], "--images", ".", "--output", "o.csv"])
    assert "--classes: expected" in capsys.readouterr().err


def test_log_without_a_scale(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"event": "validation", "scale": 2.0}\n')
    with pytest.raises(ValueError, match="expected a last scale above 0"):
        scale_of(str(log))
    log.write_text('{"event": "train", "loss": 2.0}\n')  # of a linear classifier
    assert scale_of(str(log)) == 1.0
