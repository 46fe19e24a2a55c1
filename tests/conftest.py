"""What several tests share."""

import os
import pathlib

import numpy as np
import pytest
from image_files import encode, write_table
from PIL import Image

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def pytest_configure(config):
    """Makes 8 logical CPUs before TensorFlow starts, so that tests can have as many replicas."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 8)


ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of real photographs and reference values beside the checkout.

    A user's clone has none: the test is skipped. In CI its absence is a failure.
    """
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI needs the folder {folder}")
        pytest.skip("needs ../shared (real photographs and reference values), which a clone lacks")
    return folder


@pytest.fixture(scope="session")
def photographs(tmp_path_factory) -> pathlib.Path:
    """A folder of 8 classes of 12 photographs, each class of one colour; class 7 has no clean one.

    Its table `train.csv` has the columns id, label, path and is_clean.
    """
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    rows = []
    for label in range(8):
        color = rng.integers(0, 256, 3)
        for number in range(12):
            noise = rng.integers(-40, 40, (20 + number, 30, 3))
            pixels = np.clip(color + noise, 0, 255).astype(np.uint8)
            name = f"{label}-{number}.jpg"
            (folder / name).write_bytes(encode(Image.fromarray(pixels), "JPEG", quality=95))
            clean = int(label < 7 and number < 9)
            rows.append((f"{label:08x}{number:08x}", 100 - label, name, clean))
    write_table(folder / "train.csv", rows, ("id", "label", "path", "is_clean"))
    return folder


@pytest.fixture(scope="session")
def shards(photographs, tmp_path_factory) -> str:
    """The data directory of `photographs`: 56 clean and 33 noisy training images, 7 validation."""
    from tfrecords_tools.write import write

    output = str(tmp_path_factory.mktemp("shards"))
    write(output, sources=[f"table:{photographs}/train.csv"], images_per_shard=20, stream=None)
    return output
