"""Published systems and their ingredients on one small network, the same CPU time for each.

    python benchmarks/systems.py --source ../shared/data/grocery --workdir runs/systems

Each row is a member of a recipe's small twin (`recipes.twins`), so backbone, image size and
optimizer are the same for all and what differs is neck, losses, batches and augmentation; with
`--set` of what its name says. All train for `--epochs` passes over images of 56 px, those at 64 px
and those that see each image twice (DCL) for fewer in proportion; the CPU seconds are printed. Rows
of "20 % noise" train on a table with that share of the labels moved to another class.

Trains `--seeds` times, each in a process of its own on one core, and prints mean and spread
(standard deviation) of mAP@100, R@1 and GAP on queries of other classes, searched exactly without
post-processing. A second run does only what is missing.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import queue
import resource
import statistics
import subprocess
import sys

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import files
from benchmarks import label_noise

METRICS = ("map_at_100", "recall_at_1", "gap")
NOISE = 0.2
SIDE = 128  # pixels of the training photographs, twice what the networks see


@dataclasses.dataclass(frozen=True)
class Row:
    """One way to train.

    Attributes:
        name: what it says.
        recipe: its small twin is trained.
        member: of the recipe.
        settings: texts of `--set`.
        noisy: whether a share of the labels is moved.
        share: of the epochs.
    """

    name: str
    recipe: str
    member: str = "A"
    settings: tuple[str, ...] = ()
    noisy: bool = False
    share: float = 1.0


def _losses(*texts: str) -> str:
    return f"model.losses={texts!r}"


ONE_STAGE = ("stage.start_from=None", "stage.batches=shuffled", "stage.image_size=56")
RENET = (
    "softmax:on=global_bn,smoothing=0.1,use_bias=False",
    "softmax:on=local_bn,smoothing=0.1,use_bias=False",
    "triplet:on=global,margin=2.0",
    "triplet:on=local,margin=2.0",
)
LANDMARKS, ALI = "landmark_recognition_2020", "aliproducts"
COMMON = ("stage.augmentation=('random_crop:smallest_area=0.4','resize','random_flip')",)
HEAD = (*COMMON, "model.neck=linear", "stage.class_weights=False")
ROWS = (
    Row("plain softmax", ALI, settings=(*HEAD, *ONE_STAGE, _losses("softmax"))),
    Row(
        "GLR2020 head",
        ALI,
        settings=(*COMMON, *ONE_STAGE, _losses("cosine"), "model.neck=dense_swish"),
    ),
    Row("digix_cgd", "digix_cgd"),
    Row("taobao_live", "taobao_live", "D", share=0.75),
    Row("landmark_recognition_2020", LANDMARKS, "D"),
    Row("aliproducts", ALI, settings=ONE_STAGE),
    Row("renet", "renet"),
    Row("bag_of_tricks", "bag_of_tricks"),
    Row(
        "digix_cgd, GeM for CGD",
        "digix_cgd",
        settings=("model.neck=linear_bn", "model.pooling=gem"),
    ),
    Row("renet, nothing erased", "renet", settings=("model.neck=global_local:erase_height=0.0",)),
    Row("renet, no centre loss", "renet", settings=(_losses(*RENET),)),
    Row(
        "renet, centre loss per branch",
        "renet",
        settings=(
            _losses(*RENET, "center:on=global,weight=0.0005", "center:on=local,weight=0.0005"),
        ),
    ),
    Row("taobao_live, no memory", "taobao_live", "D", (_losses("cosine"),), share=0.75),
    Row(
        "contrastive",
        "bag_of_tricks",
        settings=(_losses("contrastive:negative_margin=0.5"), "model.neck=linear"),
    ),
    Row(
        "contrastive, memory of 1,024",
        "bag_of_tricks",
        settings=(
            _losses("contrastive:negative_margin=0.5,memory=1024,start=80"),
            "model.neck=linear",
        ),
    ),
    Row(
        "landmark_recognition_2020, no class weights",
        LANDMARKS,
        "D",
        ("stage.class_weights=False",),
    ),
    Row("aliproducts, no accuracy loss", ALI, settings=(*ONE_STAGE, _losses("softmax"))),
    Row(
        "aliproducts, DCL",
        ALI,
        settings=(*ONE_STAGE, _losses("softmax:accuracy=0.5", "regions")),
        share=0.5,
    ),
    Row("landmark_recognition_2020, 20 % noise", LANDMARKS, "D", noisy=True),
    Row(
        "landmark_recognition_2020, 3 sub-centres, 20 % noise",
        LANDMARKS,
        "D",
        ("model.sub_centers=3",),
        noisy=True,
    ),
)


def convert(source: str, workdir: str) -> None:
    """Writes the shards of the table as it is, and of one with moved labels."""
    from tfrecords_tools import write as command

    os.makedirs(workdir, exist_ok=True)
    noisy = os.path.join(workdir, "noisy.csv")
    label_noise.move_labels(os.path.join(source, "train.csv"), noisy, NOISE)
    for name, table in (("shards", os.path.join(source, "train.csv")), ("noisy", noisy)):
        argv = ["--table", table, "--images", source, "--output", os.path.join(workdir, name)]
        argv += ["--max-side", str(SIDE), "--quality", "95"]
        if command.main(argv):
            raise RuntimeError(f"the shards of {table} could not be written")


def run_one(row: Row, seed: int, args: argparse.Namespace) -> dict:
    """Trains, exports, embeds and scores; returns the metrics, the epochs and CPU seconds."""
    import end_to_end
    import recipes
    import train
    from recipes.settings import override

    name = f"{row.recipe}_small"
    settings = [*row.settings, f"recipe.seed={seed}", "stage.export_size=None"]
    workdir = _folder(row, seed, args)
    epochs = round(args.epochs * row.share)
    settings.append(f"stage.epochs={epochs}")
    before = _cpu_seconds()
    _train(train.main, name, row, settings, os.path.join(workdir, "run"), args)
    seconds = _cpu_seconds() - before
    recipe = override(recipes.load(name), settings)
    job = end_to_end.Job(recipe, args.source, os.path.join(workdir, "run"))
    member = recipe.member(row.member)
    end_to_end.embed(job, member, 1)
    scores = end_to_end.score(job, f"{member.name} stage 1", [(member, 1)], "exact")
    return {**scores, "epochs": epochs, "cpu_seconds": seconds}


def _train(main, name: str, row: Row, settings: list[str], workdir: str, args) -> None:
    shards = os.path.join(args.workdir, "noisy" if row.noisy else "shards")
    argv = ["--recipe", name, "--member", row.member, "--stage", "1", "--data", shards]
    argv += ["--workdir", workdir, "--retrieval-every", "0", "--checkpoint-seconds", "600"]
    argv += [word for setting in settings for word in ("--set", setting)]
    if main(argv):
        raise RuntimeError(f"{row.name}: the training failed")


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _folder(row: Row, seed: int, args) -> str:
    safe = "".join(c if c.isalnum() else "_" for c in row.name)
    return os.path.join(args.workdir, f"{safe}-{seed}")


def _result_path(row: Row, seed: int, args) -> str:
    return os.path.join(_folder(row, seed, args), "result.json")


def run_all(args: argparse.Namespace) -> None:
    """Runs what is missing, one process on each core."""
    cores: queue.SimpleQueue = queue.SimpleQueue()
    for core in sorted(os.sched_getaffinity(0))[: args.workers]:
        cores.put(core)
    missing = [
        (number, seed)
        for seed in range(args.seeds)
        for number, row in enumerate(ROWS)
        if not os.path.exists(_result_path(row, seed, args))
    ]

    def work(task: tuple[int, int]) -> None:
        core = cores.get()
        command = [sys.executable, __file__, "--source", args.source, "--workdir", args.workdir]
        command += ["--epochs", str(args.epochs), "--one", *map(str, (*task, core))]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        finally:
            cores.put(core)
        last = done.stdout.strip().splitlines()[-1:] or done.stderr.strip().splitlines()[-1:]
        print(f"{ROWS[task[0]].name}, seed {task[1]}: {' '.join(last)}", flush=True)

    with concurrent.futures.ThreadPoolExecutor(args.workers) as pool:
        list(pool.map(work, missing))


def table(args: argparse.Namespace) -> list[dict]:
    """Returns the finished rows with mean and spread of each metric."""
    rows = []
    for row in ROWS:
        paths = [_result_path(row, seed, args) for seed in range(args.seeds)]
        found = [json.loads(files.read(path)) for path in paths if os.path.exists(path)]
        if not found:
            continue
        entry = {"name": row.name, "seeds": len(found)}
        for key in (*METRICS, "epochs", "cpu_seconds"):
            values = [result[key] for result in found]
            entry[key] = statistics.fmean(values)
            entry[f"{key}_spread"] = statistics.stdev(values) if len(values) > 1 else 0.0
        rows.append(entry)
    return rows


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--source", required=True, help="folder of the tables and photographs")
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--output", help="JSON of the table")
    parser.add_argument("--one", type=int, nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        number, seed, core = args.one
        os.sched_setaffinity(0, {core})
        result = run_one(ROWS[number], seed, args)
        files.write_text(_result_path(ROWS[number], seed, args), json.dumps(result) + "\n")
        print(json.dumps(result))
        return 0
    convert(args.source, args.workdir)
    run_all(args)
    rows = table(args)
    print(f"{'':<54}{'mAP@100':>15}{'R@1':>15}{'GAP':>15}{'epochs':>8}{'CPU s':>7}")
    for row in rows:
        cells = "".join(f"{row[key]:>8.3f} ±{row[f'{key}_spread']:.3f}" for key in METRICS)
        print(f"{row['name']:<54}{cells}{row['epochs']:>8.0f}{row['cpu_seconds']:>7.0f}")
    if args.output:
        files.write_text(args.output, json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
