"""On what a finished model runs: TensorFlow's first GPU, or the CPU."""

import tensorflow as tf

HELP = "Runs on the first GPU, or on the CPU. A TPU is for training alone: train.py --tpu."


def describe() -> str:
    """Returns the device and TensorFlow's version, such as "CPU, TensorFlow 2.20.0"."""
    gpus = tf.config.list_physical_devices("GPU")
    device = "CPU"
    if gpus:
        name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "unnamed")
        device = f"GPU ({name})" if len(gpus) == 1 else f"the first of {len(gpus)} GPUs ({name})"
    return f"{device}, TensorFlow {tf.__version__}"
