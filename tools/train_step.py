"""Lowers the training step of a recipe's stage: python tools/train_step.py --output DIR ...

tools/fits_tpu.py runs this in a process of its own and compiles what it writes.
"""

import argparse
import dataclasses
import os
import pathlib
import sys

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf

import assemble
import recipes
from models.builder import embedding_model
from recipes.schema import Member, Stage
from recipes.settings import override
from training import ahead_of_time, ahead_of_time_lower

STEPS = ("train", "embed")
STEPS_PER_EPOCH = 10_000  # a number in the schedule: neither memory nor time depends on it


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--recipe", default="glr2020_1st", help=", ".join(recipes.NAMES))
    parser.add_argument("--member", help="member of the ensemble (default: the first)")
    parser.add_argument("--stage", required=True, help="number of the stage")
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--batch-per-core", type=int, required=True)
    parser.add_argument("--cores", type=int, default=1, help="replicas that train together")
    parser.add_argument(
        "--vector-memory", type=int, default=16, metavar="MIB", help="of the core (default: 16)"
    )
    parser.add_argument("--step", choices=STEPS, default="train")
    parser.add_argument("--precision", default="mixed_bfloat16", help="Keras' dtype policy")
    parser.add_argument("--set", action="append", default=[], metavar="stage.FIELD=VALUE")
    parser.add_argument("--output", required=True, help="folder")
    return parser.parse_args(argv)


def lower_step(
    member: Member,
    stage: Stage,
    *,
    classes: int,
    batch_per_core: int,
    replicas: int = 1,
    vector_memory: int = 2**24,
    step: str = "train",
) -> ahead_of_time_lower.Lowered:
    """Lowers one replica's step of a stage, under the dtype policy that is set.

    Args:
        member, stage: of a recipe; no weights are loaded.
        classes: number of classes of the head.
        batch_per_core: images of one replica.
        replicas: how many there are.
        vector_memory: bytes, of the core that the step is for.
        step: "train", or "embed": from images to descriptors, as exported.
    """
    member = dataclasses.replace(member, model=dataclasses.replace(member.model, weights=None))
    stage = dataclasses.replace(stage, batch_size=batch_per_core * replicas)
    strategy = ahead_of_time_lower.OneReplica(replicas, vector_memory)
    trainer = assemble.make_trainer(strategy, member, stage, classes, STEPS_PER_EPOCH)
    side = stage.image_size
    arguments = [
        tf.TensorSpec((batch_per_core, side, side, 3), tf.uint8, "images"),
        tf.TensorSpec((batch_per_core,), tf.int32, "labels"),
        tf.TensorSpec((batch_per_core,), tf.float32, "weights"),
    ]
    variables = {v.path: v.value for v in (*trainer.model.variables, *trainer.optimizer.variables)}
    if trainer.head is not None:
        variables["head/centers"] = trainer.head.centers
        variables |= {f"head/{v.path}": v.value for v in trainer.head.optimizer.variables}
    if step == "embed":
        network = embedding_model(trainer.model)
        return ahead_of_time_lower.lower(strategy, network, arguments[:1], variables)
    return ahead_of_time_lower.lower(strategy, trainer.train_step, arguments, variables)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    args = parse_args(argv)
    ahead_of_time.end_with_parent()
    recipe = override(recipes.load(args.recipe), args.set)
    member = recipe.member(args.member)
    (stage,) = recipe.stages_of(member, args.stage)
    keras.config.set_dtype_policy(args.precision)
    lowered = lower_step(
        member,
        stage,
        classes=args.classes,
        batch_per_core=args.batch_per_core,
        replicas=args.cores,
        vector_memory=args.vector_memory * 2**20,
        step=args.step,
    )
    os.makedirs(args.output, exist_ok=True)
    lowered.save(args.output)
    print(lowered.digest)
    return 0


if __name__ == "__main__":
    sys.exit(main())
