"""Networks and a table for the tests of embedding, so small that they take no time."""

import csv
import shutil

import keras

from export import savedmodel
from export.embed import Tables, embed
from input_pipeline import ops

SQUARES = (ops.Square(32), ops.Square(48, antialias=True))


def save_network(path, pooling):
    inputs = keras.Input((None, None, 3))
    features = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    features = keras.layers.Conv2D(8, 3, strides=2, activation="swish")(features)
    embedding = keras.layers.Dense(16, name="bottleneck")(pooling()(features))
    keras.Model(inputs, keras.layers.Dense(5)(embedding)).save(path)


def save_members(folder):
    """Returns the paths of two networks."""
    keras.utils.set_random_seed(1)
    paths = [str(folder / f"{name}.keras") for name in ("mean", "max")]
    save_network(paths[0], keras.layers.GlobalAveragePooling2D)
    save_network(paths[1], keras.layers.GlobalMaxPooling2D)
    return paths


def save_model(folder):
    """Returns the path of the first network as a SavedModel."""
    savedmodel.save(save_members(folder)[:1], SQUARES[:1], str(folder / "single"))
    return str(folder / "single")


def write_bad_table(photographs, folder):
    """A table of 96 good photographs and three bad files, two of them in one batch of 7."""
    shutil.copytree(photographs, folder, dirs_exist_ok=True)
    with open(photographs / "train.csv", newline="", encoding="utf-8") as file:
        rows = [(row["id"], row["path"]) for row in csv.DictReader(file)]
    (folder / "empty.jpg").write_bytes(b"")
    rows[5:5] = [("empty", "empty.jpg"), ("missing", "missing.jpg")]
    (folder / "cut.jpg").write_bytes((folder / "0-0.jpg").read_bytes()[:200])
    rows[40:40] = [("cut", "cut.jpg")]
    with open(folder / "t.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "path"), *rows])
    return str(folder / "t.csv")


def run(model, table, output, **options):
    """Embeds a table in small batches and parts, without a line of progress."""
    options = {"batch_size": 7, "images_per_part": 14, "stream": None, **options}
    return embed(Tables([str(table)]), model, str(output), **options)
