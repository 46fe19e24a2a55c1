"""Images to embed: those of tables, of a folder or of a split of shards.

A source is listed twice, once to count and check it and once to cut it into parts, and none of its
rows is kept but 8 bytes of each id. A part is a JSON value that says where its images lie, so
that any machine can read them.
"""

import array
import dataclasses
import hashlib
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

import files
from columns import read_columns
from input_pipeline import ops, schema
from input_pipeline.records import record_spans

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")

_NAMED = 5  # repeated ids that a message names
_WHITE_SPACE = re.compile(r"\s+")

Part = dict[str, list]  # "files": [id, path] each, or "records": [shard, first, count] each
Rows = Iterator[tuple[str, str]]  # id, absolute path


@dataclasses.dataclass(frozen=True)
class Survey:
    """What a source holds: the number of its images, and a digest of what and where they are."""

    images: int
    digest: str


class _Files:
    """A source whose images are files; a subclass has `rows()` and `name`."""

    def survey(self) -> Survey:
        """Counts the images; ValueError names ids that are repeated or unusable."""
        hashes, digest = array.array("q"), hashlib.sha256()
        for number, row in enumerate(self.rows(), start=1):
            if row[0].split() != [row[0]]:
                raise ValueError(
                    "expected ids without white space. "
                    f"Received: {row[0]!r} (row {number}, {row[1]})"
                )
            hashes.append(hash(row[0]))
            digest.update(repr(row).encode())
        self._check_unique(hashes)
        return Survey(len(hashes), digest.hexdigest())

    def parts(self, size: int) -> Iterator[Part]:
        """Yields parts of `size` images each, fewer in the last."""
        rows = self.rows()
        while part := list(itertools.islice(rows, size)):
            yield {"files": part}

    def _check_unique(self, hashes: array.array) -> None:
        """Finds equal hashes, then reads the ids once more to tell repeats from chance."""
        ordered = np.sort(np.frombuffer(hashes, np.int64))
        suspects = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
        places: dict[str, list[str]] = {}
        repeated: set[str] = set()
        for number, (image_id, path) in enumerate(self.rows() if suspects else (), start=1):
            if hash(image_id) in suspects:
                places.setdefault(image_id, []).append(f"row {number}, {path}")
                if len(places[image_id]) > 1:
                    repeated.add(image_id)
                if len(repeated) > _NAMED:
                    break
        if repeated:
            named = [each for each in places if each in repeated][:_NAMED]
            listed = "; ".join(f"{each!r} ({' and '.join(places[each][:2])})" for each in named)
            more = f" and {len(suspects) - _NAMED:,} more" if len(suspects) > _NAMED else ""
            raise ValueError(f"expected unique ids. Received more than once: {listed}{more}")


@dataclasses.dataclass(frozen=True)
class Tables(_Files):
    """CSV tables with the columns of ids and paths; paths start from the table's own folder.

    Listing raises ValueError for a missing column, a line of another length and a path that leads
    out of that folder.
    """

    paths: Sequence[str]
    id_column: str = "id"
    path_column: str = "path"

    @property
    def name(self) -> str:
        """What was embedded, for the manifest."""
        return " ".join(self.paths)

    def rows(self) -> Rows:
        """Yields (id, path) in the order of the tables."""
        for table in self.paths:
            inside = os.path.dirname(files.absolute(table)).rstrip("/") + "/"
            rows = read_columns(table, (self.id_column, self.path_column))
            for number, (image_id, path) in enumerate(rows, start=1):
                is_absolute = path.startswith("/") or files.is_remote(path)
                full = files.absolute(path if is_absolute else inside + path)
                if not full.startswith(inside):
                    raise ValueError(
                        f"{table}, row {number}: expected a path inside {inside}. "
                        f"Received: {path!r}"
                    )
                yield image_id, full


