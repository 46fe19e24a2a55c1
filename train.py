"""Trains the stages of a recipe: python train.py --stage 1 [--recipe NAME] [--tpu].

The same command, given again after a stop or a crash, goes on where the last checkpoint is.
"""

import argparse
import dataclasses
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # warnings, but no notes

import keras
import tensorflow as tf

import recipes
from input_pipeline import crops, geometry, ops, photometric, pipeline, schema
from models.builder import build_model
from models.losses import CosineSoftmaxCrossEntropy
from models.storage import load_model
from models.transfer import transfer
from recipes import layout
from recipes.schema import Augmentation, Member, Recipe, Stage, override
from training import optimizers, stages, strategy
from training.trainer import Trainer


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


def make_trainer(where, member: Member, stage: Stage, num_classes: int, steps: dict) -> Trainer:
    """Builds model, loss and optimizer of one stage under the strategy `where`."""
    fields = dataclasses.asdict(member.model)
    loss_fields = {name: fields.pop(name) for name in ("scale", "margin", "margin_size")}
    freeze_batchnorm = fields.pop("freeze_batchnorm")
    fields.pop("antialias")  # the pipeline's
    if stage.start_from:
        fields["weights"] = None  # they come from the stage before
    with where.scope():
        model = build_model(num_classes, **fields)
        rate = optimizers.build_schedule(
            stage.schedule, learning_rate=stage.learning_rate, decay=stage.decay, **steps
        )
        optimizer = optimizers.build_optimizer(
            stage.optimizer,
            rate,
            momentum=stage.momentum,
            nesterov=stage.nesterov,
            weight_decay=stage.weight_decay,
        )
        return Trainer(
            where,
            model,
            CosineSoftmaxCrossEntropy(**loss_fields),
            optimizer,
            global_batch_size=stage.batch_size,
            freeze_batchnorm=freeze_batchnorm,
        )


def run_stage(where, recipe: Recipe, member: Member, stage: Stage, args) -> None:
    """Trains one stage, unless it is finished."""
    directory = layout.stage_directory(args.workdir, member.name, stage.number)
    model_path = layout.model_path(args.workdir, member.name, stage.number)
    manifest = schema.Manifest.load(args.data)
    images = pipeline.ImageSet(manifest, stage.data)
    seed = recipe.seed + member.seed
    made_with = {"model": dataclasses.asdict(member.model), "stage": dataclasses.asdict(stage)}
    stages.record(directory, {**made_with, "seed": seed, "data": manifest.plan})
    if tf.io.gfile.exists(model_path):
        print(f"member {member.name} stage {stage.number}: finished before")
        return
    print(
        f"member {member.name} stage {stage.number}: {images.num_images} {stage.data} images of "
        f"{images.num_classes} classes at {stage.image_size} px, {stage.epochs} epochs"
    )
    keras.backend.clear_session()  # layers are numbered as if no stage had run in this process
    keras.utils.set_random_seed(seed * 1000 + stage.number)
    steps_per_epoch = images.num_images // stage.batch_size
    total_steps = stage.epochs * steps_per_epoch
    steps = {"total_steps": total_steps, "warmup_steps": int(stage.warmup_epochs * steps_per_epoch)}
    trainer = make_trainer(where, member, stage, images.num_classes, steps)
    if stage.start_from:
        before = layout.model_path(args.workdir, member.name, stage.start_from)
        transfer(load_model(before), trainer.model, stage.skip_layers)

    square = ops.Square(stage.image_size, member.model.antialias)

    def make_batches(first_step: int):
        return pipeline.training_batches(
            images,
            square=square,
            batch_size=stage.batch_size,
            seed=seed,
            first_step=first_step,
            noisy_weight=stage.noisy_weight,
            **augmentation_ops(stage.augmentation),
        )

    validation = None
    if images.num_validation_images:
        validation = pipeline.validation_batches(images, square=square, batch_size=stage.batch_size)
    plan = stages.Plan(stage.number, total_steps, steps_per_epoch)
    stages.run_stage(model_path, trainer, plan, make_batches, validation)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    args = parse_args(argv)
    try:
        recipe = override(recipes.load(args.recipe), args.set)
        args.workdir = args.workdir or os.path.join("runs", recipe.name)
        member = recipe.member(args.member)
        chosen = recipe.stages_of(member, args.stage)
        keras.config.set_dtype_policy(strategy.precision_for(args.tpu))
        where = strategy.make_strategy(args.tpu)
        print(f"recipe {recipe.name}: {strategy.describe(where)}", flush=True)
        for stage in chosen:
            run_stage(where, recipe, member, stage, args)
    except (ValueError, FileNotFoundError, FloatingPointError, strategy.NoTPUError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except tf.errors.DataLossError:  # any other way on would move all later images
        print(
            f"error: a shard is damaged: python tfrecords_tools/check.py {args.data} says which",
            file=sys.stderr,
        )
        return 1
    except (stages.StoppedError, KeyboardInterrupt) as stopped:
        print(f"{stopped or 'stopped'}; the same command goes on from there", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
