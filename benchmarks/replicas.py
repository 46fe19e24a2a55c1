"""Trains the same steps on 1, 2 and 8 replicas and on two processes, and compares the weights.

    python benchmarks/replicas.py [--steps 4] [--cases fixed winner ...] [--layouts order 2 8 2x1]

Prints the largest difference of any weight from one device with the whole batch, and the largest
change of any weight that the training itself has made. A layout R is R logical CPUs under
MirroredStrategy, 2x1 two processes of one CPU each under MultiWorkerMirroredStrategy, which talk
over loopback; "order" is one device again with the images of each batch in another order, the
rounding that any comparison has. Each run is a process of its own. "winner" and "batchnorm"
take something from each replica's own images and must differ; everything else must not.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

import recipes
from recipes.settings import override

CLASSES, PIXELS, BATCH = 23, 32, 16
FROZEN = "model.freeze_batchnorm=True"
UNFROZEN = ("model.freeze_batchnorm=False", "model.drop_connect_rate=0.0", "model.scale=10.0")
GLOBAL = "model.scale=adacos_global"
SHARDED = (FROZEN, "model.head=sharded")
# Name: member of the tiny recipe, and what is set. Stochastic depth differs per replica by
# design and is off wherever replicas are to be equal.
CASES = {
    "fixed": ("A", FROZEN, "model.scale=adacos_fixed"),
    "winner": ("A", FROZEN),
    "global": ("A", FROZEN, GLOBAL),
    "gem": ("B", FROZEN, GLOBAL),
    "batchnorm": ("A", *UNFROZEN),
    "synchronized": ("A", *UNFROZEN, "model.batchnorm=synchronized"),
    "accumulation": ("A", FROZEN, "model.scale=10.0", "stage.accumulate=2", "stage.clip_norm=1.0"),
    "adamw": ("A", FROZEN, GLOBAL, "stage.optimizer=adamw", "stage.weight_decay=0.1"),
    "ema": ("B", FROZEN, GLOBAL, "stage.average=ema", "stage.ema_decay=0.5"),
    "sharded": ("A", *SHARDED),
    "sharded-arcface": (
        "A",
        *SHARDED,
        "model.scale=30.0",
        "model.margin=arcface",
        "model.margin_size=0.3",
    ),
}
# With frozen statistics of a random network the gradients are some 1e4.
FROZEN_RATE, ADAM_RATE = 1e-5, 1e-4


def batches_of(steps: int, workers: int, worker: int, replicas: int, turned: bool):
    """Returns this worker's part of fixed random batches, a replica's part at a time."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    count = steps * BATCH
    images = rng.integers(0, 256, (count, PIXELS, PIXELS, 3), dtype=np.uint8)
    labels = rng.integers(0, CLASSES, count, dtype=np.int32)
    weights = rng.uniform(0.5, 2.0, count).astype(np.float32)
    parts = [
        x.reshape(steps, workers, -1, *x.shape[1:])[:, worker] for x in (images, labels, weights)
    ]
    own = [x[:, :: -1 if turned else 1].reshape(-1, *x.shape[2:]) for x in parts]
    dataset = tf.data.Dataset.from_tensor_slices(tuple(own))
    return dataset.batch(BATCH // (workers * replicas), drop_remainder=True)


def rate_of(case: str) -> float | None:
    """Returns the learning rate of a case; None is the recipe's."""
    if case == "adamw":
        return ADAM_RATE
    large = FROZEN in CASES[case] and "stage.clip_norm=1.0" not in CASES[case]
    return FROZEN_RATE if large else None


def train_case(
    case: str, strategy, steps: int, turned: bool
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns the weights before and after the steps of one case."""
    import keras

    import assemble

    member_name, *settings = CASES[case]
    recipe = override(recipes.load("tiny"), settings)
    rate = rate_of(case) or recipe.stages[0].learning_rate
    stage = dataclasses.replace(recipe.stages[0], batch_size=BATCH, learning_rate=rate)
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    trainer = assemble.make_trainer(strategy, recipe.member(member_name), stage, CLASSES, steps)
    before = weights_of(trainer)
    workers, replicas = workers_of(strategy)
    batches = strategy.distribute_datasets_from_function(
        lambda context: batches_of(steps, workers, context.input_pipeline_id, replicas, turned)
    )
    trainer.train(iter(batches), steps)
    with trainer.averaged_weights():
        return before, weights_of(trainer)


def workers_of(strategy) -> tuple[int, int]:
    """Returns the number of processes and of replicas in each."""
    cluster = json.loads(os.environ.get("TF_CONFIG", "{}")).get("cluster", {"worker": [""]})
    workers = len(cluster["worker"])
    return workers, strategy.num_replicas_in_sync // workers


def weights_of(trainer) -> list[np.ndarray]:
    """Returns the model's weights, with a sharded head's centres."""
    weights = [variable.numpy() for variable in trainer.model.weights]
    if trainer.head is not None:
        weights.append(trainer.head.sharded(trainer.head.centers).numpy())
    return weights


def make_strategy(replicas: int):
    """Returns the strategy of this process."""
    import tensorflow as tf

    if "TF_CONFIG" in os.environ:
        return tf.distribute.MultiWorkerMirroredStrategy()
    if replicas == 1:
        return tf.distribute.get_strategy()
    cpu = tf.config.list_physical_devices("CPU")[0]
    one = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpu, [one] * replicas)
    return tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(replicas)])


def run_layout(replicas: int, turned: bool, case: str, steps: int, output: str) -> None:
    """Trains a case in this process and writes its weights {before/number, after/number}."""
    before, after = train_case(case, make_strategy(replicas), steps, turned)
    arrays = {f"before/{i}": weight for i, weight in enumerate(before)}
    np.savez(output, **arrays, **{f"after/{i}": weight for i, weight in enumerate(after)})


def start(layout: str, case: str, steps: int) -> dict[str, np.ndarray]:
    """Trains a case on a layout in processes of its own; returns what one of them has written."""
    processes, _, replicas = ("1" if layout == "order" else layout).rpartition("x")
    ports = [_free_port() for _ in range(int(processes or 0))]
    workers = [f"localhost:{port}" for port in ports]
    configs = [
        {"TF_CONFIG": json.dumps({"cluster": {"worker": workers}, "task": _task(number)})}
        for number in range(len(workers))
    ]
    with tempfile.TemporaryDirectory() as folder:
        outputs = [os.path.join(folder, f"{number}.npz") for number in range(len(configs) or 1)]
        running = []
        for output, config in zip(outputs, configs or [{}], strict=True):
            command = [sys.executable, __file__, "--run", replicas, "--output", output]
            command += ["--steps", str(steps), "--cases", case]
            command += ["--turned"] * (layout == "order")
            running.append(subprocess.Popen(command, env={**os.environ, **config}))  # noqa: S603
        codes = [process.wait() for process in running]
        if any(codes):
            raise RuntimeError(f"{case} on {layout}: exit codes {codes}")
        return dict(np.load(outputs[0]))


def _task(number: int) -> dict:
    return {"type": "worker", "index": number}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def runs_on(case: str, layout: str) -> bool:
    """Whether a layout can have a case: a sharded head needs all replicas in one process."""
    return not ("x" in layout and "model.head=sharded" in CASES[case])


def compare(case: str, layouts: list[str], steps: int) -> tuple[float, dict[str, float]]:
    """Returns the largest change by the training, and {layout: largest difference}."""
    one = start("1", case, steps)
    before, after = (
        [one[name] for name in sorted(one) if name.startswith(when)] for when in ("before", "after")
    )
    differences = {}
    for layout in layouts:
        if runs_on(case, layout):
            other = start(layout, case, steps)
            own = [other[name] for name in sorted(other) if name.startswith("after")]
            differences[layout] = _largest(after, own)
    return _largest(after, before), differences


def _largest(first: list[np.ndarray], second: list[np.ndarray]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(first, second, strict=True))


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--layouts", nargs="+", default=["order", "2", "8", "2x1"])
    parser.add_argument("--run", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--turned", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.run:
        run_layout(args.run, args.turned, args.cases[0], args.steps, args.output)
        return 0
    print(f"{'case':16} {'trained by':>10} " + " ".join(f"{name:>9}" for name in args.layouts))
    for case in args.cases:
        change, differences = compare(case, args.layouts, args.steps)
        texts = [
            f"{differences[name]:.1e}" if name in differences else "-" for name in args.layouts
        ]
        print(f"{case:16} {change:10.1e} " + " ".join(f"{text:>9}" for text in texts), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
