"""Rows from folders of TFRecord files: this project's own, DELF's, the winner's, TFDS', others'.

Nothing is copied: a row names the TFRecord file and where in it the encoded image lies. The format
is known by a file beside the records (`manifest.json`, `dataset_info.json`) or by the names of the
first record's features.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import BinaryIO

import files
from columns import read_columns
from files import open_binary
from input_pipeline import schema
from input_pipeline.records import record_spans
from tfrecords_tools.readers import catalog_sets
from tfrecords_tools.readers.example_fields import BadExampleError, feature_names
from tfrecords_tools.readers.record_rows import Features, LabelOf, read_rows
from tfrecords_tools.readers.tables import Rows

# `.tfrec` and `.tfrecord`, the shard's number before or after that, or its number alone.
_FILE_NAME = re.compile(r".*(\.tfrec(ords?)?(-\d+-of-\d+)?|-\d{5,}-of-\d{5,})")
_AFTER_SPLIT = re.compile(r"[-_.]\d.*|\.tfrec.*")
_RELABELING = "relabeling.csv"  # DELF's table from the labels of a clean set to the original ones


DELF = Features(schema.ENCODED, schema.ID, schema.LABEL, schema.IS_CLEAN)  # and this project's
WINNER = Features("_bits", "_id", "_class", "_isClean")
SLIM = Features("image/encoded", "image/filename", "image/class/label")
KNOWN: Mapping[str, Features] = {"DELF": DELF, "GLR2020 winner": WINNER, "TF-Slim": SLIM}


def rows(directory: str, *, split: str | None = None, features: Features | None = None) -> Rows:
    """Yields the images of a folder of TFRecord files, or of one file, in the order of the names.

    Args:
        directory: the folder. TFDS' sets are handed on to `catalog_sets.rows`.
        split: a split of this project's or of TFDS' sets; of others, what the names of its files
            begin with, such as `train` of `train-00000-of-00128`. Default: all.
        features: names of the features. Default: found out.

    Labels become the original class ids where the folder has them: in this project's manifest, in
    DELF's `relabeling.csv`. A missing label gives "". A record without image or id is rejected.
    Raises FileNotFoundError where there are no TFRecord files, ValueError where the split or the
    format is not known, DamagedRecordError (a ValueError) where a file cannot be read on.
    """
    directory = files.absolute(directory)
    label_of: LabelOf = str
    if features is None and files.exists(os.path.join(directory, schema.MANIFEST_NAME)):
        manifest = schema.Manifest.load(directory)
        paths, features = _own_paths(manifest, split), DELF
        label_of = {**dict(enumerate(manifest.class_ids)), schema.NO_LABEL: ""}.__getitem__
    elif features is None and catalog_sets.is_prepared(directory):
        yield from catalog_sets.rows(directory, split)
        return
    else:
        paths = _find_files(directory, split)
        features = recognise(paths) if features is None else features
        if files.exists(relabeling := os.path.join(directory, _RELABELING)):
            label_of = _read_relabeling(relabeling).__getitem__
    for path in paths:
        yield from read_rows(path, features, name=_name_in(path), label_of=label_of)


def recognise(paths: Sequence[str]) -> Features:
    """Returns the format of the first record in `paths`; ValueError if it is none of KNOWN."""
    path, names = paths[0], []
    for path in paths:
        span = next(record_spans(path), None)
        if span is not None:
            with open_binary(path) as file:
                names = _names(file, path, *span)
            break
    for known in KNOWN.values():
        if {known.image, known.id} <= set(names):
            return known
    expected = " or ".join(f"{known.image}, {known.id} ({name})" for name, known in KNOWN.items())
    raise ValueError(f"{path}: expected records with {expected}. Received: {names}")


def _names(file: BinaryIO, path: str, offset: int, size: int) -> list[str]:
    try:
        return feature_names(file, offset, size)
    except BadExampleError as error:
        raise ValueError(f"{path}: {error}, in the first record") from error


def _own_paths(manifest: schema.Manifest, split: str | None) -> list[str]:
    if split is not None and split not in manifest.splits:
        raise ValueError(
            f"expected one of the splits {sorted(manifest.splits)} of {manifest.directory}. "
            f"Received: {split!r}"
        )
    return manifest.shard_paths(*(manifest.splits if split is None else [split]))


def _find_files(directory: str, split: str | None) -> list[str]:
    """Returns the TFRecord files of a folder, or the file itself, in the order of the names."""
    names = []
    if files.is_folder(directory):
        _, names = next(files.walk(directory))
    elif files.exists(directory):
        return [directory]
    found = [name for name in names if _FILE_NAME.fullmatch(name)]
    if not found:
        raise FileNotFoundError(
            f"expected a folder of TFRecord files (.tfrec, .tfrecord, -00000-of-00001). "
            f"Received: {directory}, with {names[:5] if names else 'no files'}"
        )
    if split is not None:
        starts = {name: name.removeprefix(split) for name in found if name.startswith(split)}
        found, others = [n for n in starts if _AFTER_SPLIT.fullmatch(starts[n])], found
        if not found:
            raise ValueError(
                f"expected a split that the files of {directory} begin with. "
                f"Received: {split!r}, files such as {others[0]}"
            )
    return [os.path.join(directory, name) for name in found]


def _read_relabeling(path: str) -> dict[int | str, str]:
    return {
        int(new) if new.isdecimal() else new: old
        for new, old in read_columns(path, ["new_label", "old_label"])
    }


def _name_in(path: str) -> Callable[[int], str]:
    file = re.sub(r"\s+", "_", os.path.basename(path))
    return lambda number: f"{file}-{number}"
