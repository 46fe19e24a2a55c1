"""Trains the stages of a recipe: python train.py --stage 1 [--recipe NAME] [--tpu].

The same command, given again after a stop or a crash, goes on where the last checkpoint is.
"""

import argparse
import dataclasses
import functools
import os
import random
import sys

import tensorflow_wheels

os.environ.update(tensorflow_wheels.environment())  # before TensorFlow is imported

import keras
import tensorflow as tf

import recipes
from input_pipeline import crops, geometry, ops, photometric, pipeline, schema
from input_pipeline.batch_ids import training_ids
from models.builder import build_model
from models.losses import CosineSoftmaxCrossEntropy
from models.objectives import CosineSoftmaxObjective, Embedder
from recipes import layout
from recipes.schema import Augmentation, Member, Model, Recipe, Stage
from recipes.settings import override
from training import optimizers, profiling, replicas, stages, strategy, tpu
from training.averaging import WeightAverage
from training.hand_over import hand_over, headless_model
from training.hosts import Hosts, distribute
from training.plan import Plan
from training.probes import DeviceError
from training.sharded_head import Rule, ShardedHead, ShardedObjective
from training.stop_signal import StoppedError
from training.trainer import Trainer
from training.writing import StorageError

# Fields of `recipes.schema.Model` that `build_model` takes.
NETWORK_FIELDS = (
    "backbone",
    "width",
    "depth",
    "drop_connect_rate",
    "weights",
    "pooling",
    "embedding_dim",
)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--stage", required=True, help="number of the stage, or 'all'")
    parser.add_argument("--recipe", default="glr2020_1st", help=", ".join(recipes.NAMES))
    parser.add_argument("--member", help="member of the ensemble (default: the first)")
    parser.add_argument("--data", default="data", help="folder of shards and manifest.json")
    parser.add_argument("--workdir", help="where everything goes (default: runs/RECIPE)")
    parser.add_argument(
        "--tpu", nargs="?", const="", help="the environment's TPU, or NAME, local, grpc://host:port"
    )
    parser.add_argument(
        "--cpus", type=int, default=1, metavar="N", help="N replicas on one CPU, to try them out"
    )
    parser.add_argument(
        "--log-every", type=int, default=100, metavar="STEPS", help="a line each (default: 100)"
    )
    parser.add_argument(
        "--retrieval-every",
        type=int,
        default=1,
        metavar="EPOCHS",
        help="recall@1 and mAP@100 among the held-out images; 0 for never (default: 1)",
    )
    parser.add_argument(
        "--checkpoint-seconds",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="between two checkpoints at least; they take 2 %% of the time at most (default: 10)",
    )
    parser.add_argument(
        "--profile", type=profiling.parse, metavar="FIRST:LAST", help="steps to record a trace of"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="stage.FIELD=VALUE",
        help="changes the recipe: stage.epochs=1, model.pooling=gem, recipe.seed=3, ...",
    )
    return parser.parse_args(argv)


def augmentation_ops(augmentation: Augmentation) -> dict:
    """Returns the `crop` and `augmentation` of `pipeline.training_batches`."""
    crop, chain = None, []
    if augmentation.crop_area < 1:
        crop = crops.random_crop(augmentation.crop_area)
    if augmentation.affine:
        chain.append(geometry.random_affine(augmentation.affine))
    if augmentation.flip:
        chain.append(geometry.random_flip())
    if augmentation.color:
        color = augmentation.color
        chain.append(photometric.color_jitter(color, color, color))
    return {"crop": crop, "augmentation": chain}


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


def make_trainer(
    where, member: Member, stage: Stage, num_classes: int, steps_per_epoch: int
) -> Trainer:
    """Builds model, objective and optimizer of one stage under the strategy `where`."""
    network, head = member.model, None
    fields = {name: getattr(network, name) for name in NETWORK_FIELDS}
    if stage.start_from:
        fields["weights"] = None  # they come from the stage before
    with where.scope():
        if network.head == "sharded":
            model = headless_model(build_model(2, **fields))
            optimizer = make_optimizer(stage, steps_per_epoch)
            seed = random.randrange(2**31)  # noqa: S311
            head = ShardedHead(where, num_classes, network.embedding_dim, optimizer, seed)
        else:
            model = build_model(num_classes, **fields)
        if network.batchnorm == "synchronized":
            replicas.synchronize_batchnorm(model)
        return Trainer(
            where,
            model,
            make_objective(network, stage, head),
            make_optimizer(stage, steps_per_epoch),
            global_batch_size=stage.batch_size,
            accumulate=stage.accumulate,
            clip_norm=stage.clip_norm,
            weight_decay=stage.weight_decay,
            coupled_decay=stage.weight_decay_rule == "coupled",
            make_average=make_average(stage, steps_per_epoch),
            head=head,
        )


