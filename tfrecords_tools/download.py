"""Downloads Google Landmarks v2.1 and checks that all of it is there.

    python tfrecords_tools/download.py --output gldv2
    python tfrecords_tools/download.py --output gldv2 --parts index test ground_truth
    python tfrecords_tools/download.py --output gldv2 --first 1     # 2 GB of images, to try

The same command goes on where it was stopped; what is complete and checked is neither downloaded
nor hashed again. Every archive is compared with its published md5, and its images with the part's
table: missing_<part>.csv and unexpected_<part>.csv list the differences. The archives are then
converted as they are, by `write.py --from gldv2:DIR`.

The addresses are those of github.com/cvdfoundation/google-landmark. The command was tried against
servers on one machine with the same layout and with faults, not yet against the public bucket.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import files
from tfrecords_tools.mirroring import gldv2_check
from tfrecords_tools.mirroring.mirror import Mirror, RemoteFile
from tfrecords_tools.mirroring.transfer import StoppedError
from tfrecords_tools.readers import gldv2, gldv2_tables

BASE_URL = "https://s3.amazonaws.com/google-landmark"
ARCHIVES = {"train": 500, "index": 100, "test": 20}
PARTS = (*ARCHIVES, "metadata", "ground_truth")

_TABLES_OF = {  # what a part's images cannot be used without
    "train": (gldv2_tables.TRAIN, gldv2_tables.TRAIN_CLEAN),
    "index": (gldv2_tables.INDEX, gldv2_tables.INDEX_LANDMARKS),
    "test": (gldv2_tables.TEST,),
}

_EXIT_CODES = """exit codes:
  0  everything is there and checked
  1  stopped, or some files could not be had or are broken: they are listed
  2  wrong arguments
  3  all files are there, but they lack images: missing_<part>.csv lists them"""


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a download did.

    Attributes:
        downloaded: files that this run downloaded or checked.
        kept: files that an earlier run had checked.
        failures: {file: reason} of those that could not be had or are broken.
        missing: {part: number of ids in its table that no archive has}.
        unexpected: {part: number of members of archives that its table does not list, and the like}
    """

    downloaded: int
    kept: int
    failures: Mapping[str, str]
    missing: Mapping[str, int]
    unexpected: Mapping[str, int]

    @property
    def exit_code(self) -> int:
        """What the command returns."""
        if self.failures:
            return 1
        return 3 if any(self.missing.values()) else 0

    def __str__(self) -> str:
        lines = [f"failed: {path}: {reason}" for path, reason in self.failures.items()]
        for what, counts in (("missing", self.missing), ("unexpected", self.unexpected)):
            lines += [
                f"{what}: {count} images of {part}, listed in {what}_{part}.csv"
                for part, count in counts.items()
                if count
            ]
        lines.append(
            f"{self.downloaded} files downloaded and checked, {self.kept} kept, "
            f"{len(self.failures)} failed"
        )
        return "\n".join(lines)


def download(
    output: str,
    *,
    parts: Iterable[str] = PARTS,
    base_url: str = BASE_URL,
    first: int | None = None,
    unpack: bool = False,
    workers: int = 8,
    archives: Mapping[str, int] = ARCHIVES,
    stream: TextIO | None = sys.stderr,
    **connection: float,
) -> Summary:
    """Downloads parts of Google Landmarks v2.1 to a folder and checks them.

    Args:
        output: a folder on this machine; it may hold what an earlier run left.
        parts: of PARTS. train, index and test bring the tables that their images need.
        base_url: the public bucket or a copy of it.
        first: only the first archives of each part, this many; missing images are not looked for.
        unpack: also write every image to <part>/a/b/c/<id>.jpg.
        workers: files at a time.
        archives: how many archives each part has.
        stream: where progress goes; None shows nothing.
        **connection: timeout, attempts and pause, see `transfer.Client`.

    Raises ValueError for wrong arguments; mirror.NoSpaceError; transfer.DownloadError if the server
    cannot be reached at all; OSError if the folder cannot be written. A file that cannot be had is
    no exception but one of `Summary.failures`.
    """
    parts = list(dict.fromkeys(parts))
    _check(output, parts, base_url, first, workers)
    wanted = list_files(parts, archives, first)
    with Mirror(output, base_url, workers=workers, stream=stream, **connection) as mirror:
        images = [file for file in wanted if file.part]
        spare = mirror.unpacked_bytes(images) if unpack else 0
        kept = mirror.fetch(wanted, spare=spare)
        good = [file for file in wanted if file.path not in mirror.failures]
        counts = _compare(mirror, [part for part in parts if part in archives], good, first is None)
        if unpack:
            mirror.unpack([file for file in good if file.part])
        return Summary(len(good) - kept, kept, mirror.failures, *counts)


