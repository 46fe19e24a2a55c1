"""What a recipe's tables mean: the network, its losses, the optimizer and the input of a stage.

A layer or a function gets keyword arguments, never a recipe; this is where they come from.
"""

import functools
import random
from collections.abc import Sequence

import keras

import named_calls
from input_pipeline import augmentations, ops, pipeline, samplers, sampling
from input_pipeline.batch_ids import chosen_ids, training_ids
from input_pipeline.buckets import Buckets
from models import auxiliary_terms, heads, necks, pair_terms, terms
from models.builder import build_model
from models.losses import CosineSoftmaxCrossEntropy
from models.objectives import CosineSoftmaxObjective, Embedder, SumOfTerms
from recipes.schema import COSINE, Member, Model, Stage
from training import optimizers, replicas, tpu
from training.averaging import WeightAverage
from training.hand_over import headless_model
from training.hosts import distribute
from training.sharded_head import Rule, ShardedHead, ShardedObjective
from training.trainer import Trainer

# Fields of `recipes.schema.Model` that `build_model` takes.
NETWORK_FIELDS = (
    "backbone",
    "width",
    "depth",
    "drop_connect_rate",
    "last_stride",
    "weights",
    "pooling",
    "embedding_dim",
)
LOSSES = {
    COSINE: terms.CosineTerm,
    "softmax": terms.SoftmaxTerm,
    "triplet": pair_terms.TripletTerm,
    "contrastive": pair_terms.ContrastiveTerm,
    "circle": pair_terms.CircleTerm,
    "multi_similarity": pair_terms.MultiSimilarityTerm,
    "center": pair_terms.CenterTerm,
    "regions": auxiliary_terms.RegionTerm,
    "extent": auxiliary_terms.ExtentTerm,
}


def make_trainer(
    where,
    member: Member,
    stage: Stage,
    num_classes: int,
    steps_per_epoch: int,
    class_counts: Sequence[int] | None = None,
) -> Trainer:
    """Builds model, objective and optimizer of one stage under the strategy `where`.

    Args:
        where: the strategy.
        member, stage: of the recipe.
        num_classes: C.
        steps_per_epoch: of the schedule.
        class_counts: images of each class, for margins that depend on them.
    """
    network, head = member.model, None
    fields = network_fields(network, keeps_weights=stage.start_from is None)
    with where.scope():
        if network.head == "sharded":
            model = headless_model(build_model(2, **fields))
            optimizer = make_optimizer(stage, steps_per_epoch)
            head = ShardedHead(where, num_classes, network.embedding_dim, optimizer, draw_seed())
            objective = sharded_objective(network, stage, head)
        else:
            parts = make_terms(network, stage, class_counts)
            layers = [pair for part in parts for pair in part.layers(num_classes)]
            outputs = [part.on for part in parts]
            model = build_model(num_classes, layers=layers, outputs=outputs, **fields)
            objective = make_objective(network, stage, parts)
        if network.batchnorm == "synchronized":
            replicas.synchronize_batchnorm(model)
        return Trainer(
            where,
            model,
            objective,
            make_optimizer(stage, steps_per_epoch),
            global_batch_size=stage.batch_size,
            accumulate=stage.accumulate,
            clip_norm=stage.clip_norm,
            weight_decay=stage.weight_decay,
            coupled_decay=stage.weight_decay_rule == "coupled",
            make_average=make_average(stage, steps_per_epoch),
            head=head,
        )


def network_fields(network: Model, *, keeps_weights: bool = True) -> dict:
    """Returns the arguments of `build_model` but for classes and layers."""
    table = {**necks.POOLED, **necks.BRANCHED}
    given = ("pooled", "features", "embedding_dim")
    neck = named_calls.parse(network.neck, table, "model.neck", given)
    fields = {name: getattr(network, name) for name in NETWORK_FIELDS}
    if not keeps_weights:
        fields["weights"] = None  # they come from the stage before
    return {**fields, "neck": neck.name, "neck_options": dict(neck.options)}


def make_terms(
    network: Model, stage: Stage, class_counts: Sequence[int] | None = None
) -> list[terms.Term]:
    """Builds the losses of a model, each with a name of its own.

    Raises:
        ValueError: a text is not understood.
    """
    found: list[terms.Term] = []
    for text in network.losses:
        kind = text.partition(":")[0]
        make = LOSSES.get(kind)
        given = _given(make, network, stage, class_counts)
        call = named_calls.parse(text, LOSSES, "model.losses", ("name", *given))
        base = "head" if make.classifies else kind
        count = sum(part.name.startswith(base) for part in found)
        name = f"{base}_{count + 1}" if count else base
        found.append(make(name, **given, **call.options))
    return found


def _given(make, network: Model, stage: Stage, class_counts: Sequence[int] | None) -> dict:
    """Returns what a loss takes from the fields of the tables."""
    if make is auxiliary_terms.ExtentTerm:
        if stage.batches != "classes":
            raise ValueError(
                "stage.batches: expected 'classes' with the loss 'extent', which compares images "
                f"of a class. Received: {stage.batches!r}"
            )
        return {"images_per_class": stage.images_per_class}
    if make is not terms.CosineTerm:
        return {}
    is_global, size = network.scale == "adacos_global", network.margin_size
    if network.margin == "dynamic":
        if class_counts is None:
            raise ValueError("model.margin: 'dynamic' needs the number of images of each class")
        size = heads.dynamic_margins(class_counts, a=size)
    return {
        "scale": "adacos" if is_global else network.scale,
        "is_global": is_global,
        "margin": "arcface" if network.margin == "dynamic" else network.margin,
        "margin_size": size,
        "sub_centers": network.sub_centers,
    }


