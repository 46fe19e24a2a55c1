"""The three tables of a recipe, as frozen data: `Model`, `Stage` and `Recipe`.

Everything here is checked when it is made, so that a wrong word in a recipe or in `--set` costs
a second and not the first hour of a training.
"""

import dataclasses
from collections.abc import Mapping

SCALES = ("adacos", "adacos_global", "adacos_fixed")
COSINE = "cosine"
CHOICES = {
    "fit": ("stretch", "crop", "pad"),
    "pooling": ("gap", "spoc", "mac", "rmac", "gem", "gem_fixed", "gem_channel"),
    "margin": ("none", "arcface", "cosface", "sphereface", "dynamic"),
    "data": ("clean", "total"),
    "batches": ("shuffled", "classes", "balanced", "buckets"),
    "optimizer": ("sgd", "adam", "adamw", "lamb"),
    "schedule": ("constant", "inverse_time", "cosine", "step"),
    "weight_decay_rule": ("decoupled", "coupled"),
    "average": ("none", "ema", "swa"),
    "batchnorm": ("replica", "synchronized"),
    "head": ("replicated", "sharded"),
}


def _check_choices(table: object) -> None:
    for name, allowed in CHOICES.items():
        value = getattr(table, name, allowed[0])
        if value not in allowed:
            kind = type(table).__name__.lower()
            raise ValueError(f"{kind}.{name}: expected one of {allowed}. Received: {value!r}")


def _check_positive(table: object, *names: str) -> None:
    for name in names:
        value = getattr(table, name)
        if value <= 0:
            kind = type(table).__name__.lower()
            raise ValueError(f"{kind}.{name}: expected a number above 0. Received: {value!r}")


@dataclasses.dataclass(frozen=True)
class Model:
    """One member's network and what it is trained for: image → backbone → neck → losses.

    Attributes:
        backbone: a name of `models.backbones`; "efficientnet" alone needs `width` and `depth`.
        width, depth: multipliers of channels and repeats, for backbones that have them.
        last_stride: 1 leaves the last feature map of a ResNet twice as large.
        drop_connect_rate: stochastic depth of the backbone.
        weights: "imagenet", "noisy-student", a weights file of the backbone, or None.
        pooling: "gap" (mean), "gem" (generalized mean, trainable p from 3), "mac" (maximum), …
        neck: from the feature map to the embedding, a text with the name and options of
            `models.necks`: "dense_swish", "linear_bn", "cgd:descriptors=SMG", ….
        losses: what is summed, texts with names and options of `assemble.LOSSES`. "cosine" is the
            cosine softmax with the fields below; "triplet:on=local,margin=2.0,weight=0.5" takes
            an output of the neck.
        fit: how validation and export make a square of an image: "stretch", "crop" (the middle),
            "pad" (black).
        views: what the exported model is shown of an image, see `export.views`: "plain", "flips",
            "ten_crop:crop=736", ….
        antialias: the square resize smooths first, so that fine patterns of large photographs do
            not turn into noise in small inputs; the winner's plain one (512 px and up) does not.
        embedding_dim: size D of the embedding.
        freeze_batchnorm: BatchNorm uses and keeps its stored statistics and stochastic depth is
            off, as in the winner's training step; gamma and beta still train.
        batchnorm: where it trains: "replica" takes its statistics over the images of one
            replica, "synchronized" over the global batch.
        margin, margin_size: "none"; "arcface" (radians); "cosface" (cosine); "sphereface" (factor
            of the angle); "dynamic" is ArcFace with `margin_size` radians for a class of one image
            and less for larger ones (arXiv:2010.05350).
        scale: "adacos" (dynamic, of the replica's own images), "adacos_global" (the same of the
            global batch, whatever the number of replicas), "adacos_fixed" (√2·ln(C − 1)), or a
            number.
        sub_centers: centres of a class, the nearest of which counts.
        head: "replicated", the class centres whole on every replica; "sharded", each replica
            holds its part of them, for very many classes (a dynamic scale is then global).
        sample_rate: of "sharded": share of the classes that a training step compares with; below
            1 it is faster and biased, see `training.sharded_head.Rule`.
    """

    backbone: str = "efficientnet-b0"
    width: float | None = None
    depth: float | None = None
    drop_connect_rate: float = 0.2
    weights: str | None = "imagenet"
    last_stride: int = 2
    pooling: str = "gap"
    neck: str = "dense_swish"
    losses: tuple[str, ...] = (COSINE,)
    fit: str = "stretch"
    views: str = "plain"
    antialias: bool = False
    embedding_dim: int = 512
    freeze_batchnorm: bool = True
    batchnorm: str = "replica"
    margin: str = "none"
    margin_size: float = 0.0
    scale: str | float = "adacos"
    sub_centers: int = 1
    head: str = "replicated"
    sample_rate: float = 1.0

    def __post_init__(self):
        _check_choices(self)
        _check_positive(self, "embedding_dim", "sub_centers", "last_stride")
        self._check_head()
        if not self.losses:
            raise ValueError("model.losses: expected at least one. Received: none")
        if isinstance(self.scale, str) and self.scale not in SCALES:
            raise ValueError(
                f"model.scale: expected one of {SCALES} or a number. Received: {self.scale!r}"
            )

    def _check_head(self):
        if not 0 < self.sample_rate <= 1:
            raise ValueError(
                f"model.sample_rate: expected above 0, at most 1. Received: {self.sample_rate}"
            )
        if self.sample_rate < 1 and self.head != "sharded":
            raise ValueError(
                "model.sample_rate: expected 1, or model.head='sharded'. "
                f"Received: {self.sample_rate}"
            )
        if self.head == "sharded" and (self.losses != (COSINE,) or self.sub_centers > 1):
            raise ValueError(
                "model.head: expected 'replicated' with losses besides 'cosine' or sub-centres. "
                "Received: 'sharded'"
            )
        if self.batchnorm == "synchronized" and self.freeze_batchnorm:
            raise ValueError(
                "model.batchnorm: expected 'replica', or model.freeze_batchnorm=False; a frozen "
                "BatchNorm takes no statistics. Received: 'synchronized'"
            )


