"""First place of Google Landmark Retrieval 2020: EfficientNets, cosine softmax, five stages.

Paper: Jeon, "1st Place Solution to Google Landmark Retrieval 2020", arXiv:2009.05132.
Command: python train.py --recipe glr2020_1st --stage all --member A --data DIR --tpu
Hardware and hours, as published: stage 1 of B7 took 149 h on a Colab TPU v2-8 (about 98 images/s).
Expected, as published: private / public mAP@100 of B7 after the stages 0.30264 / 0.33907,
0.33749 / 0.36576, 0.35389 / 0.39121, 0.36364 / 0.40174, 0.36569 / 0.40215; the ensemble of the
four members 0.38677 / 0.42328. Not reproduced here: no run on a TPU has been made yet.

Epochs of the stages 3 to 5 are not published; theirs here are stage 2's.
"""

import dataclasses

from recipes.schema import Member, Model, Recipe, Stage

# The winner's notebook writes decay=1e-5, which in Keras 2 lowers the learning rate.
STAGE_1 = Stage(
    number=1,
    data="clean",
    image_size=512,
    epochs=35,
    batch_size=64,
    learning_rate=1e-3,
    schedule="inverse_time",
    decay=1e-5,
)
STAGE_2 = dataclasses.replace(
    STAGE_1,
    number=2,
    data="total",
    epochs=13,
    start_from=1,
    skip_layers=("bottleneck", "head"),
)
STAGE_3 = dataclasses.replace(STAGE_2, number=3, image_size=640, start_from=2, skip_layers=())
STAGE_4 = dataclasses.replace(STAGE_3, number=4, image_size=736, batch_size=32, start_from=3)
STAGE_5 = dataclasses.replace(STAGE_4, number=5, start_from=4, noisy_weight=0.5)

RECIPE = Recipe(
    name="glr2020_1st",
    members=(
        Member("A", Model("efficientnet-b7"), weight=1.0, last_stage=5),
        Member("B", Model("efficientnet-b6"), weight=0.8, last_stage=4),
        Member("C", Model("efficientnet-b5"), weight=0.5, last_stage=4),
        Member("D", Model("efficientnet-b5"), weight=0.5, last_stage=4, seed=1),
    ),
    stages=(STAGE_1, STAGE_2, STAGE_3, STAGE_4, STAGE_5),
)