def make_objective(network: Model, stage: Stage, parts: Sequence[terms.Term]):
    """Builds what turns a model's output into the loss, see `models.objectives`."""
    if network.losses == (COSINE,):
        options = parts[0].options
        return CosineSoftmaxObjective(
            CosineSoftmaxCrossEntropy(
                **{name: options[name] for name in ("scale", "margin", "margin_size")}
            ),
            gather=replicas.gather if parts[0].is_global else None,
            **_inside(network, stage),
        )
    if stage.rematerialize:
        raise ValueError(
            "stage.rematerialize: expected 0 with model.losses besides 'cosine'. "
            f"Received: {stage.rematerialize}"
        )
    return SumOfTerms(
        parts,
        freeze_batchnorm=network.freeze_batchnorm,
        gather=replicas.gather,
        replica_id=replicas.replica_id,
    )


def sharded_objective(network: Model, stage: Stage, head: ShardedHead) -> ShardedObjective:
    """Builds the objective of a class-sharded head."""
    rule = Rule(
        scale="adacos" if network.scale == "adacos_global" else network.scale,
        margin=network.margin,
        margin_size=network.margin_size,
        sample_rate=network.sample_rate,
        seed=draw_seed(),
    )
    return ShardedObjective(head, rule, Embedder(**_inside(network, stage)))


def _inside(network: Model, stage: Stage) -> dict:
    """Returns how the network is run, see `models.objectives.Embedder`; in the strategy's scope."""
    return {
        "freeze_batchnorm": network.freeze_batchnorm,
        "rematerialize": stage.rematerialize,
        "vmem": tpu.vector_memory(),
    }


def draw_seed() -> int:
    """Returns the next number of the generator that the stage has seeded."""
    return random.randrange(2**31)  # noqa: S311


def make_optimizer(stage: Stage, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Builds the optimizer of one stage with its schedule."""
    rate = optimizers.build_schedule(
        stage.schedule,
        learning_rate=stage.learning_rate,
        total_steps=stage.epochs * steps_per_epoch,
        warmup_steps=int(stage.warmup_epochs * steps_per_epoch),
        decay=stage.decay,
        milestones=[max(1, round(epoch * steps_per_epoch)) for epoch in stage.milestones],
        factor=stage.factor,
    )
    return optimizers.build_optimizer(
        stage.optimizer, rate, momentum=stage.momentum, nesterov=stage.nesterov
    )


def make_average(stage: Stage, steps_per_epoch: int):
    """Returns what makes the average of the weights that a stage asks for, or None."""
    if stage.average == "none":
        return None
    swa = stage.average == "swa"
    return functools.partial(
        WeightAverage,
        decay=1.0 if swa else stage.ema_decay,
        first_step=int(stage.average_from * steps_per_epoch),
        every=steps_per_epoch if swa else 1,
    )


def make_inputs(where, images: pipeline.ImageSet, member: Member, stage: Stage, seed: int) -> dict:
    """Returns what `stages.run_stage` reads: batches, held-out images, pictures and ids."""
    antialias = member.model.antialias
    training, ids_of = _training(images, stage, antialias, seed)

    def make_batches(first_step: int):
        return distribute(where, lambda share: training(first_step=first_step, share=share))

    def first_images():
        return next(iter(training()))[0].numpy()

    validation = None
    if images.num_validation_images:
        square = ops.Square(stage.image_size, antialias, member.model.fit)
        held_out = functools.partial(
            pipeline.validation_batches, images, square=square, batch_size=stage.batch_size
        )
        validation = distribute(where, lambda share: held_out(share=share))
    return {
        "make_batches": make_batches,
        "validation": validation,
        "first_images": first_images,
        "ids_of": ids_of,
    }


def _training(images: pipeline.ImageSet, stage: Stage, antialias: bool, seed: int):
    """Returns (first_step, share) → training batches, and step → ids of its images."""
    sizes = [round(scale * stage.image_size) for scale in stage.scales or (1,)]
    chain = augmentations.build(stage.augmentation, size=stage.image_size, antialias=antialias)
    square = chain.sizing
    if stage.scales or stage.batches == "buckets":
        chain.expect_resize("stage.scales and 'buckets'")
        square = [ops.Square(size, antialias) for size in sizes]
    options = {
        "seed": seed,
        "noisy_weight": stage.noisy_weight,
        "class_weights": stage.class_weights,
        "crop": chain.before,
        "augmentation": chain.after,
    }
    if stage.batches == "shuffled":
        plain = functools.partial(
            pipeline.training_batches, images, square=square, batch_size=stage.batch_size
        )
        order = {"batch_size": stage.batch_size, "seed": seed}
        return functools.partial(plain, **options), lambda step: training_ids(
            images, **order, step=step
        )
    index = samplers.load_index(images)
    scales = []
    if stage.batches == "buckets":
        scales = [Buckets.of_size(size, stage.bins) for size in sizes]
        square = samplers.to_buckets(scales, antialias)
    choose = _sampler(index, stage, scales, seed)
    chosen = functools.partial(samplers.chosen_batches, images, index, choose, square=square)
    return functools.partial(chosen, **options), lambda step: chosen_ids(
        images, index, choose, step=step
    )


def _sampler(index, stage: Stage, scales: Sequence[Buckets], seed: int) -> samplers.Sampler:
    size = stage.batch_size
    if stage.batches == "buckets":
        return samplers.choose_buckets(index, scales, batch_size=size, seed=seed)
    if stage.batches == "balanced":
        return sampling.BalancedBatches(index["label"], batch_size=size, seed=seed)
    per_class = stage.images_per_class
    return sampling.ClassBatches(
        index["label"], classes=size // per_class, images=per_class, seed=seed
    )
