"""The whole main job: table of images → shards → stages → embeddings → GAP and mAP@100 → report.

python end_to_end.py --recipe grocery --source FOLDER runs every command of a recipe in order and
prints each one, so that any of them can be repeated by hand. FOLDER holds train.csv, index.csv,
query.csv (and query_nomatch.csv), retrieval_solution.csv and recognition_solution.csv. Without
--source the photographs of the demo are drawn first. A second run does only what is missing.
"""

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # warnings, but no notes

import recipes
from recipes import layout
from recipes.schema import Member, Recipe
from retrieval.embeddings import write_json
from retrieval.reranking.steps import need_reference

SEARCHES = ("exact", "scann")


class StepError(RuntimeError):
    """A step ended with an exit code that is not 0; its message has been printed."""

    def __init__(self, exit_code: int):
        super().__init__(f"exit code {exit_code}")
        self.exit_code = exit_code


class Job:
    """Runs commands in order, skips what is up to date, and times the rest.

    Args:
        recipe: what to train.
        source: folder of the tables.
        workdir: where everything goes.
    """

    def __init__(self, recipe: Recipe, source: str, workdir: str):
        self.recipe = recipe
        self.source = source
        self.workdir = workdir
        self._times_path = self.path("times.json")
        self._times: dict[str, dict[str, float]] = {}  # kind of step → its output → seconds
        if os.path.exists(self._times_path):
            with open(self._times_path, encoding="utf-8") as file:
                self._times = json.load(file)

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time of each kind of step, of earlier runs in this workdir too."""
        return {kind: round(sum(steps.values()), 1) for kind, steps in self._times.items()}

    def path(self, *parts: str) -> str:
        """Returns a path inside the workdir."""
        return os.path.join(self.workdir, *parts)

    def table(self, name: str) -> str:
        """Returns a path inside the source folder."""
        return os.path.join(self.source, name)

    def run(
        self, kind: str, script: str, main: Callable, argv: Sequence[str], output: str, *inputs: str
    ) -> None:
        """Runs `script` unless `output` is newer than `inputs`; `kind` is what it counts as."""
        if _up_to_date(output, inputs):
            return
        print(f"\n$ python {script} {shlex.join(argv)}", flush=True)
        started = time.monotonic()
        # 3: done, but some images were rejected; they are listed, and the job goes on.
        if (exit_code := main(list(argv))) not in (0, 3):
            raise StepError(exit_code)
        os.utime(output)
        self._times.setdefault(kind, {})[output] = time.monotonic() - started
        write_json(self._times_path, self._times)


def _up_to_date(output: str, inputs: Sequence[str]) -> bool:
    if not os.path.exists(output):
        return False
    return all(os.path.getmtime(path) <= os.path.getmtime(output) for path in inputs)


def draw(job: Job) -> None:
    """Draws the photographs of the demo."""
    from demo import draw as command

    argv = ["--output", job.source]
    job.run("draw", "demo/draw.py", command.main, argv, job.table("manifest.json"))


def convert(job: Job) -> None:
    """Converts the training table into shards."""
    from tfrecords_tools import write as command

    argv = ["--table", job.table("train.csv"), "--output", job.path("shards")]
    output = job.path("shards", "manifest.json")
    job.run("convert", "tfrecords_tools/write.py", command.main, argv, output, argv[1])


def train(job: Job, settings: Sequence[str], tpu: str | None = None) -> None:
    """Trains every member through its stages."""
    import train as command

    for member in job.recipe.members:
        argv = ["--recipe", job.recipe.name, "--member", member.name, "--stage", "all"]
        argv += ["--data", job.path("shards"), "--workdir", job.workdir]
        argv += [word for setting in settings for word in ("--set", setting)]
        if tpu is not None:
            argv += ["--tpu", *filter(None, [tpu])]
        output = layout.model_path(job.workdir, member.name, member.last_stage)
        job.run("train", "train.py", command.main, argv, output)


def embed(job: Job, member: Member, stage: int) -> None:
    """Exports one stage of one member and embeds the index and the queries with it."""
    from export import embed as embed_command
    from export import savedmodel as export_command

    name = f"{member.name}-stage-{stage}"
    model = job.path("models", name)
    argv = ["--recipe", job.recipe.name, "--workdir", job.workdir, "--member", member.name]
    argv += ["--stage", str(stage), "--output", model]
    trained = layout.model_path(job.workdir, member.name, stage)
    info = os.path.join(model, export_command.INFO_NAME)
    job.run("export", "export/savedmodel.py", export_command.main, argv, info, trained)
    sets = [("index", [job.table("index.csv")]), ("query", _query_tables(job))]
    if stage == member.last_stage and need_reference(job.recipe.post_processing):
        sets.append(("train", [job.table("train.csv")]))
    for images, tables in sets:
        output = job.path("embeddings", name, images)
        argv = ["--model", model, "--table", *tables, "--output", output, "--overwrite"]
        done = os.path.join(output, "manifest.json")
        job.run("embed", "export/embed.py", embed_command.main, argv, done, info, *tables)


def export_ensemble(job: Job) -> None:
    """Writes the ensemble of all members as one SavedModel."""
    from export import savedmodel as command

    output = job.path("models", "ensemble")
    argv = ["--recipe", job.recipe.name, "--workdir", job.workdir, "--output", output]
    trained = [layout.model_path(job.workdir, m.name, m.last_stage) for m in job.recipe.members]
    info = os.path.join(output, command.INFO_NAME)
    job.run("export", "export/savedmodel.py", command.main, argv, info, *trained)


def score(
    job: Job,
    name: str,
    members: Sequence[tuple[Member, int]],
    search: str,
    steps: Sequence[str] = (),
) -> dict:
    """Returns mAP@100, recall@1 and GAP of a member or an ensemble with one kind of search."""
    from eval import gap as gap_command
    from eval import mean_ap as map_command

    folders = [job.path("embeddings", f"{m.name}-stage-{stage}") for m, stage in members]
    common = [word for part in ("index", "query") for word in _folders(part, folders)]
    if len(members) > 1:
        common += ["--weights", *(str(member.weight) for member, _ in members)]
    common += ["--search", search, *_steps(job, steps, folders)]
    inputs = [os.path.join(f, p, "manifest.json") for f in folders for p in ("index", "query")]
    result = {}
    for metric, command, table, more in (
        ("mean_ap", map_command, "retrieval_solution.csv", []),
        ("gap", gap_command, "recognition_solution.csv", ["--labels", job.table("index.csv")]),
    ):
        output = job.path("scores", f"{name}-{search}-{metric}.json".replace(" ", "-"))
        os.makedirs(os.path.dirname(output), exist_ok=True)
        argv = [*common, "--solution", job.table(table), *more, "--output", output]
        job.run("evaluate", f"eval/{metric}.py", command.main, argv, output, *inputs)
        with open(output, encoding="utf-8") as file:
            result |= json.load(file)
    return {key: result[key] for key in ("map_at_100", "recall_at_1", "gap")}


def _folders(part: str, folders: Sequence[str]) -> list[str]:
    images = {"reference": "train"}.get(part, part)
    return [f"--{part}", *(os.path.join(folder, images) for folder in folders)]


def _steps(job: Job, steps: Sequence[str], folders: Sequence[str]) -> list[str]:
    """Returns the options of post-processing, with the training set where a step asks for it."""
    argv = ["--steps", *steps] if steps else []
    if need_reference(steps):
        argv += [*_folders("reference", folders), "--reference-labels", job.table("train.csv")]
    return argv


def score_all(job: Job) -> list[dict]:
    """Returns the rows of the results: each member's stages and the ensemble, both searches."""
    entries = []
    for member in job.recipe.members:
        for stage in job.recipe.stages_of(member, "all"):
            name = f"{member.name} stage {stage.number}"
            about = {
                "member": member.name,
                "stage": stage.number,
                "pixels": stage.export_size or stage.image_size,
            }
            entries.append((name, about, [(member, stage.number)], ()))
    everyone = [(member, member.last_stage) for member in job.recipe.members]
    about = {"member": "ensemble", "stage": None, "pixels": None}
    entries.append(("ensemble", about, everyone, ()))
    if steps := job.recipe.post_processing:
        entries.append(("post-processed", about, everyone, steps))
    return [
        {"name": name, **about, "search": search, **score(job, name, members, search, steps)}
        for name, about, members, steps in entries
        for search in SEARCHES
    ]


