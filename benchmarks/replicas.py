"""Trains the same steps on 1, 2 and 8 replicas and on two processes, and compares the weights.

    python benchmarks/replicas.py [--steps 4] [--cases fixed renet_tiny/A ...]
                                  [--layouts order 2 8 2x1]

Prints the largest difference of any weight from one device with the whole batch, and the largest
change of any weight that the training itself has made. A layout R is R logical CPUs under
MirroredStrategy, 2x1 two processes of one CPU each under MultiWorkerMirroredStrategy, which talk
over loopback; "order" is one device again with the images of each batch in another order, the
rounding that any comparison has. Each layout is a process of its own. What is trained, and
what must differ because each replica does it in its own way, is in `benchmarks/replica_cases.py`;
exit code 1 says that a case differed that must not, or did not that must.

The weights are all that training has learned, BatchNorm's statistics and centres included; a
memory of past embeddings counts by what it makes of them.
"""

import argparse
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

from benchmarks.replica_cases import Case, cases
from recipes.schema import Stage

CLASSES, BATCH, TILES = 23, 16, 7
# Of the change that training makes: the largest difference of what must not differ.
LIMIT = 1e-3


def batches_of(case: Case, stage: Stage, steps: int, part: tuple[int, int, int], turned: bool):
    """Returns a worker's part of fixed random batches, a replica's part at a time.

    Args:
        case, stage: what is trained.
        steps: batches.
        part: number of workers, this worker, its replicas.
        turned: the images of a batch in the opposite order.
    """
    import tensorflow as tf

    workers, worker, replicas = part
    rng = np.random.default_rng(0)
    count, side = steps * BATCH, stage.image_size
    tile = side // TILES if case.tiled else side
    images = rng.integers(0, 256, (count, tile, tile, 3), dtype=np.uint8)
    images = np.tile(images, (1, side // tile, side // tile, 1))
    per_class = stage.images_per_class if stage.batches == "classes" else 1
    labels = rng.integers(0, CLASSES, count // per_class, dtype=np.int32).repeat(per_class)
    weights = rng.uniform(0.5, 2.0, count).astype(np.float32)
    parts = [
        x.reshape(steps, workers, -1, *x.shape[1:])[:, worker] for x in (images, labels, weights)
    ]
    own = [x[:, :: -1 if turned else 1].reshape(-1, *x.shape[2:]) for x in parts]
    dataset = tf.data.Dataset.from_tensor_slices(tuple(own))
    return dataset.batch(BATCH // (workers * replicas), drop_remainder=True)


def train_case(
    case: Case, strategy, steps: int, turned: bool
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns the weights before and after the steps of one case."""
    import keras

    import assemble

    member, stage = case.tables(BATCH)
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    trainer = assemble.make_trainer(strategy, member, stage, CLASSES, steps)
    before = weights_of(trainer)
    workers, replicas = workers_of(strategy)
    batches = strategy.distribute_datasets_from_function(
        lambda context: batches_of(
            case, stage, steps, (workers, context.input_pipeline_id, replicas), turned
        )
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
    """Returns what the model has learned, with a sharded head's centres."""
    from models.memory import EmbeddingMemory

    layers = [layer for layer in trainer.model.layers if not isinstance(layer, EmbeddingMemory)]
    weights = [variable.numpy() for layer in layers for variable in layer.weights]
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


def run_layout(replicas: int, turned: bool, names: Sequence[str], steps: int, output: str) -> None:
    """Trains cases in this process and writes the weights of each, {before/number, after/number}.

    Args:
        replicas: of this process.
        turned: see `batches_of`.
        names: of the cases.
        steps: of each.
        output: folder of 0.npz, 1.npz, … in the order of the names.
    """
    strategy = make_strategy(replicas)
    for number, name in enumerate(names):
        began = time.monotonic()
        before, after = train_case(cases()[name], strategy, steps, turned)
        arrays = {f"before/{i}": weight for i, weight in enumerate(before)}
        arrays |= {f"after/{i}": weight for i, weight in enumerate(after)}
        np.savez(os.path.join(output, f"{number}.npz"), **arrays)
        print(f"  {name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def start(layout: str, names: Sequence[str], steps: int) -> dict[str, dict[str, np.ndarray]]:
    """Trains cases on a layout in processes of its own; returns what one of them has written."""
    processes, _, replicas = ("1" if layout == "order" else layout).rpartition("x")
    ports = [_free_port() for _ in range(int(processes or 0))]
    workers = [f"localhost:{port}" for port in ports]
    configs = [
        {"TF_CONFIG": json.dumps({"cluster": {"worker": workers}, "task": _task(number)})}
        for number in range(len(workers))
    ]
    with tempfile.TemporaryDirectory() as folder:
        outputs = [os.path.join(folder, str(number)) for number in range(len(configs) or 1)]
        running = []
        for output, config in zip(outputs, configs or [{}], strict=True):
            os.mkdir(output)
            command = [sys.executable, __file__, "--run", replicas, "--output", output]
            command += ["--steps", str(steps), "--cases", *names]
            command += ["--turned"] * (layout == "order")
            running.append(subprocess.Popen(command, env={**os.environ, **config}))  # noqa: S603
        codes = [process.wait() for process in running]
        if any(codes):
            raise RuntimeError(f"layout {layout}: exit codes {codes}")
        files = (os.path.join(outputs[0], f"{number}.npz") for number in range(len(names)))
        return {name: dict(np.load(file)) for name, file in zip(names, files, strict=True)}


def _task(number: int) -> dict:
    return {"type": "worker", "index": number}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def runs_on(case: Case, layout: str) -> bool:
    """Whether a layout can have a case: a sharded head needs all replicas in one process."""
    return not ("x" in layout and "model.head=sharded" in case.settings)


def compare(
    names: Sequence[str], layouts: Sequence[str], steps: int
) -> dict[str, tuple[float, dict[str, float]]]:
    """Returns of each case the largest change by the training, and {layout: difference}."""
    one = start("1", names, steps)
    found = {name: (_largest(one[name], "before", one[name]), {}) for name in names}
    for layout in layouts:
        print(f"layout {layout}", file=sys.stderr, flush=True)
        able = [name for name in names if runs_on(cases()[name], layout)]
        other = start(layout, able, steps) if able else {}
        for name in able:
            found[name][1][layout] = _largest(one[name], "after", other[name])
    return found


def _largest(one: dict[str, np.ndarray], when: str, other: dict[str, np.ndarray]) -> float:
    """Returns the largest difference of the weights after training on one device from others."""
    numbers = range(len(one) // 2)
    pairs = [(one[f"after/{i}"], other[f"{when}/{i}"]) for i in numbers]
    return max(float(np.abs(first - second).max()) for first, second in pairs)


def is_as_expected(case: Case, change: float, differences: dict[str, float]) -> bool:
    """Whether replicas equal one device to `LIMIT` of the change, or all differ by more."""
    limit = LIMIT * change
    found = [value > limit for layout, value in differences.items() if layout != "order"]
    return all(found) if case.differs else not any(found)


def print_table(found: dict[str, tuple[float, dict[str, float]]], layouts: Sequence[str]) -> None:
    """Prints a row for each case."""
    width = max(map(len, found))
    heads = " ".join(f"{name:>9}" for name in layouts)
    print(f"{'case':{width}} {'trained by':>10} {heads}  must")
    for name, (change, differences) in found.items():
        texts = [f"{differences[x]:.1e}" if x in differences else "-" for x in layouts]
        must = "differ" if cases()[name].differs else "equal"
        wrong = "" if is_as_expected(cases()[name], change, differences) else " and does not"
        row = " ".join(f"{text:>9}" for text in texts)
        print(f"{name:{width}} {change:10.1e} {row}  {must}{wrong}")


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--cases", nargs="+", choices=cases(), default=list(cases()))
    parser.add_argument("--layouts", nargs="+", default=["order", "2", "8", "2x1"])
    parser.add_argument("--run", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--turned", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.run:
        run_layout(args.run, args.turned, args.cases, args.steps, args.output)
        return 0
    found = compare(args.cases, args.layouts, args.steps)
    print_table(found, args.layouts)
    expected = [is_as_expected(cases()[name], *row) for name, row in found.items()]
    return 0 if all(expected) else 1


if __name__ == "__main__":
    sys.exit(main())
