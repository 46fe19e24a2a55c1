"""The cleaning of labels: agreement against a slow version, tables, geometry, bad input."""

import csv
import sys

import numpy as np
import pytest
from image_files import write_table
from PIL import Image

import files
from retrieval.embeddings import EmbeddingsWriter
from tfrecords_tools import clean as command
from tfrecords_tools.clean import clean
from tfrecords_tools.cleaning import neighbors
from tfrecords_tools.cleaning.neighbors import NO_LABEL, measure_agreement, own_neighbors


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def clusters(classes=6, images=12, spread=0.3, seed=0):
    """(N, 16) vectors around one direction per class, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), images)
    centers = unit(rng.normal(size=(classes, 16)))
    return unit(centers[labels] + spread * rng.normal(size=(len(labels), 16)) / 4), labels


def move(labels, count, seed=0):
    """Labels of which `count` are another class's."""
    rng = np.random.default_rng(seed)
    moved = labels.copy()
    chosen = rng.choice(len(labels), count, replace=False)
    classes = labels.max() + 1
    moved[chosen] = (labels[chosen] + rng.integers(1, classes, count)) % classes
    return moved


def obvious_agreement(vectors, labels, near, own):
    """One image at a time, all distances sorted."""
    result = []
    for i, label in enumerate(labels):
        distances = ((vectors[i] - vectors) ** 2).sum(axis=1)
        others = [j for j in range(len(labels)) if j != i]
        same = [j for j in others if labels[j] == label and label != NO_LABEL]
        nearest = sorted(distances[others])[:near]
        nearest_own = sorted(distances[same])[:own]
        result.append(np.mean(nearest) / np.mean(nearest_own) if same else np.nan)
    return np.array(result)


def save(folder, ids, vectors):
    with EmbeddingsWriter(str(folder), vectors.shape[1], model_digest="0", source="") as writer:
        writer.append(ids, vectors)
    return str(folder)


@pytest.fixture
def noisy(tmp_path):
    """Embeddings and a table of 72 images, 8 of them with a moved label."""
    vectors, truth = clusters()
    labels = move(truth, 8)
    ids = [f"i{row:02d}" for row in range(len(labels))]
    rows = [
        (i, f"l{new}", f"{i}.jpg", f"l{old}")
        for i, new, old in zip(ids, labels, truth, strict=True)
    ]
    table = write_table(tmp_path / "train.csv", rows, ("id", "label", "path", "truth"))
    source = {"embeddings": save(tmp_path / "embeddings", ids, vectors), "table": table}
    return {**source, "neighbors": 10, "stream": None}, labels != truth


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def rewrite(noisy, edit):
    """Replaces the table by what `edit` makes of its rows."""
    rows = edit(read(noisy["table"]))
    write_table(noisy["table"], [list(row.values()) for row in rows], rows[0].keys())


@pytest.mark.parametrize("own", [1, 3, 50])
@pytest.mark.parametrize("near", [1, 7, 500])
def test_agreement_is_that_of_the_obvious_version(near, own):
    vectors, labels = clusters(classes=4, images=9)
    labels = move(labels, 6)
    labels[[3, 20]] = NO_LABEL
    labels[5] = 9  # alone in its class
    values = measure_agreement(vectors, labels, neighbors=near, own=own, stream=None)
    np.testing.assert_allclose(values, obvious_agreement(vectors, labels, near, own), rtol=1e-3)
    assert np.isnan(values[[3, 5, 20]]).all()


def test_agreement_by_hand():
    # Two pairs at 60°, 90° apart: cos 60° = 1/2 is the distance 1, cos 90° = 0 the distance 2.
    half, root = 0.5, np.sqrt(0.75)
    vectors = np.float32([[1, 0, 0, 0], [half, root, 0, 0], [0, 0, 1, 0], [0, 0, half, root]])
    right = measure_agreement(vectors, np.array([0, 0, 1, 1]), neighbors=1, stream=None)
    np.testing.assert_allclose(right, 1, rtol=1e-5)
    wrong = measure_agreement(vectors, np.array([0, 1, 0, 1]), neighbors=1, stream=None)
    np.testing.assert_allclose(wrong, [1 / 2, 1 / 2, 1 / 2, 1 / 2], rtol=1e-5)


