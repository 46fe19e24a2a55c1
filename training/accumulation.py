"""Gradient accumulation: a replica's part of the batch, one piece after the other."""

import tensorflow as tf

from training import replicas


def in_pieces(function, batch, pieces: int, start):
    """Adds up what `function` returns for equal pieces of a batch.

    A `tf.while_loop` of a fixed number of turns, so that the activations of one piece at a time
    are held and the program does not grow with the pieces. Where loops may hold no all-reduce
    (several replicas that are not TPU cores) the turns are written out one after the other.

    Args:
        function: parts of a batch → a structure of tensors.
        batch: tensors of the same first, static size b.
        pieces: a divisor of b; 1 calls `function` once with the batch itself.
        start: zeros of the structure, shapes and dtypes that `function` returns.

    Returns:
        The sums over the pieces.
    """
    if pieces == 1:
        return function(*batch)
    split = [tf.reshape(x, (pieces, x.shape[0] // pieces, *x.shape[1:])) for x in batch]
    if not replicas.loops_may_hold_collectives():
        return _unrolled(function, split, pieces)

    def body(turn, total):
        return turn + 1, _add(total, function(*(x[turn] for x in split)))

    _, total = tf.while_loop(
        lambda turn, _: turn < pieces,
        body,
        (tf.constant(0), start),
        maximum_iterations=pieces,
        parallel_iterations=1,
    )
    return total


def _unrolled(function, split, pieces):
    total = function(*(x[0] for x in split))
    for turn in range(1, pieces):
        # One after the other: side by side all their activations would be held at once.
        with tf.control_dependencies(tf.nest.flatten(total)):
            parts = [tf.identity(x[turn]) for x in split]
            total = _add(total, function(*parts))
    return total


def _add(first, second):
    return tf.nest.map_structure(tf.add, first, second)
