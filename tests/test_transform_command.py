"""The command on embeddings directories, and the curve over dimensions."""

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from retrieval import embeddings, search, transform
from retrieval.projecting import covariance, dimension_curve, transforms, validation
from retrieval.projecting.projections import Transform

IDS = tuple(f"i{number:03d}" for number in range(120))
LABELS = np.repeat(np.arange(20), 6)


def clustered(seed=0):
    """120 unit vectors of 16 dimensions in 20 classes; the classes differ in the first 8 alone."""
    rng = np.random.default_rng(seed)
    centres = np.pad(rng.standard_normal((20, 8)), ((0, 0), (0, 8)))
    vectors = centres[LABELS] + rng.standard_normal((120, 16)) * np.r_[[0.5] * 8, [2] * 8] + 0.5
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def write(directory, vectors, digest="model", ids=IDS):
    with embeddings.EmbeddingsWriter(
        str(directory), vectors.shape[1], model_digest=digest, source="t", count=len(ids)
    ) as writer:
        writer.append(list(ids), vectors)
        writer.reject(3)
    return str(directory)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "index", clustered())
    rows = [f"{image},{label}" for image, label in zip(IDS, LABELS, strict=True)]
    (tmp_path / "labels.csv").write_text("\n".join(["id,landmark_id", *rows, "other,9"]))
    return tmp_path


def run(folder, command):
    """Runs the command with names in braces put into the folder."""
    words = [w.replace("{", f"{folder}/").replace("}", "") for w in command.split()]
    return transform.main(words)


FIT = "fit --embeddings {index} --output {t} --kind "


def test_fit_and_apply_pca(folder, capsys):
    assert run(folder, FIT + "pca_whitening --dimension 5 --shrinkage 0.1") == 0
    assert "pca_whitening: 16 to 5 dimensions, " in capsys.readouterr().out
    assert run(folder, "apply --transform {t} --embeddings {index} --output {small}") == 0
    source, result = (embeddings.load(f"{folder}/{name}") for name in ("index", "small"))
    fitted = transforms.fit_pca(source.vectors, 5, whiten=True, shrinkage=0.1)
    np.testing.assert_allclose(result.vectors, fitted.apply(source.vectors), atol=1e-6)
    assert result.ids == IDS
    assert result.manifest["rejected"] == 3
    loaded = Transform.load(f"{folder}/t")
    assert loaded.digest == fitted.digest
    assert result.manifest["model_digest"] == loaded.combined_digest("model")
    about = loaded.fits[0]["fitted_on"]
    assert about["name"] == f"{folder}/index"
    assert about["model_digest"] == "model"
    assert about["count"] == 120


def test_queries_and_index_of_different_transforms_never_mix(folder):
    assert run(folder, FIT + "pca --dimension 16") == 0
    assert run(folder, "apply --transform {t} --embeddings {index} --output {same}") == 0
    # As many dimensions, another space.
    with pytest.raises(ValueError, match="same model"):
        search.answer([f"{folder}/index"], [f"{folder}/same"])
    answers = search.answer([f"{folder}/same"], [f"{folder}/same"], k=3)
    np.testing.assert_array_equal(answers.positions[:, 0], np.arange(120))


def test_learned_whitening_of_labels_and_of_pairs(folder):
    learn = FIT + "learned_whitening --dimension 6 "
    assert run(folder, learn + "--labels {labels.csv} --label-column landmark_id") == 0
    vectors = embeddings.load(f"{folder}/index").vectors  # normalised once more when written
    rows = covariance.within_class_pairs(LABELS)
    of_labels = transforms.fit_learned_whitening(vectors, *rows, 6)
    assert Transform.load(f"{folder}/t").digest == of_labels.digest
    pairs = [f"{IDS[left]},{IDS[right]}" for left, right in zip(*rows, strict=True)]
    (folder / "pairs.csv").write_text("\n".join(["query,positive", *pairs]))
    assert run(folder, learn + "--pairs {pairs.csv}") == 0
    assert Transform.load(f"{folder}/t").digest == of_labels.digest
    # What differs within classes counts less.
    before = validation.leave_one_out_map(vectors, LABELS)
    after = validation.leave_one_out_map(of_labels.apply(vectors), LABELS)
    assert after > before + 0.1


def test_a_chain_of_power_and_whitening(folder):
    assert run(folder, "fit --embeddings {index} --output {p} --kind power --exponent 0.7") == 0
    assert run(folder, FIT + "pca --dimension 4 --after {p}") == 0
    loaded = Transform.load(f"{folder}/t")
    assert [fit["kind"] for fit in loaded.fits] == ["power", "pca"]
    vectors = embeddings.load(f"{folder}/index").vectors
    expected = transforms.fit_pca(vectors, 4, after=transforms.power(16, 0.7))
    assert loaded.digest == expected.digest


