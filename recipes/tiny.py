"""A twin of the whole ladder for tests: seconds, no accuracy to speak of.

Command: python train.py --recipe tiny --stage all --data DIR
Hardware: any CPU, about 20 s a member.
"""

import dataclasses

from recipes.schema import Member, Model, Recipe, Stage

NETWORK = Model(
    backbone="efficientnet",
    width=0.25,
    depth=0.25,
    weights=None,
    embedding_dim=32,
    freeze_batchnorm=False,
)
STAGE_1 = Stage(number=1, data="clean", image_size=32, epochs=2, batch_size=8, learning_rate=0.02)
STAGE_2 = dataclasses.replace(
    STAGE_1, number=2, data="total", start_from=1, skip_layers=("bottleneck", "head"), epochs=1
)
STAGE_3 = dataclasses.replace(
    STAGE_2, number=3, image_size=48, start_from=2, skip_layers=(), noisy_weight=0.5
)

RECIPE = Recipe(
    name="tiny",
    members=(
        Member("A", NETWORK, weight=1.0, last_stage=3),
        Member("B", dataclasses.replace(NETWORK, pooling="gem"), weight=0.8, last_stage=3, seed=1),
    ),
    stages=(STAGE_1, STAGE_2, STAGE_3),
)
