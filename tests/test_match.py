"""The matching rule of Taobao-live: by hand, against a slow oracle, and as commands."""

import csv

import numpy as np
import pytest
from image_files import write_table

from eval import matching
from retrieval import match
from retrieval.embeddings import EmbeddingsWriter
from retrieval.match import Rule


def test_folder_by_hand():
    # The 0.5 quantile of these six is 0.35, so the first three count: two name v, one names w.
    distances = np.array([0.1, 0.3, 0.2, 0.4, 0.5, 0.6])
    videos = ["w", "v", "v", "w", "w", "w"]
    # v has the highest count, 2; w reaches half of it and is nearer: 0.1 < mean(0.3, 0.2).
    video, kept = match.match_folder(distances, videos, Rule(quantile=0.5))
    assert (video, kept.tolist()) == ("w", [0])
    # Only v reaches 0.6 of 2.
    video, kept = match.match_folder(distances, videos, Rule(quantile=0.5, share=0.6))
    assert (video, kept.tolist()) == ("v", [1, 2])
    # Of three kept boxes half is 1.5, rounded 2: v alone.
    assert match.match_folder(distances, videos, Rule(quantile=0.5, counted="kept"))[0] == "v"
    # 0.28 of the way: the quantile is 0.1 + 1.4 · 0.1 = 0.24 between the second and third.
    assert match.match_folder(distances, videos, Rule())[1].tolist() == [0]


def test_folders_without_a_match():
    assert match.match_folder(np.array([0.1]), ["v"], Rule()) is None  # not under its own quantile
    assert match.match_folder(np.zeros(0), [], Rule()) is None
    # Four kept boxes of four videos: none has two.
    rule = Rule(quantile=1.0, counted="kept")
    assert match.match_folder(np.arange(5) / 10, list("abcde"), rule) is None


def test_one_folder_per_video_and_the_farthest():
    distances = np.array([0.5, 0.6, 0.9, 0.2, 0.3, 0.9, 1.2, 1.3, 1.9])
    rows = np.array([0, 1, 0, 1, 0, 0, 2, 2, 2])
    found = match.match(distances, rows, list("aaabbbccc"), ["v", "v", "u"], Rule(quantile=0.6))
    # Folders a and b choose v, b is nearer; c chooses u at a mean of 1.25, too far.
    assert found == [match.Match("v", "b", 0.25, 2, 3, 1)]
    far = match.match(
        distances, rows, list("aaabbbccc"), ["v", "v", "u"], Rule(quantile=0.6, farthest=1.26)
    )
    assert [(one.video, one.folder) for one in far] == [("u", "c"), ("v", "b")]


