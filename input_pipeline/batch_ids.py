"""Which images a training step sees: the order of the input is a function of the step."""

import tensorflow as tf

from input_pipeline import ops, schema, shares
from input_pipeline.pipeline import ImageSet


def training_ids(images: ImageSet, *, batch_size: int, seed: int, step: int) -> list[str]:
    """Returns the ids of the images in a batch of `pipeline.training_batches`, in order.

    Only the records are read; nothing is decoded.

    Args:
        images: the set.
        batch_size: global batch B.
        seed: of the order.
        step: steps before that batch.
    """
    records = shares.training_records(
        images.shard_paths(),
        images.shard_counts(),
        seed=seed,
        batch_size=batch_size,
        first_step=step,
    ).take(batch_size)
    names = records.map(lambda record: ops.parse()(record)[schema.ID])
    unreadable = tf.data.Dataset.from_tensors("without a readable id")
    # A record that does not parse is a black image of weight 0 in the batch.
    found = names.ignore_errors().concatenate(unreadable.repeat()).take(batch_size)
    return [name.decode() for name in found.as_numpy_iterator()]
