"""RE-Net, bag retrieval: a global branch, and a local one that must do without parts.

System: batch feature erasing (Dai et al., arXiv:1811.07130) with batch-hard triplets and label
smoothing on each branch, and the centre loss on both together; four flips and k-reciprocal
re-ranking at test.
Command: python train.py --recipe renet --stage all --member A --data DIR --tpu
Hardware and hours: not published. Expected, as published: rank-1 0.8432 of one member, 0.8498 with
four flips, 0.8869 with three members and re-ranking; rank-10 0.9905. Not reproduced here.

Epochs and batch are not published; theirs are ours. The centre loss' weight is the mean's over the
batch, see `models.center_loss`.
Weights of PyTorch's form are converted before: python -m tools.convert_weights --help.
"""

import dataclasses

from recipes.schema import Member, Model, Recipe, Stage

NETWORK = Model(
    "resnet50",
    last_stride=1,
    weights=None,
    freeze_batchnorm=False,
    neck="global_local",
    embedding_dim=2048,
    losses=(
        "softmax:on=global_bn,smoothing=0.1,use_bias=False",
        "softmax:on=local_bn,smoothing=0.1,use_bias=False",
        "triplet:on=global,margin=2.0",
        "triplet:on=local,margin=2.0",
        "center:weight=0.0005",
    ),
    views="flips",
)
STAGE = Stage(
    number=1,
    data="total",
    image_size=300,
    epochs=80,
    batch_size=64,
    learning_rate=3.5e-4,
    optimizer="adam",
    schedule="step",
    milestones=(40.0, 60.0),
    warmup_epochs=5.0,
    class_weights=False,
    batches="classes",
    images_per_class=4,
    augmentation=(
        "resize",
        "random_flip",
        "random_vertical_flip",
        "random_erasing:p=0.5",
    ),
)

RECIPE = Recipe(
    name="renet",
    members=(
        Member("A", NETWORK),
        Member("B", dataclasses.replace(NETWORK, backbone="resnet50-ibn-a"), seed=1),
        Member("C", dataclasses.replace(NETWORK, backbone="se-resnext50"), seed=2),
    ),
    stages=(STAGE,),
    post_processing=("k_reciprocal:k1=5,k2=5,lambda_value=0.3",),
)
