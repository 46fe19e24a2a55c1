"""Small twins of any recipe: its neck, losses, batches and augmentation on a small network.

`--recipe NAME_tiny` trains in seconds and is for tests; `--recipe NAME_small` learns something on a
CPU in minutes, from scratch, with one optimizer for all, so that systems can be compared.
"""

import dataclasses

from recipes.schema import Member, Model, Recipe, Stage

STEP = 7  # image sizes are multiples, for regions of DCL
NETWORK = {"weights": None, "freeze_batchnorm": False, "drop_connect_rate": 0.0, "last_stride": 2}


@dataclasses.dataclass(frozen=True)
class Size:
    """How small.

    Attributes:
        backbone, width, depth: of every member.
        embedding_dim: at most.
        image_size: of the first stage; later ones grow in the recipe's proportion.
        batch_size: of every stage.
        epochs: of a member's stages together.
        optimization: fields of `Stage` that are the same for all; {} keeps the recipe's.
    """

    backbone: str
    width: float
    depth: float
    embedding_dim: int
    image_size: int
    batch_size: int
    epochs: int
    optimization: dict


TINY = Size("efficientnet", 0.25, 0.25, 24, 28, 8, 1, {})
# A ResNet, since a CPU is slow at EfficientNet's depthwise convolutions.
SMALL = Size(
    "resnet50",
    0.25,
    0.5,
    252,
    56,
    32,
    16,
    {
        "optimizer": "adamw",
        "learning_rate": 2e-3,
        "weight_decay": 1e-2,
        "weight_decay_rule": "decoupled",
        "schedule": "cosine",
        "milestones": (),
        "warmup_epochs": 1.0,
        "accumulate": 1,
        "clip_norm": None,
    },
)
SIZES = {"tiny": TINY, "small": SMALL}


def twin(recipe: Recipe, kind: str) -> Recipe:
    """Returns the "tiny" or "small" twin of a recipe."""
    size = SIZES[kind]
    first = recipe.stages[0].image_size
    stages = tuple(_stage(stage, size, first, len(recipe.stages)) for stage in recipe.stages)
    members = tuple(_member(member, size, first, stages) for member in recipe.members)
    return dataclasses.replace(
        recipe,
        name=f"{recipe.name}_{kind}",
        members=members,
        stages=stages,
        post_processing=tuple(map(_fitting, recipe.post_processing)),
    )


def _stage(stage: Stage, size: Size, first: int, stages: int) -> Stage:
    buckets = {"bins": 3, "image_size": 64} if stage.batches == "buckets" else {}
    side = _side(stage.image_size, size, first)
    export_size = stage.export_size
    if export_size:
        larger = side + STEP if export_size > stage.image_size else STEP
        export_size = max(larger, _side(export_size, size, first))
    return dataclasses.replace(
        stage,
        **{
            "image_size": side,
            "export_size": export_size,
            "epochs": max(1, size.epochs // stages),
            "batch_size": size.batch_size,
            "accumulate": 1,
            "milestones": (0.5,) if stage.milestones else (),
            "warmup_epochs": min(stage.warmup_epochs, 0.5),
            **size.optimization,
            **buckets,
        },
    )


def _member(member: Member, size: Size, first: int, stages: tuple[Stage, ...]) -> Member:
    own = dict(member.stage)
    if "image_size" in own:
        own["image_size"] = _side(own["image_size"], size, first)
    if size.optimization:
        own.pop("learning_rate", None)
    export_size = stages[0].export_size or stages[0].image_size
    model = _model(member.model, size, min(export_size, stages[0].image_size))
    return dataclasses.replace(member, model=model, stage=own)


def _model(model: Model, size: Size, crop: int) -> Model:
    views = model.views
    if "crop=" in views:
        views = f"{views.partition(':')[0]}:crop={crop}"
    return dataclasses.replace(
        model,
        **NETWORK,
        backbone=size.backbone,
        width=size.width,
        depth=size.depth,
        embedding_dim=min(size.embedding_dim, model.embedding_dim),
        antialias=True,
        views=views,
    )


def _side(pixels: int, size: Size, first: int) -> int:
    return max(1, round(pixels / first * size.image_size / STEP)) * STEP


def _fitting(step: str) -> str:
    return "pca:dimension=8,fit_on=queries" if step.startswith("pca:") else step
