"""Draws the demo's data: `python demo/draw.py --output DIR [--seed 0] [--size full|tiny]`.

The folder gets `images/<label>/<id>.jpg`, `train.csv` (with `is_clean`), `index.csv`,
`query.csv`, `query_nomatch.csv` and the solutions in GLDv2's formats. The bytes depend on the
seed and the size, not on the number of workers. A stopped drawing goes on when the same command
is given again; a finished one is left as it is.
"""

import argparse
import json
import os
import pathlib
import sys

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

from demo.plan import SIZES, plan
from demo.studio import draw_all
from demo.tables import write_tables

FORMAT = "waymark-demo"
VERSION = 1
MANIFEST = "manifest.json"


def draw(
    output: str | os.PathLike[str],
    *,
    seed: int = 0,
    size: str = "full",
    workers: int | None = None,
) -> pathlib.Path:
    """Draws what is missing in the folder, and returns the folder.

    Args:
        output: Folder for the data; made if it does not exist.
        seed: Whole number >= 0 from which everything is drawn.
        size: Name of one of `demo.plan.SIZES`.
        workers: Number of processes; by default one for every core of this process. With more
            than one, every worker imports the calling script again, so that script should not
            import heavy packages at its top.

    Raises:
        ValueError: An option is wrong, or the folder holds data of other options.
    """
    workers = cores() if workers is None else workers
    _check_options(seed, size, workers)
    folder = pathlib.Path(output)
    options = {"seed": seed, "size": size}
    finished = _is_finished(folder, options)
    photos = plan(SIZES[size], seed)
    missing = [photo for photo in photos if not (folder / photo.path).is_file()]
    if finished and not missing:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    _save(folder, options, finished=False)
    if missing:
        draw_all(folder, seed, missing, workers)
    write_tables(folder, photos)
    _save(folder, options, finished=True)
    return folder


def _check_options(seed: int, size: str, workers: int) -> None:
    if seed < 0:
        raise ValueError(f"Expected a seed >= 0. Received: seed={seed}")
    if size not in SIZES:
        raise ValueError(f"Expected a size among {sorted(SIZES)}. Received: size={size!r}")
    if workers < 1:
        raise ValueError(f"Expected at least one worker. Received: workers={workers}")


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _is_finished(folder: pathlib.Path, options: dict[str, object]) -> bool:
    """Whether the folder is finished; an error if it holds anything but these options' data."""
    path = folder / MANIFEST
    if not path.exists():
        if (folder / "images").exists() or (folder / "train.csv").exists():
            raise ValueError(
                f"Expected an empty folder or one that this command has drawn. Received: {folder}, "
                f"which has data but no {MANIFEST}; choose another --output"
            )
        return False
    found = json.loads(path.read_text(encoding="utf-8"))
    wanted = {"format": FORMAT, "version": VERSION, "options": options}
    present = {key: found.get(key) for key in wanted}
    if present != wanted:
        raise ValueError(
            f"Expected a folder with data of {wanted}. Received: {folder} with data of {present}; "
            "choose another --output or delete that folder"
        )
    return bool(found.get("finished"))


def _save(folder: pathlib.Path, options: dict[str, object], *, finished: bool) -> None:
    content = {"format": FORMAT, "version": VERSION, "options": options, "finished": finished}
    part = folder / f".{MANIFEST}.part"
    part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(part, folder / MANIFEST)


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Draws the demo's photographs of landmarks.")
    parser.add_argument("--output", required=True, help="folder for images and tables")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", choices=sorted(SIZES), default="full")
    parser.add_argument("--workers", type=int, help="processes; default: one per core")
    args = parser.parse_args(argv)
    try:
        draw(args.output, seed=args.seed, size=args.size, workers=args.workers)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
