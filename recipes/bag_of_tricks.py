"""A strong baseline of person re-identification: BNNeck and a bag of tricks.

Paper: Luo et al., "Bag of Tricks and a Strong Baseline for Deep Person Re-Identification",
arXiv:1903.07071.
Command: python train.py --recipe bag_of_tricks --stage all --data DIR --tpu
Hardware and hours: not published. Expected, as published: rank-1 94.5 and mAP 85.9 on Market-1501,
mAP 94.2 with re-ranking. Not reproduced here.

The published images are 256 × 128; --set stage.batches=buckets has shapes of its own for such.
Weights of PyTorch's form are converted before: python -m tools.convert_weights --help.
"""

from recipes.schema import Member, Model, Recipe, Stage

NETWORK = Model(
    "resnet50",
    last_stride=1,
    weights=None,
    freeze_batchnorm=False,
    neck="bnneck",
    embedding_dim=2048,
    losses=(
        "softmax:smoothing=0.1,use_bias=False",
        "triplet:on=feature,margin=0.3",
        "center:on=feature,weight=0.0005",
    ),
)
STAGE = Stage(
    number=1,
    data="total",
    image_size=256,
    epochs=120,
    batch_size=64,
    learning_rate=3.5e-4,
    optimizer="adam",
    weight_decay=5e-4,
    weight_decay_rule="coupled",
    schedule="step",
    milestones=(40.0, 70.0),
    warmup_epochs=10.0,
    class_weights=False,
    batches="classes",
    images_per_class=4,
    augmentation=("square_crop:factor=1.08", "random_flip", "random_erasing:p=0.5"),
)

RECIPE = Recipe(
    name="bag_of_tricks",
    members=(Member("A", NETWORK),),
    stages=(STAGE,),
    post_processing=("k_reciprocal:k1=20,k2=6,lambda_value=0.3",),
)
