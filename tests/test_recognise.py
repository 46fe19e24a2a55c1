"""The published recognition rule from directories to a submission file, and its score."""

import numpy as np
import pytest

from eval import gap
from retrieval import recognise
from retrieval.embeddings import EmbeddingsWriter

# Member 1 in the plane, all by angle: similarities are cosines of differences.
TRAIN = {"t1": "7", "t2": "7", "t3": "12", "t4": "9"}
QUERIES = ("q1", "q2")


def write(folder, ids, vectors, digest):
    vectors = np.float32(vectors)
    with EmbeddingsWriter(
        str(folder), vectors.shape[1], model_digest=digest, source="test", count=len(ids)
    ) as writer:
        writer.append(list(ids), vectors)
    return str(folder)


@pytest.fixture
def by_hand(tmp_path):
    """Two members in the plane; the second has the training images in another order.

    Member 1: t1 (1, 0), t2 (.8, .6), t3 (0, 1), t4 (.6, -.8); non-landmarks (0, 1) and (0, -1).
    B = mean over both of the similarities cut at 0: 0, .3, .5, .4.
    q1 (1, 0): A = 1, .8, 0, .6; A - B = 1, .5, -.5, .2: t1, t2, t4. C = 0.
    q2 (0, 1): A = 0, .6, 1, 0; A - B = 0, .3, .5, -.4: t3, t2, t1. C = .5.
    Member 2: t1 (0, 1), t2 (0, 1), t3 (1, 0), t4 (1, 0); non-landmark (1, 0). B = 0, 0, 1, 1.
    q1 (.6, .8): A = .8, .8, .6, .6; A - B = .8, .8, -.4, -.4: t1, t2, t3. C = .6.
    q2 (0, 1): A = 1, 1, 0, 0; A - B = 1, 1, -1, -1: t1, t2, t3. C = 0.
    q1: "7" has 1 + .5 + .8 + .8 = 3.1, minus mean C = .3: 2.8.
    q2: "7" has .3 + 0 + 1 + 1 = 2.3, "12" .5 - 1; minus mean C = .25: 2.05.
    """
    first, second = ["t1", "t2", "t3", "t4"], ["t4", "t3", "t2", "t1"]
    sets = {
        "train": [
            (first, [(1, 0), (0.8, 0.6), (0, 1), (0.6, -0.8)]),
            (second, [(1, 0), (1, 0), (0, 1), (0, 1)]),
        ],
        "query": [(QUERIES, [(1, 0), (0, 1)]), (QUERIES, [(0.6, 0.8), (0, 1)])],
        "non": [(["n1", "n2"], [(0, 1), (0, -1)]), (["n3"], [(1, 0)])],
    }
    folders = {
        name: [
            write(tmp_path / f"{name}{number}", ids, vectors, f"model{number}")
            for number, (ids, vectors) in enumerate(members)
        ]
        for name, members in sets.items()
    }
    labels = tmp_path / "labels.csv"
    labels.write_text("id,label\n" + "".join(f"{i},{label}\n" for i, label in TRAIN.items()))
    return folders, str(labels)


def test_published_rule_by_hand_and_the_submission(by_hand, tmp_path, capsys):
    folders, labels = by_hand
    output = tmp_path / "out" / "submission.csv"
    argv = ["--train", *folders["train"], "--query", *folders["query"], "--labels", labels]
    argv += ["--non-landmarks", *folders["non"], "--output", str(output)]
    assert recognise.main(argv) == 0
    assert "2 queries, 2 with a label" in capsys.readouterr().out
    rows = [line.split(",") for line in output.read_text().splitlines()]
    assert rows[0] == ["id", "landmarks"]
    assert [(query, answer.split()[0]) for query, answer in rows[1:]] == [("q1", "7"), ("q2", "7")]
    scores = [float(answer.split()[1]) for _, answer in rows[1:]]
    np.testing.assert_allclose(scores, [2.8, 2.05], atol=1e-6)
    # q1 is right and q2 shows no landmark: GAP 1 as q1 is the surer one; as a label, 1/2.
    solution = tmp_path / "solution.csv"
    solution.write_text("id,landmarks\nq1,7\nq2,\n")
    scored = gap.evaluate(solution=str(solution), predictions=str(output))
    assert (scored["gap"], scored["top_1"]) == (1.0, 1.0)
    direct = gap.evaluate(
        solution=str(solution),
        index=folders["train"],
        query=folders["query"],
        non_landmarks=folders["non"],
        labels=labels,
    )
    assert direct["gap"] == scored["gap"]
    assert recognise.main([*argv, "--threshold", "2.5"]) == 0
    assert output.read_text().splitlines()[2] == "q2,"


