"""Named columns of a table as text: CSV, Parquet and JSON-lines, in bounded memory.

The name of the file says what it is: `.parquet`; `.jsonl`, `.ndjson` and `.json` with one object
per line; everything else is CSV with a header line. The last two may be packed (`.gz`).
"""

import contextlib
import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import files
from files import open_binary

_JSON = (".jsonl", ".ndjson", ".json")
_BATCH = 4096  # rows of a Parquet file decoded at a time
_LONGEST_LINE = 1 << 24  # characters; a file of something else may have no line end at all
_BLOCK = 1 << 20  # bytes of a column of a Parquet file read at a time

_Cells = Iterator[tuple[str, ...]]


def column_names(path: str) -> list[str]:
    """Returns the names of the columns in their order.

    CSV and Parquet state them; JSON-lines are read to the end, as any line may have others.
    Raises FileNotFoundError without the file, ValueError if it is not what its name says.
    """
    _check_exists(path)
    if _is_parquet(path):
        with _parquet(path) as table:
            return list(table.schema_arrow.names)
    if _is_json(path):
        return list(dict.fromkeys(name for _, entry in _json_lines(path) for name in entry))
    return _header(_csv_lines(path))


def read_columns(path: str, names: Sequence[str | None]) -> _Cells:
    """Yields for each row the cells of the columns `names`, without white space around them.

    A name that is None gives "". So do an empty or missing cell, null and NaN. Numbers without
    fraction are written as integers, true and false in small letters. Empty lines are skipped.
    Raises FileNotFoundError without the file; ValueError, with the line, if a column is missing,
    if a cell holds a list or an object, or if the file is not what its name says.
    """
    _check_exists(path)
    if _is_parquet(path):
        return _read_parquet(path, names)
    return _read_json(path, names) if _is_json(path) else _read_csv(path, names)


def _read_csv(path: str, names: Sequence[str | None]) -> _Cells:
    lines = _csv_lines(path)
    header = _header(lines)
    _check_columns(path, header, names)
    positions = [None if name is None else header.index(name) for name in names]
    for number, line in lines:
        if len(line) > len(header) and any(map(str.strip, line[len(header) :])):
            raise ValueError(
                f"{path}, line {number}: expected the {len(header)} cells of the header, a comma "
                f"inside a cell in quotes. Received: {len(line)} cells"
            )
        if any(map(str.strip, line)):
            yield tuple(
                "" if position is None or position >= len(line) else line[position].strip()
                for position in positions
            )


def _header(lines: Iterator[tuple[int, list[str]]]) -> list[str]:
    return [name.strip() for name in next(lines, (0, []))[1]]


def _csv_lines(path: str) -> Iterator[tuple[int, list[str]]]:
    """Yields (number of the last line read, cells)."""
    with _text(path) as file:
        # Strict, as a quote that is never closed would swallow the rows behind it.
        reader = csv.reader(_lines(path, file), strict=True)
        try:
            for cells in reader:
                yield reader.line_num, cells
        except csv.Error as error:
            raise ValueError(
                f"{path}, after line {reader.line_num}: expected CSV in UTF-8. Received: {error}"
            ) from error


def _read_json(path: str, names: Sequence[str | None]) -> _Cells:
    _, first = next(_json_lines(path), (0, {}))
    if any(name is not None and name not in first for name in names):
        _check_columns(path, column_names(path), names)
    for number, entry in _json_lines(path):
        try:
            yield tuple("" if name is None else _as_text(entry.get(name), name) for name in names)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None


