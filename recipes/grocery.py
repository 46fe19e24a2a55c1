"""Groceries in shops, from scratch on a CPU: three resolutions, two members.

Data: train/index/query tables of the Grocery Store Dataset (Klasson et al., WACV 2019), test
classes disjoint from training.
Command: python end_to_end.py --recipe grocery --source FOLDER_WITH_THE_TABLES
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
    image_size=64,
    epochs=30,
    batch_size=32,
    learning_rate=2e-3,
    optimizer="adamw",
    weight_decay=1e-2,
    schedule="cosine",
    warmup_epochs=2.5,
    augmentation=(
        "random_crop:smallest_area=0.4",
        "resize",
        "random_flip",
        "color_jitter:brightness=0.2,contrast=0.2,saturation=0.2",
    ),
)
STAGE_2 = dataclasses.replace(STAGE_1, number=2, image_size=96, epochs=15, start_from=1)
STAGE_3 = dataclasses.replace(
    STAGE_1, number=3, image_size=160, export_size=224, epochs=8, start_from=2
)

RECIPE = Recipe(
    name="grocery",
    members=(
        Member("A", NETWORK, last_stage=3),
        Member("B", dataclasses.replace(NETWORK, pooling="gem"), last_stage=3, seed=1),
    ),
    stages=(STAGE_1, STAGE_2, STAGE_3),
)