def test_the_curve(folder, capsys):
    options = "--labels {labels.csv} --label-column landmark_id --output {c.json} --picture "
    assert run(folder, "curve --embeddings {index} --dimensions 16 8 2 " + options + "{c.svg}") == 0
    table = capsys.readouterr().out.splitlines()
    curve = json.loads((folder / "c.json").read_text())
    vectors = embeddings.load(f"{folder}/index").vectors
    assert curve["untransformed"] == validation.leave_one_out_map(vectors, LABELS)
    assert (curve["k"], curve["queries"], curve["input_dimension"]) == (100, 120, 16)
    assert [point["dimension"] for point in curve["points"]] == [16, 8, 2]
    for point, line in zip(curve["points"], table[2:], strict=True):
        reduced = transforms.fit_pca(vectors, point["dimension"]).apply(vectors)
        score = validation.leave_one_out_map(reduced, LABELS)
        assert point["score"] == pytest.approx(score, abs=1e-12)
        assert point["lost"] == pytest.approx(curve["untransformed"] - score, abs=1e-12)
        assert point["interval"][0] < point["lost"] < point["interval"][1]
        assert point["bytes_per_image"] == 4 * point["dimension"]
        assert line.split()[:2] == [str(point["dimension"]), f"{score:.4f}"]
    assert (folder / "c.svg").read_text().count("</svg>") == 1


def test_the_interval_of_the_loss_by_hand():
    before, after = np.array([1, 0.5, 0.5, 1]), np.array([0.5, 0.5, 0, 1])
    # Differences 0.5, 0, 0.5, 0: mean 0.25, variance 4 * 0.0625 / 3, standard error 0.1443.
    point = dimension_curve._point(8, before, after)
    assert point.lost == 0.25
    error = 1.96 * 0.1443376
    assert point.interval == pytest.approx((0.25 - error, 0.25 + error), abs=1e-6)


def test_the_curve_of_a_transform_and_of_some_queries():
    vectors = clustered()
    fitted = transforms.fit_pca(vectors, 9)
    curve = dimension_curve.dimension_curve(vectors, LABELS, fitted, queries=40)
    assert [point.dimension for point in curve.points] == [9]
    assert curve.queries == 40
    again = dimension_curve.dimension_curve(vectors, LABELS, fitted, queries=40)
    assert curve == again


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (FIT + "pca --dimension 17", "between 1 and 16"),
        (FIT + "pca --after {none}", "finished transform"),
        ("fit --embeddings {none} --output {t} --kind pca", "finished embeddings"),
        (FIT + "learned_whitening --labels {labels.csv}", "expected the columns ['label']"),
        (FIT + "learned_whitening --pairs {wrong.csv}", "Received: 1 others ('x')"),
        ("apply --transform {t} --embeddings {index} --output {index}", "another output"),
        ("curve --embeddings {index} --labels {few.csv}", "none for 119 ('i001', "),
        ("curve --embeddings {index} --labels {all.csv} --picture {c.gif}", ".svg, .png or .pdf"),
    ],
)
def test_errors_are_one_line(folder, command, message, capsys):
    (folder / "wrong.csv").write_text("query,positive\ni001,i002\ni001,x\n")
    (folder / "few.csv").write_text("id,label\ni000,1\n")
    text = (folder / "labels.csv").read_text()
    (folder / "all.csv").write_text(text.replace("landmark_id", "label"))
    assert run(folder, command) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (folder / "c.gif").exists()


def test_refuses_embeddings_of_another_model(folder, capsys):
    assert run(folder, FIT + "pca --dimension 5") == 0
    write(folder / "query", clustered(1), digest="another")
    assert run(folder, "apply --transform {t} --embeddings {query} --output {x}") == 1
    assert "of the model 'model'" in capsys.readouterr().err
    assert not (folder / "x" / "manifest.json").exists()


@pytest.mark.parametrize("kind", ["learned_whitening", "learned_whitening --labels a --pairs b"])
def test_usage_errors(folder, kind):
    with pytest.raises(SystemExit) as ended:
        run(folder, FIT + kind)
    assert ended.value.code == 2


def test_runs_as_a_script():
    script = str(ROOT / "retrieval" / "transform.py")
    result = subprocess.run([sys.executable, script, "curve", "--help"], capture_output=True)
    assert result.returncode == 0
    assert b"--picture" in result.stdout
