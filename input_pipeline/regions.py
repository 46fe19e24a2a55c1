"""Destruction of an image's structure, and what its construction is trained on.

Reference: Chen et al., "Destruction and Construction Learning for Fine-grained Image
Recognition", CVPR 2019.
"""

import tensorflow as tf

from input_pipeline.ops import Features, Op, fold


def shuffle_regions(regions: int = 7, distance: int = 2) -> Op:
    """Adds a copy of `image` whose regions × regions parts have changed places nearby.

    Part i of a row goes where i + u ranks in the row, u uniform in (−distance, distance); then the
    same in every column. So each coordinate changes by less than 2·distance. (The paper's text does
    both at once, which can give two parts one place.) 0.3 ms per 512 × 512 image.

    Adds:
        shuffled: uint8 (H, W, 3).
        permutation: int32 (regions²,), for each place, row by row, the place of its part in
            `image`; `region_targets` makes the target of it.
    """
    if not 1 <= distance < regions:
        raise ValueError(f"expected a distance from 1 to {regions - 1}. Received: {distance}")

    def op(features: Features) -> Features:
        image = features["image"]
        height, width, _ = image.shape
        if height is None or width is None or height % regions or width % regions:
            raise ValueError(
                f"expected an image of a known size, a multiple of {regions} pixels. "
                f"Received: {image.shape}"
            )
        permutation = _permutation(fold(features, "shuffle_regions"), regions, distance)
        part_height, part_row = height // regions, width // regions * 3
        parts = tf.reshape(image, (regions, part_height, regions, part_row))
        parts = tf.reshape(tf.transpose(parts, (0, 2, 1, 3)), (regions**2, part_height, part_row))
        parts = tf.reshape(tf.gather(parts, permutation), (regions, regions, part_height, part_row))
        shuffled = tf.reshape(tf.transpose(parts, (0, 2, 1, 3)), (height, width, 3))
        return {**features, "shuffled": shuffled, "permutation": permutation}

    return op


def _permutation(seed: tf.Tensor, regions: int, distance: int) -> tf.Tensor:
    """Returns (regions²,) int32: place → source, shuffled within rows, then within columns."""
    shape = (2, regions, regions)
    moves = tf.random.stateless_uniform(shape, seed, -float(distance), float(distance))
    keys = tf.range(float(regions)) + moves  # (2, line, place in the line)
    in_rows, in_columns = tf.unstack(tf.argsort(keys))  # (regions, regions): place → source
    places = tf.reshape(tf.range(regions**2), (regions, regions))
    by_column = tf.transpose(tf.gather(places, in_rows, batch_dims=1))  # (column, row)
    return tf.reshape(tf.transpose(tf.gather(by_column, in_columns, batch_dims=1)), (-1,))


def region_targets(permutation: tf.Tensor) -> tf.Tensor:
    """Returns float32 `(…, N²)` in (−1/2, 1/2): where each place's part comes from, row by row.

    That is (source − (N² − 1) / 2) / N², which the mean of a tanh map is trained to be.
    """
    count = permutation.shape[-1]
    return (tf.cast(permutation, tf.float32) - (count - 1) / 2) / count
