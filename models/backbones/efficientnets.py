"""EfficientNet of the `efficientnet` package, the winner's own, with its weights."""

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


def build_efficientnet(
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
        weights: "imagenet" or "noisy-student", not for "efficientnet"; None is random.

    Returns:
        Model named "backbone": `(B, S, S, 3)` normalised image → `(B, S/32, S/32, F)`.

    Raises:
        FileNotFoundError: the pretrained weights could not be downloaded; the message names the
            file, its address and the place where it is looked for.
        ValueError: no sizes for "efficientnet".
    """
    resolution = 224
    if name != "efficientnet":
        width, depth, resolution = COEFFICIENTS[name]
    elif width is None or depth is None:
        raise ValueError(
            f"efficientnet: expected a width and a depth. Received: {width!r} and {depth!r}"
        )
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
        file = FILES[weights].format(name)
        backbone.load_weights(_download(file, ADDRESSES[weights] + file, HASHES[weights][name][1]))
    return backbone


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