@dataclasses.dataclass(frozen=True)
class Folder(_Files):
    """The JPEG and PNG files below a folder.

    The id is the path relative to it, with "_" for white space. Names that begin with a point are
    left out. The names in one folder are held at a time.
    """

    folder: str

    @property
    def name(self) -> str:
        """What was embedded, for the manifest."""
        return self.folder

    def rows(self) -> Rows:
        """Yields (id, path), the files of a folder before those of the folders in it."""
        if not files.is_folder(self.folder):
            raise FileNotFoundError(f"expected a folder of images. Received: {self.folder}")
        root = files.absolute(self.folder).rstrip("/")
        for parent, names in files.walk(root):
            for name in names:
                path = f"{parent.rstrip('/')}/{name}"
                relative = path.removeprefix(root + "/")
                is_hidden = relative.startswith(".") or "/." in relative
                if not is_hidden and name.lower().endswith(IMAGE_SUFFIXES):
                    # A name that is not UTF-8 could not be written to ids.txt.
                    text = relative.encode(errors="surrogateescape").decode(
                        errors="backslashreplace"
                    )
                    yield _WHITE_SPACE.sub("_", text), path


@dataclasses.dataclass(frozen=True)
class Shards:
    """One split of a data directory; `tfrecords_tools.write` lets no id in twice."""

    directory: str
    split: str

    @property
    def name(self) -> str:
        """What was embedded, for the manifest."""
        return f"{self.directory} {self.split}"

    def survey(self) -> Survey:
        """Reads the number of images and the shards' checksums from the manifest.

        Raises FileNotFoundError without manifest, KeyError for a split that is not there.
        """
        shards = [[shard.images, shard.crc32c] for _, shard in self._shards()]
        digest = hashlib.sha256(repr(shards).encode()).hexdigest()
        return Survey(sum(images for images, _ in shards), digest)

    def parts(self, size: int) -> Iterator[Part]:
        """Yields parts of `size` images each, fewer in the last; no shard is opened."""
        ranges, left = [], size
        for path, shard in self._shards():
            first = 0
            while first < shard.images:
                count = min(left, shard.images - first)
                ranges.append([path, first, count])
                first, left = first + count, left - count
                if not left:
                    yield {"records": ranges}
                    ranges, left = [], size
        if ranges:
            yield {"records": ranges}

    def _shards(self) -> list[tuple[str, schema.Shard]]:
        manifest = schema.Manifest.load(files.absolute(self.directory))
        paths = manifest.shard_paths(self.split)
        return list(zip(paths, manifest.splits[self.split], strict=True))


Source = Tables | Folder | Shards


def images_in(part: Part) -> int:
    """Returns the number of images of a part."""
    return len(part.get("files", ())) + sum(count for _, _, count in part.get("records", ()))


def places_of(part: Part) -> Iterator[tuple]:
    """Yields the arguments of `read_image` for each image of a part, in order.

    Raises ValueError if a shard has fewer records than its manifest says.
    """
    yield from part.get("files", ())
    for shard, first, count in part.get("records", ()):
        spans = itertools.islice(record_spans(shard), first, first + count)
        found = 0
        for found, span in enumerate(spans, start=1):
            yield f"{os.path.basename(shard)}:{first + found - 1}", shard, *span
        if found != count:
            raise ValueError(
                f"{shard}: expected {first + count} records, as its manifest says. "
                f"Received: {first + found}"
            )


def read_image(name: str, path: str, *span: int) -> tuple[str, bytes]:
    """Returns the id of an image and its encoded bytes.

    Args:
        name: its id, or what to call its record as long as its id is unknown.
        path: of the image, or of its shard.
        *span: first byte and size of the record in the shard.

    Raises OSError, ValueError for a file that is too large, or tf.errors.InvalidArgumentError
    where the record is no image.
    """
    if not span:
        if (size := files.size_of(path)) > schema.MAX_BYTES:
            raise ValueError(f"expected at most {schema.MAX_BYTES} bytes. Received: {size}")
        return name, files.read(path)
    data = files.read(path, *span)
    wanted: dict[str, Any] = {key: ops.FEATURES[key] for key in (schema.ID, schema.ENCODED)}
    features = tf.io.parse_single_example(data, wanted)
    return features[schema.ID].numpy().decode(), features[schema.ENCODED].numpy()
