"""What each step between embeddings and answers adds, at settings chosen without the test set.

    python benchmarks/hold_out.py --source DATA --every 3 --queries DATA/original_test.csv \\
        --output HELD_OUT
    python tfrecords_tools/write.py --table HELD_OUT/train.csv --output SHARDS
    python train.py --recipe grocery --member A --stage 1 --data SHARDS --workdir SMALLER
    python benchmarks/post_processing.py --recipe grocery --output RESULTS \\
        --validation HELD_OUT SMALLER --validation-stage 2 --test DATA RUN

DATA holds the tables that end_to_end.py takes, and RUN what it has trained. A network tells its
training classes apart better than any others, so that settings are not chosen on them: hold_out.py
takes classes out of train.csv and makes an index and queries of them, a smaller network of every
member is trained on the rest, and settings are chosen there, by mAP@100, from the grids of
step_grids.py. Then every step runs once on the test set with the full networks: alone behind the
ensemble; learned whitening, index expansion, query expansion and k-reciprocal re-ranking one behind
the other; and those that were best together on the validation set, at most one of each kind. A
row's name says the settings that were chosen. Whitening is fitted on the run's own training set.

Writes post_processing.json and post_processing.png, and prints mAP@100 with its 95 % bootstrap
interval, the paired difference to the ensemble with its interval, recall@1 and GAP.
"""

import argparse
import dataclasses
import os
import pathlib
import sys
import textwrap
from collections.abc import Mapping, Sequence

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import numpy as np
from threadpoolctl import threadpool_limits

import recipes
from benchmarks import step_grids
from end_to_end import Job, embed
from eval import coded, metrics, recognition, significance, solutions
from recipes.schema import Recipe
from retrieval import embeddings, ensemble, search
from retrieval.embeddings import write_json
from retrieval.projecting import validation
from retrieval.reranking import steps
from retrieval.reranking.post_processing import Reference, State

_BOOTSTRAP = 2000


@dataclasses.dataclass(frozen=True)
class Part:
    """Queries, index and training set of one protocol, and what is right.

    Attributes:
        state: the ensemble's, with the training set as the reference.
        members: each member's.
        query_ids, index_ids: of the rows.
        truths: the relevant images of the queries.
        labels: the class of every index image.
        solution: the class of every query, none for some.
    """

    state: State
    members: dict[str, State]
    query_ids: tuple[str, ...]
    index_ids: tuple[str, ...]
    truths: coded.Truths
    labels: dict[str, str]
    solution: dict

    def relevance(self, state: State) -> metrics.Relevance:
        """Judges answers; the state has them."""
        rankings = coded.rankings_of_answers(self._answers(state), self.truths, 100)
        return coded.judge(self.truths, rankings)

    def precisions(self, state: State) -> np.ndarray:
        """Returns the average precisions at 100, (Q,)."""
        return metrics.average_precisions(self.relevance(state), 100)

    def recognized(self, state: State) -> recognition.Recognized:
        """Judges the first answers' classes with their scores."""
        first = zip(self.query_ids, state.positions[:, 0], state.scores[:, 0], strict=True)
        predictions = {
            image: metrics.Prediction(self.labels[self.index_ids[row]], float(score))
            for image, row, score in first
        }
        return metrics.judge_recognition(predictions, self.solution)

    def _answers(self, state: State) -> search.Answers:
        return search.Answers(
            self.query_ids, self.index_ids, state.positions, state.scores, state.search
        )


def load(recipe: Recipe, source: str, workdir: str, stage: int | None) -> Part:
    """Embeds what is not yet embedded, and reads the tables.

    Args:
        recipe: of the run.
        source: folder of the tables.
        workdir: of the run.
        stage: of every member; the last one if None.
    """
    from export import embed as command

    job = Job(recipe, source, workdir)
    sets: dict[str, list] = {"query": [], "index": [], "train": []}
    for member in recipe.members:
        number = stage or member.last_stage
        embed(job, member, number)
        name = f"{member.name}-stage-{number}"
        train = job.path("embeddings", name, "train")
        argv = ["--model", job.path("models", name), "--table", job.table("train.csv")]
        argv += ["--output", train, "--overwrite"]
        done = os.path.join(train, "manifest.json")
        job.run("embed", "export/embed.py", command.main, argv, done, job.table("train.csv"))
        for part, members in sets.items():
            members.append(embeddings.load(job.path("embeddings", name, part)))
    return _part(job, sets)


def _part(job: Job, sets: Mapping[str, Sequence[embeddings.Embeddings]]) -> Part:
    classes = validation.read_labels(job.table("train.csv"), sets["train"][0].ids)

    def state_of(numbers: Sequence[int]) -> State:
        weights = [job.recipe.members[number].weight for number in numbers]
        queries, vectors, train = (
            np.asarray(ensemble.join([members[n] for n in numbers], weights)[1], np.float32)
            for members in sets.values()
        )
        reference = Reference(train, classes)
        return State(queries, vectors, search="exact", reference=reference)

    members = job.recipe.members
    return Part(
        state=state_of(range(len(members))),
        members={member.name: state_of([number]) for number, member in enumerate(members)},
        query_ids=sets["query"][0].ids,
        index_ids=sets["index"][0].ids,
        truths=coded.read_truths(job.table("retrieval_solution.csv")),
        labels=solutions.read_labels(job.table("index.csv")),
        solution=solutions.read_recognition_solution(job.table("recognition_solution.csv")),
    )


def choose(part: Part, name: str, before: State) -> tuple[str, float]:
    """Returns the text of a step's best setting behind `before`, and its mAP@100."""
    scores = {
        text: float(part.precisions(steps.run(before, [text])).mean())
        for text in step_grids.candidates(name)
    }
    best = max(scores, key=scores.__getitem__)
    return best, scores[best]