@dataclasses.dataclass(frozen=True)
class Stage:
    """One training of the growing-resolution ladder.

    Attributes:
        number: 1, 2, …; the N of `--stage N`.
        data: "clean" or "total" set; the classes are that set's.
        image_size: side S of the square input, pixels.
        export_size: side of the square input of the exported model; None is `image_size`. After
            training on random crops a larger one sees objects at the size they were trained at
            (Touvron et al., arXiv:1906.06423).
        epochs: passes over the set.
        batch_size: global batch, images of all replicas together in one update.
        accumulate: micro-batches that a batch is worked through in, where it does not fit.
        rematerialize: so many first blocks of the backbone are computed twice instead of kept
            for the gradient; with `model.freeze_batchnorm` only.
        learning_rate: the highest rate of the schedule.
        start_from: the stage whose finished model this one goes on from; None starts anew.
        skip_layers: top layers that are not handed over (new ones take their place).
        noisy_weight: loss weight c of an image outside the clean set ("total" only).
        class_weights: rarer classes count more, see `input_pipeline.class_weights`; without it
            every class' weight is 1.
        batches: "shuffled"; "classes", `images_per_class` images of each of as many classes as fill
            the batch; "balanced", every class as often as any other; "buckets", batches of one
            shape each of `bins` aspect ratios.
        images_per_class: of "classes".
        bins: of "buckets", from a width of 1/4 to 2 times the height.
        scales: multiples of `image_size`, one of which is drawn for each batch; none is 1.
        optimizer: "sgd", "adam", "adamw" or "lamb".
        momentum, nesterov: of "sgd".
        clip_norm: largest norm of the global batch's gradient; None does not clip.
        weight_decay: strength; biases and BatchNorm have none.
        weight_decay_rule: "decoupled", w − lr·decay·w beside the step (AdamW's; of "sgd" too);
            "coupled", decay·w added to the gradient (L2, what PyTorch's SGD and Adam do).
        schedule: "constant"; "inverse_time" lr/(1 + decay·step); "cosine" to zero; "step",
            times `factor` at each milestone.
        decay: of "inverse_time", per step.
        milestones, factor: of "step"; milestones in epochs.
        warmup_epochs: linear rise from zero, with every schedule.
        average: of the weights, for validation and the finished model: "none"; "ema",
            exponential; "swa", the plain mean of the weights at the ends of epochs.
        ema_decay: of "ema", per step.
        average_from: epochs before averaging begins.
        augmentation: what happens to a training image in order, texts with names and options of
            `input_pipeline.augmentations`; one of them brings it to `image_size`.
    """

    number: int
    data: str
    image_size: int
    epochs: int
    batch_size: int
    learning_rate: float
    export_size: int | None = None
    start_from: int | None = None
    skip_layers: tuple[str, ...] = ()
    noisy_weight: float = 1.0
    class_weights: bool = True
    batches: str = "shuffled"
    images_per_class: int = 4
    bins: int = 12
    scales: tuple[float, ...] = ()
    optimizer: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    accumulate: int = 1
    rematerialize: int = 0
    clip_norm: float | None = None
    weight_decay: float = 0.0
    weight_decay_rule: str = "decoupled"
    schedule: str = "constant"
    decay: float = 0.0
    milestones: tuple[float, ...] = ()
    factor: float = 0.1
    warmup_epochs: float = 0.0
    average: str = "none"
    ema_decay: float = 0.9999
    average_from: float = 0.0
    augmentation: tuple[str, ...] = ("resize", "random_flip")

    def __post_init__(self):
        _check_choices(self)
        _check_positive(self, "number", "image_size", "epochs", "batch_size", "learning_rate")
        if self.start_from is not None and self.start_from >= self.number:
            raise ValueError(
                f"stage.start_from: expected a stage before {self.number}. "
                f"Received: {self.start_from}"
            )
        self._check_batches()
        self._check_optimization()

    def _check_batches(self):
        _check_positive(self, "images_per_class", "bins")
        if self.batches == "classes" and self.batch_size % self.images_per_class:
            raise ValueError(
                f"stage.images_per_class: expected a divisor of the batch of {self.batch_size}. "
                f"Received: {self.images_per_class}"
            )
        if any(scale <= 0 for scale in self.scales):
            raise ValueError(f"stage.scales: expected numbers above 0. Received: {self.scales}")

    def _check_optimization(self):
        _check_positive(self, "accumulate", "factor")
        if self.clip_norm is not None:
            _check_positive(self, "clip_norm")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"stage.accumulate: expected a divisor of the batch of {self.batch_size}. "
                f"Received: {self.accumulate}"
            )
        rules = {"adam": "coupled", "adamw": "decoupled", "lamb": "decoupled"}
        rule = rules.get(self.optimizer, self.weight_decay_rule)
        if self.weight_decay and self.weight_decay_rule != rule:
            raise ValueError(
                f"stage.weight_decay_rule: expected {rule!r} with {self.optimizer}. "
                f"Received: {self.weight_decay_rule!r}"
            )
        if (self.schedule == "step") != bool(self.milestones):
            raise ValueError(
                "stage.milestones: expected epochs with the schedule 'step', and none with "
                f"another. Received: {self.milestones} with {self.schedule!r}"
            )
        if not 0 < self.ema_decay < 1:
            raise ValueError(
                f"stage.ema_decay: expected between 0 and 1. Received: {self.ema_decay}"
            )
        if self.average != "none" and not 0 <= self.average_from < self.epochs:
            raise ValueError(
                f"stage.average_from: expected at least 0, below the {self.epochs} epochs. "
                f"Received: {self.average_from}"
            )


