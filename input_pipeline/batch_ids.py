"""Which images a training step sees: the order of the input is a function of the step."""

import numpy as np
import tensorflow as tf

from input_pipeline import ops, samplers, schema, shares
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
    )
    return _ids(records, batch_size)


def chosen_ids(
    images: ImageSet, index: np.ndarray, choose: samplers.Sampler, *, step: int
) -> list[str]:
    """Returns the ids of the images in a batch of `samplers.chosen_batches`, in order."""
    records = samplers.chosen_records(images, index, choose, seed=0, first_step=step)
    return _ids(records, choose.batch_size)


def _ids(records: tf.data.Dataset, count: int) -> list[str]:
    names = records.take(count).map(lambda record: ops.parse()(record)[schema.ID])
    unreadable = tf.data.Dataset.from_tensors("without a readable id")
    # A record that does not parse is a black image of weight 0 in the batch.
    found = names.ignore_errors().concatenate(unreadable.repeat()).take(count)
    return [name.decode() for name in found.as_numpy_iterator()]
