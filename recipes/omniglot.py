"""Handwritten characters, from scratch on a CPU: three resolutions, two members.

Data: train/index/query tables of Omniglot (Lake et al., Science 2015), test alphabets disjoint
from training.
Command: python end_to_end.py --recipe omniglot --source FOLDER_WITH_THE_TABLES
"""

import dataclasses

from recipes.schema import Member, Model, Recipe, Stage

NETWORK = Model(
    backbone="efficientnet",
    width=0.5,
    depth=0.5,
    drop_connect_rate=0.1,
    weights=None,
    antialias=True,
    embedding_dim=256,
    freeze_batchnorm=False,
    margin="cosface",
    margin_size=0.2,
    scale=16.0,
)
STAGE_1 = Stage(
    number=1,
    data="clean",
    image_size=32,
    epochs=30,
    batch_size=32,
    learning_rate=2e-3,
    optimizer="adamw",
    weight_decay=1e-2,
    schedule="cosine",
    warmup_epochs=2.0,
    # A mirrored character is another character.
    augmentation=("resize", "random_affine:strength=0.25"),
)
STAGE_2 = dataclasses.replace(STAGE_1, number=2, image_size=48, epochs=25, start_from=1)
STAGE_3 = dataclasses.replace(STAGE_1, number=3, image_size=64, epochs=15, start_from=2)

RECIPE = Recipe(
    name="omniglot",
    members=(
        Member("A", NETWORK, last_stage=3),
        Member("B", dataclasses.replace(NETWORK, pooling="gem"), last_stage=3, seed=1),
    ),
    stages=(STAGE_1, STAGE_2, STAGE_3),
)
