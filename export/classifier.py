"""Class probabilities of images, averaged over the views and over several finished models."""

import dataclasses
import json
import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

import files
from export.parts import Resized, stacked
from export.views import PLAIN, Views
from input_pipeline import ops, schema
from models.storage import load_model

HEAD = "head"


@dataclasses.dataclass(frozen=True)
class Member:
    """One model of an average.

    Attributes:
        path: its `model.keras`.
        square: its resize.
        scale: s of softmax(s · output of the head); see `scale_of`.
        views: what it is shown of an image; the views' probabilities are averaged, whatever they
            say about embeddings.
        weight: factor of its probabilities in the average.
    """

    path: str
    square: ops.Square
    scale: float
    views: Views = PLAIN
    weight: float = 1.0


class Classifier:
    """Images in, the most probable classes out.

    p = Σ_m w_m · mean over views of softmax(s_m · head_m) / Σ_m w_m, all in float32.

    Args:
        members: the models; they were trained on the same classes.
        num_classes: C, which all of them must have.
        top: how many classes are wanted.

    Attributes:
        squares: the different resizes that it needs.
        top: see above.

    Raises:
        FileNotFoundError: a model is not finished.
        ValueError: a model has no head of C classes, or there is none.
    """

    def __init__(self, members: Sequence[Member], num_classes: int, top: int = 5):
        if not members or not 1 <= top <= num_classes:
            raise ValueError(
                f"expected at least one model, and a top from 1 to {num_classes} classes. "
                f"Received: {len(members)} models, top {top}"
            )
        heads = [_head(member, num_classes) for member in members]
        squares = [square for member in members for square in member.views.squares(member.square)]
        self.squares = tuple(dict.fromkeys(squares))
        self.top = top

        @tf.function
        def most_probable(**images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            total = sum(
                member.weight * _probabilities(member, head, images, num_classes)
                for member, head in zip(members, heads, strict=True)
            )
            found = tf.math.top_k(total / sum(member.weight for member in members), top)
            return found.indices, found.values

        self._most_probable = most_probable

    def __call__(self, batch: list[Resized | None], size: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the most probable classes int `(b, top)`, the best first, and float32 `(b, top)`.

        Args:
            batch: b images, each in `squares`; any classes come back where one is None.
            size: at least b; the batch is filled up to it, so that one shape is compiled.
        """
        found = self._most_probable(**stacked(batch, self.squares, size))
        classes, probabilities = (values.numpy()[: len(batch)] for values in found)
        return classes, probabilities


def _head(member: Member, num_classes: int) -> keras.Model:
    """Returns a member up to its head, float32 `(B, C)`."""
    model = load_model(member.path)
    names = [layer.name for layer in model.layers]
    shape = model.get_layer(HEAD).output.shape if HEAD in names else None
    if shape is None or shape[-1] != num_classes:
        raise ValueError(
            f"{member.path}: expected a layer {HEAD!r} of {num_classes} classes. "
            f"Received: {'none of that name' if shape is None else shape[-1]}"
        )
    return keras.Model(model.input, model.get_layer(HEAD).output)


def _probabilities(
    member: Member, head: keras.Model, images: dict[str, tf.Tensor], num_classes: int
) -> tf.Tensor:
    """Returns `(B, C)` float32, the mean over the views."""

    def probabilities(view: tf.Tensor) -> tf.Tensor:
        outputs = tf.cast(head(view, training=False), tf.float32)
        return tf.nn.softmax(member.scale * outputs)

    squares = [images[square.name] for square in member.views.squares(member.square)]
    return tf.reduce_mean(member.views.outputs(probabilities, squares, num_classes), axis=0)


def scale_of(log: str) -> float:
    """Returns the scale of the softmax that a training ended with.

    The head of a cosine softmax gives cosines, and its softmax needs a scale. The training's log
    has the mean scale of the steps of each line. A fixed scale is that; with AdaCos, whose scale
    follows the batch and its labels, the last line's is taken: the one at which the loss, and so
    the probabilities of the training images, ended. A linear classifier has none in its
    log, and 1 leaves its logits as they are.

    Args:
        log: `log.jsonl` of the stage.

    Raises:
        FileNotFoundError: there is no log.
        ValueError: it has no line of a training step, or the scale is not above 0.
    """
    if not files.exists(log):
        raise FileNotFoundError(
            f"expected the log of the training, which tells the softmax' scale. Received: {log}, "
            "which is not there; --scale gives it without"
        )
    rows = [json.loads(line) for line in files.read(log).decode().splitlines()]
    scales = [row.get("scale", 1.0) for row in rows if row.get("event") == "train"]
    if not scales or not math.isfinite(scales[-1]) or scales[-1] <= 0:
        raise ValueError(
            f"{log}: expected a last scale above 0. Received: {scales[-1:]}; --scale gives it"
        )
    return float(scales[-1])


def class_names(directory: str, data: str) -> tuple[str, ...]:
    """Returns the classes of a training set as their table named them, in the head's order.

    Args:
        directory: of shards.
        data: "clean" or "total".
    """
    manifest = schema.Manifest.load(files.absolute(directory))
    if data == "total":
        return manifest.class_ids
    labels = manifest.clean_labels()
    return tuple(name for name, label in zip(manifest.class_ids, labels, strict=True) if label >= 0)