@dataclasses.dataclass(frozen=True)
class Member:
    """One network of the ensemble.

    Attributes:
        name: the M of `--member M`; a letter, also its folder in the workdir.
        model: see `Model`.
        weight: factor of its L2-normalised embedding in the ensemble.
        last_stage: it is trained through the stages 1 … last_stage.
        seed: added to the recipe's seed, so that equal networks differ.
        stage: fields of `Stage` that are this member's own, with their values.
    """

    name: str
    model: Model
    weight: float = 1.0
    last_stage: int = 1
    seed: int = 0
    stage: Mapping[str, object] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not self.name.isidentifier():
            raise ValueError(f"member.name: expected a plain word. Received: {self.name!r}")
        _check_positive(self, "weight", "last_stage")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A published system or a system of one's own, whole.

    Attributes:
        name: the NAME of `--recipe NAME`.
        members: the networks; the first is the default of `--member`.
        stages: the stages in order.
        seed: order of the images, initial weights, augmentation.
        post_processing: what comes between the ensemble's embeddings and its answers, in order, as
            texts of `retrieval.reranking.steps`: "expand_queries:top=10", "k_reciprocal".
    """

    name: str
    members: tuple[Member, ...]
    stages: tuple[Stage, ...]
    seed: int = 0
    post_processing: tuple[str, ...] = ()

    def __post_init__(self):
        numbers = [stage.number for stage in self.stages]
        if numbers != list(range(1, len(numbers) + 1)):
            raise ValueError(f"stages: expected the numbers 1, 2, … in order. Received: {numbers}")
        for member in self.members:
            if member.last_stage > len(numbers):
                raise ValueError(
                    f"member {member.name}: expected last_stage of at most {len(numbers)}. "
                    f"Received: {member.last_stage}"
                )

    def member(self, name: str | None = None) -> Member:
        """Returns the member of that name, or the first."""
        for member in self.members:
            if name in (None, member.name):
                return member
        names = ", ".join(member.name for member in self.members)
        raise ValueError(f"--member: recipe {self.name} has {names}. Received: {name!r}")

    def stages_of(self, member: Member, which: str) -> tuple[Stage, ...]:
        """Returns the stages of `--stage WHICH` ("all" or a number) that `member` goes through."""
        own = self.stages[: member.last_stage]
        own = tuple(dataclasses.replace(stage, **member.stage) for stage in own)
        if which == "all":
            return own
        chosen = tuple(stage for stage in own if str(stage.number) == which)
        if not chosen:
            raise ValueError(
                f"--stage: member {member.name} of recipe {self.name} has the stages "
                f"1 … {member.last_stage} and 'all'. Received: {which!r}"
            )
        return chosen