def rank(job: Job) -> None:
    """Writes the ensemble's ranking of the index for each query."""
    from retrieval import search as command

    folders = [
        job.path("embeddings", f"{member.name}-stage-{member.last_stage}")
        for member in job.recipe.members
    ]
    argv = [*_folders("index", folders), *_folders("query", folders)]
    argv += ["--weights", *(str(member.weight) for member in job.recipe.members)]
    output = job.path("rankings.csv")
    inputs = [os.path.join(folder, "query", "manifest.json") for folder in folders]
    argv += ["--search", "exact", "--output", output]
    argv += _steps(job, job.recipe.post_processing, folders)
    job.run("evaluate", "retrieval/search.py", command.main, argv, output, *inputs)


def write_results(job: Job, rows: list[dict]) -> str:
    """Writes results.json, what the report reads; returns its path."""
    curves = [
        {
            "member": member.name,
            "stage": stage.number,
            "pixels": stage.image_size,
            "log": os.path.join(layout.stage_directory("", member.name, stage.number), "log.jsonl"),
        }
        for member in job.recipe.members
        for stage in job.recipe.stages_of(member, "all")
    ]
    results = {
        "title": f"Waymark: {job.recipe.name}",
        "dataset": os.path.basename(os.path.abspath(job.source)),
        "seconds": job.seconds,
        "rows": rows,
        "curves": curves,
        "inputs": _inputs_of_report(job),
    }
    path = job.path("results.json")
    write_json(path, results)
    return path


