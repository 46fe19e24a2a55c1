"""Taobao-live 2020: EfficientNets on detected products, replayed through the classifier.

System: the shop's product in a live stream is detected (`detection/`), described by this ensemble
and matched (`retrieval/match.py`); 47,652 identities.
Command: python train.py --recipe taobao_live --stage all --member A --data DIR --tpu
Hardware and hours: not published. Expected: not reproduced here, the data are not public.

Epochs, batch and image size are not published; theirs are ours. A memory of 256 (B6) or 512 (B7)
embeddings of the batches before goes through the classifier again.
"""

import dataclasses

from recipes.schema import Member, Model, Recipe, Stage

NETWORK = Model(
    "efficientnet-b5",
    freeze_batchnorm=False,
    pooling="gem_fixed",
    neck="linear_bn",
    embedding_dim=512,
    margin="arcface",
    margin_size=0.3,
    scale=30.0,
)
B6 = dataclasses.replace(NETWORK, backbone="efficientnet-b6", losses=("cosine:memory=256",))
B7 = dataclasses.replace(NETWORK, backbone="efficientnet-b7", losses=("cosine:memory=512",))
STAGE = Stage(
    number=1,
    data="total",
    image_size=448,
    epochs=20,
    batch_size=64,
    learning_rate=3.5e-4,
    optimizer="adam",
    schedule="cosine",
    warmup_epochs=0.5,  # 2.5 %
    class_weights=False,
    batches="buckets",
    bins=12,
    scales=(0.857, 1.0, 1.143),
    augmentation=(
        "resize",
        "random_flip",
        "color_jitter:brightness=0.4,contrast=0.4,saturation=0.4,hue=0.1,p=0.8",
        "blur:sigma=(0.5,2.0),p=0.3",
        "noise:sigma=(2.0,12.0),p=0.3",
        "random_affine:strength=0.15,p=0.5",
        "cutout:share=0.15,p=0.5",
    ),
)

RECIPE = Recipe(
    name="taobao_live",
    members=(
        Member("A", NETWORK),
        Member("B", NETWORK, seed=1),
        Member("C", B6),
        Member("D", B7),
    ),
    stages=(STAGE,),
)
