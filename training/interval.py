"""The sums between two lines of the log, kept when a run stops between them."""

import numpy as np
import tensorflow as tf

from training.hosts import Hosts


class IntervalSums(tf.__internal__.tracking.Trackable):
    """Saves and restores running sums of every replica, so that a mean over an interval is bit for
    bit the same wherever it was interrupted.

    TensorFlow's own way saves the sum over the replicas and gives each an equal part of it, which
    rounds differently. With another number of replicas the first one takes the sum of all.

    Args:
        totals: scalars by name, a value of its own in each replica.
        together: all hosts.
    """

    def __init__(self, totals: dict[str, tf.Variable], together: Hosts):
        self._parts = [getattr(total, "values", [total]) for total in totals.values()]
        self._together = together
        self._local = len(self._parts[0])
        self._values = np.zeros((self._local * together.count, len(self._parts)), np.float32)

    def collect(self) -> None:
        """Fetches the sums of all replicas; every host has to call it before one of them saves."""
        own = np.array(
            [[part.numpy() for part in parts] for parts in zip(*self._parts, strict=True)]
        )
        bits = own.astype(np.float32).view(np.int32)  # (local replicas, names)
        gathered = [self._together.gather(int(number)) for number in bits.ravel()]
        hosts = np.array(gathered, np.int32).T.reshape(-1, *bits.shape)
        self._values = hosts.view(np.float32).reshape(self._values.shape)

    def _serialize_to_tensors(self):
        return {"sums": tf.constant(self._values)}

    def _restore_from_tensors(self, restored):
        values = restored["sums"].numpy()  # (replicas, names)
        if values.shape != self._values.shape:
            first = values.sum(axis=0)
            values = np.zeros_like(self._values)
            values[0] = first
        self._values = values
        start = self._together.index * self._local
        for column, parts in enumerate(self._parts):
            for row, part in enumerate(parts):
                part.assign(values[start + row, column])
