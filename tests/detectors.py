"""A detector of 64 px on a backbone so small that it takes no time."""

import keras

from detection.network import build_detector
from detection.predict import Info

SIZES = {"image_size": 64, "channels": 8, "convolutions": 1, "levels": 3}


def save_backbone(path):
    """Writes what stands for a finished model of train.py."""
    images = values = keras.Input((None, None, 3))
    for stride in (4, 2, 2, 2):
        values = keras.layers.Conv2D(8, 3, stride, padding="same", activation="relu")(values)
    backbone = keras.Model(images, values, name="backbone")
    images = keras.Input((None, None, 3), dtype="uint8")
    normalize = keras.layers.Rescaling(1 / 255, dtype="float32", name="normalize")
    keras.Model(images, backbone(normalize(images))).save(path)
    return str(path)


def save_detector(folder):
    """Writes an untrained detector of one class; returns its workdir."""
    keras.utils.set_random_seed(1)
    build_detector(1, backbone=save_backbone(folder / "b.keras"), **SIZES).save(
        folder / "model.keras"
    )
    Info(("cup",), SIZES["image_size"], SIZES["levels"]).save(str(folder))
    return str(folder)
