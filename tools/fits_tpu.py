"""Does a recipe's training step fit a TPU, and what does it cost? Asked without a TPU.

    python tools/fits_tpu.py --recipe glr2020_1st --stage 4 --topology v5e:2x2 [--batch-per-core 8]
    python tools/fits_tpu.py --stage all --member all --topology v3:2x2 v5e:2x2 --results fits.jsonl

The TPU compiler compiles the step of one core, with its all-reduces, without data and without a
chip. B0 takes minutes and 4 GB of this machine's memory, B7 up to an hour and 11 GB.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator
from typing import TextIO

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import files
import recipes
from input_pipeline import schema
from progress import format_seconds
from recipes.schema import Member, Recipe, Stage
from recipes.settings import override
from training import ahead_of_time, tpu_generations
from training.ahead_of_time import GIB, CannotCompileError

# Of Google Landmarks v2, by the stage's data.
CLASSES = {"glr2020_1st": {"clean": 81_313, "total": 203_094}}
_EXIT_CODES = """exit codes:
  0  all of it fits
  1  something does not fit
  2  no answer: wrong arguments, no compiler, not enough memory or time on this machine"""


@dataclasses.dataclass(frozen=True)
class Program:
    """What is compiled: one core's step of a stage."""

    recipe: str
    settings: tuple[str, ...]
    member: Member
    stage: Stage
    classes: int
    topology: str
    cores: int
    batch_per_core: int
    step: str
    quick: bool

    @property
    def description(self) -> dict:
        """The fields of a result that say what it is of."""
        return {
            "recipe": self.recipe,
            "settings": list(self.settings),
            "member": self.member.name,
            "stage": self.stage.number,
            "step": self.step,
            "backbone": self.member.model.backbone,
            "image_size": self.stage.image_size,
            "classes": self.classes,
            "batch_per_core": self.batch_per_core,
            "topology": self.topology,
            "cores": self.cores,
            "quick": self.quick,
        }

    def lowering(self) -> list[str]:
        """Returns the command that lowers the step, but for its --output."""
        command = [sys.executable, "-m", "tools.train_step", "--recipe", self.recipe]
        command += ["--member", self.member.name, "--stage", str(self.stage.number)]
        command += ["--classes", str(self.classes), "--step", self.step]
        command += ["--batch-per-core", str(self.batch_per_core)]
        command += ["--cores", str(self.cores)]
        vector_memory = tpu_generations.of_topology(self.topology).vector_memory
        command += ["--vector-memory", str(vector_memory)]
        for setting in self.settings:
            command += ["--set", setting]
        return command


class Compiler:
    """Compiles programs, each different one once.

    Args:
        results: JSON lines that results are taken from and added to; None keeps none.
        timeout: seconds for one compile.
        stream: where the time that has passed is shown.
    """

    def __init__(
        self, results: str | None = None, timeout: float | None = None, stream: TextIO | None = None
    ):
        self.versions = ahead_of_time.check_installed()
        self.timeout = timeout
        self.stream = stream
        self._results = results
        self._folder = tempfile.TemporaryDirectory(prefix="steps-")
        self._lowered: dict[tuple[str, ...], str] = {}
        self._known = {_key(line, line["digest"]): line for line in _lines(results)}

    def __enter__(self) -> "Compiler":
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._folder.cleanup()

    def measure(self, program: Program) -> dict:
        """Returns `description`, digest, versions and what `ahead_of_time.compile_step` does.

        Raises:
            CannotCompileError: there is no answer.
        """
        folder = self._lower(program)
        digest = json.loads(pathlib.Path(folder, "step.json").read_text())["digest"]
        key = _key({**program.description, "versions": self.versions}, digest)
        if key not in self._known:
            self._known[key] = {
                **program.description,
                "digest": digest,
                "versions": self.versions,
                **ahead_of_time.compile_step(
                    folder,
                    program.topology,
                    quick=program.quick,
                    timeout=self.timeout,
                    stream=self.stream,
                ),
            }
            if self._results:
                with open(self._results, "a", encoding="utf-8") as file:
                    file.write(json.dumps(self._known[key]) + "\n")
        return {**self._known[key], **program.description}

    def _lower(self, program: Program) -> str:
        """Returns the folder of the lowered step, which may serve several topologies."""
        command = tuple(program.lowering())
        if command not in self._lowered:
            folder = os.path.join(self._folder.name, str(len(self._lowered)))
            ahead_of_time.run(
                [*command, "--output", folder], "lowering", timeout=self.timeout, stream=self.stream
            )
            self._lowered[command] = folder
        return self._lowered[command]


