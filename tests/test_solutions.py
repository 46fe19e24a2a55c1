"""Readers of solutions and predictions, and the arrays that they make at full size."""

import csv
import dataclasses

import numpy as np
import pytest

from eval import coded, solutions
from eval.metrics import Prediction, judge
from retrieval.search import Answers


def random_retrieval(rng, queries):
    """Rankings with repeated images, of any length, some queries ignored or unanswered."""
    images = [f"i{n}" for n in range(40)]
    solution = {f"q{n}": set(rng.choice(images, rng.integers(0, 9))) for n in range(queries)}
    predictions = {
        query: rng.choice(images, rng.integers(0, 30)).tolist()
        for query in solution
        if rng.random() < 0.9
    }
    return predictions, solution


def test_readers_of_retrieval_files(tmp_path):
    path = tmp_path / "solution.csv"
    path.write_text("\ufeffid,images,Usage\nq1,a b,Public\nq2,None,Ignored\nq3,,Private\n\n")
    read = solutions.read_retrieval_solution(str(path))
    assert read == {"q1": {"a", "b"}, "q2": set(), "q3": set()}
    path.write_text("id,images\nq1,b a b\nq2,\n")
    assert solutions.read_retrieval_predictions(str(path)) == {"q1": ["b", "a", "b"], "q2": []}


def test_readers_of_recognition_files(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("id,landmarks,Usage\nq1,7 12,Public\nq2,,Private\nq3,5,Ignored\n")
    read = solutions.read_recognition_solution(str(path))
    assert read == {"q1": {"7", "12"}, "q2": set(), "q3": set()}
    path.write_text("id,landmarks\nq1,7 0.5\nq2,\n")
    assert solutions.read_recognition_predictions(str(path)) == {"q1": Prediction("7", 0.5)}
    path.write_text("name,path,landmark_id\nx,a.jpg,7\n")
    read = solutions.read_labels(str(path), id_column="name", label_column="landmark_id")
    assert read == {"x": "7"}


def test_a_very_long_row_is_read_and_the_limit_restored(tmp_path):
    before = csv.field_size_limit()
    path = tmp_path / "solution.csv"
    path.write_text("id,images,Usage\nq," + " ".join(f"{n:016x}" for n in range(20_000)) + ",P\n")
    assert len(solutions.read_retrieval_solution(str(path))["q"]) == 20_000
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "columns id, images .*Received: nothing"),
        ("id,landmarks\n", "Received: id, landmarks"),
        ("id,images\n", "at least one row .*Received: a header alone"),
        ("id,images,id\nq,a,b\n", "one column 'id' .*Received: 2"),
        ("id,images\nq,a\nq,b\n", "line 3 .*Received: 'q'"),
        ("id,images\n,a\n", "line 2 .*Received: ''"),
        ("id,images\nq,a,b\n", "expected 2 fields in line 2 .*Received: 3"),
        ("id,images\np,a\nq", "expected 2 fields in line 3 .*Received: 1"),
        ('id,images\np,a\nq,"a\n', "line 3 .*unexpected end of data"),
        (b"id,images\np,a\n\xff,a\n", "UTF-8 .*can't decode byte 0xff"),
    ],
)
def test_readers_refuse_bad_tables(tmp_path, text, message):
    path = tmp_path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    truths = coded.truths_of({"p": {"a"}, "q": {"a"}, "": {"a"}})
    readers = (
        solutions.read_retrieval_predictions,
        solutions.read_retrieval_solution,
        coded.read_truths,
        lambda path: coded.read_rankings(path, truths, 5),
    )
    for read in readers:
        with pytest.raises(ValueError, match=f"(?s){message}") as error:
            read(str(path))
        assert str(path) in str(error.value)


