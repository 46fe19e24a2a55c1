"""The published systems' tiny twins, from photographs to scores; and that twins are like them."""

import json

import pytest

import end_to_end
import recipes
import train
from demo import draw
from recipes import twins

# One member of each kind: aliproducts' D has DCL in its third stage, F has LIO.
MEMBERS = [
    ("digix_cgd", "A"),
    ("taobao_live", "C"),
    ("landmark_recognition_2020", "C"),
    ("aliproducts", "D"),
    ("aliproducts", "F"),
    ("renet", "A"),
    ("bag_of_tricks", "A"),
]
SYSTEMS = [name for name in recipes.NAMES if name not in ("demo", "grocery", "omniglot", "tiny")]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    assert draw.main(["--output", str(folder), "--size", "tiny", "--workers", "1"]) == 0
    return str(folder)


@pytest.mark.parametrize(("name", "member"), MEMBERS)
def test_the_tiny_twin_trains_exports_retrieves_and_scores(name, member, source, tmp_path):
    recipe = recipes.load(f"{name}_tiny")
    chosen = recipe.member(member)
    job = end_to_end.Job(recipe, source, str(tmp_path))
    end_to_end.convert(job)
    argv = ["--recipe", recipe.name, "--member", member, "--stage", "all", "--workdir", job.workdir]
    assert train.main([*argv, "--data", job.path("shards")]) == 0
    end_to_end.embed(job, chosen, chosen.last_stage)
    info = json.loads(
        (tmp_path / "models" / f"{member}-stage-{chosen.last_stage}" / "waymark.json").read_text()
    )
    assert info["views"] == [chosen.model.views]
    members = [(chosen, chosen.last_stage)]
    scores = end_to_end.score(job, member, members, "exact", recipe.post_processing)
    assert 0 < scores["map_at_100"] <= 1
    with open(job.path(member, "stage-1", "log.jsonl"), encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    losses = [row["loss"] for row in rows if row["event"] == "train"]
    assert losses
    assert all(0 < loss < 100 for loss in losses)


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("kind", twins.SIZES)
def test_a_twin_has_the_systems_necks_losses_and_batches(name, kind):
    whole, small = recipes.load(name), recipes.load(f"{name}_{kind}")
    assert [m.name for m in small.members] == [m.name for m in whole.members]
    for one, other in zip(whole.members, small.members, strict=True):
        for field in ("neck", "losses", "margin", "margin_size", "scale", "pooling", "fit"):
            assert getattr(one.model, field) == getattr(other.model, field)
    for one, other in zip(whole.stages, small.stages, strict=True):
        assert (one.batches, one.augmentation, one.data) == (
            other.batches, other.augmentation, other.data,
        )  # fmt: skip
    steps = [[text.partition(":")[0] for text in r.post_processing] for r in (whole, small)]
    assert steps[0] == steps[1]
