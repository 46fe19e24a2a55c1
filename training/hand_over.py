"""From a finished stage to the next one, with the head in one piece or split over replicas."""

import os

import keras
import numpy as np

from models.storage import load_model
from models.transfer import transfer
from training.sharded_head import load_centers
from training.trainer import Trainer

HEAD = "head"


def headless_model(model: keras.Model) -> keras.Model:
    """Returns the part of a model up to the layer "bottleneck": what goes with a sharded head."""
    return keras.Model(model.input, model.get_layer("bottleneck").output, name="member")


def hand_over(model_path: str, trainer: Trainer, skip: tuple[str, ...]) -> None:
    """Copies the weights of a finished stage into a new one, see `models.transfer`.

    A sharded head has left its class centres beside the model; they are handed over as those of
    a layer "head" are, in all four combinations, unless "head" is to be skipped.

    Args:
        model_path: of the finished stage.
        trainer: of the new one.
        skip: layers that keep the new weights.

    Raises:
        ValueError: a layer is unexplained, or the classes are others and "head" is not skipped.
    """
    source = load_model(model_path)
    has_head = [HEAD in {layer.name for layer in m.layers} for m in (source, trainer.model)]
    sharded_before = has_head == [False, True] or (trainer.head is not None and not has_head[0])
    if not sharded_before and trainer.head is None:
        transfer(source, trainer.model, skip)
        return
    skipped = [name for name in skip if name != HEAD]
    both_sharded = sharded_before and trainer.head is not None
    transfer(source, trainer.model, skipped if both_sharded else [*skipped, HEAD])
    if HEAD in skip:
        return
    directory = os.path.dirname(model_path)
    if both_sharded:
        trainer.head.load(directory)
    elif sharded_before:
        centers = trainer.model.get_layer(HEAD).centers  # (D, C)
        centers.assign(load_centers(directory, tuple(reversed(centers.shape))).T)
    else:
        _split(source.get_layer(HEAD).centers, trainer.head)


def _split(centers, head) -> None:
    wanted = (head.centers.shape[1], head.num_classes)
    if tuple(centers.shape) != wanted:
        raise ValueError(
            f"stage hand-over: expected class centres of shape {wanted}, or 'head' in skip. "
            f"Received: {tuple(centers.shape)}"
        )
    head.sharded(head.centers).assign(np.asarray(centers).T)