def test_exact_copies_agree():
    vectors = unit(np.repeat(np.eye(2, 5), 4, axis=0))
    values = measure_agreement(vectors, np.repeat([0, 1], 4), neighbors=3, stream=None)
    np.testing.assert_allclose(values, 1, atol=1e-5)


def test_blocks_change_nothing(monkeypatch):
    vectors, labels = clusters()
    whole = measure_agreement(vectors, labels, stream=None)
    monkeypatch.setattr(neighbors, "_BLOCK", 5)
    pieces = measure_agreement(vectors, labels, stream=None)
    np.testing.assert_allclose(pieces, whole, rtol=1e-5)


def test_scann_finds_the_same():
    vectors, labels = clusters(classes=60, images=20)
    exact = measure_agreement(vectors, labels, search="exact", stream=None)
    scann = measure_agreement(vectors, labels, search="scann", stream=None)
    np.testing.assert_allclose(scann, exact, rtol=0.02)


def test_vectors_and_labels_that_do_not_fit():
    vectors, labels = clusters()
    with pytest.raises(ValueError, match=r"72 vectors and labels of shape \(71,\)"):
        measure_agreement(vectors, labels[1:])
    with pytest.raises(ValueError, match="1 vectors"):
        measure_agreement(vectors[:1], labels[:1])


def test_memory_map_is_read(tmp_path):
    vectors, labels = clusters()
    np.save(tmp_path / "v.npy", vectors)
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r", allow_pickle=False)
    expected = measure_agreement(vectors, labels, stream=None)
    np.testing.assert_array_equal(measure_agreement(mapped, labels, stream=None), expected)


def test_own_neighbors_are_the_nearest_of_the_label():
    vectors, labels = clusters(images=7)
    labels[0] = 9
    rows = np.array([40, 0, 3, 11])
    found = dict(own_neighbors(vectors, labels, rows, 3))
    assert found.keys() == set(rows.tolist())
    assert found[0].tolist() == []
    for row in (40, 3, 11):
        same = [j for j in np.flatnonzero(labels == labels[row]) if j != row]
        expected = sorted(same, key=lambda j: -(vectors[row] @ vectors[j]))[:3]
        assert found[row].tolist() == expected


def test_moved_labels_are_removed(noisy, tmp_path):
    source, is_moved = noisy
    output = str(tmp_path / "made" / "clean.csv")
    report = str(tmp_path / "made" / "report.png")
    summary = clean(output, **source, truth_column="truth", report=report)
    rows = read(output)
    assert list(rows[0]) == ["id", "label", "path", "truth", "agreement", "is_clean"]
    assert [row["is_clean"] == "0" for row in rows] == is_moved.tolist()
    assert [row["id"] for row in rows] == [row["id"] for row in read(source["table"])]
    assert (summary.images, summary.kept, summary.removed) == (72, 64, 8)
    assert (summary.precision, summary.recall, summary.dropped_classes) == (1, 1, 0)
    with Image.open(report) as picture:
        assert picture.format == "PNG"
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == [
        "clean.csv", "report.png"
    ]  # fmt: skip


def test_precision_and_recall_by_hand(noisy, tmp_path):
    source, is_moved = noisy
    output = str(tmp_path / "clean.csv")
    clean(output, **source)
    values = np.array([float(row["agreement"]) for row in read(output)])
    order = np.argsort(values)
    assert is_moved[order[:8]].all()
    # The truth of the two lowest is not told: of the ten lowest, 6 of the other 8 are moved.
    unknown = {f"i{row:02d}" for row in order[:2]}
    rewrite(source, lambda rows: [
        {**row, "truth": "" if row["id"] in unknown else row["truth"]} for row in rows
    ])  # fmt: skip
    threshold = (values[order[9]] + values[order[10]]) / 2
    summary = clean(output, **source, truth_column="truth", agreement=threshold)
    assert (summary.removed, summary.precision, summary.recall) == (10, 6 / 8, 1)


