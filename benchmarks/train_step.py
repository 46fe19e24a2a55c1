"""The training step on a CPU against PyTorch and timm, the same network and classes, in one run.

    python benchmarks/train_step.py [--cores 4] [--classes 81313] [--size 128] [--batch 32]

EfficientNet-B0 from random weights, frozen BatchNorm, cosine softmax of the classes over 512
dimensions, float32, SGD with momentum. Passes alternate. Prints the images per second and per CPU
second of each way, medians of the passes, and the ratio to ours:

    ours             what train.py runs: models/objectives.py in training/trainer.py
    ours, plain      the same, layer by layer and with the gradients that TensorFlow finds
    torch + timm     timm's efficientnet_b0 in eval mode, torch's SGD
    head             the head of ours alone, with its optimizer's update, on given embeddings
    head's limit     numpy: its three matrix products, and as many bytes copied as centres,
                     gradient and momentum are read and written in one pass of the update each
"""

import argparse
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

import assemble
from models.heads import CosineSoftmax, adacos_scale
from models.losses import CosineSoftmaxCrossEntropy
from models.objectives import CosineSoftmaxObjective
from recipes.schema import Member, Model, Stage
from training.trainer import Trainer

DIMENSION = 512
Way = Callable[[int], None]


def examples(args) -> tuple[np.ndarray, ...]:
    """Returns images, labels and weights of one batch."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (args.batch, args.size, args.size, 3), dtype=np.uint8)
    labels = rng.integers(0, args.classes, args.batch, dtype=np.int32)
    return images, labels, np.ones(args.batch, np.float32)


def ours(args) -> Way:
    """The loop of train.py on one batch over and over."""
    return _loop(_make_trainer(args), examples(args))


def plain(args) -> Way:
    """The same without anything of models/objectives.py."""
    trainer, loss = _make_trainer(args), CosineSoftmaxCrossEntropy()

    def objective(model, images, labels, training):
        cosines = model(images, training=False)
        correct = tf.cast(tf.argmax(cosines, axis=1, output_type=tf.int32) == labels, tf.float32)
        own = tf.gather(cosines, labels, batch_dims=1)
        scale = adacos_scale(cosines, labels)
        losses = loss(labels, cosines)
        return {"loss": losses, "correct": correct, "scale": scale, "target_cosine": own}

    trainer.objective = objective
    return _loop(trainer, examples(args))


def head(args) -> Way:
    """Ours without a network: images are embeddings."""
    inputs = keras.Input((DIMENSION,))
    cosines = CosineSoftmax(args.classes)(inputs)
    trainer = Trainer(
        tf.distribute.get_strategy(),
        keras.Model(inputs, cosines),
        CosineSoftmaxObjective(CosineSoftmaxCrossEntropy()),
        assemble.optimizers.build_optimizer("sgd", 1e-3),
        global_batch_size=args.batch,
    )
    _, labels, weights = examples(args)
    embeddings = np.random.default_rng(1).normal(size=(args.batch, DIMENSION))
    return _loop(trainer, (embeddings.astype(np.float32), labels, weights))


def _make_trainer(args) -> Trainer:
    stage = Stage(1, "total", args.size, 1, batch_size=args.batch, learning_rate=1e-3)
    member = Member("A", Model("efficientnet-b0", weights=None, embedding_dim=DIMENSION))
    return assemble.make_trainer(tf.distribute.get_strategy(), member, stage, args.classes, 1000)


def _loop(trainer: Trainer, data: tuple) -> Way:
    batches = iter(tf.data.Dataset.from_tensors(data).repeat())
    return lambda steps: trainer.train(batches, steps)


def torch_timm(args) -> Way:
    """Timm's network with a cosine softmax of a fixed scale."""
    import timm
    import torch

    torch.set_num_threads(args.cores)
    backbone = timm.create_model("efficientnet_b0", num_classes=0).eval()
    bottleneck = torch.nn.Sequential(torch.nn.Linear(1280, DIMENSION), torch.nn.SiLU())
    centers = torch.nn.Parameter(torch.randn(args.classes, DIMENSION) * 0.05)
    parameters = [*backbone.parameters(), *bottleneck.parameters(), centers]
    optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)
    images, labels, _ = examples(args)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    labels = torch.from_numpy(labels).long()
    functional = torch.nn.functional

    def run(steps: int) -> None:
        for _ in range(steps):
            embeddings = bottleneck(backbone(pixels.float() / 127.5 - 1))
            cosines = functional.linear(
                functional.normalize(embeddings), functional.normalize(centers)
            )
            loss = functional.cross_entropy(16.0 * cosines, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def limit(args) -> Way:
    """What the head cannot do without."""
    rng = np.random.default_rng(0)
    shape = (DIMENSION, args.classes)
    centers, gradient, momentum, updated = (rng.random(shape, np.float32) for _ in range(4))
    embeddings = rng.random((args.batch, DIMENSION), np.float32)
    slopes = rng.random((args.batch, args.classes), np.float32)

    def run(steps: int) -> None:
        for _ in range(steps):
            np.matmul(embeddings, centers, out=slopes)
            np.matmul(slopes, centers.T)
            np.matmul(embeddings.T, slopes, out=gradient)
            # Reads gradient, momentum and centres; writes momentum and centres.
            np.copyto(momentum, gradient)
            np.copyto(updated, momentum)
            centers.sum()

    return run


WAYS = {"ours": ours, "ours, plain": plain, "torch + timm": torch_timm}
HEADS = {"head": head, "head's limit": limit}


def make_ways(args) -> dict[str, Way]:
    """Returns {name: what runs steps}, without those whose packages are missing."""
    ways = {}
    for name, make in {**WAYS, **HEADS}.items():
        if args.only and name not in args.only:
            continue
        try:
            ways[name] = make(args)
        except ImportError as error:
            print(f"{name}: left out, {error.name} is not installed")
    return ways


def measure(ways: dict[str, Way], passes: int, steps: int) -> dict[str, list[tuple[float, float]]]:
    """Returns {way: wall and CPU seconds per step of each pass}."""
    times = {name: [] for name in ways}
    for run in ways.values():
        run(2)
    for _ in range(passes):
        for name, run in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run(steps)
            times[name].append(
                ((time.perf_counter() - wall) / steps, (time.process_time() - cpu) / steps)
            )
    return times


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--cores", type=int, default=4)
    parser.add_argument("--classes", type=int, default=81_313)
    parser.add_argument("--size", type=int, default=128, help="pixels")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="of each pass")
    parser.add_argument("--only", nargs="*", help=f"of {[*WAYS, *HEADS]}")
    args = parser.parse_args(argv)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-args.cores :])
    tf.config.threading.set_intra_op_parallelism_threads(args.cores)
    times = measure(make_ways(args), args.passes, args.steps)
    print(f"{'way':<14}{'images/s':>10}{'images/CPU-s':>14}{'CPU-s/step':>12}{'of ours':>9}")
    first = {}
    for name, values in times.items():
        wall, cpu = (statistics.median(column) for column in zip(*values, strict=True))
        first.setdefault(name in HEADS, cpu)
        rates = f"{args.batch / wall:>10.1f}{args.batch / cpu:>14.1f}"
        print(f"{name:<14}{rates}{cpu:>12.3f}{cpu / first[name in HEADS]:>9.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
