"""What cleaning gains: labels moved at random, cleaned by the network that was trained on them.

    python benchmarks/label_noise.py --source ../shared/data/grocery --workdir runs/label_noise

For each share of moved labels:

1. a copy of the training table with that share of the labels moved to another class;
2. total alone: stages 1 and 2 of the recipe's first member, both on all of these images;
3. tfrecords_tools/clean.py with the embeddings of 2: precision and recall of what it removes;
4. clean, then total: stage 1 on the clean set, stage 2 on all images; not more steps than in 2.

Prints mAP@100, recall@1 and GAP on queries of other classes after each stage of 2 and 4. The two
differ in the images of stage 1 alone; one run of each tells differences of about 0.01 mAP or more.
A second run with the same workdir does only what is missing.
"""

import argparse
import csv
import dataclasses
import os
import pathlib
import random
import sys
import time
from collections.abc import Sequence

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import end_to_end
import recipes
from end_to_end import Job
from input_pipeline.schema import Manifest
from recipes import layout
from recipes.schema import Recipe
from tfrecords_tools.clean import Summary, clean

TRUTH = "true_label"
STAGES = (1, 2)


@dataclasses.dataclass(frozen=True)
class Run:
    """One training: its stages' scores and steps.

    Attributes:
        name: what it was trained on.
        steps: optimizer steps of both stages together.
        scores: for each stage map_at_100, recall_at_1 and gap.
    """

    name: str
    steps: int
    scores: Sequence[dict]


def move_labels(table: str, output: str, share: float, seed: int = 0) -> None:
    """Copies a table with a share of its labels moved to another, drawn evenly.

    Args:
        table: CSV with the columns id, label and path.
        output: CSV with the columns id, label, path and true_label.
        share: of the rows, between 0 and 1.
        seed: which rows, and where they go.
    """
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    labels = sorted({row["label"] for row in rows})
    generator = random.Random(seed)  # noqa: S311
    moved = set(generator.sample(range(len(rows)), round(share * len(rows))))
    with open(output, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("id", "label", "path", TRUTH))
        for number, row in enumerate(rows):
            others = [label for label in labels if label != row["label"]]
            label = generator.choice(others) if number in moved else row["label"]
            writer.writerow((row["id"], label, row["path"], row["label"]))


def convert(job: Job, table: str) -> Manifest:
    """Converts a table whose paths start in the source folder; returns the manifest."""
    from tfrecords_tools import write as command

    output = job.path("shards")
    argv = ["--table", table, "--images", job.source, "--output", output]
    done = os.path.join(output, "manifest.json")
    job.run("convert", "tfrecords_tools/write.py", command.main, argv, done)
    return Manifest.load(output)


def train_stage(job: Job, stage: int, *settings: str) -> None:
    """Trains one stage of the first member, with `--set` of the settings."""
    import train as command

    member = job.recipe.members[0].name
    argv = ["--recipe", job.recipe.name, "--member", member, "--stage", str(stage)]
    argv += ["--data", job.path("shards"), "--workdir", job.workdir]
    argv += [word for setting in settings for word in ("--set", setting)]
    output = layout.model_path(job.workdir, member, stage)
    job.run("train", "train.py", command.main, argv, output)


def train(job: Job, table: str, first: str, epochs: Sequence[int], most: int | None) -> Run:
    """Trains stage 1 on `first` ("clean" or "total"), stage 2 on all images, and scores both.

    Args:
        job: where.
        table: the training table.
        first: the set of stage 1.
        epochs: of stages 1 and 2, in passes over all images.
        most: the largest number of steps; None for as many as `epochs` gives.
    """
    manifest = convert(job, table)
    batch_size = job.recipe.stages[0].batch_size
    total = manifest.images("train_clean", "train_noisy") // batch_size  # steps per epoch
    steps_1 = manifest.images("train_clean") // batch_size if first == "clean" else total
    epochs_1, steps_2 = epochs[0], epochs[1] * total
    if most is not None:
        epochs_1 = (most - steps_2) // steps_1
    train_stage(job, 1, f"stage.data={first}", f"stage.epochs={epochs_1}")
    settings = ["stage.data=total", f"stage.epochs={epochs[1]}"]
    if first == "clean" and manifest.num_clean_classes != manifest.num_classes:
        settings.append("stage.skip_layers=('head',)")
    train_stage(job, 2, *settings)
    member = job.recipe.members[0]
    scores = []
    for stage in STAGES:
        end_to_end.embed(job, member, stage)
        name = f"{member.name} stage {stage}"
        scores.append(end_to_end.score(job, name, [(member, stage)], "exact"))
    return Run(f"{first}, then total", epochs_1 * steps_1 + steps_2, scores)