def _json_lines(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (number of the line, its object)."""
    with _text(path) as file:
        for number, line in enumerate(_lines(path, file), start=1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError) as error:
                entry = error
            if not isinstance(entry, dict):
                raise ValueError(
                    f"{path}, line {number}: expected one JSON object per line. "
                    f"Received: {line.strip()[:40]!r}"
                )
            yield number, entry


def _read_parquet(path: str, names: Sequence[str | None]) -> _Cells:
    with _parquet(path) as table:
        _check_columns(path, table.schema_arrow.names, names)
        wanted = list(dict.fromkeys(name for name in names if name is not None))
        row = 1
        for batch in table.iter_batches(_BATCH, columns=wanted):
            texts = {name: _texts(path, name, batch.column(name), row) for name in wanted}
            texts[None] = [""] * batch.num_rows
            yield from zip(*(texts[name] for name in names), strict=True)
            row += batch.num_rows


def _texts(path: str, name: str, column: Any, first_row: int) -> list[str]:
    texts = []
    for row, value in enumerate(column.to_pylist(), start=first_row):
        try:
            texts.append(_as_text(value, name))
        except ValueError as error:
            raise ValueError(f"{path}, row {row}: {error}") from None
    return texts


@contextlib.contextmanager
def _parquet(path: str) -> Iterator[Any]:
    import pyarrow
    from pyarrow import parquet

    with open_binary(path) as file:
        try:
            yield parquet.ParquetFile(file, buffer_size=_BLOCK)
        except (pyarrow.ArrowException, OSError) as error:
            message = " ".join(str(error).split())
            raise ValueError(f"{path}: expected a Parquet file. Received: {message}") from error


def _check_exists(path: str) -> None:
    if not files.exists(path):
        raise FileNotFoundError(f"expected a table. Received: {path}, which does not exist")
    try:
        files.size_of(path)
    except files.NotAFileError as error:
        raise ValueError(f"expected a file. Received: {path}, which is something else") from error


def _check_columns(path: str, present: Sequence[str], names: Sequence[str | None]) -> None:
    missing = [name for name in names if name is not None and name not in present]
    if missing:
        raise ValueError(f"{path}: expected the columns {missing}. Received: {list(present)}")
    for name in names:
        if present.count(name) > 1:
            raise ValueError(
                f"{path}: expected one column {name!r}. Received: {present.count(name)}"
            )


def _as_text(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value.strip()
    if value is None or value != value:  # NaN differs from itself
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # a column of integers that some rows lack
    if isinstance(value, bytes):
        try:
            return value.decode().strip()
        except UnicodeDecodeError:
            raise ValueError(
                f"expected text in the column {name!r}. Received: bytes that are not UTF-8"
            ) from None
    if isinstance(value, (list, dict)):
        raise ValueError(
            f"expected text or a number in the column {name!r}. Received: {str(value)[:40]}"
        )
    return str(value)


def _is_parquet(path: str) -> bool:
    return path.lower().endswith(".parquet")


def _is_json(path: str) -> bool:
    return path.lower().removesuffix(".gz").endswith(_JSON)


@contextlib.contextmanager
def _text(path: str) -> Iterator[io.TextIOWrapper]:
    """Opens a text file, packed or not; a byte order mark is skipped."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open_binary(path))
        if path.lower().endswith(".gz"):
            file = stack.enter_context(gzip.GzipFile(fileobj=file))
        text = stack.enter_context(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""))
        try:
            yield text
        except UnicodeDecodeError as error:
            kind = "JSON-lines" if _is_json(path) else "CSV"
            raise ValueError(
                f"{path}, after line {_good_lines(path)}: expected {kind} in UTF-8. "
                f"Received: {error}"
            ) from error
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: expected a gzip file. Received: {error}") from error


def _lines(path: str, file: io.TextIOBase) -> Iterator[str]:
    """Yields the lines of a file in bounded memory."""
    number = 0
    while line := file.readline(_LONGEST_LINE):
        number += 1
        if len(line) == _LONGEST_LINE and not line.endswith(("\r", "\n")):
            raise ValueError(
                f"{path}, line {number}: expected at most {_LONGEST_LINE} characters in a line. "
                f"Received: more"
            )
        yield line


def _good_lines(path: str) -> int:
    """Returns how many lines stand before the first that is not UTF-8."""
    number = 0
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open_binary(path))
        if path.lower().endswith(".gz"):
            file = stack.enter_context(gzip.GzipFile(fileobj=file))
        # A packed file may be damaged as well, just behind.
        with contextlib.suppress(UnicodeDecodeError, EOFError, OSError, zlib.error):
            while line := file.readline(_LONGEST_LINE):
                line.decode()
                number += 1
    return number
