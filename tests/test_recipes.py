"""Recipes are data: the published one, and what --set may change."""

import dataclasses

import pytest

import recipes
from recipes.schema import Member, Model, Recipe, Stage
from recipes.settings import override
from retrieval.reranking import steps


@pytest.mark.parametrize("name", recipes.NAMES)
def test_every_recipe_loads_and_tells_its_story(name):
    recipe = recipes.load(name)
    assert recipe.name == name
    story = __import__(f"recipes.{name}", fromlist=["x"]).__doc__
    assert "Command:" in story
    for member in recipe.members:
        assert len(recipe.stages_of(member, "all")) == member.last_stage


@pytest.mark.parametrize("name", recipes.NAMES)
def test_post_processing_is_understood(name):
    for text in recipes.load(name).post_processing:
        steps.parse(text)


def test_the_winners_stages_and_members():
    """The table of the published system, typed once more."""
    recipe = recipes.load("glr2020_1st")
    rows = [
        (s.data, s.image_size, s.start_from, s.skip_layers, s.noisy_weight, s.batch_size)
        for s in recipe.stages
    ]
    top = ("bottleneck", "head")
    assert rows == [
        ("clean", 512, None, (), 1.0, 64),
        ("total", 512, 1, top, 1.0, 64),
        ("total", 640, 2, (), 1.0, 64),
        ("total", 736, 3, (), 1.0, 32),
        ("total", 736, 4, (), 0.5, 32),
    ]
    members = [(m.model.backbone[-2:], m.weight, m.last_stage) for m in recipe.members]
    assert members == [("b7", 1.0, 5), ("b6", 0.8, 4), ("b5", 0.5, 4), ("b5", 0.5, 4)]
    for stage in recipe.stages:
        assert (stage.optimizer, stage.learning_rate, stage.momentum) == ("sgd", 1e-3, 0.9)
        assert (stage.schedule, stage.decay, stage.weight_decay) == ("inverse_time", 1e-5, 0.0)
    model = recipe.members[0].model
    assert (model.scale, model.margin, model.freeze_batchnorm) == ("adacos", "none", True)


def test_override_reaches_stages_models_and_recipe():
    settings = [
        "stage.epochs=1",
        "stage.augmentation=('resize',)",
        "model.scale=30",
        "recipe.seed=7",
    ]
    recipe = override(recipes.load("tiny"), [*settings, "model.weights=None"])
    assert {stage.epochs for stage in recipe.stages} == {1}
    assert {stage.augmentation for stage in recipe.stages} == {("resize",)}
    assert {member.model.scale for member in recipe.members} == {30}
    assert recipe.seed == 7


def test_settings_that_only_fit_together_come_in_any_order():
    settings = ["stage.schedule=step", "stage.milestones=(0.5, 1)", "stage.clip_norm=5"]
    for order in (settings, settings[::-1]):
        stage = override(recipes.load("tiny"), order).stages[0]
        assert (stage.schedule, stage.milestones, stage.clip_norm) == ("step", (0.5, 1), 5)
    sharded = override(recipes.load("tiny"), ["model.sample_rate=0.1", "model.head=sharded"])
    assert sharded.members[0].model.sample_rate == 0.1


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("stage.epoch=1", "stage has number, data"),
        ("stage.epochs=two", "expected int. Received: 'two'"),
        ("stage.epochs=1.5", "expected int"),
        ("stage.epochs=0", "a number above 0"),
        ("model.pooling=max", "one of .*'gap', 'spoc', 'mac'"),
        ("model.losses=()", "at least one"),
        ("model.sub_centers=0", "above 0"),
        ("model.scale=dynamic", "'adacos_fixed'.* or a number"),
        ("stage.batches=random", "'shuffled', 'classes'"),
        ("stage.scales=(1, 0)", "numbers above 0"),
        ("stage.milestones=(1, 'a')", "milestones: expected"),
        ("stage.schedule=step", "expected epochs with the schedule 'step'"),
        ("stage.accumulate=3", "a divisor of the batch of 8. Received: 3"),
        ("stage.ema_decay=1.0", "between 0 and 1"),
        ("model.sample_rate=0.5", "expected 1, or model.head='sharded'"),
        ("model.sample_rate=0", "above 0, at most 1"),
        ("epochs=1", "stage.FIELD=VALUE"),
        ("stage.epochs", "stage.FIELD=VALUE"),
    ],
)
def test_wrong_settings_are_explained(setting, message):
    with pytest.raises(ValueError, match=message):
        override(recipes.load("tiny"), [setting])


def test_unknown_names_are_explained():
    with pytest.raises(ValueError, match=r"one of aliproducts, .*or with _tiny"):
        recipes.load("glr2021")
    recipe = recipes.load("glr2020_1st")
    with pytest.raises(ValueError, match="has A, B, C, D"):
        recipe.member("E")
    with pytest.raises(ValueError, match="1 … 4 and 'all'"):
        recipe.stages_of(recipe.member("B"), "5")


def test_contradictions_are_refused():
    stage = Stage(1, "clean", 32, 1, 8, 0.1)
    with pytest.raises(ValueError, match="a stage before 1"):
        dataclasses.replace(stage, start_from=1)
    for optimizer, rule in [("adam", "decoupled"), ("adamw", "coupled"), ("lamb", "coupled")]:
        with pytest.raises(ValueError, match=f"weight_decay_rule: .* Received: '{rule}'"):
            dataclasses.replace(
                stage, optimizer=optimizer, weight_decay=0.1, weight_decay_rule=rule
            )
    with pytest.raises(ValueError, match="below the 1 epochs"):
        dataclasses.replace(stage, average="swa", average_from=1.0)
    with pytest.raises(ValueError, match="frozen BatchNorm takes no statistics"):
        Model(batchnorm="synchronized")
    with pytest.raises(ValueError, match=r"a divisor of the batch of 8\. Received: 3"):
        dataclasses.replace(stage, batches="classes", images_per_class=3)
    with pytest.raises(ValueError, match="1, 2, … in order"):
        Recipe("x", (Member("A", Model()),), (stage, stage))
    with pytest.raises(ValueError, match="last_stage of at most 1"):
        Recipe("x", (Member("A", Model(), last_stage=2),), (stage,))
    with pytest.raises(ValueError, match="plain word"):
        Member("../A", Model())
    with pytest.raises(ValueError, match="'replicated' with losses besides 'cosine'"):
        Model(head="sharded", losses=("cosine", "center"))