def test_small_classes_are_dropped(noisy, tmp_path):
    source, _ = noisy
    keep = {f"i{row:02d}" for row in range(3)} | {f"i{row:02d}" for row in range(12, 72)}
    rewrite(source, lambda rows: [
        {**row, "label": row["truth"]} for row in rows if row["id"] in keep
    ])  # fmt: skip
    kept = clean(str(tmp_path / "a.csv"), **source, min_images=3)
    assert (kept.kept, kept.dropped_images, kept.dropped_classes) == (63, 0, 0)
    dropped = clean(str(tmp_path / "b.csv"), **source, min_images=4)
    assert (dropped.kept, dropped.dropped_images, dropped.dropped_classes) == (60, 3, 1)
    assert [r["id"] for r in read(tmp_path / "b.csv") if r["is_clean"] == "0"] == [
        "i00", "i01", "i02"
    ]  # fmt: skip


def test_the_output_is_for_write(noisy, tmp_path):
    from tfrecords_tools.readers.tables import Row, read_table

    source, is_moved = noisy
    output = str(tmp_path / "elsewhere" / "clean.csv")
    clean(output, **source)
    rows = list(read_table(output, images=str(tmp_path)))
    assert all(isinstance(row, Row) for row in rows)
    assert [row.is_clean for row in rows] == (~is_moved).tolist()
    again = str(tmp_path / "again.csv")
    clean(again, **{**source, "table": output})
    assert read(again) == read(output)  # the two columns are replaced


def test_rows_that_cannot_be_judged(noisy, tmp_path, capsys):
    source, _ = noisy

    def spoil(rows):
        extra = {**rows[0], "id": "unknown"}
        repeated = {**rows[2], "label": "l1"}
        rows[3] = {**rows[3], "label": ""}
        rows[4] = {**rows[4], "id": ""}
        return [*rows[:71], extra, repeated]

    rewrite(source, spoil)
    summary = clean(str(tmp_path / "clean.csv"), **source)
    assert summary.left_out == {
        "no id": 1, "no label": 1, "duplicate id": 1, "no embedding": 1
    }  # fmt: skip
    assert summary.missing == ("unknown",)
    assert summary.unlabelled == ["i03", "i04", "i71"]
    rows = read(tmp_path / "clean.csv")
    assert len(rows) == 73
    for row in (3, 4, 71, 72):
        assert (rows[row]["is_clean"], rows[row]["agreement"]) == ("0", "")
    arguments = ["--embeddings", source["embeddings"], "--table", source["table"]]
    assert command.main([*arguments, "--output", str(tmp_path / "other.csv")]) == 3
    printed = capsys.readouterr().out
    assert "'unknown'" in printed
    assert "'i03', 'i04', 'i71'" in printed


def test_commands_exit_codes(noisy, tmp_path, capsys):
    source, _ = noisy
    arguments = ["--embeddings", source["embeddings"], "--table", source["table"]]
    output = str(tmp_path / "clean.csv")
    assert command.main([*arguments, "--output", output, "--truth-column", "truth"]) == 0
    out = capsys.readouterr().out
    assert "recall" in out
    assert f"--table {output} --images {tmp_path}" in out
    assert command.main([*arguments, "--output", output, "--label-column", "absent"]) == 2
    assert "absent" in capsys.readouterr().err


