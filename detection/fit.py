"""Trains a detector: python detection/fit.py --boxes boxes.csv --workdir runs/detector.

The same command, given again after a stop or a crash, goes on where the last checkpoint is. Boxes
and images that cannot be used are left out and listed in rejects.csv of the workdir. In the log
"accuracy" is the share of object points whose box overlaps the object's by half or more.
"""

import argparse
import dataclasses
import functools
import hashlib
import os
import pathlib
import sys

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
import tensorflow_wheels

os.environ.update(tensorflow_wheels.environment())  # before TensorFlow is imported

import keras

import files
from detection import boxes as annotations
from detection import inputs
from detection.network import build_detector
from detection.objective import DetectionObjective
from detection.predict import MODEL_NAME, Info
from progress import Progress
from training import command, optimizers, stages, strategy, tpu
from training.hosts import Hosts, distribute
from training.plan import Plan
from training.trainer import Trainer
from training.writing import writing

REJECTS_NAME = "rejects.csv"
# The alarm of chance rings as for so many classes: accuracy below 0.1 at a loss above 2.07, about
# that of a fresh network.
LIKE_CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Settings:
    """Network, data and schedule of a detector; the head is of the size of FCOS.

    Attributes:
        image_size … levels: see `network.build_detector`.
        scales, flip: see `inputs.Variation`.
        max_boxes: see `boxes.check_images`.
        epochs: passes over the images.
        batch_size: global batch.
        learning_rate: the highest, after `warmup_epochs`; then a half cosine to zero.
        weight_decay: decoupled, of AdamW.
        clip_norm: largest norm of the gradient.
        seed: of the weights, the order and the variation.
    """

    image_size: int = 512
    backbone: str = "efficientnet-b0"
    width: float | None = None
    depth: float | None = None
    weights: str | None = None
    channels: int = 256
    convolutions: int = 4
    levels: int = 5
    scales: tuple[float, float] = (0.5, 1.5)
    flip: bool = True
    max_boxes: int = 100
    epochs: int = 24
    batch_size: int = 16
    learning_rate: float = 1e-3
    warmup_epochs: float = 1.0
    weight_decay: float = 1e-4
    clip_norm: float = 10.0
    seed: int = 0

    @property
    def network(self) -> dict:
        """The keyword arguments of `build_detector`."""
        names = ("image_size", "backbone", "width", "depth", "weights")
        names += ("channels", "convolutions", "levels")
        return {name: getattr(self, name) for name in names}


@dataclasses.dataclass(frozen=True)
class Running:
    """How a training is watched and saved; changes no result.

    Attributes:
        log_every, checkpoint_seconds: see `training.plan.Plan`.
        changed: go on with other settings than the training was begun with.
    """

    log_every: int = 50
    checkpoint_seconds: float = 10.0
    changed: bool = False

    def plan(self, total: int, steps_per_epoch: int) -> Plan:
        """Returns the plan of so many steps."""
        often = {"log_every": self.log_every, "checkpoint_seconds": self.checkpoint_seconds}
        return Plan(1, total, steps_per_epoch, **often)


def read(boxes: str, images: str | None, *, max_boxes: int = 100, stream=None):
    """Reads and checks boxes; returns the `BoxSet`, with what was left out."""
    found = annotations.read_boxes(boxes, images)
    progress = Progress("check", len(found.images), stream)
    found = annotations.check_images(found, max_boxes=max_boxes, advance=progress.advance)
    progress.close()
    return found


def write_rejects(workdir: str, found: annotations.BoxSet) -> None:
    """Writes `rejects.csv`; StorageError if it cannot be written."""
    with writing("the list of rejects", workdir):
        files.make_folder(workdir)
        annotations.write_rejects(os.path.join(workdir, REJECTS_NAME), found.rejects)