def _key(described: dict, digest: str) -> tuple:
    """Returns what two compiles with the same result have in common."""
    versions = json.dumps(described["versions"])
    return digest, described["topology"], described["quick"], versions


def _lines(path: str | None) -> Iterator[dict]:
    """Yields the whole lines of a file of results; a line that was cut off is left out."""
    if path is None or not os.path.exists(path):
        return
    text = pathlib.Path(path).read_text(encoding="utf-8")
    if text and not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
        files.write_text(path, text)
    for line in text.splitlines():
        yield json.loads(line)


def programs(args: argparse.Namespace, recipe: Recipe) -> Iterator[Program]:
    """Yields what the command line asks for."""
    whole = args.member == "all"
    for member in recipe.members if whole else [recipe.member(args.member)]:
        for stage in recipe.stages_of(member, args.stage):
            for topology in args.topology:
                there = tpu_generations.cores(topology)
                cores = args.cores or there
                if not 1 <= cores <= there:
                    raise ValueError(
                        f"--cores: expected 1 … {there} on {topology}. Received: {cores}"
                    )
                yield Program(
                    recipe.name,
                    tuple(args.set),
                    member,
                    stage,
                    _classes(args, stage),
                    topology,
                    cores,
                    args.batch_per_core or max(1, stage.batch_size // cores),
                    args.step,
                    args.quick,
                )


def _classes(args: argparse.Namespace, stage: Stage) -> int:
    if args.classes:
        return args.classes
    if args.data:
        manifest = schema.Manifest.load(args.data)
        return manifest.num_clean_classes if stage.data == "clean" else manifest.num_classes
    if args.recipe not in CLASSES:
        raise ValueError(f"--classes or --data: recipe {args.recipe} has no number of classes")
    return CLASSES[args.recipe][stage.data]


def title(result: dict) -> str:
    """Returns the line that says what a result is of."""
    return (
        f"{result['recipe']} member {result['member']} stage {result['stage']}, {result['step']} "
        f"step: {result['backbone']}, {result['image_size']} px, {result['classes']:,} classes, "
        f"{result['batch_per_core']} images per core on {result['topology']}"
    )


def report(result: dict, largest: int = 8) -> str:
    """Returns a result in words."""
    verdict = "fits" if result["fits"] else "does not fit"
    lines = [
        title(result),
        f"{verdict}: needs {_gib(result['needed'])} of {_gib(result['available'])} GiB per core",
    ]
    lines += _costs(result) if result["fits"] else [f"  {result['reason']}"]
    lines.append(
        f"  compiled in {format_seconds(result['compile_seconds'])} with "
        f"{_gib(result['host_memory'])} GiB of this machine's memory"
    )
    buffers = result["buffers"]["largest"][:largest]
    if buffers:
        lines.append("  largest buffers at the fullest moment, MiB with padding:")
    for buffer in buffers:
        size = buffer["bytes"] / 2**20
        lines.append(f"  {size:9.1f}  {buffer['shape']:<26}  {buffer['name']}")
    return "\n".join(lines)


def _costs(result: dict) -> list[str]:
    parts = ", ".join(f"{n} {_gib(result[n])}" for n in ("arguments", "temporaries", "code"))
    accessed, traffic = (result[name] / 1e9 for name in ("bytes_accessed", "hbm_traffic"))
    return [
        f"  {parts}; alive at the fullest moment {_gib(result['peak'])}",
        f"  {result['flops'] / 1e9:,.1f} Gflop, {accessed:,.2f} GB accessed, of which in HBM "
        f"{traffic:,.2f} ({traffic / result['batch_per_core']:,.2f} per image)",
    ]


def table(results: list[dict]) -> str:
    """Returns results as a Markdown table, one line each."""
    lines = [
        "| backbone | px | classes | batch | topology | HBM needed / available, GiB | fits "
        "| Gflop | GB accessed | in HBM | per image | compile |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results:
        cells = [row["backbone"], row["image_size"], f"{row['classes']:,}", row["batch_per_core"]]
        cells += [row["topology"], f"{_gib(row['needed'])} / {_gib(row['available'])}"]
        cells.append("yes" if row["fits"] else "no")
        if row["fits"]:
            accessed, traffic = (row[name] / 1e9 for name in ("bytes_accessed", "hbm_traffic"))
            cells += [f"{row['flops'] / 1e9:,.0f}", f"{accessed:,.1f}", f"{traffic:,.1f}"]
            cells.append(f"{traffic / row['batch_per_core']:,.2f}")
        else:
            cells += ["", "", "", ""]
        cells.append(format_seconds(row["compile_seconds"]))
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"


def _largest(compiler: Compiler, program: Program) -> dict:
    """Returns the result of the largest batch that fits, or of the smallest if none does."""

    def measure(batch: int) -> dict:
        result = compiler.measure(dataclasses.replace(program, batch_per_core=batch))
        verdict = "fits" if result["fits"] else "does not fit"
        print(f"{batch} images per core: {verdict}, {_gib(result['needed'])} GiB", flush=True)
        return result

    found = ahead_of_time.largest_batch(measure, program.batch_per_core)
    best = max((batch for batch, result in found.items() if result["fits"]), default=0)
    print(f"largest batch per core that fits: {best}", flush=True)
    return found[best or min(found)]


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_EXIT_CODES, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--recipe", default="glr2020_1st", help=", ".join(recipes.NAMES))
    parser.add_argument("--stage", required=True, help="number of the stage, or 'all'")
    parser.add_argument("--member", help="member of the ensemble, or 'all' (default: the first)")
    parser.add_argument(
        "--topology", nargs="+", default=["v5e:2x2"], help="such as v3:2x2 v5e:2x2 v6e:2x2"
    )
    parser.add_argument(
        "--cores", type=int, help="that train together: default all, 1 is without all-reduces"
    )
    parser.add_argument(
        "--batch-per-core", type=int, help="default: the stage's batch over the topology's cores"
    )
    parser.add_argument(
        "--largest-batch", action="store_true", help="search the largest batch per core that fits"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a fifth of the time and a third of the memory of a compile; nothing is kept in the\n"
        "vector memory, and the HBM needed is some percent off",
    )
    parser.add_argument("--classes", type=int, help="default: those of the recipe's published data")
    parser.add_argument("--data", help="folder with a manifest.json, for its classes")
    parser.add_argument("--step", choices=("train", "embed"), default="train")
    parser.add_argument("--set", action="append", default=[], metavar="stage.FIELD=VALUE")
    parser.add_argument("--results", help="JSON lines: what is there is not compiled again")
    parser.add_argument("--json", help="file for the results of this call")
    parser.add_argument("--timeout", type=float, help="seconds for one compile")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    args = parse_args(argv)
    try:
        recipe = override(recipes.load(args.recipe), args.set)
        asked = list(programs(args, recipe))
        with Compiler(args.results, args.timeout, sys.stderr) as compiler:
            results = _ask(compiler, asked, args.largest_batch)
    except (ValueError, FileNotFoundError, CannotCompileError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; with --results the same command goes on from there", file=sys.stderr)
        return 130
    if len(results) > 1:
        print(f"\n{table(results)}")
    if args.json:
        files.write_text(args.json, json.dumps(results, indent=1) + "\n")
    if len(results) < len(asked):
        return 2
    return int(not all(result["fits"] for result in results))


def _ask(compiler: Compiler, asked: list[Program], search: bool) -> list[dict]:
    """Returns the answers; what has none is said and left out."""
    results = []
    for program in asked:
        try:
            result = _largest(compiler, program) if search else compiler.measure(program)
        except CannotCompileError as error:
            print(f"{title(program.description)}\nno answer: {error}", file=sys.stderr)
            continue
        results.append(result)
        print(report(result), flush=True)
    return results


if __name__ == "__main__":
    sys.exit(main())