def list_files(
    parts: Iterable[str], archives: Mapping[str, int] = ARCHIVES, first: int | None = None
) -> list[RemoteFile]:
    """Returns the files of these parts, each once, the tables first."""
    tables, images = [], []
    for part in parts:
        if part in archives:
            tables += [table.path for table in _TABLES_OF[part]]
            for number in range(min(archives[part], first or archives[part])):
                name = f"images_{number:03d}"
                md5 = f"md5sum/{part}/md5.{name}.txt"
                images.append(RemoteFile(f"{part}/{name}.tar", part, md5))
        else:
            paths = (table.path for table in gldv2_tables.TABLES)
            tables += [path for path in paths if path.startswith(f"{part}/")]
    return [*map(RemoteFile, dict.fromkeys(tables)), *images]


def _check(
    output: str, parts: Sequence[str], base_url: str, first: int | None, workers: int
) -> None:
    if files.is_remote(output):
        raise ValueError(f"expected a folder on this machine. Received: {output}")
    if not base_url.startswith(("http://", "https://")):
        raise ValueError(f"expected an address of http or https. Received: {base_url}")
    if not parts or not set(parts) <= set(PARTS):
        raise ValueError(f"expected parts of {PARTS}. Received: {parts}")
    if workers < 1 or (first is not None and first < 1):
        raise ValueError(f"expected workers and first >= 1. Received: {workers}, {first}")


def _compare(
    mirror: Mirror, parts: Iterable[str], good: Sequence[RemoteFile], are_all: bool
) -> tuple[dict[str, int], dict[str, int]]:
    """Lists the differences between archives and tables; returns the counts of both kinds."""
    missing, unexpected = {}, {}
    for part in parts:
        paths = [mirror.path_of(file) for file in good if file.part == part]
        try:
            found = gldv2_check.compare(mirror.folder, part, paths, stream=mirror.stream)
        except (OSError, ValueError) as error:  # the table could not be had, or is another one
            mirror.failures.setdefault(gldv2.PARTS[part].path, str(error))
            continue
        unexpected[part] = len(found.unexpected)
        gldv2_check.save_unexpected(mirror.folder, part, found.unexpected)
        if are_all:
            missing[part] = len(found.missing)
            gldv2_check.save_missing(mirror.folder, part, found.missing)
    return missing, unexpected


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Downloads Google Landmarks v2.1 and checks that all of it is there.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--output", required=True, metavar="DIR", help="a folder on this machine")
    add("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help="default: all")
    add("--base-url", default=BASE_URL, metavar="URL", help=f"default: {BASE_URL}")
    add("--first", type=int, metavar="N", help="only the first N archives of each part")
    add("--unpack", action="store_true", help="also write every image to <part>/a/b/c/<id>.jpg")
    add("--workers", type=int, default=8, metavar="N", help="files at a time (default: 8)")
    add("--timeout", type=float, default=60, metavar="S", help="of a silent server (default: 60 s)")
    add("--attempts", type=int, default=6, metavar="N", help="failures in a row (default: 6)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    arguments = vars(_parser().parse_args(argv))
    try:
        summary = download(arguments.pop("output"), **arguments)
    except ValueError as error:
        print(f"download.py: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"download.py: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, StoppedError):
        print("download.py: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    print(summary)
    return summary.exit_code


if __name__ == "__main__":
    sys.exit(main())