def make_objective(network: Model, stage: Stage, head: ShardedHead | None):
    """Builds what turns a model's output into the loss, see `models.objectives`."""
    is_global = network.scale == "adacos_global"
    scale = "adacos" if is_global else network.scale
    loss = {"scale": scale, "margin": network.margin, "margin_size": network.margin_size}
    inside = {
        "freeze_batchnorm": network.freeze_batchnorm,
        "rematerialize": stage.rematerialize,
    }
    if head is not None:
        seed = random.randrange(2**31)  # noqa: S311
        rule = Rule(**loss, sample_rate=network.sample_rate, seed=seed)
        return ShardedObjective(head, rule, Embedder(**inside))
    return CosineSoftmaxObjective(
        CosineSoftmaxCrossEntropy(**loss),
        gather=replicas.gather if is_global else None,
        **inside,
    )


def make_inputs(where, images: pipeline.ImageSet, member: Member, stage: Stage, seed: int) -> dict:
    """Returns what `stages.run_stage` reads: batches, held-out images, pictures and ids."""
    square = ops.Square(stage.image_size, member.model.antialias)
    size = {"square": square, "batch_size": stage.batch_size}
    training = functools.partial(
        pipeline.training_batches,
        images,
        **size,
        seed=seed,
        noisy_weight=stage.noisy_weight,
        **augmentation_ops(stage.augmentation),
    )

    def make_batches(first_step: int):
        return distribute(where, lambda share: training(first_step=first_step, share=share))

    def first_images():
        return next(iter(training()))[0].numpy()

    validation = None
    if images.num_validation_images:
        held_out = functools.partial(pipeline.validation_batches, images, **size)
        validation = distribute(where, lambda share: held_out(share=share))
    return {
        "make_batches": make_batches,
        "validation": validation,
        "first_images": first_images,
        "ids_of": lambda step: training_ids(
            images, batch_size=stage.batch_size, seed=seed, step=step
        ),
    }


def make_plan(stage: Stage, steps_per_epoch: int, args) -> Plan:
    """Returns the steps of a stage."""
    return Plan(
        stage.number,
        stage.epochs * steps_per_epoch,
        steps_per_epoch,
        log_every=args.log_every,
        retrieval_every=args.retrieval_every,
        profile=args.profile,
        checkpoint_seconds=args.checkpoint_seconds,
    )


def run_stage(where, recipe: Recipe, member: Member, stage: Stage, args) -> None:
    """Trains one stage, unless it is finished."""
    directory = layout.stage_directory(args.workdir, member.name, stage.number)
    model_path = layout.model_path(args.workdir, member.name, stage.number)
    manifest = schema.Manifest.load(args.data)
    images = pipeline.ImageSet(manifest, stage.data)
    seed = recipe.seed + member.seed
    made_with = {"model": dataclasses.asdict(member.model), "stage": dataclasses.asdict(stage)}
    together = Hosts(where)
    stages.record(directory, {**made_with, "seed": seed, "data": manifest.plan}, together)
    if stages.is_finished(model_path, together):
        print(f"member {member.name} stage {stage.number}: finished before")
        return
    print(
        f"member {member.name} stage {stage.number}: {images.num_images} {stage.data} images of "
        f"{images.num_classes} classes at {stage.image_size} px, {stage.epochs} epochs"
    )
    steps_per_epoch = images.num_images // stage.batch_size
    plan = make_plan(stage, steps_per_epoch, args)
    keras.backend.clear_session()  # layers are numbered as if no stage had run in this process
    keras.utils.set_random_seed(seed * 1000 + stage.number)
    trainer = make_trainer(where, member, stage, images.num_classes, steps_per_epoch)
    if stage.start_from:
        before = layout.model_path(args.workdir, member.name, stage.start_from)
        hand_over(before, trainer, stage.skip_layers)
    inputs = make_inputs(where, images, member, stage, seed)
    stages.run_stage(model_path, trainer, plan, **inputs)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    args = parse_args(argv)
    try:
        recipe = override(recipes.load(args.recipe), args.set)
        args.workdir = args.workdir or os.path.join("runs", recipe.name)
        member = recipe.member(args.member)
        chosen = recipe.stages_of(member, args.stage)
        where = strategy.make_strategy(args.tpu, cpus=args.cpus)
        tpu.check_paths(where, data=args.data)
        keras.config.set_dtype_policy(strategy.precision_for(where))
        print(f"recipe {recipe.name}: {strategy.describe(where)}", flush=True)
        for stage in chosen:
            run_stage(where, recipe, member, stage, args)
    except (ValueError, FileNotFoundError, FloatingPointError, DeviceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except tf.errors.DataLossError:  # any other way on would move all later images
        print(
            f"error: a shard is damaged: python tfrecords_tools/check.py {args.data} says which",
            file=sys.stderr,
        )
        return 1
    except tf.errors.UnavailableError:
        print(
            "error: another host, the TPU or a bucket no longer answers; the same command, started "
            "again on every host, goes on from the last checkpoint",
            file=sys.stderr,
        )
        return 1
    except (StorageError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (StoppedError, KeyboardInterrupt) as stopped:
        print(f"{stopped or 'stopped'}; the same command goes on from there", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
