"""The search of an ensemble's weights."""

import json

import numpy as np
import pytest

from retrieval import embeddings, ensemble, weights
from retrieval.embeddings import EmbeddingsWriter
from retrieval.projecting import validation

LABELS = np.arange(120) % 30


def member(directory, noise, seed, order=slice(None)):
    """Embeddings of 30 classes of 4 images, whose noise says how good the model is."""
    centres = np.random.default_rng(0).standard_normal((30, 16))
    rng = np.random.default_rng(seed)
    vectors = centres[LABELS] + noise * rng.standard_normal((120, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    ids = [f"i{number}" for number in range(120)]
    with EmbeddingsWriter(str(directory), 16, model_digest="ab", source="t") as writer:
        writer.append(ids[order], vectors[order])
    return embeddings.load(str(directory))


@pytest.fixture
def members(tmp_path):
    return [
        member(tmp_path / "bad", 3.0, 1),
        member(tmp_path / "good", 0.8, 2, slice(None, None, -1)),
        member(tmp_path / "fair", 1.2, 3),
    ]


@pytest.mark.parametrize("combine", ensemble.COMBINATIONS)
def test_finds_weights_that_no_single_change_improves(members, combine):
    told = []
    found = weights.search_weights(members, LABELS, combine=combine, on_step=told.append)
    if combine == "concatenate":
        assert found == weights.search_weights(members, LABELS, combine=combine)
    assert tuple(told) == found.steps

    def score(tried):
        _, vectors = ensemble.join(members, tried, combine=combine)
        return validation.leave_one_out_map(np.asarray(vectors), LABELS)

    assert found.score == score(found.weights)
    assert found.score > score([1, 1, 1]) + 0.05
    assert max(found.weights) == 1
    assert found.weights[0] < found.weights[1]
    for number in range(3):
        for change in (weights.FACTORS[-1], 1 / weights.FACTORS[-1]):
            tried = list(found.weights)
            tried[number] *= change
            assert score(tried) <= found.score + 1e-12
    best = [step.score for step in found.steps if step.is_best]
    assert best == sorted(best)
    assert best[-1] == found.score
    assert len({step.weights for step in found.steps}) == len(found.steps)


def test_refuses_what_does_not_fit(members):
    with pytest.raises(ValueError, match="two members"):
        weights.search_weights(members[:1], LABELS)
    with pytest.raises(ValueError, match="expected 120 labels"):
        weights.search_weights(members, LABELS[:3])
    with pytest.raises(ValueError, match=r"greater than 1. Received: \[0.5\]"):
        weights.search_weights(members, LABELS, factors=[0.5])


def test_command(members, tmp_path, capsys):
    table = tmp_path / "labels.csv"
    rows = "".join(f"i{number},{label}\n" for number, label in enumerate(LABELS))
    table.write_text("id,class\n" + rows)
    argv = [str(tmp_path / name) for name in ("bad", "good", "fair")]
    argv += [
        "--labels",
        str(table),
        "--label-column",
        "class",
        "--output",
        str(tmp_path / "w.json"),
    ]
    assert weights.main(argv) == 0
    found = weights.search_weights(members, LABELS)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(found.steps) + 1
    assert printed[0].startswith(f"mAP@100 {found.steps[0].score:.4f}  weights 1 ")
    assert printed[-1].endswith(f"mAP@100 {found.score:.4f}")
    assert json.loads((tmp_path / "w.json").read_text())["weights"] == list(found.weights)
    table.write_text("id,class\ni0,1\n")
    assert weights.main(argv) == 1
    assert "none for 119" in capsys.readouterr().err
