"""The demo: drawn photographs of landmarks, from scratch on a CPU in a few minutes.

Command: ./run demo
Hardware: 2 to 4 CPU cores.
"""

import dataclasses

from recipes.schema import Member, Model, Recipe, Stage

NETWORK = Model(
    backbone="efficientnet",
    width=0.5,
    depth=0.25,
    drop_connect_rate=0.0,
    weights=None,
    antialias=True,
    embedding_dim=128,
    freeze_batchnorm=False,
)
STAGE_1 = Stage(
    number=1,
    data="clean",
    image_size=48,
    epochs=10,
    batch_size=32,
    learning_rate=3e-3,
    optimizer="adamw",
    weight_decay=1e-2,
    schedule="cosine",
    warmup_epochs=1.0,
    augmentation=(
        "random_crop:smallest_area=0.6",
        "resize",
        "random_flip",
        "color_jitter:brightness=0.15,contrast=0.15,saturation=0.15",
    ),
)
# The total set has more classes, so bottleneck and head are new; its labels are noisier.
STAGE_2 = dataclasses.replace(
    STAGE_1,
    number=2,
    data="total",
    image_size=64,
    epochs=14,
    start_from=1,
    skip_layers=("bottleneck", "head"),
    noisy_weight=0.5,
)
STAGE_3 = dataclasses.replace(
    STAGE_2, number=3, image_size=96, epochs=3, start_from=2, skip_layers=()
)

RECIPE = Recipe(
    name="demo",
    members=(
        Member("A", NETWORK, weight=1.0, last_stage=3),
        Member("B", dataclasses.replace(NETWORK, pooling="gem"), weight=1.0, last_stage=3, seed=1),
    ),
    stages=(STAGE_1, STAGE_2, STAGE_3),
)