def test_unknown_ids_are_named_with_file_and_line(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,images\nq1,a b\nx,a\ny,c\n")
    expected = r"queries of the solution in .*t\.csv\. Received: 2 others, first 'x' in line 3"
    with pytest.raises(ValueError, match=expected):
        solutions.read_retrieval_predictions(str(path), queries={"q1"})
    with pytest.raises(ValueError, match=expected):
        coded.read_rankings(str(path), coded.truths_of({"q1": {"a"}}), 5)
    with pytest.raises(ValueError, match=r"images of the index in .*1 others, first 'c' in line 4"):
        solutions.read_retrieval_predictions(str(path), images={"a", "b"})
    path.write_text("id,landmarks\nq1,7 0.5\nx,\n")
    with pytest.raises(ValueError, match="1 others, first 'x' in line 3"):
        solutions.read_recognition_predictions(str(path), queries={"q1"})


@pytest.mark.parametrize("answer", ["7", "7 high", "7 0.5 8", "7 nan", "7 -inf"])
def test_readers_refuse_bad_answers(tmp_path, answer):
    (tmp_path / "t.csv").write_text(f"id,landmarks\nq,{answer}\n")
    with pytest.raises(ValueError, match=f"line 2 .*Received: '{answer}' for 'q'"):
        solutions.read_recognition_predictions(str(tmp_path / "t.csv"))


def test_recognition_predictions_are_read_back_the_same(tmp_path):
    scores = [0.1 + 0.2, 1e-300, float(np.float32(0.7)), -3.0]
    predictions = {f"q{n}": Prediction(str(n), score) for n, score in enumerate(scores)}
    path = str(tmp_path / "p.csv")
    solutions.write_recognition_predictions(path, predictions)
    assert solutions.read_recognition_predictions(path) == predictions


def same(first, second):
    assert first.queries == second.queries
    assert np.array_equal(first.relevant, second.relevant)
    assert np.array_equal(first.positives, second.positives)
    assert (first.ignored, first.unanswered) == (second.ignored, second.unanswered)


@pytest.mark.parametrize("block", [100, 2**20])
@pytest.mark.parametrize("table", [1, 8, 4096])
def test_arrays_give_the_same_as_dictionaries(tmp_path, monkeypatch, block, table):
    # Small pieces of the file, few queries at a time, and tables in which numbers share an entry.
    monkeypatch.setattr(coded, "_BLOCK", block)
    monkeypatch.setattr("eval.relevance._BLOCK", table + 2)
    monkeypatch.setattr("eval.relevance._TABLE", table)
    predictions, solution = random_retrieval(np.random.default_rng(block + table), 40)
    expected = judge(predictions, solution, depth=20)
    truths = coded.truths_of(solution)
    same(coded.judge(truths, coded.rankings_of(predictions, truths, 20)), expected)
    write(tmp_path / "p.csv", "id,images", {q: " ".join(i) for q, i in predictions.items()})
    write(tmp_path / "s.csv", "id,images", {q: " ".join(i) for q, i in solution.items()})
    truths = coded.read_truths(str(tmp_path / "s.csv"))
    same(coded.judge(truths, coded.read_rankings(str(tmp_path / "p.csv"), truths, 20)), expected)


def write(path, header, rows):
    path.write_text("".join([header + "\n", *(f"{key},{row}\n" for key, row in rows.items())]))


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffid,images,Usage\nq1,a b,Public\nq2,None,Ignored\nq3,,Private\n\nq4,a a c,Ignored\n",
        "Usage,images,more,id\r\nPublic,b  a b ,x,q1\r\n,None,,q2\r\n,,,q3\r\nIgnored,x,,q4\r\n",
        '"id","images"\n"q1","a b"\nq2, None\nq3,""\nq4,',
        'id,images,x\nq1,b a,"two\nlines"\nq2,None,\nq3,,\nq4,,\n',
    ],
)
def test_unusual_solutions_are_read_the_same(tmp_path, text):
    path = tmp_path / "s.csv"
    path.write_text(text, newline="")
    solution = solutions.read_retrieval_solution(str(path))
    assert solution == {"q1": {"a", "b"}, "q2": set(), "q3": set(), "q4": set()}
    truths = coded.read_truths(str(path))
    predictions = {"q1": ["b", "z", "b", "a"], "q4": ["a"]}
    expected = judge(predictions, solution, depth=4)
    same(coded.judge(truths, coded.rankings_of(predictions, truths, 4)), expected)
    assert expected.relevant.tolist() == [[True, False, False, True]]


def test_a_search_of_another_index_is_refused():
    truths = coded.truths_of({"q": {"a", "b"}})
    answers = Answers(("q",), ("c", "a"), np.array([[1, 0]]), np.zeros((1, 2), np.float32), "exact")
    rankings = coded.rankings_of_answers(answers, truths, 3)
    assert coded.judge(truths, rankings).relevant.tolist() == [[True, False, False]]
    assert coded.not_in_index(answers.index_ids, truths) == 1
    others = dataclasses.replace(answers, index_ids=("c", "d"))
    with pytest.raises(ValueError, match=r"Received: none of 2.*'c'"):
        coded.rankings_of_answers(others, truths, 3)


def test_labels_without_white_space(tmp_path):
    (tmp_path / "t.csv").write_text("id,label\nx,Big Ben\n")
    with pytest.raises(ValueError, match=r"line 2 .*Received: 'Big Ben' for 'x'"):
        solutions.read_labels(str(tmp_path / "t.csv"))
