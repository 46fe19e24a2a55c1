"""What is to be embedded, and what the output folder has of it already."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any

import files
from export import images, parts
from export.images import Source
from retrieval.embeddings import IDS_NAME, MANIFEST_NAME, VECTORS_NAME

REJECTS_NAME = "rejects.csv"
TASKS_NAME = "tasks"  # folder in the output where Beam's tasks are exchanged

_PARTS, _MARKER = "parts", "request.json"


class OtherRequestError(RuntimeError):
    """The output folder holds embeddings of other images, or by another model."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked for, with absolute paths, so that any machine can work on it.

    Attributes:
        source: the images.
        survey: what they are.
        model: folder of the SavedModel.
        model_digest: what the folder's `waymark.json` says.
        dimension: D, of its descriptors.
        output: the embeddings directory.
        batch_size: images per call of the model.
        images_per_part: a multiple of `batch_size`.
    """

    source: Source
    survey: images.Survey
    model: str
    model_digest: str
    dimension: int
    output: str
    batch_size: int
    images_per_part: int

    @property
    def digest(self) -> str:
        """A sha256 of everything on which the embeddings depend."""
        facts = [self.model_digest, self.survey.digest, self.batch_size]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def path(self, *names: str) -> str:
        """Returns a path in the output folder."""
        return os.path.join(self.output, *names)

    def part_paths(self) -> list[str]:
        """Returns the paths of all parts, named by their first image and the one behind them."""
        total, size = self.survey.images, self.images_per_part
        borders = [(first, min(first + size, total)) for first in range(0, total, size)]
        return [self.path(_PARTS, f"{first:09d}-{end:09d}.npz") for first, end in borders]

    def finished_parts(self) -> set[str]:
        """Returns the paths of the parts that are there."""
        _, names = next(files.walk(self.path(_PARTS)))
        return {self.path(_PARTS, name) for name in names}.intersection(self.part_paths())

    def tasks(self, paths: set[str]) -> Iterator[dict[str, Any]]:
        """Yields the tasks of `parts.embed_part` that make the parts of these paths."""
        members = self.source.parts(self.images_per_part)
        for path, part in zip(self.part_paths(), members, strict=True):
            if path in paths:
                yield {
                    "path": path,
                    "images": part,
                    "model": self.model,
                    "model_digest": self.model_digest,
                    "batch_size": self.batch_size,
                }

    def is_complete(self) -> bool:
        """Whether an earlier run finished it; OtherRequestError if the output is another's."""
        if self._known() not in (None, self.digest):
            raise OtherRequestError(
                "expected a folder for these images with this model only. "
                f"Received: {self.output}, which holds other embeddings"
            )
        names = (MANIFEST_NAME, REJECTS_NAME, VECTORS_NAME, IDS_NAME)
        return all(files.exists(self.path(name)) for name in names)

    def begin(self) -> None:
        """Makes the output folder this request's."""
        marker = self.path(_PARTS, _MARKER)
        if not files.exists(marker):
            files.make_folder(self.path(_PARTS))
            files.write_text(marker, json.dumps({"request": self.digest}) + "\n")

    def clear(self) -> None:
        """Removes what another request left in the output folder."""
        if self._known() not in (None, self.digest):
            files.remove(self.path(MANIFEST_NAME))
            self.remove_parts()

    def remove_parts(self) -> None:
        """Removes what is of use until the parts are joined."""
        files.remove_folder(self.path(TASKS_NAME))
        files.remove_folder(self.path(_PARTS))

    def _known(self) -> str | None:
        """Returns the digest of the request that the output belongs to, None for a new folder.

        Embeddings that do not say so give "".
        """
        for path in (self.path(MANIFEST_NAME), self.path(_PARTS, _MARKER)):
            if files.exists(path):
                return json.loads(files.read(path)).get("request", "")
        return None


def images_of_part(path: str) -> int:
    """Returns the number of images that the name of a part's file tells."""
    first, end = os.path.basename(path).removesuffix(".npz").split("-")
    return int(end) - int(first)


def make_request(
    source: Source, model: str, output: str, batch_size: int, images_per_part: int
) -> Request:
    """Looks at the model and lists the images; raises as `embed` does."""
    for name, value in (("batch_size", batch_size), ("images_per_part", images_per_part)):
        if value < 1:
            raise ValueError(f"expected {name} of at least 1. Received: {value}")
    info = parts.load_info(model)
    survey = source.survey()
    if not survey.images:
        raise ValueError(f"expected at least one image. Received: none in {source.name}")
    return Request(
        source,
        survey,
        files.absolute(model),
        info["model_digest"],
        info["dimension"],
        files.absolute(output),
        batch_size,
        -(-images_per_part // batch_size) * batch_size,
    )
