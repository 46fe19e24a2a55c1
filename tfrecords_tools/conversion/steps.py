"""The steps of a conversion: list, inspect, compare, plan, write."""

import dataclasses
import functools
import hashlib
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

import files
import jobs
from input_pipeline import schema
from progress import Progress
from tfrecords_tools.conversion import (
    copies,
    findings,
    inspection,
    near_duplicates,
    plan,
    shards,
    tfds_metadata,
)
from tfrecords_tools.conversion.catalogue import (
    CATALOGUE_NAME,
    INSPECTED,
    LISTED,
    PLANNED,
    Catalogue,
)
from tfrecords_tools.conversion.findings import Findings
from tfrecords_tools.conversion.options import Options
from tfrecords_tools.conversion.plan import ConversionError

_SAMPLE = 256  # images that a dry run converts to learn the rate
_ROWS_PER_WORKER = 500  # below that many a further process costs more than it saves


@dataclasses.dataclass(frozen=True)
class Conversion:
    """One conversion.

    Attributes:
        output: the data directory; it may hold what an earlier run of the same conversion left.
        options: on which the shards depend.
        workers: processes, without effect on the result.
        stream: where progress goes; None shows nothing.
        beam: runs inspection and writing on a cluster instead.
        near_duplicates: distance at which images look the same; None does not look.
    """

    output: str
    options: Options
    workers: int
    stream: TextIO | None
    beam: jobs.Beam | None = None
    near_duplicates: int | None = None

    @property
    def catalogue_path(self) -> str:
        """Of the working file: in `output`, or on this machine if that is in a bucket."""
        if not files.is_remote(self.output):
            return os.path.join(self.output, CATALOGUE_NAME)
        name = hashlib.sha256(self.output.encode()).hexdigest()[:16]
        return os.path.join(tempfile.gettempdir(), f"waymark-{name}.sqlite3")

    def run(self, function: Callable, tasks: Iterator, rows: int) -> Iterator:
        """Runs tasks that have `rows` rows in all; see `jobs.run`."""
        workers = max(1, min(self.workers, rows // _ROWS_PER_WORKER))
        yield from jobs.run(function, tasks, workers=workers, beam=self.beam)

    def progress(self, what: str, total: int) -> Progress:
        """Returns a line of progress."""
        return Progress(what, total, self.stream)


def digest_of_request(conversion: Conversion) -> str:
    """Reads all sources and returns the digest of options and rows."""
    digest = plan.request_digest(conversion.options.as_dict())
    for _ in digest.watch(conversion.options.rows()):
        pass
    return str(digest)


def prepare(conversion: Conversion, known: plan.Plan | None) -> tuple[Catalogue, Findings]:
    """Lists, inspects, compares and plans, as far as an earlier run has not done so.

    Raises ConversionError if the folder belongs to another conversion or no image is usable.
    """
    request = None if known is None else digest_of_request(conversion)
    if known is not None and known.request != request:
        raise another_conversion(conversion.output)
    files.make_folder(conversion.output)
    catalogue = Catalogue(conversion.catalogue_path)
    try:
        request = _list(conversion, catalogue, request)
        if catalogue.fact(INSPECTED) is None:
            _inspect(conversion, catalogue)
        if catalogue.fact(PLANNED) is None:
            catalogue.plan(conversion.options.split, conversion.options.validation)
        planned = plan.Plan(request, _digest_of_plan(catalogue, request))
        if known is not None and known != planned:
            raise _other_images(conversion.output)
        found = findings.gather(catalogue, conversion.output)
        plan.save_rejects(conversion.output, catalogue.rejects())
        if not found.splits:
            raise ConversionError(f"expected at least one usable image. Received: {found}")
        plan.save_plan(conversion.output, planned)
        if conversion.near_duplicates is not None:
            found = _find_near_duplicates(conversion, catalogue, found)
    except BaseException as error:
        if isinstance(error, ConversionError):
            catalogue.remove()
        else:
            catalogue.close()
        raise
    return catalogue, found


def _find_near_duplicates(
    conversion: Conversion, catalogue: Catalogue, found: Findings
) -> Findings:
    images = sum(found.splits.values())
    progress = conversion.progress("compare", images)

    def run(batches: Iterable[list]) -> Iterator[list]:
        for results in conversion.run(near_duplicates.hash_places, batches, images):
            yield results
            progress.advance(len(results))

    counts = near_duplicates.save(catalogue, conversion.output, conversion.near_duplicates, run)
    progress.close()
    return dataclasses.replace(found, near_duplicates=counts)


def another_conversion(output: str) -> ConversionError:
    """Returns the error for a folder that holds other shards."""
    return ConversionError(
        "expected a folder for these sources with these options only. "
        f"Received: {output}, whose {plan.PLAN_NAME} belongs to another conversion"
    )


def _other_images(output: str) -> ConversionError:
    return ConversionError(
        "expected the images that an earlier run of this command inspected. "
        f"Received: others; empty {output} or choose another folder"
    )


def _list(conversion: Conversion, catalogue: Catalogue, request: str | None) -> str:
    """Takes all rows in, unless an earlier run did; returns the digest of the request."""
    if catalogue.fact(LISTED) is not None:
        request = request or digest_of_request(conversion)
        if catalogue.fact("request") == request:
            return request
    digest = plan.request_digest(conversion.options.as_dict())
    rows = digest.watch(conversion.options.rows())
    catalogue.fill(_counted(rows, conversion), conversion.options.seed)
    catalogue.set_fact("request", str(digest))
    return str(digest)


def _counted(rows: Iterator, conversion: Conversion) -> Iterator:
    progress = conversion.progress("list", 0)
    for row in rows:
        yield row
        progress.advance()
    progress.close()


def _inspect(conversion: Conversion, catalogue: Catalogue) -> None:
    left = catalogue.value("SELECT count(*) FROM images WHERE reason IS NULL AND bytes IS NULL")
    options = conversion.options
    tasks = (
        {"places": places, "max_side": options.max_side, "decode": options.decode}
        for places in catalogue.uninspected()
    )
    progress = conversion.progress("inspect", left)
    for results in conversion.run(inspection.inspect_places, tasks, left):
        catalogue.add_inspections(results)
        progress.advance(len(results))
    progress.close()
    copies.compare(catalogue, functools.partial(conversion.run, inspection.digest_places))
    catalogue.set_fact(INSPECTED, "yes")


def _digest_of_plan(catalogue: Catalogue, request: str) -> str:
    digest = plan.Digest(request)
    for row in catalogue.ask(
        "SELECT id, split, format, width, height, change, bytes, fingerprint FROM images "
        "WHERE split NOTNULL"
    ):
        digest.add(*row)
    return str(digest)


def shard_tasks(conversion: Conversion, catalogue: Catalogue) -> Iterator[dict[str, Any]]:
    """Yields the tasks of `shards.write_shard` that no earlier run has finished."""
    done = catalogue.shards()
    for name, sizes in _shard_sizes(conversion, catalogue).items():
        rows = catalogue.planned_rows(name)
        for number, size in enumerate(sizes):
            members = list(itertools.islice(rows, size))
            path = os.path.join(conversion.output, schema.shard_name(name, number, len(sizes)))
            if not _is_done(path, done):
                yield {"path": path, "rows": members, "quality": conversion.options.quality}


def _shard_sizes(conversion: Conversion, catalogue: Catalogue) -> dict[str, list[int]]:
    """Returns the number of images of each shard; those of one split differ by one at most."""
    sizes = {}
    for name, images in catalogue.split_sizes().items():
        count = -(-images // conversion.options.images_per_shard)
        borders = [shard * images // count for shard in range(count + 1)]
        sizes[name] = [after - before for before, after in itertools.pairwise(borders)]
    return sizes


def _is_done(path: str, done: dict[str, tuple]) -> bool:
    name = os.path.basename(path)
    return name in done and files.exists(path) and files.size_of(path) == done[name][1]


def write_shards(conversion: Conversion, catalogue: Catalogue) -> int:
    """Writes the shards that are missing; returns how many were kept."""
    images = sum(catalogue.split_sizes().values())
    progress = conversion.progress("write", images)
    tasks = shard_tasks(conversion, catalogue)
    written = 0
    for result in conversion.run(shards.write_shard, tasks, images):
        # In this order: a shard that is known to be finished has its rejects stored.
        catalogue.reject(result["rejects"])
        catalogue.add_shard(*(result[name] for name in ("name", "images", "bytes", "crc32c")))
        progress.advance(result["images"] + len(result["rejects"]))
        written += not result["kept"]
    progress.close()
    return len(catalogue.shards()) - written


def finish(conversion: Conversion, catalogue: Catalogue) -> schema.Manifest:
    """Writes the rejects, TFDS' metadata and at last the manifest; removes the catalogue."""
    plan.save_rejects(conversion.output, catalogue.rejects())
    done = catalogue.shards()
    manifest = schema.Manifest(
        directory=conversion.output,
        splits={
            name: tuple(
                schema.Shard(shard, *done[shard])
                for shard in (
                    schema.shard_name(name, number, len(sizes)) for number in range(len(sizes))
                )
            )
            for name, sizes in _shard_sizes(conversion, catalogue).items()
        },
        class_ids=catalogue.class_ids(),
        clean_counts=catalogue.class_counts(schema.TRAIN_CLEAN),
        noisy_counts=catalogue.class_counts(schema.TRAIN_NOISY),
        options=conversion.options.as_dict(),
        rejected=catalogue.value("SELECT count(*) FROM images WHERE reason IS NOT NULL"),
        plan=plan.load_plan(conversion.output).plan,
    )
    tfds_metadata.write_metadata(manifest)
    for path in files.find_in(conversion.output, f"*.tfrec{files.PARTIAL}"):
        files.remove(path)  # of a command that was killed before its first shard, with other shards
    manifest.save()
    catalogue.remove()
    return manifest


def try_out(conversion: Conversion, catalogue: Catalogue) -> tuple[float, float]:
    """Writes a sample shard elsewhere; returns wall seconds and bytes per image, of one process."""
    name = next(iter(catalogue.split_sizes()))
    rows = list(itertools.islice(catalogue.planned_rows(name), _SAMPLE))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, schema.shard_name(name, 0, 1))
        start = time.perf_counter()
        result = shards.write_shard(
            {"path": path, "rows": rows, "quality": conversion.options.quality}
        )
    return (time.perf_counter() - start) / len(rows), result["bytes"] / len(rows)