def embed_training_images(job: Job) -> str:
    """Embeds the training images with the job's last stage; returns the directory."""
    from export import embed as command

    name = f"{job.recipe.members[0].name}-stage-{STAGES[-1]}"
    output = job.path("embeddings", name, "train")
    argv = ["--model", job.path("models", name), "--table", job.table("train.csv")]
    argv += ["--output", output]
    done = os.path.join(output, "manifest.json")
    job.run("embed", "export/embed.py", command.main, argv, done)
    return output


def run_level(
    recipe: Recipe, source: str, workdir: str, share: float, epochs: Sequence[int], seed: int
) -> tuple[Summary, list[Run]]:
    """Does all four steps for one share of moved labels."""
    os.makedirs(workdir, exist_ok=True)
    noisy, cleaned = (os.path.join(workdir, name) for name in ("noisy.csv", "clean.csv"))
    if not os.path.exists(noisy):
        move_labels(os.path.join(source, "train.csv"), noisy, share, seed)
    job = Job(recipe, source, os.path.join(workdir, "total"))
    baseline = train(job, noisy, "total", epochs, None)
    summary = clean(
        cleaned,
        embeddings=embed_training_images(job),
        table=noisy,
        truth_column=TRUTH,
        report=os.path.join(workdir, "agreement.png"),
    )
    print(f"\n{share:.0%} moved\n{summary}", flush=True)
    job = Job(recipe, source, os.path.join(workdir, "clean"))
    return summary, [baseline, train(job, cleaned, "clean", epochs, baseline.steps)]


def print_table(results: Sequence[tuple[float, Summary, Sequence[Run]]]) -> None:
    """Prints removal and scores by share of moved labels."""
    print(f"\n{'moved':>5}  {'removed':>7}  {'precision':>9}  {'recall':>6}  {'F1':>5}")
    for share, summary, _ in results:
        precision, recall = summary.precision or 0.0, summary.recall or 0.0
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        removed = summary.images - summary.kept
        print(f"{share:>5.0%}  {removed:>7,}  {precision:>9.3f}  {recall:>6.3f}  {f1:>5.3f}")
    heads = "".join(f"   stage {stage}: mAP@100    R@1    GAP" for stage in STAGES)
    print(f"\n{'moved':>5}  {'trained on':<17} {'steps':>6}{heads}")
    for share, _, runs in results:
        for run in runs:
            cells = "".join(
                f"{score['map_at_100']:>19.3f}{score['recall_at_1']:>7.3f}{score['gap']:>7.3f}"
                for score in run.scores
            )
            print(f"{share:>5.0%}  {run.name:<17} {run.steps:>6,}{cells}")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--source", required=True, help="folder of the tables of end_to_end.py")
    parser.add_argument("--workdir", default="runs/label_noise", help="where everything goes")
    parser.add_argument("--recipe", default="grocery", help=", ".join(recipes.NAMES))
    parser.add_argument("--shares", nargs="+", type=float, default=[0.1, 0.2, 0.4], metavar="S")
    parser.add_argument(
        "--epochs",
        nargs=2,
        type=int,
        default=[12, 4],
        metavar=("N1", "N2"),
        help="of stages 1 and 2, passes over all images (default: 12 4)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moved labels")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    args = parse_args(argv)
    results = []
    try:
        recipe = recipes.load(args.recipe)
        for share in args.shares:
            started = time.monotonic()
            workdir = os.path.join(args.workdir, f"moved-{share:g}")
            level = run_level(recipe, args.source, workdir, share, args.epochs, args.seed)
            results.append((share, *level))
            print(f"{share:.0%} moved: {time.monotonic() - started:.0f} s", flush=True)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except end_to_end.StepError as error:
        return error.exit_code
    print_table(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
