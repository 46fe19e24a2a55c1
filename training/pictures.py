"""The first batch of a stage as a picture: what the network is shown after augmentation."""

import numpy as np
import tensorflow as tf

COLUMNS, ROWS = 6, 4
SIDE = 160  # pixels of an image, at most


def grid(images: np.ndarray) -> np.ndarray:
    """Puts the first images of a batch side by side.

    Args:
        images: `(B, S, S, 3)` uint8.

    Returns:
        `(rows · side, columns · side, 3)` uint8; up to 4 rows of 6, none of them empty.
    """
    shown = np.asarray(images[: COLUMNS * ROWS])
    if shown.shape[1] > SIDE:
        shown = tf.image.resize(shown, (SIDE, SIDE), method="area").numpy().round().astype(np.uint8)
    columns = min(COLUMNS, len(shown))
    missing = -len(shown) % columns
    shown = np.concatenate([shown, np.zeros((missing, *shown.shape[1:]), np.uint8)])
    count, side = shown.shape[:2]
    cells = shown.reshape(count // columns, columns, side, side, 3).swapaxes(1, 2)
    return cells.reshape(count // columns * side, columns * side, 3)


def png(picture: np.ndarray) -> bytes:
    """Encodes a picture `(H, W, 3)` uint8."""
    return tf.io.encode_png(picture).numpy()