def slow_match(distances, rows, folders, videos, rule):
    chosen = []
    for folder in sorted(set(folders)):
        boxes = [i for i, name in enumerate(folders) if name == folder]
        ordered = sorted(distances[i] for i in boxes)
        place = rule.quantile * (len(ordered) - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        limit = ordered[low] + (place - low) * (ordered[high] - ordered[low])
        kept = [i for i in boxes if distances[i] < limit]
        counts = {}
        for i in kept:
            counts[videos[rows[i]]] = counts.get(videos[rows[i]], 0) + 1
        best = None
        for name, count in sorted(counts.items()):
            if rule.counted == "highest":
                enough = count >= rule.share * max(counts.values())
            else:
                enough = count >= round(rule.share * len(kept))
            own = [distances[i] for i in kept if videos[rows[i]] == name]
            mean = sum(own) / len(own)
            if enough and (best is None or mean < best[0]):
                best = (mean, name, folder, count)
        if best:
            chosen.append(best)
    result = []
    for name in sorted({one[1] for one in chosen}):
        mean, _, folder, count = min(one for one in chosen if one[1] == name)
        if mean < rule.farthest:
            result.append((name, folder, count))
    return result


@pytest.mark.parametrize("seed", range(20))
def test_slow_oracle(seed):
    rng = np.random.default_rng(seed)
    videos = [f"v{number}" for number in rng.integers(0, 6, 30)]
    folders = [f"f{number}" for number in rng.integers(0, 7, 60)]
    distances, rows = rng.uniform(0.2, 1.8, 60), rng.integers(0, 30, 60)
    rule = Rule(
        quantile=rng.choice([0.28, 0.5, 0.9]),
        share=rng.choice([0.0, 0.5, 1.0]),
        counted=rng.choice(match.COUNTED),
        farthest=rng.choice([0.8, 1.12, 2.0]),
    )
    found = match.match(distances, rows, folders, videos, rule)
    expected = slow_match(distances, rows, folders, videos, rule)
    assert [(one.video, one.folder, one.boxes) for one in found] == expected
    for one in found:
        assert folders[one.query] == one.folder
        assert videos[one.row] == one.video == videos[rows[one.query]]


def embed(directory, ids, vectors):
    vectors = np.asarray(vectors, np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with EmbeddingsWriter(
        str(directory), vectors.shape[1], model_digest="m", source="test", count=len(ids)
    ) as writer:
        writer.append(ids, vectors)
    return str(directory)


@pytest.fixture
def files(tmp_path):
    """Two folders of three crops and two videos of two; folder b shows what video y does."""
    names = [f"{folder}-{number}" for folder in "ab" for number in range(3)]
    shown = [f"{video}-f{number}" for video in "xy" for number in range(2)]
    query = embed(tmp_path / "q", names, [[1, 0, 0.1 * i] for i in range(3)] + [[0, 1, 0.2]] * 3)
    video = embed(tmp_path / "v", shown, [[0.2, 0, -1], [0, 0, -1], [0, 1, 0], [0, 1, 0.5]])
    return [
        *("--query", query, "--video", video, "--output", str(tmp_path / "m.csv")),
        "--query-table",
        write_table(tmp_path / "q.csv", [(name, name[0]) for name in names], ("id", "folder")),
        "--video-table",
        write_table(tmp_path / "v.csv", [(name, name[0]) for name in shown], ("id", "source")),
    ]


def test_commands(files, tmp_path, capsys):
    assert match.main([*files, "--quantile", "0.9"]) == 0
    with open(tmp_path / "m.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    # b's three crops are equal, so none is under the quantile; a is 2 − 2·0.196 from video x.
    assert rows == []
    assert match.main([*files, "--quantile", "0.9", "--farthest", "4"]) == 0
    with open(tmp_path / "m.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["video"], row["folder"], row["boxes"]) == ("x", "a", "2")
    assert (row["query_id"], row["video_id"]) == ("a-0", "x-f0")
    # cosines of the two kept: 0.2 / 1.0198, and (0.2 − 0.1) / (1.0198 · 1.00499)
    cosines = np.array([0.2 / np.sqrt(1.04), 0.1 / np.sqrt(1.04 * 1.01)])
    assert float(row["distance"]) == pytest.approx((2 - 2 * cosines).mean(), abs=1e-5)  # float32
    truth = write_table(tmp_path / "t.csv", [("x", "a"), ("y", "b")], ("video", "folder"))
    assert matching.main(["--matches", str(tmp_path / "m.csv"), "--solution", truth]) == 0
    assert "recall          0.5000" in capsys.readouterr().out


def test_errors_of_commands(files, tmp_path, capsys):
    assert match.main([*files, "--folder-column", "item"]) == 1
    assert "expected the columns ['item']" in capsys.readouterr().err
    assert match.main([*files, "--quantile", "1.5"]) == 1
    assert "quantile: expected a number from 0 to 1" in capsys.readouterr().err
    write_table(tmp_path / "q.csv", [("a-0", "a")], ("id", "folder"))
    assert match.main(files) == 1
    assert "Received: none for 5" in capsys.readouterr().err


def test_scores_of_matches():
    truths = {"u": "a", "v": "b", "w": "", "x": "c"}
    result = matching.score({"u": "a", "v": "c", "w": "b"}, truths)
    assert (result["precision"], result["recall"]) == (1 / 3, 1 / 3)
    assert result["f1"] == pytest.approx(1 / 3)
    assert (result["right"], result["matched"], result["without_folder"]) == (1, 3, 1)
    assert matching.score({}, truths)["f1"] == 0
    with pytest.raises(ValueError, match="Received: 1 others, such as 'z'"):
        matching.score({"z": "a"}, truths)
