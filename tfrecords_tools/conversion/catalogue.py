"""The rows of a conversion in an SQLite file: memory stays flat at four million images.

What a stopped run has found out is in here, so that the same command goes on from there.
"""

import contextlib
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence

from tfrecords_tools.conversion import split
from tfrecords_tools.readers.tables import DUPLICATE_ID, Reject, Row

CATALOGUE_NAME = "catalogue.sqlite3"
LISTED, INSPECTED, PLANNED = "listed", "inspected", "planned"

_CACHE = 16 * 2**10  # KiB, of pages that SQLite keeps in memory; more was not faster
_BATCH = 1000  # rows per statement

_TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE images (
    number INTEGER PRIMARY KEY,     -- the order of the sources
    id TEXT, class TEXT, path TEXT, clean INTEGER, offset INTEGER, size INTEGER,
    shuffle BLOB, choice BLOB,      -- seeded hashes of the id
    reason TEXT,                    -- why the row is left out
    format TEXT, width INTEGER, height INTEGER, change TEXT, bytes INTEGER, fingerprint TEXT,
    digest TEXT,                    -- of all bytes, where size and fingerprint are not unique
    split TEXT
);
CREATE TABLE classes (class TEXT PRIMARY KEY, label INTEGER);
CREATE TABLE shards (name TEXT PRIMARY KEY, images INTEGER, bytes INTEGER, crc32c TEXT);
"""
_VERSION = zlib.crc32(_TABLES.encode()) & 0x7FFFFFFF  # that SQLite keeps in the file's header


class Catalogue:
    """The images of one conversion.

    Args:
        path: of the SQLite file; it is made if it is not there.

    Raises RuntimeError if another command has it open, OSError if it cannot be written.
    """

    def __init__(self, path: str):
        self.path = path
        try:
            self._database = sqlite3.connect(path, isolation_level=None, timeout=0.1)
        except sqlite3.OperationalError as error:
            raise OSError(f"{path}: {error}") from error
        try:
            self._open()
        except sqlite3.OperationalError as error:
            self.close()
            if "locked" not in str(error):
                raise OSError(f"{path}: {error}") from error
            raise RuntimeError(
                f"expected no other command at work on this folder. Received: {path}: {error}"
            ) from error
        except sqlite3.DatabaseError:  # damaged by a power cut
            self.remove()
            self.__init__(path)

    def _open(self) -> None:
        self._ask(f"PRAGMA cache_size=-{_CACHE}")
        self._ask("PRAGMA locking_mode=EXCLUSIVE")
        # A power cut may cost this file, which is made anew then; a killed process costs nothing.
        self._ask("PRAGMA synchronous=OFF")
        self._ask("PRAGMA journal_mode=TRUNCATE")
        self._ask("BEGIN EXCLUSIVE")
        self._ask("COMMIT")
        if self.value("PRAGMA quick_check(1)") != "ok":
            raise sqlite3.DatabaseError("damaged")

    def close(self) -> None:
        """Closes the file; what is not committed is lost."""
        self._database.close()

    def __enter__(self) -> "Catalogue":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def remove(self) -> None:
        """Closes and removes the file."""
        self.close()
        for path in (self.path, self.path + "-journal"):
            if os.path.exists(path):
                os.remove(path)

    # Facts: the request and how far it has come.

    def fact(self, name: str) -> str | None:
        """Returns a fact, None if it is not known."""
        if self.value("PRAGMA user_version") != _VERSION:  # empty, or left by another version
            return None
        row = self._ask("SELECT value FROM facts WHERE name = ?", name).fetchone()
        return row[0] if row else None

    def set_fact(self, name: str, value: str) -> None:
        """Stores a fact."""
        self._ask("INSERT OR REPLACE INTO facts VALUES (?, ?)", name, value)

    # Listing.

    def fill(self, rows: Iterable[Row | Reject], seed: int) -> None:
        """Takes in all rows, in place of what was there; a repeated id is rejected."""
        for (name,) in self._ask("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            self._ask(f"DROP TABLE {name}")
        self._database.executescript(_TABLES)
        self._ask(f"PRAGMA user_version={_VERSION}")
        with self._transaction():
            self._database.executemany(
                "INSERT INTO images (id, class, path, clean, offset, size, shuffle, choice, reason)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (_values(row, seed) for row in rows),
            )
            self._ask("CREATE INDEX by_id ON images (id)")
            # Few, as a rule: without it they are looked for among all.
            self._ask("CREATE INDEX rejected ON images (id, number) WHERE reason IS NOT NULL")
            self._ask(
                "UPDATE images SET reason = ? FROM (SELECT number AS other, row_number() OVER "
                "(PARTITION BY id ORDER BY number) AS place FROM images WHERE reason IS NULL) "
                "WHERE number = other AND place > 1",
                DUPLICATE_ID,
            )
            self.set_fact(LISTED, "yes")

    # Inspection.

    def uninspected(self) -> Iterator[list[tuple]]:
        """Yields batches of (number, path, offset, size) that are still to be inspected."""
        last = -1
        while batch := self._ask(
            "SELECT number, path, offset, size FROM images WHERE number > ? AND reason IS NULL "
            "AND bytes IS NULL ORDER BY number LIMIT ?", last, _BATCH,
        ).fetchall():  # fmt: skip
            last = batch[-1][0]
            yield batch

    def add_inspections(self, results: Iterable[Sequence]) -> None:
        """Stores (number, reason, format, width, height, change, bytes, fingerprint)."""
        self.change_many(
            "UPDATE images SET reason = ?2, format = ?3, width = ?4, height = ?5, change = ?6, "
            "bytes = ?7, fingerprint = ?8 WHERE number = ?1",
            results,
        )

    def reject(self, rejects: Iterable[Sequence]) -> None:
        """Stores (number, reason) of rows that turned out unusable."""
        self.change_many("UPDATE images SET reason = ?2 WHERE number = ?1", rejects)

    # Plan.

    def plan(self, one_split: str | None, validation: str) -> None:
        """Chooses labels and the split of every usable row."""
        with self._transaction():
            classes = self._ask(
                "SELECT DISTINCT class FROM images WHERE reason IS NULL AND class != ''"
            )
            ordered = split.sort_class_ids(class_id for (class_id,) in classes)
            self._ask("DELETE FROM classes")
            self._database.executemany(
                "INSERT INTO classes VALUES (?, ?)",
                ((class_id, label) for label, class_id in enumerate(ordered)),
            )
            for statement, values in split.statements(one_split, validation):
                self._ask(statement, *values)
            self._ask("CREATE INDEX IF NOT EXISTS by_split ON images (split, shuffle, id)")
            self.set_fact(PLANNED, "yes")

    def split_sizes(self) -> dict[str, int]:
        """Returns the planned number of images per split, empty ones left out."""
        counts = dict(
            self._ask("SELECT split, count(*) FROM images WHERE split IS NOT NULL GROUP BY split")
        )
        return {name: counts[name] for name in split.in_order(counts)}

    def planned_rows(self, name: str) -> Iterator[dict]:
        """Yields what the rows of a split need to become records, in the order of the records."""
        return self._dictionaries(
            "SELECT number, id, path, offset, size, clean, format, width, height, change, bytes, "
            "fingerprint, coalesce(label, -1) AS label FROM images LEFT JOIN classes USING (class) "
            "WHERE split = ? ORDER BY shuffle, id",
            name,
        )

    def class_counts(self, name: str) -> tuple[int, ...]:
        """Returns the usable images per label in a split."""
        rows = self._ask(
            "SELECT coalesce(members, 0) FROM classes LEFT JOIN (SELECT class, count(*) AS members "
            "FROM images WHERE split = ? AND reason IS NULL GROUP BY class) USING (class) "
            "ORDER BY label",
            name,
        )
        return tuple(count for (count,) in rows)

    def class_ids(self) -> tuple[str, ...]:
        """Returns the original label ids, in the order of their labels."""
        return tuple(name for (name,) in self._ask("SELECT class FROM classes ORDER BY label"))

    def rejects(self) -> Iterator[Reject]:
        """Yields the rows that are left out, in the order of their ids."""
        for values in self._ask(
            "SELECT id, path, reason FROM images WHERE reason IS NOT NULL ORDER BY id, number"
        ):
            yield Reject(*values)

    # Shards.

    def add_shard(self, name: str, images: int, size: int, crc32c: str) -> None:
        """Stores a finished shard."""
        self._ask("INSERT OR REPLACE INTO shards VALUES (?, ?, ?, ?)", name, images, size, crc32c)

    def shards(self) -> dict[str, tuple]:
        """Returns {name: (images, bytes, crc32c)} of the shards that are finished."""
        return {name: values for name, *values in self._ask("SELECT * FROM shards")}

    # Questions and changes of `copies` and `findings`.

    def value(self, question: str, *values):
        """Returns the one value that answers an SQL question."""
        return self._ask(question, *values).fetchone()[0]

    def ask(self, question: str, *values) -> Iterator[tuple]:
        """Yields the rows that answer an SQL question."""
        yield from self._ask(question, *values)

    def batches(self, question: str, size: int) -> Iterator[list[tuple]]:
        """Yields the rows that answer an SQL question, `size` at a time."""
        cursor = self._ask(question)
        while batch := cursor.fetchmany(size):
            yield batch

    def change(self, statement: str, *values) -> None:
        """Carries one SQL statement out."""
        self._ask(statement, *values)

    def change_many(self, statement: str, rows: Iterable[Sequence]) -> None:
        """Carries one SQL statement out for each row of values, all or none."""
        with self._transaction():
            self._database.executemany(statement, rows)

    def _dictionaries(self, question: str, *values) -> Iterator[dict]:
        cursor = self._ask(question, *values)
        names = [column[0] for column in cursor.description]
        for row in cursor:
            yield dict(zip(names, row, strict=True))

    def _ask(self, statement: str, *values) -> sqlite3.Cursor:
        return self._database.execute(statement, values)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._ask("BEGIN")
        try:
            yield
        except BaseException:
            self._ask("ROLLBACK")
            raise
        self._ask("COMMIT")


def _values(row: Row | Reject, seed: int) -> tuple:
    if isinstance(row, Reject):
        return (row.id, "", row.path, None, None, None, None, None, row.reason)
    ranks = [split.rank(row.id, seed, purpose) for purpose in ("shuffle", "validation")]
    return (row.id, row.label, row.path, int(row.is_clean), row.offset, row.size, *ranks, None)
