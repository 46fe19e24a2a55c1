"""First place of the AliProducts challenge 2020: classifiers that are averaged.

System: 50,000 product classes, 3 million noisy images; plain training, balanced fine-tuning, then
DCL (Chen et al., CVPR 2019) or LIO (Zhou et al., arXiv:2003.14142) and the accuracy loss. The
members' probabilities are averaged: python export/classify.py --recipe aliproducts.
Command: python train.py --recipe aliproducts --stage all --member A --data DIR --tpu
Hardware and hours: not published. Expected, as published: top-1 error of a member 20 to 25 % after
stage 1, 9 to 12 % after stage 2, DCL 1 to 2 points less; 6.27 % with eleven members. Not
reproduced here.

Which eleven is not published; these six have every ingredient once. Balanced batches take the place
of the fine-tuning set in which rare classes keep their validation images.
Weights of PyTorch's form are converted before: python -m tools.convert_weights --help.
"""

import dataclasses

from recipes.schema import Member, Model, Recipe, Stage

NETWORK = Model(
    "efficientnet-b3",
    freeze_batchnorm=False,
    neck="linear",
    embedding_dim=2048,
    losses=("softmax:accuracy=0.5",),
)
STAGE_1 = Stage(
    number=1,
    data="total",
    image_size=224,
    epochs=30,
    batch_size=256,
    learning_rate=0.1,
    weight_decay=1e-4,
    weight_decay_rule="coupled",
    schedule="step",
    milestones=(10.0, 20.0),
    class_weights=False,
    augmentation=("square_crop", "random_flip", "auto_augment", "cutout"),
)
STAGE_2 = dataclasses.replace(
    STAGE_1,
    number=2,
    start_from=1,
    epochs=10,
    learning_rate=0.01,
    milestones=(5.0,),
    batches="balanced",
)
STAGE_3 = dataclasses.replace(
    STAGE_2,
    number=3,
    start_from=2,
    image_size=448,
    batch_size=64,
    augmentation=("random_rotation:degrees=15.0", "square_crop", "random_flip"),
)
DCL = ("softmax:accuracy=0.5", "regions:construction=0.01")
LIO = ("softmax", "extent")
BY_CLASS = {"batches": "classes"}


def _torch(backbone: str, losses: tuple[str, ...]) -> Model:
    return dataclasses.replace(NETWORK, backbone=backbone, weights=None, losses=losses)


RECIPE = Recipe(
    name="aliproducts",
    members=(
        Member("A", NETWORK, last_stage=2),
        Member("B", dataclasses.replace(NETWORK, backbone="efficientnet-b4"), last_stage=2),
        Member("C", _torch("resnet50", NETWORK.losses), last_stage=2),
        Member("D", _torch("se-resnext50", DCL), last_stage=3),
        Member("E", _torch("se-resnext101", DCL), last_stage=3),
        Member("F", _torch("resnet50", LIO), last_stage=3, seed=1, stage=BY_CLASS),
    ),
    stages=(STAGE_1, STAGE_2, STAGE_3),
)
