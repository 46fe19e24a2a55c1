"""What `benchmarks/replicas.py` trains: cases of the recipe tiny, and every recipe's tiny twin.

A twin's case is named NAME_tiny/MEMBER and is the first stage with the recipe's neck, losses,
margin, schedule, clipping and decay. Members that differ only in what the twin replaces (the
backbone), in what a training step does not see (views, fit) or in the size of the margin are one
case. A new recipe is a new case.

What is set for all twins, `TWINS`:

- `model.batchnorm=synchronized` with `freeze_batchnorm=False`: else BatchNorm takes its statistics
  over a replica's images. Trained and not frozen, since with the frozen statistics of a random
  network the gradients are some 1e4.
- `model.scale=adacos_global`, for those with AdaCos by the winner's rule, of a replica's images.
- SGD at a rate of 0.01. Adam divides every gradient by its own size, also one that is zero but for
  rounding (of a shift before another BatchNorm), whose weight then goes anywhere without any
  effect. Optimizers work entry by entry on the sum over the replicas; "adamw" has one.

Stochastic depth is off in every twin. What each replica does in its own way is set for single
twins, `OWN`:

- RE-Net erases one rectangle of all feature maps of a replica: here none (erase_height=0). The
  case "erasing" does, at 96 pixels, since a third of the twin's map of one row is none.
- DCL shuffles the parts of an image by a replica's draws. Here each image is one random tile, 7 × 7
  times, which a shuffle does not change; where the parts came from still differs, so that this
  question (construction) has no weight.
- LIO compares the images of a class that lie side by side on a replica: pairs of images, so that
  two images of one class are on each of 8 replicas. At 96 pixels and with 3 × 3 regions: those of
  the twin's map of one position are all equal, and rounding would choose the strongest one.

Triplets, centres, memories and the other losses over pairs gather the global batch.

Cases with `differs` leave one of these as it is, and must differ.
"""

import dataclasses
import functools

import recipes
from recipes.schema import Member, Stage
from recipes.settings import override

FROZEN = "model.freeze_batchnorm=True"
UNFROZEN = ("model.freeze_batchnorm=False", "model.drop_connect_rate=0.0", "model.scale=10.0")
GLOBAL = "model.scale=adacos_global"
SHARDED = (FROZEN, "model.head=sharded")
# With frozen statistics of a random network the gradients are some 1e4.
FROZEN_RATE, ADAM_RATE, TWIN_RATE = 1e-5, 1e-4, 1e-2
SYNCHRONIZED = ("model.freeze_batchnorm=False", "model.batchnorm=synchronized")
TWINS = (*SYNCHRONIZED, GLOBAL, "stage.optimizer=sgd")
EXTENT = ("stage.images_per_class=2", "model.losses=('softmax','extent:regions=3')")
LARGER = "stage.image_size=96"
UNMOVED = "model.losses=('softmax:accuracy=0.5','regions:construction=0.0')"
UNERASED = "model.neck=global_local:erase_height=0.0"


@dataclasses.dataclass(frozen=True)
class Case:
    """One training.

    Attributes:
        recipe, member: what is trained, its first stage.
        settings: what is set, as texts of `--set`.
        rate: learning rate; None is the recipe's.
        tiled: images of 7 × 7 equal tiles, which no shuffle of their parts changes.
        differs: something is each replica's own, and the replicas must not equal one device.
    """

    recipe: str = "tiny"
    member: str = "A"
    settings: tuple[str, ...] = ()
    rate: float | None = None
    tiled: bool = False
    differs: bool = False

    def tables(self, batch_size: int) -> tuple[Member, Stage]:
        """Returns the member and its first stage at a batch size."""
        recipe = override(recipes.load(self.recipe), self.settings)
        member = recipe.member(self.member)
        stage = recipe.stages_of(member, "1")[0]
        rate = self.rate or stage.learning_rate
        return member, dataclasses.replace(stage, batch_size=batch_size, learning_rate=rate)


OWN = {
    "aliproducts_tiny/D": {"settings": (*TWINS, UNMOVED), "tiled": True},
    "aliproducts_tiny/F": {"settings": (*TWINS, *EXTENT, LARGER)},
    "renet_tiny/A": {"settings": (*TWINS, UNERASED)},
}
TINY = {
    "fixed": Case(settings=(FROZEN, "model.scale=adacos_fixed"), rate=FROZEN_RATE),
    "winner": Case(settings=(FROZEN,), rate=FROZEN_RATE, differs=True),
    "global": Case(settings=(FROZEN, GLOBAL), rate=FROZEN_RATE),
    "gem": Case(member="B", settings=(FROZEN, GLOBAL), rate=FROZEN_RATE),
    "batchnorm": Case(settings=UNFROZEN, differs=True),
    "synchronized": Case(settings=(*UNFROZEN, "model.batchnorm=synchronized")),
    # Twice as deep, so that there are residual blocks to leave out.
    "depth": Case(
        settings=(
            *SYNCHRONIZED,
            "model.scale=10.0",
            "model.depth=0.5",
            "model.drop_connect_rate=0.2",
        ),
        differs=True,
    ),
    "accumulation": Case(
        settings=(FROZEN, "model.scale=10.0", "stage.accumulate=2", "stage.clip_norm=1.0")
    ),
    "adamw": Case(
        settings=(FROZEN, GLOBAL, "stage.optimizer=adamw", "stage.weight_decay=0.1"),
        rate=ADAM_RATE,
    ),
    "ema": Case(
        member="B",
        settings=(FROZEN, GLOBAL, "stage.average=ema", "stage.ema_decay=0.5"),
        rate=FROZEN_RATE,
    ),
    "sharded": Case(settings=SHARDED, rate=FROZEN_RATE),
    "sharded-arcface": Case(
        settings=(
            *SHARDED,
            "model.scale=30.0",
            "model.margin=arcface",
            "model.margin_size=0.3",
        ),
        rate=FROZEN_RATE,
    ),
}
# What no recipe has, and what the twins above leave out.
MORE = {
    "pairs": Case(
        "bag_of_tricks_tiny",
        settings=(*TWINS, "model.losses=('softmax','circle','contrastive','multi_similarity')"),
        rate=TWIN_RATE,
    ),
    "memories": Case(
        "bag_of_tricks_tiny",
        settings=(
            *TWINS,
            "model.losses=('softmax','multi_similarity:memory=32','triplet:memory=32')",
        ),
        rate=TWIN_RATE,
    ),
    "erasing": Case("renet_tiny", settings=(*TWINS, LARGER), rate=TWIN_RATE, differs=True),
    "shuffling": Case("aliproducts_tiny", "D", TWINS, TWIN_RATE, differs=True),
}


@functools.cache
def cases() -> dict[str, Case]:
    """Returns all cases by name."""
    found = dict(TINY)
    for name in recipes.NAMES:
        if name != "tiny":
            found |= _twins(f"{name}_tiny")
    return found | MORE


def _twins(name: str) -> dict[str, Case]:
    seen, found = set(), {}
    for member in recipes.load(name).members:
        trained = dataclasses.replace(member.model, fit="stretch", views="plain", margin_size=0.0)
        if trained in seen:
            continue
        seen.add(trained)
        case = f"{name}/{member.name}"
        own = {"settings": TWINS, "rate": TWIN_RATE, **OWN.get(case, {})}
        found[case] = Case(name, member.name, **own)
    return found
