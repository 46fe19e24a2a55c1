"""The sections of a job: its table of stages, durations and training curves."""

import pytest
from pages import job_rows, write_log

from eval.page import job, job_charts


def test_metrics_table_by_hand():
    lines = job.metrics_table(job_rows())
    assert [line.name for line in lines] == ["A stage 1", "A stage 2", "ensemble", "post-processed"]
    assert [line.starts_member for line in lines] == [True, False, True, False]
    shown = [[(cell.text, cell.gain, cell.best) for cell in line.cells] for line in lines]
    none, minus = "\N{EN DASH}", "\N{MINUS SIGN}"
    exact = [
        [("0.312", "", False), ("0.500", "", False), ("0.301", "", False)],
        [("0.343", "+0.031", False), ("0.480", f"{minus}0.020", False), (none, "", False)],
        [("0.402", "+0.059", False), ("0.500", "±0.000", False), ("0.401", "+0.100", True)],
        [("0.450", "+0.048", True), ("0.520", "+0.020", True), ("0.400", f"{minus}0.001", False)],
    ]
    scann = [
        [("0.311", "", False), ("0.499", "", False), ("0.300", "", False)],
        [("0.342", "+0.031", False), ("0.499", "±0.000", False), ("0.322", "+0.022", True)],
        [("0.400", "+0.058", True), ("0.612", "+0.113", True), ("0.322", "±0.000", True)],
        [(none, "", False)] * 3,
    ]
    assert shown == [left + right for left, right in zip(exact, scann, strict=True)]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (0.42, "0.4 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (75.2, "1 min 15 s"),
        (7300, "2 h 01 min"),
    ],
)
def test_duration(seconds, words):
    assert job.duration(seconds) == words


def test_log_without_its_cut_off_line(tmp_path):
    write_log(tmp_path / "stage-1" / "log.jsonl", 1, epochs=3)
    stage = job_charts.read_stage(str(tmp_path / "stage-1" / "log.jsonl"), 1, 64)
    assert [row["loss"] for row in stage.train] == pytest.approx([4, 2, 4 / 3])
    assert len(stage.validation) == 3
    assert stage.epochs == 3
    assert job_charts.Stage(1, None, [], []).epochs == 0


def test_charts_of_a_job_that_logged_nothing():
    empty = job_charts.Stage(1, None, [], [])
    assert job_charts.curves([empty], "loss", "loss", "salt").startswith("<svg")
    assert job_charts.progress({}, None, {}).startswith("<svg")
