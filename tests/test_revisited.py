"""Revisited Oxford and Paris: the published evaluator's values, a slow version, the command."""

import csv
import hashlib
import json

import numpy as np
import pytest
from conftest import ROOT

from eval import revisited
from eval import revisited_protocol as protocol
from retrieval.embeddings import EmbeddingsWriter

GOLDEN = ROOT / "tests" / "golden" / "revisited_small.npz"


def slow_average_precision(ranking, positives, junk):
    """The definition, rank by rank: the area under the trapezoids."""
    left = [image for image in ranking if image not in junk]
    found, total = 0, 0.0
    for rank, image in enumerate(left):
        if image in positives:
            before = found / rank if rank else 1.0
            found += 1
            total += (before + found / (rank + 1)) / 2
    return total / len(positives)


def slow_precision(ranking, positives, junk, k):
    left = [image for image in ranking if image not in junk]
    last = max((rank for rank, image in enumerate(left, 1) if image in positives), default=0)
    k = min(last, k) or k
    return sum(image in positives for image in left[:k]) / k


def slow_sets(truth, setting):
    easy, hard, junk = (set(part.tolist()) for part in (truth.easy, truth.hard, truth.junk))
    return {
        "easy": (easy, junk | hard),
        "medium": (easy | hard, junk),
        "hard": (hard, junk | easy),
    }[setting]


def random_truth(rng, count):
    order = rng.permutation(count)
    sizes = rng.integers(0, 6, 3)
    ends = np.cumsum(sizes)
    return protocol.Truth(*(order[end - size : end] for size, end in zip(sizes, ends, strict=True)))


@pytest.mark.parametrize("setting", protocol.SETTINGS)
def test_values_of_the_published_evaluator(setting):
    golden = np.load(GOLDEN)
    truths = [
        protocol.Truth(*(golden[f"gnd{q}_{kind}"] for kind in protocol.KINDS)) for q in range(9)
    ]
    judged = protocol.evaluate_revisited(list(golden["ranks"].T), truths, setting)
    np.testing.assert_allclose(judged.average_precision, golden[f"{setting}_ap"], atol=1e-12)
    values = list(judged.scores().values())
    expected = [float(golden[f"{setting}_map"]), *golden[f"{setting}_precision_at_1_5_10"]]
    assert values == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("setting", protocol.SETTINGS)
@pytest.mark.parametrize("length", [30, 12, 0])
def test_equals_the_slow_version(setting, length):
    rng = np.random.default_rng(length)
    truths = [random_truth(rng, 30) for _ in range(40)]
    rankings = [rng.permutation(30)[:length] for _ in truths]
    judged = protocol.evaluate_revisited(rankings, truths, setting, ks=(1, 4))
    for row, (ranking, truth) in enumerate(zip(rankings, truths, strict=True)):
        positives, junk = slow_sets(truth, setting)
        assert judged.positives[row] == len(positives)
        values = [judged.average_precision[row], judged.precision[1][row], judged.precision[4][row]]
        if not positives:
            assert np.isnan(values).all()
            continue
        expected = [slow_average_precision(ranking.tolist(), positives, junk)]
        expected += [slow_precision(ranking.tolist(), positives, junk, k) for k in (1, 4)]
        assert values == pytest.approx(expected, abs=1e-12)


def test_delf_facts(shared):
    facts = json.loads((shared / "golden" / "metric_refs" / "delf_vectors.json").read_text())
    facts = facts["revisited_op"]
    case = facts["compute_metrics"]
    truths = [
        protocol.Truth(np.array(ok, int), np.array([], int), np.array(junk, int))
        for ok, junk in zip(case["ok"], case["junk"], strict=True)
    ]
    rankings = [np.array(ids) for ids in case["sorted_index_ids"]]
    judged = protocol.evaluate_revisited(rankings, truths, "medium", ks=(1, 2, 5))
    assert judged.scores()["map"] == pytest.approx(case["mAP"], abs=1e-6)
    precisions = [judged.scores()[f"precision_at_{k}"] for k in (1, 2, 5)]
    assert precisions == pytest.approx(case["mean_precision@1,2,5"], abs=1e-6)
    assert judged.average_precision[:2] == pytest.approx(case["APs"][:2], abs=1e-6)
    case = facts["AP_of_zero_based_ranks"]
    ranking = np.arange(8)
    truth = protocol.Truth(np.array(case["ranks"]), np.array([], int), np.array([], int))
    judged = protocol.evaluate_revisited([ranking], [truth], "easy")
    assert judged.average_precision[0] == pytest.approx(case["AP_trapezoid"], abs=1e-6)
    precisions = [float(judged.precision[k][0]) for k in (1, 5, 10)]
    assert precisions == pytest.approx(case["precision@1,5,10"], abs=1e-6)


