"""Loads the finished model of a stage."""

import pathlib

import keras

from models import auxiliary_terms, backbones, necks, pair_terms  # noqa: F401  (register their classes with Keras)


def load_model(path: str) -> keras.Model:
    """Loads a model that train.py has finished; nothing in the file is executed (safe mode).

    Args:
        path: `model.keras`, local or on a bucket.

    Returns:
        The model of `builder.build_model`, with its trained weights.

    Raises:
        FileNotFoundError: that stage is not finished.
    """
    if "://" not in path and not pathlib.Path(path).is_file():
        raise FileNotFoundError(
            f"expected the finished model of a stage. Received: {path}, which is not there; "
            "train that stage first"
        )
    return keras.saving.load_model(path, compile=False, safe_mode=True)
