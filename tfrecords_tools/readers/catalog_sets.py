"""Rows from sets of TensorFlow Datasets (TFDS), by name or from the folder of a prepared one.

A prepared set is read where it lies, offline: TFDS keeps encoded images in TFRecord files, so a row
is a place in one of them. TFDS is imported by the functions only; that takes seconds.
"""

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import files
from tfrecords_tools.readers.record_rows import Features, LabelOf, read_rows
from tfrecords_tools.readers.tables import Rows

_INFO_NAME = "dataset_info.json"


def is_prepared(directory: str) -> bool:
    """Whether a folder holds a set that TFDS prepared."""
    return files.exists(os.path.join(directory, _INFO_NAME))


def rows(
    place: str,
    split: str | None = None,
    *,
    data_dir: str | None = None,
    image: str | None = None,
    label: str | None = None,
    id_feature: str | None = None,
) -> Rows:
    """Yields the images of a TFDS set; ids are `<split>-<number of the example>`.

    Args:
        place: name such as `cars196`, `name/config` or `name:1.0.0`, or the folder of a version. A
            set that is not on this machine is downloaded and prepared by TFDS.
        split: in TFDS' notation, `train[:10%]+test` too. Default: all.
        data_dir: where TFDS keeps its sets. Default: TFDS' own choice.
        image: the feature of images. Default: the only Image of 8 bits.
        label: the feature of labels: a ClassLabel, whose names are the labels, an integer or text.
            Default: the only ClassLabel; without one labels are "".
        id_feature: a feature of ids, integers or text.

    Features inside others are named `outer/inner`. Raises ValueError if a feature, the split or the
    format of the files is not as expected, or if the set is neither there nor to be downloaded.
    """
    builder = _open(place, data_dir)
    _check_format(builder)
    where = str(builder.data_dir)
    tree = dict(_flatten(builder.info.features))
    features = Features(
        image=_choose_image(tree, image, where),
        id=None if id_feature is None else _check_name(tree, id_feature, "id_feature", where),
        label=_choose_label(tree, label, where),
    )
    label_of = _label_of(tree.get(features.label))
    for path, name, start, stop in _parts(builder.info, split):
        yield from read_rows(path, features, name=name, label_of=label_of, start=start, stop=stop)


def _open(place: str, data_dir: str | None) -> Any:
    """Returns the builder of a prepared set; one that is not here is prepared first."""
    import tensorflow_datasets as tfds

    if is_prepared(place):
        return tfds.builder_from_directory(place)
    if files.is_remote(place) or place.startswith(("/", ".", "~")):
        raise ValueError(
            f"expected the name of a set or a folder with {_INFO_NAME}, such as "
            f"cars196/2.1.0. Received: {place}"
        )
    try:
        builder = tfds.builder(place, data_dir=data_dir)  # prepared files before TFDS' own code
        if not builder.is_prepared():
            builder = tfds.builder(place, data_dir=data_dir, file_format="tfrecord")
            builder.download_and_prepare()
        return builder
    except Exception as error:  # each set has its own code, which fails offline in its own way
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(
            f"{place}: expected a set of TensorFlow Datasets, prepared in "
            f"{data_dir or tfds.core.constants.DATA_DIR} or to be downloaded. Received: {reason}"
        ) from error


def _check_format(builder: Any) -> None:
    file_format = builder.info.file_format.value
    if file_format != "tfrecord":
        raise ValueError(
            f"{builder.data_dir}: expected TFRecord files, in which an image lies in one piece. "
            f"Received: {file_format}; prepare the set elsewhere by tfds.builder({builder.name!r}, "
            "data_dir=..., file_format='tfrecord').download_and_prepare()"
        )


def _flatten(features: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (name in the records, feature); lists and other collections are one feature."""
    import tensorflow_datasets as tfds

    for key, feature in features.items():
        if isinstance(feature, tfds.features.FeaturesDict):
            yield from _flatten(feature, f"{prefix}{key}/")
        else:
            yield prefix + key, feature


def _choose_image(tree: Mapping[str, Any], name: str | None, where: str) -> str:
    import tensorflow_datasets as tfds

    found = [
        key
        for key, feature in tree.items()
        if isinstance(feature, tfds.features.Image)
        and not isinstance(feature, tfds.features.LabeledImage)  # a mask
        and feature.np_dtype == np.uint8  # others are no photographs; floats are kept as their bits
    ]
    return _choose(tree, found, name, "image", where)


def _choose_label(tree: Mapping[str, Any], name: str | None, where: str) -> str | None:
    import tensorflow_datasets as tfds

    found = [key for key, feature in tree.items() if type(feature) is tfds.features.ClassLabel]
    if name is not None:
        return _check_name(tree, name, "label", where)
    return _choose(tree, found, None, "label", where) if found else None


def _choose(
    tree: Mapping[str, Any], found: Sequence[str], name: str | None, option: str, where: str
) -> str:
    if name is None and len(found) == 1:
        return found[0]
    if name in found:
        return name
    raise ValueError(
        f"{where}: expected one feature of the kind {option}, or {option}=NAME of {sorted(found)}. "
        f"Received: {option}={name}; all features: {sorted(tree)}"
    )


def _check_name(tree: Mapping[str, Any], name: str, option: str, where: str) -> str:
    if name not in tree or tree[name].shape != ():
        single = sorted(key for key, feature in tree.items() if feature.shape == ())
        raise ValueError(f"{where}: expected {option} to be one of {single}. Received: {name!r}")
    return name


def _label_of(feature: Any) -> LabelOf:
    """Returns the function from a stored label to its text: of a ClassLabel, the class's name."""
    import tensorflow_datasets as tfds

    if not isinstance(feature, tfds.features.ClassLabel):
        return str
    return {-1: "", **dict(enumerate(feature.names))}.__getitem__  # -1: an unlabelled test set


def _parts(info: Any, split: str | None) -> Iterator[tuple[str, Callable[[int], str], int, int]]:
    """Yields (file, its name of a record, first record, record after the last)."""
    splits = {name: part for name, part in info.splits.items() if part.num_examples}
    bases = {}
    for name, part in splits.items():
        firsts = itertools.accumulate(part.shard_lengths, initial=0)
        for path, first in zip(part.filepaths, firsts, strict=False):
            bases[os.fspath(path)] = (name, first)
    for wanted in splits if split is None else [split]:
        for instruction in _instructions(info, wanted):
            name, first = bases[instruction.filename]
            stop = instruction.skip + instruction.take
            yield instruction.filename, _namer(name, first), instruction.skip, stop


def _instructions(info: Any, split: str) -> Sequence[Any]:
    try:
        return info.splits[split].file_instructions
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{info.full_name}: expected a split of {sorted(info.splits)} or a part of one. "
            f"Received: {split!r} ({reason})"
        ) from error


def _namer(split: str, first: int) -> Callable[[int], str]:
    return lambda number: f"{split}-{first + number}"
