"""The first batch of a stage as a picture: what the network is shown after augmentation."""

import numpy as np
import tensorflow as tf

COLUMNS, ROWS = 6, 4
SIDE = 160  # pixels of an image, at most


def grid(images: np.ndarray) -> np.ndarray:
    """Puts the first images of a batch side by side.

    Args:
        images: `(B, H, W, 3)` uint8.

    Returns:
        `(rows · height, columns · width, 3)` uint8; up to 4 rows of 6, none of them empty.
    """
    shown = np.asarray(images[: COLUMNS * ROWS])
    longer = max(shown.shape[1:3])
    if longer > SIDE:
        sides = [max(1, round(side * SIDE / longer)) for side in shown.shape[1:3]]
        shown = tf.image.resize(shown, sides, method="area").numpy().round().astype(np.uint8)
    columns = min(COLUMNS, len(shown))
    missing = -len(shown) % columns
    shown = np.concatenate([shown, np.zeros((missing, *shown.shape[1:]), np.uint8)])
    count, height, width = shown.shape[:3]
    cells = shown.reshape(count // columns, columns, height, width, 3).swapaxes(1, 2)
    return cells.reshape(count // columns * height, columns * width, 3)


def png(picture: np.ndarray) -> bytes:
    """Encodes a picture `(H, W, 3)` uint8."""
    return tf.io.encode_png(picture).numpy()