def choose_all(part: Part) -> dict:
    """Chooses every step's setting, and which steps go together.

    Returns:
        baseline: mAP@100 of the ensemble; alone: step -> (text, mAP@100); together: the texts of
        the best subset of the steps with these settings, and its mAP@100.
    """
    baseline = float(part.precisions(part.state.ranked()).mean())
    alone = {name: choose(part, name, part.state) for name in step_grids.GRIDS}
    scores = {
        names: float(part.precisions(steps.run(part.state, [alone[n][0] for n in names])).mean())
        for names in step_grids.subsets()
    }
    best = max(scores, key=scores.__getitem__)
    together = [alone[name][0] for name in best], scores[best]
    return {"baseline": baseline, "alone": alone, "together": together}


def measure(part: Part, chosen: Mapping) -> list[dict]:
    """Runs every row of the table once on the test set."""
    rows = [(f"member {name}", state, []) for name, state in part.members.items()]
    rows.append(("ensemble", part.state, []))
    texts = {name: text for name, (text, _) in chosen["alone"].items()}
    rows += [(f"+ {step_grids.label_of(text)}", part.state, [text]) for text in texts.values()]
    rows.append(joined("all four", part.state, [texts[name] for name in step_grids.ALL]))
    rows.append(joined("best together", part.state, chosen["together"][0]))
    ensemble_at = len(part.members)
    judged = [steps.run(state, texts) for _, state, texts in rows]
    base = part.precisions(judged[ensemble_at])
    table = []
    for (name, _, texts), state in zip(rows, judged, strict=True):
        relevance = part.relevance(state)
        values = metrics.summary(relevance, 100, bootstrap=_BOOTSTRAP)
        gap = part.recognized(state).gap(bootstrap=_BOOTSTRAP)
        compared = significance.compare_means(part.precisions(state), base)
        table.append(
            {
                "name": name,
                "steps": texts,
                "map_at_100": float(values["map_at_100"]),
                "map_interval": values["map_at_100"].interval,
                "difference": compared.difference,
                "difference_interval": compared.interval,
                "p_value": compared.p_value,
                "recall_at_1": float(values["recall_at_1"]),
                "gap": float(gap),
                "gap_interval": gap.interval,
            }
        )
    return table


def joined(what: str, state: State, texts: list[str]) -> tuple[str, State, list[str]]:
    """Returns a row of several steps, whose settings are those of the rows of each."""
    kinds = ", ".join(map(step_grids.kind_of, texts)) or "none"
    return f"{what}: {kinds}", state, texts


def as_text(table: Sequence[Mapping]) -> str:
    """Returns the table in Markdown."""
    lines = [
        "| | mAP@100 | 95 % | to the ensemble | 95 % | R@1 | GAP |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in table:
        low, high = row["map_interval"]
        below, above = row["difference_interval"]
        compared = f"{row['difference']:+.3f} | {below:+.3f} to {above:+.3f}"
        lines.append(
            f"| {row['name']} | {row['map_at_100']:.3f} | {low:.3f} to {high:.3f} "
            f"| {compared if row['name'] != 'ensemble' else ' | '} "
            f"| {row['recall_at_1']:.3f} | {row['gap']:.3f} |"
        )
    return "\n".join(lines)


def draw(table: Sequence[Mapping], title: str, path: str) -> None:
    """Draws the differences to the ensemble with their intervals."""
    from matplotlib.figure import Figure

    rows = [row for row in reversed(table) if row["name"] != "ensemble"]
    lines = sum(len(textwrap.wrap(row["name"], 44)) for row in rows)
    figure = Figure(figsize=(7.2, 0.2 * (lines + len(rows)) + 1.1), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="0.45", linewidth=1)
    for place, row in enumerate(rows):
        low, high = row["difference_interval"]
        color = "#1a7f37" if low > 0 else "#b3261e" if high < 0 else "0.45"
        axes.plot([low, high], [place, place], color=color, linewidth=2)
        axes.plot(row["difference"], place, "o", color=color)
    names = ["\n".join(textwrap.wrap(row["name"], 44)) for row in rows]
    labels = [f"{name}  {row['map_at_100']:.3f}" for name, row in zip(names, rows, strict=True)]
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    base = next(row["map_at_100"] for row in table if row["name"] == "ensemble")
    axes.set_title(f"{title}: mAP@100 less the ensemble's {base:.3f}", loc="left", fontsize=9)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=160)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--validation", nargs=2, required=True, metavar=("SOURCE", "WORKDIR"))
    parser.add_argument("--validation-stage", type=int, help="default: the last")
    parser.add_argument("--test", nargs=2, required=True, metavar=("SOURCE", "WORKDIR"))
    parser.add_argument("--output", required=True, help="folder of the table and the picture")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    args = parse_args(argv)
    recipe = recipes.load(args.recipe)
    part = load(recipe, *args.validation, args.validation_stage)
    with threadpool_limits(1):  # more of them wait for each other at such sizes
        chosen = choose_all(part)
    print(f"\nchosen on the validation set, ensemble {chosen['baseline']:.3f}")
    for name, (text, value) in chosen["alone"].items():
        print(f"  {name:<20}{value:.3f}  {text}")
    together, value = chosen["together"]
    print(f"  {'best together':<20}{value:.3f}  {' '.join(together) or 'none'}\n")
    part = load(recipe, *args.test, None)
    with threadpool_limits(1):
        table = measure(part, chosen)
    print(as_text(table))
    os.makedirs(args.output, exist_ok=True)
    result = {"recipe": recipe.name, "validation": chosen, "test": table}
    write_json(os.path.join(args.output, "post_processing.json"), result)
    draw(table, recipe.name, os.path.join(args.output, "post_processing.png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