BAD = [
    ({"agreement": 0}, "agreement above 0"),
    ({"min_images": 0}, "min_images"),
    ({"neighbors": 0}, "at least 1"),
    ({"agreement": 1e9}, "none such"),
    ({"search": "faiss"}, "faiss"),
    ({"label_column": "absent"}, "absent"),
    ({"truth_column": "absent"}, "absent"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_options_write_nothing(noisy, tmp_path, options, message):
    source, _ = noisy
    output = tmp_path / "clean.csv"
    with pytest.raises(ValueError, match=message):
        clean(str(output), **{**source, **options})
    assert not output.exists()


def test_one_class_only(noisy, tmp_path):
    source, _ = noisy
    rewrite(source, lambda rows: [{**row, "label": "l0"} for row in rows])
    with pytest.raises(ValueError, match=r"two classes.*Received: 1"):
        clean(str(tmp_path / "clean.csv"), **source)


def test_a_table_of_other_images(noisy, tmp_path):
    source, _ = noisy
    rewrite(source, lambda rows: [{**row, "id": f"x{row['id']}"} for row in rows])
    with pytest.raises(ValueError, match=r"Received: 0; no embedding for 'xi00', .* 67 more"):
        clean(str(tmp_path / "clean.csv"), **source)


def test_missing_input(noisy, tmp_path):
    source, _ = noisy
    output = str(tmp_path / "clean.csv")
    with pytest.raises(FileNotFoundError, match="embeddings directory"):
        clean(output, **{**source, "embeddings": str(tmp_path)})
    with pytest.raises(FileNotFoundError, match="absent"):
        clean(output, **{**source, "table": str(tmp_path / "absent.csv")})


@pytest.mark.parametrize("value", [np.nan, np.inf, 3.0])
def test_damaged_vectors_are_named(noisy, tmp_path, value):
    source, _ = noisy
    path = tmp_path / "embeddings" / "embeddings.npy"
    vectors = np.load(path, allow_pickle=False)
    vectors[[7, 9], 2] = value
    np.save(path, vectors)
    with pytest.raises(ValueError, match="'i07', 'i09'"):
        clean(str(tmp_path / "clean.csv"), **source)


def test_a_failure_leaves_the_old_output(noisy, tmp_path, monkeypatch):
    source, _ = noisy
    output = tmp_path / "clean.csv"
    output.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "rename", full)
    with pytest.raises(OSError, match="No space"):
        clean(str(output), **source)
    assert output.read_text() == "old"
    assert not list(tmp_path.glob("*.partial"))


def test_geometry_keeps_what_matches(noisy, tmp_path):
    pytest.importorskip("cv2")
    source, is_moved = noisy
    rows = read(source["table"])
    doubtful, outside = rows[np.flatnonzero(is_moved)[0]], rows[np.flatnonzero(is_moved)[1]]
    # One moved image shows what the class shows that it is said to be of; the others, nothing.
    blobs = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    shown = Image.fromarray(blobs).resize((320, 320), Image.Resampling.BICUBIC)
    for row in rows:
        is_shown = row["id"] == doubtful["id"] or row["truth"] == doubtful["label"]
        picture = shown if is_shown else Image.new("RGB", (32, 32))
        picture.save(tmp_path / row["path"])
    outside["path"] = "../../secret.jpg"
    rewrite(source, lambda _: rows)
    summary = clean(str(tmp_path / "clean.csv"), **source, geometry=True, workers=2)
    removed = [row["id"] for row in read(tmp_path / "clean.csv") if row["is_clean"] == "0"]
    assert (summary.verified, summary.removed, summary.kept) == (1, 7, 65)
    assert doubtful["id"] not in removed
    assert summary.unreadable == [outside["id"]]


def test_geometry_without_opencv(noisy, tmp_path, monkeypatch, capsys):
    source, _ = noisy
    monkeypatch.setitem(sys.modules, "cv2", None)
    arguments = ["--embeddings", source["embeddings"], "--table", source["table"], "--geometry"]
    assert command.main([*arguments, "--output", str(tmp_path / "clean.csv")]) == 2
    assert "waymark[geometry]" in capsys.readouterr().err