def fit(
    found: annotations.BoxSet,
    workdir: str,
    settings: Settings,
    *,
    where=None,
    running: Running | None = None,
) -> str:
    """Trains a detector to its end, from its last checkpoint on.

    Args:
        found: checked boxes.
        workdir: folder of the log, the checkpoints, `model.keras` and `detector.json`.
        settings: see `Settings`.
        where: the strategy; the default one if absent.
        running: see `Running`.

    Returns:
        The path of the finished model.

    Raises:
        ValueError: there are no boxes, a setting does not fit, or the workdir holds another
            detector.
        StoppedError, StorageError, NonFiniteError: see `training.stages.run_stage`.
    """
    if not found.classes:
        reasons = "".join(f"; {name}: {reason}" for name, reason in found.rejects[:3])
        raise ValueError(f"expected images with boxes. Received: none that can be used{reasons}")
    where, running = where or strategy.make_strategy(), running or Running()
    model_path, together = os.path.join(workdir, MODEL_NAME), Hosts(where)
    made_with = {"settings": dataclasses.asdict(settings), "boxes": _digest(found)}
    if not stages.begin(model_path, made_with, together, changed=running.changed):
        print("detector: finished before", flush=True)
        return model_path
    batches = functools.partial(
        inputs.training_batches,
        found,
        image_size=settings.image_size,
        batch_size=settings.batch_size,
        seed=settings.seed,
        variation=inputs.Variation(settings.scales, settings.flip),
    )
    first = next(iter(batches()))[0].numpy()  # before anything slow: it fails for wrong settings
    steps_per_epoch = len(found.images) // settings.batch_size
    trainer = make_trainer(where, found, settings, steps_per_epoch)
    if together.is_chief:
        Info(found.classes, settings.image_size, settings.levels).save(workdir)
    total = settings.epochs * steps_per_epoch
    stages.run_stage(
        model_path,
        trainer,
        running.plan(total, steps_per_epoch),
        lambda step: distribute(where, lambda share: batches(first_step=step, share=share)),
        num_classes=LIKE_CLASSES,
        first_images=lambda: first,
        ids_of=lambda step: inputs.ids_of_batch(
            found, batch_size=settings.batch_size, seed=settings.seed, step=step
        ),
    )
    return model_path


def make_trainer(where, found, settings: Settings, steps_per_epoch: int) -> Trainer:
    """Builds network, objective and optimizer under the strategy `where`."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(settings.seed + 1)
    num_classes = len(found.classes)
    rate = optimizers.build_schedule(
        "cosine",
        learning_rate=settings.learning_rate,
        total_steps=settings.epochs * steps_per_epoch,
        warmup_steps=int(settings.warmup_epochs * steps_per_epoch),
    )
    with where.scope():
        return Trainer(
            where,
            build_detector(num_classes, **settings.network),
            DetectionObjective(num_classes, image_size=settings.image_size, levels=settings.levels),
            optimizers.build_optimizer("adamw", rate),
            global_batch_size=settings.batch_size,
            weight_decay=settings.weight_decay,
            clip_norm=settings.clip_norm,
        )


def _digest(found: annotations.BoxSet) -> str:
    digest = hashlib.sha256()
    for image in found.images:
        digest.update(repr((image.id, image.labels)).encode())
        digest.update(image.boxes.tobytes())
    return digest.hexdigest()


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    add, default = parser.add_argument, Settings()
    add("--boxes", required=True, help="CSV id,path,xmin,ymin,xmax,ymax,label, or COCO .json")
    add("--images", metavar="FOLDER", help="of COCO's file names (default: the file's own)")
    add("--workdir", required=True, help="where everything goes")
    for field in dataclasses.fields(Settings):
        if field.name not in ("scales", "flip"):
            kind = {"width": float, "depth": float}.get(field.name) or (
                str if field.name == "weights" else type(field.default)
            )
            add(
                f"--{field.name.replace('_', '-')}",
                type=kind,
                default=field.default,
                help=f"default: {field.default}",
            )
    add(
        "--scales",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        default=default.scales,
        help=f"sizes of an image, times that at which it fits (default: {default.scales})",
    )
    add("--no-flip", dest="flip", action="store_false", help="do not mirror images")
    command.add_options(parser, log_every=Running.log_every)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Trains the detector that the command line describes; raises as `training.command` tells."""
    values = {field.name: getattr(args, field.name) for field in dataclasses.fields(Settings)}
    settings = Settings(**{**values, "scales": tuple(args.scales)})
    where = strategy.make_strategy(args.tpu, cpus=args.cpus)
    images = {"images": args.images} if args.images else {"boxes": args.boxes}
    tpu.check_paths(where, **images)  # the paths of the images start from there
    keras.config.set_dtype_policy(strategy.precision_for(where))
    print(f"detector: {strategy.describe(where)}", flush=True)
    found = read(args.boxes, args.images, max_boxes=settings.max_boxes, stream=sys.stderr)
    if Hosts(where).is_chief:
        write_rejects(args.workdir, found)
    print(
        f"{len(found.images)} images, {found.num_boxes} boxes, {len(found.classes)} classes, "
        f"{len(found.rejects)} rejected",
        flush=True,
    )
    running = Running(args.log_every, args.checkpoint_seconds, args.changed)
    fit(found, args.workdir, settings, where=where, running=running)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    args = parse_args(argv)
    damaged = f"an image of {args.boxes} can no longer be read: its file is damaged"
    return command.exit_code(lambda: run(args), damaged=damaged)


if __name__ == "__main__":
    sys.exit(main())