def test_without_non_landmarks_nothing_is_marked_down(by_hand):
    """q1: t1 1, t2 .8, t4 .6 and t1 .8, t2 .8, t3 .6 (or t4): "7" has 3.4."""
    folders, labels = by_hand
    table = recognise.read_labels(labels, "id", "label")
    found = recognise.recognise(folders["train"], folders["query"], table)
    assert found.labels == ("7", "7")
    np.testing.assert_allclose(found.scores, [3.4, 0.6 + 2], atol=1e-6)


def oracle(members, classes, top, of_train, of_query):
    """Loops over images that follow the description; members are (queries, train, others)."""
    answers = []
    for i in range(len(members[0][0])):
        sums, penalty = {}, 0.0
        for queries, train, others in members:
            scored = []
            for j, row in enumerate(train):
                likes = sorted((min(max(row @ other, 0), 1) for other in others), reverse=True)
                penalty_of_row = np.mean(likes[:of_train])
                scored.append((min(max(row @ queries[i], 0), 1) - penalty_of_row, j))
            for score, j in sorted(scored, key=lambda pair: (-pair[0], pair[1]))[:top]:
                sums[classes[j]] = sums.get(classes[j], 0.0) + score
            likes = sorted((min(max(queries[i] @ other, 0), 1) for other in others), reverse=True)
            penalty += np.mean(likes[:of_query]) / len(members)
        best = min(sums, key=lambda label: (-sums[label], int(label)))
        answers.append((best, sums[best] - penalty))
    return answers


def test_against_slow_loops_over_shuffled_members(tmp_path):
    rng = np.random.default_rng(3)
    classes = [str(label) for label in rng.integers(100, 106, size=30)]
    train_ids = [f"t{j}" for j in range(30)]
    members, folders = [], {"train": [], "query": [], "non": []}
    for number in range(3):
        parts = {}
        for name, count in (("query", 12), ("train", 30), ("non", 15)):
            vectors = rng.normal(size=(count, 5)) + 0.5
            parts[name] = np.float32(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        members.append((parts["query"], parts["train"], parts["non"]))
        for name, part in parts.items():
            ids = train_ids if name == "train" else [f"{name}{row}" for row in range(len(part))]
            order = rng.permutation(len(part)) if number else np.arange(len(part))
            folder = tmp_path / f"{name}{number}"
            shuffled = [ids[row] for row in order]
            folders[name].append(write(folder, shuffled, part[order], f"model{number}"))
    found = recognise.recognise(
        folders["train"],
        folders["query"],
        dict(zip(train_ids, classes, strict=True)),
        non_landmarks=folders["non"],
        top=4,
        train_neighbours=3,
        query_neighbours=6,
    )
    expected = oracle(members, classes, top=4, of_train=3, of_query=6)
    assert list(found.labels) == [label for label, _ in expected]
    np.testing.assert_allclose(found.scores, [score for _, score in expected], atol=1e-5)


def test_errors(by_hand, tmp_path, capsys):
    folders, labels = by_hand
    good = {"--train": folders["train"], "--query": folders["query"], "--labels": [labels]}
    good["--output"] = [str(tmp_path / "o.csv")]

    def run(**changed):
        options = good | {f"--{name.replace('_', '-')}": value for name, value in changed.items()}
        argv = [word for name, words in options.items() for word in (name, *words)]
        return recognise.main(argv), capsys.readouterr().err

    code, error = run(query=folders["query"][:1])
    assert code == 1
    assert "expected query embeddings of every member. Received: 1 directories for 2" in error
    code, error = run(query=folders["query"][::-1])
    assert code == 1
    assert "same model" in error
    few = tmp_path / "few.csv"
    few.write_text("id,label\nt1,7\nt2,two words\n")
    code, error = run(labels=[str(few)])
    assert code == 1
    assert "without white space. Received: 'two words'" in error
    few.write_text("id,label\nt1,7\n")
    code, error = run(labels=[str(few)])
    assert code == 1
    assert "Received none for 3" in error
    missing = write(tmp_path / "missing", ["q1"], [(1, 0)], "model1")
    code, error = run(query=[folders["query"][0], missing])
    assert code == 1
    assert "the same ids in every member" in error
    assert not (tmp_path / "o.csv").exists()
    with pytest.raises(SystemExit):
        run(top=["0"])
