"""Huawei DIGIX 2020 digital-device retrieval: CGD on five backbones, re-ranked twice.

System: "Combination of Multiple Global Descriptors" (Jun et al., arXiv:1903.10663) with CosFace,
68,810 training images of 3,097 classes, a quarter of which is validation; model files of 500 MB
together (`export/savedmodel.py --weights-dtype float16 --limit-mb 500`).
Command: python train.py --recipe digix_cgd --stage all --member A --data DIR --tpu
Hardware and hours: not published. Expected: the score 0.5·top-1 + 0.5·mAP@10 of the competition
was the system's measure; not reproduced here, the images are not public.

Weights of PyTorch's form are converted before: python -m tools.convert_weights --help.
"""

from recipes.schema import Member, Model, Recipe, Stage

NETWORK = {
    "weights": None,
    "freeze_batchnorm": False,
    "neck": "cgd:descriptors=SMG",
    "embedding_dim": 6144,
    "margin": "cosface",
    "margin_size": 0.4,
    "scale": 30.0,
    "views": "ten_crop:crop=736",
}
STAGE = Stage(
    number=1,
    data="total",
    image_size=736,
    export_size=800,
    epochs=40,
    batch_size=32,
    learning_rate=1e-4,
    optimizer="adam",
    schedule="cosine",
    class_weights=False,
    augmentation=(
        "square_crop:factor=1.087",
        "random_flip",
        "random_perspective:distortion=0.3,p=0.5",
        "color_jitter:brightness=0.2,contrast=0.2,saturation=0.2,p=0.5",
        "random_turn:quarters=(1,2,3),p=0.3",
        "random_affine:strength=0.1,p=0.5",
        "random_erasing:area=(0.02,0.2),p=0.5",
    ),
)
HRNET = {"learning_rate": 5e-4}

RECIPE = Recipe(
    name="digix_cgd",
    members=(
        Member("A", Model("resnet101", **NETWORK)),
        Member("B", Model("hrnet-w18", **NETWORK), stage=HRNET),
        Member("C", Model("hrnet-w30", **NETWORK), stage=HRNET),
        Member("D", Model("fishnet99", **NETWORK)),
        Member("E", Model("dla102x", **NETWORK)),
    ),
    stages=(STAGE,),
    post_processing=(
        "pca:dimension=512,fit_on=queries",
        "k_reciprocal:k1=20,k2=6,lambda_value=0.3",
        "expand_queries:rule=average,top=1",
        "expand_queries:rule=logarithmic,top=10",
        "expand_index:rule=average,top=1",
        "k_reciprocal:k1=20,k2=6,lambda_value=0.3",
    ),
)
