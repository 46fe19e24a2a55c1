"""Public PyTorch weights, by name, in Keras models whose layers are named after its modules."""

import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import keras
import numpy as np

from models.backbones import weight_files

# What networks for classification have besides the backbone.
CLASSIFIERS = ("fc.", "classifier.", "head.", "last_linear.")
COUNTER = "num_batches_tracked"  # of PyTorch's BatchNorm, which nothing needs
WRAPPER = "module."  # what torch.nn.DataParallel puts before every name


def load_weights(
    model: keras.Model, path: str, *, ignore: Sequence[str] | None = CLASSIFIERS
) -> None:
    """Sets every weight of a model from a file.

    Args:
        model: see `load_torch_weights`.
        path: `.safetensors` or `.npz` of a PyTorch module, else one that Keras wrote.
        ignore: see `load_torch_weights`; None where no PyTorch module has the model's names.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or does not fit.
    """
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(
            "weights: expected the name of a published set or a file. "
            f"Received: {path!r}, and there is no such file"
        )
    if pathlib.Path(path).suffix not in (*weight_files.SUFFIXES, *weight_files.PICKLES):
        model.load_weights(path)
        return
    state = weight_files.read_state(path)
    if ignore is None:
        raise ValueError(
            f"weights: expected a file that Keras wrote. Received: {path!r}, and no PyTorch module "
            f"has the names of the {model.name!r}"
        )
    load_torch_weights(model, state, ignore)


def load_torch_weights(
    model: keras.Model,
    state: Mapping[str, np.ndarray],
    ignore: Sequence[str] = CLASSIFIERS,
) -> None:
    """Sets every weight of a model from the state of a PyTorch module, by name.

    A layer "layer1.0.conv1" takes "layer1.0.conv1.weight" and ".bias"; a normalisation also
    ".running_mean" and ".running_var". A layer of ours with weights of other names has a property
    `torch_names`, {name of the weight: name in the state}. Nothing is set unless everything is
    explained.

    Args:
        model: functional; a model inside it is not looked into.
        state: {name: array}, as `module.state_dict()` has them.
        ignore: beginnings of names in the state that the model need not have.

    Raises:
        ValueError: a weight is missing in the state, has another shape or a value that is not
            finite, or the state has an array that nothing needs; the message names all of them.
    """
    if state and all(key.startswith(WRAPPER) for key in state):
        state = {key.removeprefix(WRAPPER): value for key, value in state.items()}
    values, problems, used = [], [], set()
    for layer in model.layers:
        for variable, key, convert in _wanted(layer):
            used.add(key)
            value, problem = _value(variable, key, state.get(key), convert)
            values.append((variable, value))
            problems += [problem] if problem else []
    for key in sorted(set(state) - used):
        if not key.endswith(COUNTER) and not key.startswith(tuple(ignore)):
            problems.append(f"{key}: nothing in the model")
    if problems:
        more = f"; and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise ValueError(
            f"PyTorch weights: expected the names and shapes of the {model.name!r}. "
            f"Received: {'; '.join(problems[:20])}{more}"
        )
    for variable, value in values:
        variable.assign(value)


def _wanted(layer: keras.layers.Layer) -> Iterator[tuple[keras.Variable, str, Callable]]:
    """Yields (weight, name in the state, its conversion) of a layer."""
    names = getattr(layer, "torch_names", None)
    for variable in layer.weights:
        own = variable.name
        if names is not None:
            yield variable, names[own], _unchanged
        else:
            yield variable, f"{layer.name}.{_NAMES.get(own, own)}", _conversion(layer, own)


_NAMES = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def _conversion(layer: keras.layers.Layer, own: str) -> Callable:
    if own != "kernel":
        return _unchanged
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return lambda value: value.transpose(2, 3, 0, 1)  # (C, 1, k, k) → (k, k, C, 1)
    if isinstance(layer, keras.layers.Conv2D):
        return lambda value: value.transpose(2, 3, 1, 0)  # (F, C, k, k) → (k, k, C, F)
    return np.transpose  # (F, C) → (C, F)


def _unchanged(value: np.ndarray) -> np.ndarray:
    return value


def _value(variable, key: str, value: np.ndarray | None, convert: Callable) -> tuple:
    """Returns the value of a weight and None, or None and what is wrong with it."""
    if value is None:
        return None, f"{key}: missing"
    if value.ndim != len(variable.shape):
        return None, f"{key}: shape {value.shape} for {tuple(variable.shape)}"
    value = convert(np.asarray(value)).astype(np.float32)
    if value.shape != tuple(variable.shape):
        return None, f"{key}: shape {value.shape} for {tuple(variable.shape)}, transposed"
    if not np.isfinite(value).all():
        return None, f"{key}: values that are not finite"
    return value, None
