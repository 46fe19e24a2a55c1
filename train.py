"""Trains the stages of a recipe: python train.py --stage 1 [--recipe NAME] [--tpu].

The same command, given again after a stop or a crash, goes on where the last checkpoint is.
"""

import argparse
import dataclasses
import os
import sys

import tensorflow_wheels

os.environ.update(tensorflow_wheels.environment())  # before TensorFlow is imported

import keras

import assemble
import recipes
from input_pipeline import pipeline, schema
from recipes import layout
from recipes.schema import Member, Recipe, Stage
from recipes.settings import override
from training import command, profiling, stages, strategy, tpu
from training.hand_over import hand_over
from training.hosts import Hosts
from training.plan import Plan


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--stage", required=True, help="number of the stage, or 'all'")
    parser.add_argument("--recipe", default="glr2020_1st", help=", ".join(recipes.NAMES))
    parser.add_argument("--member", help="member of the ensemble (default: the first)")
    parser.add_argument("--data", default="data", help="folder of shards and manifest.json")
    parser.add_argument("--workdir", help="where everything goes (default: runs/RECIPE)")
    command.add_options(parser, log_every=100)
    parser.add_argument(
        "--retrieval-every",
        type=int,
        default=1,
        metavar="EPOCHS",
        help="recall@1 and mAP@100 among the held-out images; 0 for never (default: 1)",
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
    model_path = layout.model_path(args.workdir, member.name, stage.number)
    manifest = schema.Manifest.load(args.data)
    images = pipeline.ImageSet(manifest, stage.data)
    seed = recipe.seed + member.seed
    made_with = {"model": dataclasses.asdict(member.model), "stage": dataclasses.asdict(stage)}
    made_with |= {"seed": seed, "data": manifest.plan}
    if not stages.begin(model_path, made_with, Hosts(where), changed=args.changed):
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
    trainer = assemble.make_trainer(
        where, member, stage, images.num_classes, steps_per_epoch, images.class_counts()
    )
    if stage.start_from:
        before = layout.model_path(args.workdir, member.name, stage.start_from)
        hand_over(before, trainer, stage.skip_layers)
    inputs = assemble.make_inputs(where, images, member, stage, seed)
    stages.run_stage(model_path, trainer, plan, num_classes=images.num_classes, **inputs)


def run(args: argparse.Namespace) -> None:
    """Trains the stages that the command line names; raises as `training.command` tells."""
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


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    args = parse_args(argv)
    check = f"python tfrecords_tools/check.py {args.data}"
    return command.exit_code(lambda: run(args), damaged=f"a shard is damaged: {check} says which")


if __name__ == "__main__":
    sys.exit(main())
