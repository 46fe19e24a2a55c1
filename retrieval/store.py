"""Embeddings directories from the command line: `python retrieval/store.py COMMAND ...`.

    import    makes one of a .npy, .npz, .parquet or .h5 file of another tool
    info      says what is in it
    verify    reads everything and names the rows that are wrong
    convert   stores it as float32, float16, bfloat16 or int8, and says what that loses
    append    adds images to it
    merge     puts several into one
    join      makes one of the members of an ensemble
    export    writes a float32 .npy and a text file of ids

What is replaced is replaced as a whole, at the end: an interrupted command changes nothing.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
from collections.abc import Callable

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

from retrieval import embeddings, ensemble
from retrieval.stored import formats, operations, precision, verification
from retrieval.stored.unique_ids import few

_Options = argparse.Namespace


def summary(manifest: dict) -> str:
    """Returns one line: how many vectors, in which dtype, and what was lost."""
    loss = precision.Loss.from_manifest(manifest).to_manifest()
    text = (
        f"{manifest['count']:,} vectors of {manifest['dimension']} dimensions, {manifest['dtype']}"
    )
    if loss["max_cosine_error"]:
        text += (
            f", cosine error against float32 at most {loss['max_cosine_error']:.2g}, "
            f"mean {loss['mean_cosine_error']:.2g}"
        )
    return text


def _import(options: _Options) -> int:
    source = _open(options.file, options)
    manifest = operations.import_file(
        source, options.output, model=options.model, dtype=options.dtype, stream=sys.stderr
    )
    print(f"{options.output}: {summary(manifest)}")
    return 0


def _info(options: _Options) -> int:
    for directory in options.directories:
        store = embeddings.load(directory)
        size = sum(entry.stat().st_size for entry in pathlib.Path(directory).iterdir())
        print(f"{directory}: {summary(store.manifest)}, {size / 1e6:.1f} MB")
        print(f"  model    {store.manifest['model_digest']}")
        print(f"  source   {store.manifest['source']}")
        print(f"  ids      {few(store.ids, 3)}")
        print(f"  version  {store.manifest['version']}")
    return 0


def _verify(options: _Options) -> int:
    wrong = 0
    for directory in options.directories:
        found = verification.verify(directory, stream=sys.stderr)
        wrong += bool(found.problems)
        print(f"{directory}: {found.rows:,} rows read, {len(found.problems) or 'no'} problems")
        for problem in found.problems:
            print(f"  {problem}")
    return 1 if wrong else 0


def _convert(options: _Options) -> int:
    manifest = operations.convert(
        options.directory, options.output, options.dtype, stream=sys.stderr
    )
    print(f"{options.output}: {summary(manifest)}")
    return 0


def _append(options: _Options) -> int:
    sources = [name if os.path.isdir(name) else _open(name, options) for name in options.sources]
    manifest = operations.append(options.directory, sources, stream=sys.stderr)
    print(f"{options.directory}: {summary(manifest)}")
    return 0


def _merge(options: _Options) -> int:
    merged = operations.merge(
        options.directories,
        options.output,
        duplicates=options.duplicates,
        dtype=options.dtype,
        stream=sys.stderr,
    )
    if merged.duplicates:
        print(f"{len(merged.duplicates):,} ids in several: {few(merged.duplicates)}")
    print(f"{options.output}: {summary(merged.manifest)}")
    return 0


def _join(options: _Options) -> int:
    members = [embeddings.load(directory) for directory in options.directories]
    if report := ensemble.align(members).report():
        print(report, file=sys.stderr)
    manifest = operations.write_joined(
        members,
        options.output,
        weights=options.weights,
        combine=options.combine,
        missing=options.missing,
        dtype=options.dtype,
        stream=sys.stderr,
    )
    print(f"{options.output}: {summary(manifest)}")
    return 0


def _export(options: _Options) -> int:
    names = operations.export_npy(options.directory, options.output, stream=sys.stderr)
    print(f"{options.output}, {names}")
    return 0


def _open(path: str, options: _Options) -> formats.Source:
    return formats.open_source(
        path, ids=options.ids, vectors_name=options.vectors, id_name=options.id_name
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python retrieval/store.py", description="Embeddings directories."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[_Options], int], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text.capitalize() + ".")
        command.set_defaults(run=run)
        return command

    command = add("import", _import, "makes a directory of a file of another tool")
    command.add_argument("file", metavar="FILE", help=".npy, .npz, .parquet, .h5 or .hdf5")
    _add_output(command)
    command.add_argument(
        "--model", required=True, metavar="NAME", help="what made them; queries need the same"
    )
    _add_names(command)
    _add_dtype(command, "float32")
    for name, run, text in (
        ("info", _info, "says what is in a directory"),
        ("verify", _verify, "reads everything and names the rows that are wrong"),
    ):
        command = add(name, run, text)
        command.add_argument("directories", nargs="+", metavar="DIR")
    command = add("convert", _convert, "stores a directory in another dtype")
    command.add_argument("directory", metavar="DIR")
    _add_output(command)
    _add_dtype(command, "float16")
    command = add("append", _append, "adds images to a directory")
    command.add_argument("directory", metavar="DIR")
    command.add_argument("sources", nargs="+", metavar="FROM", help="directories, or files")
    _add_names(command)
    _add_combining(add)
    command = add("export", _export, "writes a float32 .npy and a text file of ids")
    command.add_argument("directory", metavar="DIR")
    command.add_argument("output", metavar="NPY")
    return parser


def _add_combining(add: Callable) -> None:
    command = add("merge", _merge, "puts several directories by one model into one")
    command.add_argument("directories", nargs="+", metavar="DIR")
    command.add_argument("--output", required=True, metavar="DIR")
    command.add_argument(
        "--duplicates",
        choices=operations.DUPLICATES,
        default="error",
        help="what to do with an id that several have (default: %(default)s)",
    )
    _add_dtype(command, None)
    command = add("join", _join, "makes one directory of the members of an ensemble")
    command.add_argument("directories", nargs="+", metavar="DIR")
    command.add_argument("--output", required=True, metavar="DIR")
    command.add_argument("--weights", nargs="+", type=float, metavar="W", help="default: all 1")
    command.add_argument("--combine", choices=ensemble.COMBINATIONS, default="concatenate")
    command.add_argument(
        "--missing",
        choices=ensemble.MISSING,
        default="error",
        help="what to do about ids that a member lacks (default: %(default)s)",
    )
    _add_dtype(command, "float32")


def _add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument("output", metavar="OUTPUT", help="the directory to write")


def _add_dtype(command: argparse.ArgumentParser, default: str | None) -> None:
    words = default or "the first directory's"
    command.add_argument(
        "--dtype", choices=precision.DTYPES, default=default, help=f"default: {words}"
    )


def _add_names(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--ids", metavar="FILE", help="ids, where the file has none: text or table"
    )
    command.add_argument(
        "--id-name", default="id", metavar="NAME", help="array or column of the ids (default: id)"
    )
    command.add_argument(
        "--vectors", metavar="NAME", help="array or column of the vectors, if there are several"
    )


def main(argv: list[str] | None = None) -> int:
    """Runs the command line."""
    options = _parser().parse_args(argv)
    try:
        return options.run(options)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