def test_junk_leaves_the_ranking_by_hand():
    # Ranks without junk: 0 (positive), 1 (wrong), 2 (positive).
    truth = protocol.Truth(np.array([5, 7]), np.array([], int), np.array([1, 2]))
    judged = protocol.evaluate_revisited([np.array([1, 5, 2, 9, 7])], [truth], "easy", ks=(1, 10))
    assert judged.average_precision[0] == pytest.approx(((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2) / 2)
    assert judged.precision[10][0] == pytest.approx(2 / 3)  # among 3, the last positive's rank


def scores_of_recipe(truth, boosted):
    """Rankings by md5 of the names, as the reference was made; (N, Q) positions."""
    ranks = []
    for name, kinds in zip(truth.queries, truth.truths, strict=True):
        digests = [hashlib.md5(f"{name}|{image}".encode()).hexdigest() for image in truth.images]  # noqa: S324
        values = np.array([int(digest[:12], 16) / 16**12 for digest in digests])
        if boosted:
            for positions, gain in ((kinds.easy, 0.9), (kinds.hard, 0.3), (kinds.junk, 0.5)):
                values[positions] += gain
        ranks.append(np.argsort(-values, kind="stable"))
    return np.stack(ranks, axis=1)


@pytest.mark.parametrize("name", ["roxford5k", "rparis6k"])
def test_real_ground_truth(shared, tmp_path, name):
    folder = shared / "golden" / "metric_refs"
    reference = json.loads((folder / "revisitop_reference.json").read_text())["reference"]
    path = str(folder / f"gnd_{name}.json")
    truth = protocol.read_ground_truth(path)
    assert len(truth.images) == {"roxford5k": 4993, "rparis6k": 6322}[name]
    for key, expected in reference.items():
        if not key.startswith(name):
            continue
        ranks = scores_of_recipe(truth, "boost" in key)
        np.savez(tmp_path / "ranks.npz", ranks=ranks)
        result = revisited.evaluate(
            ground_truth=path, queries="cropped", ranks=str(tmp_path / "ranks.npz")
        )
        for setting, letter in (("easy", "E"), ("medium", "M"), ("hard", "H")):
            values = [result[f"{setting}_map"]]
            values += [result[f"{setting}_precision_at_{k}"] for k in (1, 5, 10)]
            published = [expected[letter]["mAP"], *expected[letter]["mP@1,5,10"]]
            # The reference is rounded to four decimals of percent.
            assert 100 * np.array(values) == pytest.approx(published, abs=6e-5)
            assert result[f"{setting}_queries"] == expected[letter]["queries_used"]


@pytest.fixture
def files(tmp_path):
    """Five images and two queries on a circle, with ids as an exporter may give them."""
    truth = {
        "imlist": ["a", "b", "c", "d", "e"],
        "qimlist": ["q1", "q2"],
        "gnd": [
            {"easy": [0], "hard": [2], "junk": [1], "bbx": [0, 0, 1, 1]},
            {"easy": [], "hard": [3, 4], "junk": [], "bbx": [0, 0, 1, 1]},
        ],
    }
    (tmp_path / "gnd.json").write_text(json.dumps(truth))
    for name, ids, angles in (
        ("index", ["jpg/a.jpg", "jpg/b.jpg", "c", "d", "e", "distractor"], [0, 3, 20, 90, 99, 10]),
        ("query", ["q2", "q1.jpg"], [91, 0]),
    ):
        radians = np.radians(angles)
        vectors = np.stack([np.cos(radians), np.sin(radians)], axis=1)
        with EmbeddingsWriter(str(tmp_path / name), 2, model_digest="ab", source="x") as writer:
            writer.append(ids, vectors)
    (tmp_path / "p.csv").write_text("id,images\nq1,a b distractor c e d\nq2,d e c distractor b a\n")
    np.save(tmp_path / "ranks.npy", np.array([[0, 3], [1, 4], [2, 2], [4, 1], [3, 0]]))
    return tmp_path


# q1: a, (b is junk), distractor, c. Hard alone: a is junk too. q2: d, e.
HARD = pytest.approx((((0 + 1 / 2) / 2) / 1 + 1) / 2)


def test_embeddings_predictions_and_ranks(files, capsys):
    truth = ["--ground-truth", str(files / "gnd.json")]
    output = files / "out.json"
    for source, hard in (
        (["--index", str(files / "index"), "--query", str(files / "query")], HARD),
        (["--predictions", str(files / "p.csv")], HARD),
        (["--ranks", str(files / "ranks.npy")], 1.0),  # without the distractor
    ):
        argv = [*source, *truth, "--queries", "cropped", "--output", str(output)]
        assert revisited.main(argv) == 0, capsys.readouterr().err
        result = json.loads(output.read_text())
        assert result["hard_map"] == hard
        assert (result["easy_map"], result["easy_queries"], result["hard_queries"]) == (1, 1, 2)
        assert result["not_ranked"] == 0
        assert result["protocol"].startswith("queries cropped")


def test_uncropped_queries_are_said_to_be_so(files, capsys):
    argv = ["--ground-truth", str(files / "gnd.json"), "--predictions", str(files / "p.csv")]
    with pytest.raises(SystemExit):
        revisited.main(argv)
    assert "--queries" in capsys.readouterr().err
    assert revisited.main([*argv, "--queries", "uncropped"]) == 0
    assert "UNCROPPED queries: another protocol" in capsys.readouterr().out


def test_shortened_rankings_and_values_per_query(files):
    (files / "p.csv").write_text("id,images\nq1,a b\nq2,e\n")
    result = revisited.evaluate(
        ground_truth=str(files / "gnd.json"),
        queries="cropped",
        predictions=str(files / "p.csv"),
        bootstrap=10,
        per_query=str(files / "per_query.csv"),
    )
    assert result["not_ranked"] == 2  # c for q1, d for q2
    assert result["medium_map"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert len(result["hard_map_interval"]) == 2
    rows = list(csv.DictReader((files / "per_query.csv").read_text().splitlines()))
    assert [row["query"] for row in rows] == ["q1", "q2"]
    assert [row["easy_map"] for row in rows] == ["1.0", ""]
    assert [row["hard_positives"] for row in rows] == ["1", "2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,images\nq1,a\n", "1 missing ('q2')"),
        ("id,images\nq1,a\nq2,d\nq3,a\n", "1 unknown ('q3')"),
        ("id,images\nq1,x\nq2,y\n", "such as 'a'"),
        ("id,images\nq1,a a\nq2,d\n", "every image once for 'q1'"),
        ("id,images\nq1,a jpg/a.jpg\nq2,d\n", "Received: 'a', 'jpg/a.jpg'"),
        ("id,images\nq1,a\nq1,d\n", "line 3"),
    ],
)
def test_bad_predictions(files, capsys, text, message):
    (files / "p.csv").write_text(text)
    argv = ["--ground-truth", str(files / "gnd.json"), "--predictions", str(files / "p.csv")]
    assert revisited.main([*argv, "--queries", "cropped"]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "p.csv" in error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected JSON"),
        ("[1]", "imlist, qimlist"),
        ('{"imlist": ["a"], "gnd": []}', "qimlist"),
        ('{"imlist": ["a", "a"], "qimlist": ["q"], "gnd": [{}]}', "once in imlist"),
        ('{"imlist": ["a"], "qimlist": ["q"], "gnd": []}', "one entry of gnd"),
        (
            '{"imlist": ["a"], "qimlist": ["q"], "gnd": [{"easy": [1], "hard": [], "junk": []}]}',
            "query 'q': expected positions below 1 as 'easy'",
        ),
        ('{"imlist": ["a"], "qimlist": ["q"], "gnd": [{"easy": []}]}', "'hard'"),
    ],
)
def test_bad_ground_truth(tmp_path, content, message):
    (tmp_path / "gnd.json").write_text(content)
    with pytest.raises(ValueError, match=r"gnd\.json") as error:
        protocol.read_ground_truth(str(tmp_path / "gnd.json"))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((5, 3), int), "2 queries"),
        (np.zeros((5, 2)), "integers"),
        (np.full((1, 2), 5), "positions from 0 to 4"),
        (np.array([[0, 0], [0, 1]]), "once for 'q1'"),
        (np.array([None]), "an array of ranks"),
    ],
)
def test_bad_ranks(files, array, message):
    np.save(files / "ranks.npy", array)
    truth = protocol.read_ground_truth(str(files / "gnd.json"))
    with pytest.raises(ValueError, match=r"ranks\.npy") as error:
        revisited.read_ranks(str(files / "ranks.npy"), truth)
    assert message in str(error.value)


def test_bad_arguments(files):
    with pytest.raises(ValueError, match="Received: 'hardest'"):
        protocol.evaluate_revisited([], [], "hardest")
    with pytest.raises(ValueError, match="expected 0 rankings"):
        protocol.evaluate_revisited([np.arange(2)], [], "hard")
    truth = protocol.read_ground_truth(str(files / "gnd.json")).truths[:1]
    with pytest.raises(ValueError, match="each position once"):
        protocol.evaluate_revisited([np.array([1, 1])], truth, "hard")
    with pytest.raises(ValueError, match="Received: 'whole'"):
        revisited.evaluate(ground_truth="x", queries="whole")
