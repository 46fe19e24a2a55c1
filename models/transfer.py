"""Hands the weights of one stage's model over to the next one's, by layer name."""

from collections.abc import Iterator, Sequence

import keras
import numpy as np


def transfer(source: keras.Model, target: keras.Model, skip: Sequence[str] = ()) -> list[str]:
    """Copies every layer's weights from `source` to `target`, by name, and explains each layer.

    Nothing is copied unless everything is explained: a layer with weights that only one of the
    two has, or whose shapes differ, must be named in `skip`, and so must be there to skip.

    Args:
        source: the finished model of the stage before.
        target: the new model.
        skip: top layers that keep the target's new weights, such as ("bottleneck", "head").

    Returns:
        The names of the layers copied.

    Raises:
        ValueError: a layer is unexplained, or a name in `skip` is in neither model.
    """
    sources = dict(_layers_with_weights(source, skip))
    targets = dict(_layers_with_weights(target, skip))
    problems = [f"{name}: only in the stage before" for name in sources.keys() - targets.keys()]
    problems += [f"{name}: only in the new stage" for name in targets.keys() - sources.keys()]
    for name in sources.keys() & targets.keys():
        before, after = _shapes(sources[name]), _shapes(targets[name])
        if before != after:
            problems.append(f"{name}: shapes {before} before, {after} in the new stage")
    known = {layer.name for model in (source, target) for layer in model.layers}
    problems += [f"{name}: to be skipped, but in neither model" for name in set(skip) - known]
    if problems:
        raise ValueError(
            "stage hand-over: expected the same layers and shapes, or their names in skip. "
            f"Received: {'; '.join(sorted(problems))}"
        )
    for name, layer in sources.items():
        targets[name].set_weights([np.asarray(value) for value in layer.get_weights()])
    return sorted(sources)


def _layers_with_weights(model: keras.Model, skip: Sequence[str], prefix: str = "") -> Iterator:
    for layer in model.layers:
        if not prefix and layer.name in skip:
            continue
        if isinstance(layer, keras.Model):
            yield from _layers_with_weights(layer, skip, prefix=f"{prefix}{layer.name}/")
        elif layer.weights:
            yield prefix + layer.name, layer


def _shapes(layer: keras.layers.Layer) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in layer.weights]