def _inputs_of_report(job: Job) -> dict:
    """Returns the fields of `eval.page.inputs.Inputs` for the ensemble with exact search."""
    names = [f"{member.name}-stage-{member.last_stage}" for member in job.recipe.members]
    tables = {
        name: os.path.abspath(job.table(f"{file}.csv"))
        for name, file in (
            ("solution", "retrieval_solution"),
            ("recognition_solution", "recognition_solution"),
            ("labels", "index"),
            ("index_table", "index"),
        )
    }
    if need_reference(job.recipe.post_processing):
        tables["reference_labels"] = os.path.abspath(job.table("train.csv"))
        tables["reference"] = [os.path.join("embeddings", name, "train") for name in names]
    return {
        "index": [os.path.join("embeddings", name, "index") for name in names],
        "query": [os.path.join("embeddings", name, "query") for name in names],
        "weights": [member.weight for member in job.recipe.members],
        "search": "exact",
        "steps": list(job.recipe.post_processing),
        **tables,
        "query_tables": [os.path.abspath(path) for path in _query_tables(job)],
    }


def _query_tables(job: Job) -> list[str]:
    """Returns the paths of the queries and, where there are any, those without a right answer."""
    nomatch = job.table("query_nomatch.csv")
    return [job.table("query.csv"), *([nomatch] if os.path.exists(nomatch) else [])]


def print_table(rows: Sequence[dict]) -> None:
    """Prints the metrics by stage and for the ensemble, exact and ScaNN side by side."""
    print(f"\n{'':14}{'pixels':>7}" + "".join(f"{s:>11} mAP@100    R@1    GAP" for s in SEARCHES))
    for name in dict.fromkeys(row["name"] for row in rows):
        same = [row for row in rows if row["name"] == name]
        cells = "".join(
            f"{row['map_at_100']:19.3f}{row['recall_at_1']:7.3f}{row['gap']:7.3f}" for row in same
        )
        print(f"{name:14}{same[0]['pixels'] or '':>7}{cells}")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--recipe", default="demo", help=", ".join(recipes.NAMES))
    parser.add_argument("--source", help="folder of the tables (default: the demo's photographs)")
    parser.add_argument("--workdir", help="where everything goes (default: runs/RECIPE)")
    parser.add_argument("--set", action="append", default=[], help="as in train.py")
    parser.add_argument("--tpu", nargs="?", const="", metavar="NAME", help="as in train.py")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the whole job; returns the exit code."""
    from eval import report

    args = parse_args(argv)
    started = time.monotonic()
    try:
        recipe = recipes.load(args.recipe)
        workdir = args.workdir or os.path.join("runs", recipe.name)
        os.makedirs(workdir, exist_ok=True)
        job = Job(recipe, args.source or os.path.join(workdir, "photographs"), workdir)
        if args.source is None:
            draw(job)
        convert(job)
        train(job, args.set, args.tpu)
        for member in recipe.members:
            for stage in recipe.stages_of(member, "all"):
                embed(job, member, stage.number)
        export_ensemble(job)
        rows = score_all(job)
        rank(job)
        results = write_results(job, rows)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except StepError as error:
        return error.exit_code
    page = job.path("report.html")
    print_table(rows)
    if exit_code := report.main(["--results", results, "--output", page]):
        return exit_code
    print(f"\n{time.monotonic() - started:.0f} s. Open {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
