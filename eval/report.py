"""Results page: `python eval/report.py --index DIR --query DIR --solution CSV --output HTML`.

One HTML file that needs no network: metrics with intervals, curves, classes, the hardest queries,
confusions and a map of the embeddings. With `--results` also the stages and curves of a job.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import files
from eval.page.inputs import Inputs, from_json
from retrieval import search

BOOTSTRAP = 1000


def write_report(
    inputs: Inputs, output: str, *, title: str = "Retrieval report", bootstrap: int = BOOTSTRAP
) -> int:
    """Writes the page of an index and its queries.

    Args:
        inputs: embeddings directories, solutions and tables.
        output: path of the page.
        title: its heading.
        bootstrap: resamplings of the queries for the intervals; 0 for none.

    Returns:
        The size of the page in bytes.

    Raises:
        FileNotFoundError: if a file is missing (pictures may be).
        ValueError: if files do not fit each other or their formats.
    """
    dataset = os.path.basename(os.path.dirname(os.path.abspath(inputs.solution)))
    return _write(inputs, output, bootstrap, title=title, dataset=dataset, job=None)


def write_job_report(*, results: str, output: str, bootstrap: int = BOOTSTRAP) -> int:
    """Writes the page of a whole job, with its stages and training curves.

    Args:
        results: path of results.json; the paths in it are relative to its folder.
        output: path of the page.
        bootstrap: resamplings of the queries for the intervals; 0 for none.

    Returns:
        The size of the page in bytes.

    Raises:
        FileNotFoundError: if a file that the results name is missing (pictures may be).
        ValueError: if a file is not what its format asks for.
    """
    from eval.page import job

    folder = os.path.dirname(os.path.abspath(results))
    found = read_results(results)
    return _write(
        from_json(found["inputs"], folder),
        output,
        bootstrap,
        title=found["title"],
        dataset=found["dataset"],
        job=job.values(found, folder),
    )


def read_results(path: str) -> dict[str, Any]:
    """Reads the results of a job.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if something is missing in them.
    """
    with open(path, encoding="utf-8") as file:
        found = json.load(file)
    needed = ("title", "dataset", "seconds", "rows", "curves", "inputs")
    if not isinstance(found, dict) or not found.keys() >= set(needed):
        raise ValueError(
            f"expected {', '.join(needed)} in {path}. Received: {', '.join(map(str, found))}"
        )
    return found


def _write(inputs: Inputs, output: str, bootstrap: int, **about: Any) -> int:
    # Matplotlib, Pillow and Jinja are loaded only now, so that --help answers at once.
    from eval.page import render, sections

    values = sections.values(sections.load(inputs), bootstrap)
    data = render.render({**values, **about}).encode()
    files.make_folder(os.path.dirname(os.path.abspath(output)))
    files.write_bytes(output, data)
    return len(data)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python eval/report.py", description="The results page, as one HTML file."
    )
    search.add_arguments(parser, required=False)
    parser.add_argument("--solution", metavar="CSV", help="right images of every query")
    parser.add_argument("--predictions", metavar="CSV", help="rankings in place of the search")
    parser.add_argument("--recognition-solution", metavar="CSV", help="right labels, for GAP")
    parser.add_argument(
        "--labels", metavar="CSV", help="labels of the index images (default: --index-table)"
    )
    parser.add_argument("--id-column", default="id", metavar="NAME", help="of --labels")
    parser.add_argument("--label-column", default="label", metavar="NAME", help="of all tables")
    parser.add_argument("--results", metavar="JSON", help="of a job, in place of all the above")
    parser.add_argument("--title", default="Retrieval report", metavar="TEXT")
    parser.add_argument(
        "--bootstrap",
        type=int,
        default=BOOTSTRAP,
        metavar="N",
        help="resamplings of the queries for the 95%% intervals (default: %(default)s; 0: none)",
    )
    parser.add_argument("--output", required=True, metavar="HTML", help="the page")
    options = parser.parse_args(argv)
    given = [options.index, options.query, options.solution]
    if not (all(given) if options.results is None else not any(given)):
        parser.error("expected --index, --query and --solution, or --results alone")
    if options.bootstrap < 0:
        parser.error(f"expected --bootstrap of at least 0. Received: {options.bootstrap}")
    return options


def main(argv: list[str] | None = None) -> int:
    """Runs the command line."""
    options = parse_args(argv)
    output, bootstrap = options.output, options.bootstrap
    try:
        if options.results is not None:
            size = write_job_report(results=options.results, output=output, bootstrap=bootstrap)
        else:
            inputs = Inputs(
                index=options.index,
                query=options.query,
                solution=options.solution,
                weights=options.weights,
                search=options.search,
                settings=search.Settings.of(options),
                predictions=options.predictions,
                recognition_solution=options.recognition_solution,
                labels=options.labels,
                id_column=options.id_column,
                label_column=options.label_column,
                index_table=options.index_table,
                query_tables=[options.query_table] if options.query_table else (),
            )
            size = write_report(inputs, output, title=options.title, bootstrap=bootstrap)
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{output}: {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
