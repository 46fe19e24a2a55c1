"""From a recipe's tables to networks, losses and input: all texts are understood and trained."""

import dataclasses

import keras
import numpy as np
import pytest
import trainers

import assemble
import recipes
from input_pipeline import augmentations
from models import backbones, builder, storage
from recipes.schema import Member, Model, Stage
from training.hand_over import hand_over
from training.stages import save_model

CLASSES, BATCH, SIZE = 6, 8, 32
NETWORK = Model(
    backbone="vit-b16",
    width=1 / 12,
    depth=1 / 12,
    weights=None,
    embedding_dim=24,
    freeze_batchnorm=False,
    batchnorm="synchronized",
    scale=10.0,
)
STAGE = Stage(
    number=1, data="clean", image_size=SIZE, epochs=1, batch_size=BATCH, learning_rate=0.01
)
RENET = (
    "softmax:on=global_bn,smoothing=0.1,use_bias=False",
    "softmax:on=local_bn,smoothing=0.1,use_bias=False",
    "triplet:on=global,margin=2.0",
    "triplet:on=local,margin=2.0",
    "center:weight=0.0005",
)
SYSTEMS = {
    "renet": {"neck": "global_local", "losses": RENET},
    "everything": {
        "neck": "global_local:erase_height=0.0",
        "losses": (*RENET, "circle:on=local,memory=16", "cosine:memory=16"),
    },
    "taobao": {"neck": "linear_bn", "losses": ("cosine:memory=16",), "margin": "arcface"},
    "sub-centres": {"sub_centers": 3, "margin": "dynamic", "margin_size": 0.5},
    "xbm": {"neck": "linear", "losses": ("contrastive:memory=16",)},
    "dcl": {"losses": ("softmax:accuracy=0.5", "regions:regions=2,distance=1,construction=0.01")},
    "lio": {"losses": ("softmax", "extent:regions=2")},
    "cgd": {"neck": "cgd:descriptors=SMG", "losses": ("cosine", "multi_similarity:on=gem")},
}


@pytest.mark.parametrize("name", recipes.NAMES)
def test_every_text_of_a_recipe_is_understood(name):
    recipe = recipes.load(name)
    for member in recipe.members:
        assert assemble.network_fields(member.model)["backbone"] in backbones.NAMES
        for stage in recipe.stages_of(member, "all"):
            augmentations.build(stage.augmentation, size=stage.image_size)
            counts = np.arange(1, 5)
            assert assemble.make_terms(member.model, stage, counts)[0].name == "head"


def examples(count, seed=0):
    """Fields of colour of a class each, four images of a class side by side."""
    rng = np.random.default_rng(seed)
    colours = np.random.default_rng(9).integers(0, 256, (CLASSES, 2, 2, 3))
    labels = np.repeat(np.arange(count // 4) % CLASSES, 4).astype(np.int32)
    fields = np.clip(colours[labels] + rng.integers(-20, 20, (count, 2, 2, 3)), 0, 255)
    images = fields.astype(np.uint8).repeat(SIZE // 2, 1).repeat(SIZE // 2, 2)
    return images, labels, np.ones(count, np.float32)


def make_trainer(system, replicas=1, stage=STAGE):
    keras.backend.clear_session()
    keras.utils.set_random_seed(1)
    network = dataclasses.replace(NETWORK, **SYSTEMS[system])
    where = trainers.strategy_of(replicas)
    return assemble.make_trainer(
        where, Member("A", network), stage, CLASSES, 10, class_counts=np.arange(1, CLASSES + 1)
    )


@pytest.mark.parametrize("system", [name for name in SYSTEMS if name != "everything"])
def test_every_system_trains_saves_and_hands_over(system, tmp_path):
    stage = dataclasses.replace(STAGE, batches="classes")
    trainer = make_trainer(system, stage=stage)
    data = examples(24 * BATCH)
    batches = iter(trainers.distributed(trainer, data, BATCH))
    trainer.train(batches, 3)  # until there is a memory to compare with
    first = trainer.train(batches, 2)
    trainer.train(batches, 14)
    last = trainer.train(batches, 2)
    assert last["loss"] < first["loss"]
    held_out = trainer.evaluate(trainers.distributed(trainer, data, BATCH))
    assert np.isfinite(held_out["loss"])
    path = str(tmp_path / "model.keras")
    save_model(trainer.model, path)
    vectors = [
        builder.embedding_model(model)(data[0][:4])
        for model in (trainer.model, storage.load_model(path))
    ]
    np.testing.assert_array_equal(*vectors)
    again = make_trainer(system, stage=stage)
    hand_over(path, again, ())
    pairs = zip(trainer.model.weights, again.model.weights, strict=True)
    same = [np.array_equal(a, b) for a, b in pairs if "seed" not in a.path]
    assert all(same)


def test_two_replicas_train_like_one():
    """Pairs, centres and memories are those of the global batch.

    Rounding may be a thousandth of what three steps change: the hardest pair and ReLU's zeros
    make it larger than that of a smooth loss.
    """
    data = examples(6 * BATCH)
    starts, ends = [], []
    for replicas in (1, 2):
        trainer = make_trainer("everything", replicas)
        weights = [weight for weight in trainer.model.weights if "seed" not in weight.path]
        starts.append([np.array(weight) for weight in weights])
        trainer.train(iter(trainers.distributed(trainer, data, BATCH)), 3)
        ends.append([np.array(weight) for weight in weights])
    for start, one, two in zip(starts[0], *ends, strict=True):
        assert np.linalg.norm(two - one) <= 1e-3 * np.linalg.norm(one - start) + 1e-6
