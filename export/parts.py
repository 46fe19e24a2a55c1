"""One part of a set of images: embedded and stored, on this machine or on one of a cluster."""

import dataclasses
import functools
import io
import itertools
import json
import os
import re
import threading
import uuid
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

import files
from export import images
from export.savedmodel import INFO_NAME
from input_pipeline import ops, schema
from progress import ordered_map
from retrieval.embeddings import NORM_TOLERANCE

TOO_MANY_PIXELS = f"more than {schema.MAX_PIXELS} pixels"
NOT_AN_IMAGE = "not an image"

_REMOTE_READERS = 32  # images of a bucket that a process asks for at once
_NODE = re.compile(r"^\{\{.*?\}\} | \[Op:.*")  # what TensorFlow puts around a message
_LOADING = threading.Lock()  # Beam runs parts in several threads of a process

Resized = list[np.ndarray]  # one image in each of the model's squares, uint8 (S, S, 3)


@dataclasses.dataclass(frozen=True)
class Model:
    """A SavedModel in memory.

    Attributes:
        squares: the different resizes that it needs.
        describe: its signature `resized`.
        norm: length of an ensemble's descriptors, the norm of its weights; 1 for a single member.
        dimension: D.
    """

    squares: tuple[ops.Square, ...]
    describe: Callable
    norm: float
    dimension: int

    def __call__(self, batch: list[Resized | None], size: int) -> np.ndarray:
        """Returns float32 `(B, D)`, one row for each image, of any value where that is None.

        The batch is filled up to `size`, so that one shape is compiled.
        """
        if not any(batch):
            return np.zeros((len(batch), self.dimension), np.float32)
        vectors = self.describe(**stacked(batch, self.squares, size))["global_descriptor"].numpy()
        return vectors[: len(batch)] / np.float32(self.norm)


def stacked(
    batch: list[Resized | None], squares: Sequence[ops.Square], size: int
) -> dict[str, tf.Tensor]:
    """Returns uint8 `(size, S, S, 3)` by `Square.name`, with zeros where no image is."""
    inputs = {}
    for position, square in enumerate(squares):
        rows = np.zeros((size, square.size, square.size, 3), np.uint8)
        for row, resized in zip(rows, batch, strict=False):
            if resized:
                row[:] = resized[position]
        inputs[square.name] = tf.constant(rows)
    return inputs


def load_info(model: str) -> dict:
    """Returns what `waymark.json` says about a SavedModel; FileNotFoundError if there is none."""
    path = os.path.join(model, INFO_NAME)
    if not files.exists(path):
        raise FileNotFoundError(
            f"expected a folder written by export/savedmodel.py, with {INFO_NAME}. "
            f"Received: {model}"
        )
    return json.loads(files.read(path))


def load_model(path: str, digest: str) -> Model:
    """Returns the SavedModel in a folder, which stays in memory until another one is asked for.

    Raises ValueError unless its digest is `digest`.
    """
    with _LOADING:
        return _load_model(path, digest)


@functools.lru_cache(maxsize=1)
def _load_model(path: str, digest: str) -> Model:
    info = load_info(path)
    if info["model_digest"] != digest:
        raise ValueError(
            f"expected the model {digest[:12]} in {path}. Received: {info['model_digest'][:12]}; "
            "it was exported anew meanwhile"
        )
    squares = dict.fromkeys(ops.Square(**square) for square in info["squares"])
    signature = tf.saved_model.load(path).signatures["resized"]
    norm = float(np.linalg.norm(info["weights"]))
    return Model(tuple(squares), signature, norm, info["dimension"])


def embed_part(
    task: dict[str, Any], advance: Callable[[int], None] = lambda images: None
) -> dict[str, Any]:
    """Embeds the images of a part, unless its file is there already; a task of `jobs.run`.

    A batch is made of the images of the same numbers always, so that vectors do not depend on the
    size of the parts: the place of an image that fails stays empty.

    Args:
        task: "path" of the part's file; "images", a `Part`; "model", its folder; "model_digest";
            "batch_size".
        advance: is told how many images are done, now and then.

    Returns:
        "images", how many the part has.
    """
    count = images.images_in(task["images"])
    if files.exists(task["path"]):
        advance(count)
        return {"images": count}
    model = load_model(task["model"], task["model_digest"])
    ids, vectors, rejects = [], [], []
    for names, reasons, described in _describe(model, task["images"], task["batch_size"]):
        good = [position for position, reason in enumerate(reasons) if reason is None]
        ids += [names[position] for position in good]
        vectors.append(described[good])
        rejects += [
            [name, reason]
            for name, reason in zip(names, reasons, strict=True)
            if reason is not None
        ]
        advance(len(names))
    _save(task["path"], np.concatenate(vectors), {"ids": ids, "rejects": rejects})
    return {"images": count}


