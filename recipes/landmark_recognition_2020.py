"""First place of Google Landmark Recognition 2020: seven ArcFace members, non-landmarks held back.

System: GeM, linear layer, BatchNorm and PReLU, ArcFace on classes weighted by 1/log(1 + n); answers
by the labels of the nearest training images, less what looks like a non-landmark (README,
"Recognition").
Command: python train.py --recipe landmark_recognition_2020 --stage all --member A --data DIR --tpu
Hardware and hours: not published. Expected, as published: private GAP 0.6598. Not reproduced here:
no run on a TPU has been made yet.

Each member has one of the published sizes. Accumulation is for memory (2 to 6 there).
Weights of PyTorch's form are converted before: python -m tools.convert_weights --help.
"""

import dataclasses

from recipes.schema import Member, Model, Recipe, Stage

NETWORK = Model(
    "efficientnet-b3",
    freeze_batchnorm=False,
    pooling="gem",
    neck="linear_bn_prelu",
    embedding_dim=512,
    margin="arcface",
    margin_size=0.35,
    scale=45.0,
    fit="crop",
)
FLIP = "random_flip"
STAGE = Stage(
    number=1,
    data="clean",
    image_size=448,
    epochs=10,
    batch_size=64,
    accumulate=2,
    learning_rate=0.05,
    optimizer="sgd",
    nesterov=True,
    weight_decay=1e-4,
    weight_decay_rule="coupled",
    clip_norm=5.0,
    schedule="cosine",
    warmup_epochs=1.0,
    augmentation=("shortest_crop:factor=1.143", FLIP),
)
SHORTEST_656 = {"image_size": 586, "augmentation": ("shortest_crop:factor=1.12", FLIP)}
LONGEST_512 = {"augmentation": ("longest_crop:factor=1.143", FLIP)}
LONGEST_664 = {"image_size": 600, "augmentation": ("longest_crop:factor=1.107", FLIP)}
STRETCHED = {"image_size": 512, "augmentation": ("square_crop:factor=1.19", FLIP)}


def _network(backbone: str, **more) -> Model:
    weights = "imagenet" if backbone.startswith("efficientnet") else None
    return dataclasses.replace(NETWORK, backbone=backbone, weights=weights, **more)


RECIPE = Recipe(
    name="landmark_recognition_2020",
    members=(
        Member("A", _network("se-resnext101")),
        Member("B", _network("se-resnext101", margin_size=0.4), seed=1, stage=SHORTEST_656),
        Member("C", _network("se-resnext101", fit="pad"), seed=2, stage=LONGEST_512),
        Member("D", _network("efficientnet-b3"), stage=STRETCHED),
        Member("E", _network("efficientnet-b3", fit="pad"), seed=1, stage=LONGEST_664),
        Member("F", _network("resnet152", margin_size=0.3)),
        Member("G", _network("res2net101", margin_size=0.3)),
    ),
    stages=(STAGE,),
)
