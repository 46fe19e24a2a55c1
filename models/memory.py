"""Embeddings of the last batches, to compare with or to classify again."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

NO_LABEL = -1


@dataclasses.dataclass(frozen=True)
class References:
    """Embeddings to compare a batch with.

    Attributes:
        embeddings: `(M, D)` float32.
        labels: `(M,)` int32, 0 where a place is still empty.
        valid: `(M,)` bool, which places count.
    """

    embeddings: Any
    labels: Any
    valid: Any


@keras.saving.register_keras_serializable(package="waymark")
class EmbeddingMemory(keras.layers.Layer):
    """Ring buffer of the embeddings and labels of the last images.

    Two uses. Cross-batch memory: a pair loss with `references=memory.read()` compares the batch
    with far more images than fit into it, since embeddings drift slowly. Replay: the classifier
    sees the memory's embeddings again, see `replayed_loss`.

    As a layer it hands on the embeddings unchanged, so that it stands in the model's graph and its
    rows are in the checkpoints. Read before the batch is added, so that no image meets itself.

    Args:
        size: rows M.
        start: so many batches go by before the memory is used, while embeddings still move fast.
            The paper waits for 1,000. They are added meanwhile.

    Call arguments:
        inputs: embeddings.

    Input shape:
        `(B, D)`.

    Output shape:
        `(B, D)`, the input.

    Example:
        >>> memory = EmbeddingMemory(8192)
        >>> embeddings = memory(embeddings)
        >>> losses = contrastive_loss(embeddings, labels, references=memory.read())
        >>> memory.enqueue(embeddings, labels)

    Reference:
        Wang et al., "Cross-Batch Memory for Embedding Learning", arXiv:1912.06798.
    """

    def __init__(self, size: int, start: int = 0, **kwargs):
        super().__init__(autocast=False, **kwargs)  # the input is handed on as it is
        if size < 1:
            raise ValueError(f"size: expected at least 1. Received: {size}")
        self.size = size
        self.start = start

    def build(self, input_shape):
        self.rows = self._state("rows", (self.size, input_shape[-1]), "float32", "zeros")  # (M, D)
        empty = keras.initializers.Constant(NO_LABEL)
        self.row_labels = self._state("row_labels", (self.size,), "int32", empty)  # (M,)
        self.next_row = self._state("next_row", (), "int32", "zeros")
        self.batches = self._state("batches", (), "int32", "zeros")

    def _state(self, name, shape, dtype, initializer):
        return self.add_weight(
            name=name,
            shape=shape,
            dtype=dtype,
            initializer=initializer,
            trainable=False,
            autocast=False,
        )

    def call(self, inputs):
        return inputs

    def read(self) -> References:
        """Returns what the memory holds; nothing of it has a gradient."""
        labels = ops.convert_to_tensor(self.row_labels)
        valid = (labels != NO_LABEL) & (self.batches >= self.start)
        rows = ops.stop_gradient(ops.convert_to_tensor(self.rows))
        return References(rows, ops.maximum(labels, 0), valid)

    def enqueue(self, embeddings, labels, *, gather: Callable | None = None) -> None:
        """Writes the global batch over the oldest rows.

        Args:
            embeddings: `(b, D)`, any float.
            labels: `(b,)` integers.
            gather: `(b, …)` → `(R·b, …)`, the rows of all replicas, which so hold the same memory.

        Raises:
            ValueError: the global batch is larger than the memory.
        """
        rows = ops.stop_gradient(ops.cast(embeddings, "float32"))
        labels = ops.cast(labels, "int32")
        if gather is not None:
            rows, labels = gather(rows), gather(labels)  # (R·b, D), (R·b,)
        count = labels.shape[0]
        if count > self.size:
            raise ValueError(
                f"size: expected room for the global batch of {count}. Received: {self.size}"
            )
        places = (self.next_row + ops.arange(count, dtype="int32")) % self.size
        places = ops.expand_dims(places, 1)  # (R·b, 1)
        self.rows.assign(ops.scatter_update(self.rows, places, rows))
        self.row_labels.assign(ops.scatter_update(self.row_labels, places, labels))
        self.next_row.assign((self.next_row + count) % self.size)
        # Stops at `start`, past which it says nothing, and so never overflows.
        self.batches.assign(ops.minimum(self.batches + 1, self.start))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "size": self.size, "start": self.start}


def replayed_loss(losses, valid, batch_size: int):
    """Returns the mean loss of a memory's valid rows, for each image of a batch.

    So that the mean over the global batch is that mean, and the sum of the replicas' gradients its
    gradient. Weights of the batch's images, which have nothing to do with the rows, are not to be
    multiplied with it.

    Args:
        losses: `(M,)` float32, of a classifier on `References.embeddings`.
        valid: `(M,)` bool.
        batch_size: b, the replica's images.

    Returns:
        `(b,)` float32; 0 while the memory is empty.
    """
    counted = ops.cast(valid, "float32")  # (M,)
    total = ops.sum(ops.where(valid, losses, 0.0))
    mean = total / ops.maximum(ops.sum(counted), 1.0)
    return ops.broadcast_to(mean, (batch_size,))
