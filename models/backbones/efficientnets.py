"""The table of backbones: name and size → a Keras model from images to a feature map.

All of them come from the `efficientnet` package, the winner's own; another library's backbone is
one more entry here. Nothing is normalised inside: `models.builder` does that once, before.
"""

import os
import pathlib

import keras
from efficientnet import model as efficientnet
from efficientnet import tfkeras
from efficientnet import weights as published

# Width, depth, and the resolution the paper gives (arXiv:1905.11946, table 1 of its code).
COEFFICIENTS = {
    "efficientnet-b0": (1.0, 1.0, 224),
    "efficientnet-b1": (1.0, 1.1, 240),
    "efficientnet-b2": (1.1, 1.2, 260),
    "efficientnet-b3": (1.2, 1.4, 300),
    "efficientnet-b4": (1.4, 1.8, 380),
    "efficientnet-b5": (1.6, 2.2, 456),
    "efficientnet-b6": (1.8, 2.6, 528),
    "efficientnet-b7": (2.0, 3.1, 600),
}

# Where the published weights lie, and the checksums of their files.
ADDRESSES = {
    "imagenet": published.IMAGENET_WEIGHTS_PATH,
    "noisy-student": published.NS_WEIGHTS_PATH,
}
HASHES = {
    "imagenet": published.IMAGENET_WEIGHTS_HASHES,
    "noisy-student": published.NS_WEIGHTS_HASHES,
}
FILES = {
    "imagenet": "{}_weights_tf_dim_ordering_tf_kernels_autoaugment_notop.h5",
    "noisy-student": "{}_noisy-student_notop.h5",
}


def build_backbone(
    name: str,
    *,
    width: float | None = None,
    depth: float | None = None,
    drop_connect_rate: float = 0.2,
    weights: str | None = None,
) -> keras.Model:
    """Builds an EfficientNet without its top (Tan and Le, arXiv:1905.11946).

    Args:
        name: "efficientnet-b0" … "efficientnet-b7", or "efficientnet" with `width` and `depth`.
        width, depth: multipliers of B0's channels and repeats, for "efficientnet".
        drop_connect_rate: stochastic depth at the deepest block.
        weights: "imagenet", "noisy-student", a file of weights, or None (random).

    Returns:
        Model named "backbone": `(B, S, S, 3)` normalised image → `(B, S/32, S/32, F)`.

    Raises:
        FileNotFoundError: the pretrained weights could not be downloaded; the message names the
            file, its address and the place where it is looked for.
    """
    resolution = 224
    if name != "efficientnet":
        width, depth, resolution = COEFFICIENTS[name]
    build = tfkeras.inject_tfkeras_modules(efficientnet.EfficientNet)
    backbone = build(
        width,
        depth,
        resolution,
        drop_connect_rate=drop_connect_rate,
        include_top=False,
        weights=None,
        input_shape=(None, None, 3),
        model_name="backbone",
    )
    if weights is not None:
        backbone.load_weights(_weights_file(name, weights))
    return backbone


def _weights_file(name: str, source: str) -> str:
    """Returns the path of the weights, downloading those of a published set."""
    if source not in ADDRESSES:
        if not pathlib.Path(source).is_file():
            raise FileNotFoundError(
                "weights: expected 'imagenet', 'noisy-student' or a weights file. "
                f"Received: {source!r}, and there is no such file"
            )
        return source
    if name not in COEFFICIENTS:
        raise ValueError(
            f"weights={source!r}: published for efficientnet-b0 … b7 only. Received: {name!r}"
        )
    file = FILES[source].format(name)
    return _download(file, ADDRESSES[source] + file, HASHES[source][name][1])


def _download(file: str, address: str, checksum: str) -> str:
    home = pathlib.Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    try:
        return keras.utils.get_file(
            file, address, cache_dir=str(home), cache_subdir="models", file_hash=checksum
        )
    except Exception as error:  # get_file raises a bare Exception
        raise FileNotFoundError(
            f"could not download {address} ({error}). Fetch {file} on another machine and put it "
            f"in {home / 'models'}, or train from random weights with --set model.weights=None"
        ) from error
