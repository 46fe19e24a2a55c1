"""The working file of a conversion: what it keeps, what survives a kill, what it costs."""

import os
import pathlib
import signal
import subprocess
import sys
import time
import tracemalloc

import pytest
from catalogues import inspect, make_catalogue, make_rows
from conftest import ROOT

from tfrecords_tools.conversion.catalogue import INSPECTED, LISTED, PLANNED, Catalogue
from tfrecords_tools.readers.tables import DUPLICATE_ID, Reject, Row


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "catalogue.sqlite3")


def numbers(catalogue):
    return [place[0] for batch in catalogue.uninspected() for place in batch]


def test_rows_come_back_in_their_order(path):
    rows = [Row("b", "1", "/b"), Reject("", "x", "no id"), Row("a", "", "/a.tar", False, 512, 99)]
    with Catalogue(path) as catalogue:
        assert catalogue.fact(LISTED) is None
        catalogue.fill(rows, seed=0)
        assert catalogue.fact(LISTED) == "yes"
        assert list(catalogue.uninspected()) == [[(1, "/b", 0, None), (3, "/a.tar", 512, 99)]]
        assert list(catalogue.rejects()) == [Reject("", "x", "no id")]


def test_every_further_row_of_an_id_is_rejected(path):
    rows = [Row(image_id, "1", f"/{number}") for number, image_id in enumerate("abacabb")]
    rows.insert(0, Reject("c", "/r", "no label"))  # a rejected row takes no id away
    with Catalogue(path) as catalogue:
        catalogue.fill(rows, seed=0)
        places = [place[1] for batch in catalogue.uninspected() for place in batch]
        assert places == ["/0", "/1", "/3"]
        assert list(catalogue.rejects()) == [
            Reject("a", "/2", DUPLICATE_ID),
            Reject("a", "/4", DUPLICATE_ID),
            Reject("b", "/5", DUPLICATE_ID),
            Reject("b", "/6", DUPLICATE_ID),
            Reject("c", "/r", "no label"),
        ]


def test_filling_again_forgets_what_was_there(path):
    with make_catalogue(make_rows([5]), path=path) as catalogue:
        catalogue.set_fact(INSPECTED, "yes")
        catalogue.add_shard("x", 1, 2, "00000000")
        catalogue.fill(make_rows([2]), seed=0)
        facts = [catalogue.fact(name) for name in (LISTED, INSPECTED, PLANNED)]
        assert facts == ["yes", None, None]
        assert numbers(catalogue) == [1, 2]
        assert (catalogue.shards(), catalogue.class_ids()) == ({}, ())


def test_a_stopped_listing_is_not_taken_for_a_whole_one(path):
    def rows():
        yield from make_rows([1500])
        raise OSError("the table ends here")

    with Catalogue(path) as catalogue, pytest.raises(OSError, match="ends here"):
        catalogue.fill(rows(), seed=0)
    with Catalogue(path) as catalogue:
        assert catalogue.fact(LISTED) is None
        catalogue.fill(make_rows([3]), seed=0)
        assert numbers(catalogue) == [1, 2, 3]


def test_only_what_is_left_is_inspected(path):
    with Catalogue(path) as catalogue:
        catalogue.fill(make_rows([2500]), seed=0)
        first, second, third = catalogue.uninspected()
        assert [len(first), len(second), len(third)] == [1000, 1000, 500]
        good = [(n, None, "png", 1, 1, "unchanged", 9, "f") for n, *_ in second]
        catalogue.add_inspections([*good, (1, "missing", *[None] * 6)])
    with Catalogue(path) as catalogue:
        assert numbers(catalogue) == [*range(2, 1001), *range(2001, 2501)]


def test_images_that_turn_out_bad_leave_their_shards_as_they_were_planned(path):
    with make_catalogue(make_rows([3, 3]), path=path) as catalogue:
        before = list(catalogue.planned_rows("train_clean"))
        lost = before[2]
        catalogue.reject([(lost["number"], "changed")])
        assert list(catalogue.planned_rows("train_clean")) == before
        assert catalogue.split_sizes() == {"train_clean": 6}
        assert catalogue.class_ids() == ("0", "1")
        assert sorted(catalogue.class_counts("train_clean")) == [2, 3]
        assert list(catalogue.rejects()) == [Reject(lost["id"], "/x.jpg", "changed")]


def test_labels_are_optional(path):
    rows = [Row("a", "", "/a"), Row("b", "7", "/b")]
    with make_catalogue(rows, split="index", path=path) as catalogue:
        labels = {row["id"]: row["label"] for row in catalogue.planned_rows("index")}
        assert labels == {"a": -1, "b": 0}


def test_any_text_is_kept(path):
    row = Row("zoë'\"%?", "a\nb; DROP TABLE images", "/ü \t.jpg")
    with make_catalogue([row], split="index", path=path) as catalogue:
        (found,) = catalogue.planned_rows("index")
        assert (found["id"], found["path"]) == (row.id, row.path)
        assert catalogue.class_ids() == (row.label,)


def test_one_command_at_a_time(path):
    with Catalogue(path), pytest.raises(RuntimeError, match="no other command at work") as raised:
        Catalogue(path)
    assert path in str(raised.value)
    Catalogue(path).close()


@pytest.mark.parametrize("data", [b"no database" * 100, b"SQLite format 3\0" + b"\xff" * 4000])
def test_a_damaged_file_is_made_anew(path, data):
    pathlib.Path(path).write_bytes(data)
    with Catalogue(path) as catalogue:
        assert catalogue.fact(LISTED) is None
        catalogue.fill(make_rows([1]), seed=0)
        assert numbers(catalogue) == [1]


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(OSError, match="unable to open"):
        Catalogue(str(tmp_path / "none" / "catalogue.sqlite3"))


def test_removal(path):
    make_catalogue(make_rows([1]), path=path).remove()
    assert os.listdir(os.path.dirname(path)) == []


_FILL = """
import sys
from catalogues import make_rows
from tfrecords_tools.conversion.catalogue import Catalogue
catalogue = Catalogue(sys.argv[1])
catalogue.fill(make_rows([20000]), 0)
print("listed", flush=True)
for batch in catalogue.uninspected():
    catalogue.add_inspections([(n, None, "jpeg", 1, 1, "unchanged", 9, "f") for n, *_ in batch])
    print(batch[-1][0], flush=True)
"""


def test_a_killed_command_loses_nothing_it_has_stored(path):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests"}
    command = [sys.executable, "-c", _FILL, path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout.readline() == b"listed\n"
        done = [int(process.stdout.readline()) for _ in range(5)][-1]
        process.send_signal(signal.SIGKILL)
    with Catalogue(path) as catalogue:
        left = numbers(catalogue)
        assert left == list(range(left[0], 20001))
        assert left[0] > done == 5000


def test_time_and_memory_of_many_rows(tmp_path):
    """20,000 rows: memory is that of the pages kept, far below that of the rows."""
    start = time.process_time()
    tracemalloc.start()
    catalogue = Catalogue(str(tmp_path / "c"))
    catalogue.fill((Row(f"{n:064x}", str(n % 50), "/" + "x" * 100) for n in range(20000)), 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    inspect(catalogue)
    catalogue.plan(None, "one-of-four")
    assert sum(1 for name in catalogue.split_sizes() for _ in catalogue.planned_rows(name)) == 20000
    assert time.process_time() - start < 8
    assert peak < 2e6  # the rows would take 9e6
    catalogue.close()