def _describe(
    model: Model, part: images.Part, batch_size: int
) -> Iterator[tuple[list[str], list[str | None], np.ndarray]]:
    """Yields (ids, reasons against an image or None, float32 (B, D)) of each batch."""

    def describe(batch: Decoded) -> tuple:
        vectors = model(batch.images, batch_size)
        norms = np.linalg.norm(vectors, axis=1)
        for row in np.flatnonzero(~(np.abs(norms - 1) <= NORM_TOLERANCE)):
            batch.reasons[row] = batch.reasons[row] or f"descriptor of length {norms[row]:.4g}"
        return batch.names, batch.reasons, vectors

    yield from ordered_map(describe, decoded(part, model.squares, batch_size), workers=1)


@dataclasses.dataclass(frozen=True)
class Decoded:
    """A batch of images.

    Attributes:
        names: their ids.
        reasons: against each of them, or None.
        images: the others, resized.
    """

    names: list[str]
    reasons: list[str | None]
    images: list[Resized | None]


def decoded(part: images.Part, squares: Sequence[ops.Square], batch_size: int) -> Iterator[Decoded]:
    """Yields the images of a part in batches, decoded on all cores, some batches ahead."""

    def decode(place: tuple) -> tuple[str, str | None, Resized | None]:
        name = place[0]
        try:
            name, encoded = images.read_image(*place)
            image = _decode(encoded)
            return name, None, [square(image).numpy() for square in squares]
        except (OSError, ValueError, tf.errors.OpError) as error:
            return name, _reason(error), None

    each = ordered_map(decode, images.places_of(part), workers=_readers(part))
    while batch := list(itertools.islice(each, batch_size)):
        yield Decoded(*map(list, zip(*batch, strict=True)))


def _readers(part: images.Part) -> int:
    cores = os.cpu_count() or 1
    remote = any(files.is_remote(path) for _, path in part.get("files", ()))
    remote = remote or any(files.is_remote(path) for path, *_ in part.get("records", ()))
    return max(cores, _REMOTE_READERS) if remote else cores


def _decode(encoded: bytes) -> tf.Tensor:
    """Decodes one image, after a look at its header: a small file can hold a huge picture."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            pixels = image.width * image.height
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(TOO_MANY_PIXELS) from error
    except Exception as error:  # damaged headers raise errors of many kinds
        raise ValueError(NOT_AN_IMAGE) from error
    if pixels > schema.MAX_PIXELS:
        raise ValueError(TOO_MANY_PIXELS)
    return ops.decode_image(tf.constant(encoded))


def _reason(error: Exception) -> str:
    """Returns one line that is the same in every run: no addresses, no names of devices."""
    if isinstance(error, Image.UnidentifiedImageError):
        return NOT_AN_IMAGE
    text = getattr(error, "strerror", None) or getattr(error, "message", None) or str(error)
    text = _NODE.sub("", text).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _save(path: str, vectors: np.ndarray, texts: dict[str, list]) -> None:
    # A cluster may run a part twice at the same time: each writes a file of its own.
    partial = f"{path}.{uuid.uuid4().hex}{files.PARTIAL}"
    encoded = np.frombuffer(json.dumps(texts).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, vectors=vectors, texts=encoded)
    with files.open_file(partial, "wb") as file:
        file.write(buffer.getvalue())
    files.rename(partial, path)


def read_texts(path: str) -> dict[str, list]:
    """Returns the "ids" of a part, and its "rejects" with id and reason each."""
    return json.loads(_read(path, "texts").tobytes())


def read_vectors(path: str) -> np.ndarray:
    """Returns the vectors of a part, float32 `(n, D)`."""
    return _read(path, "vectors")


def _read(path: str, name: str) -> np.ndarray:
    try:
        with files.open_file(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return arrays[name]
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise RuntimeError(f"{path}: this part is damaged; remove it and start again") from error
