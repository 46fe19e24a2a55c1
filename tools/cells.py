"""What the cells of the notebooks call: commands of the project, and results to look at."""

import base64
import csv
import html
import io
import os
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence

import files

ROOT = pathlib.Path(__file__).resolve().parents[1]
PICTURES = (".jpg", ".jpeg", ".png")
REJECTED = 3  # exit code: done, but some images were left out and listed


class CommandError(RuntimeError):
    """A command of the project has failed; the lines it has printed say why."""


def run(script: str, *options: object, makes: str | None = None, after: Sequence[str] = ()) -> None:
    """Runs a command of the project in a process of its own, and shows it and what it prints.

    The notebook's stop button stops the command as SIGTERM does: train.py saves its state first.

    Args:
        script: path relative to the project, such as "train.py".
        options: words of the command line.
        makes: a local file; nothing is done if it is there and not older than those of `after`.
        after: local files that the command reads; those that are not there do not count.

    Raises:
        CommandError: the exit code is neither 0 nor `REJECTED`.
    """
    if makes is not None and _is_newer(makes, after):
        print(f"{makes}: made before", flush=True)
        return
    words = [str(option) for option in options]
    print(f"$ python {script} {shlex.join(words)}", flush=True)
    python(os.path.join(ROOT, script), *words)


def python(*words: str) -> None:
    """Runs this Python with the words of a command line, as `run` does."""
    child = subprocess.Popen(  # noqa: S603
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    with child:
        try:
            _show(child.stdout)
        except KeyboardInterrupt:
            child.terminate()
            _show(child.stdout)
            raise
    if child.returncode not in (0, REJECTED):
        name = words[1] if words[0] == "-m" else os.path.basename(words[0])
        raise CommandError(f"{name} has ended with exit code {child.returncode}; see above")


def _show(lines: Iterable[str]) -> None:
    # Not the child's own output: of a child's, Colab shows nothing.
    for line in lines:
        print(line, end="", flush=True)


def _is_newer(path: str, others: Sequence[str]) -> bool:
    if not os.path.exists(path):
        return False
    made = os.path.getmtime(path)
    return all(os.path.getmtime(other) <= made for other in others if os.path.exists(other))


def keep(local: str, kept: str, *names: str) -> None:
    """Copies files and folders to another folder, which may be in a bucket.

    Nothing happens where both folders are the same.
    """
    if files.absolute(local) == files.absolute(kept):
        return
    for name in names:
        for path in _files_of(os.path.join(local, name)):
            target = os.path.join(kept, os.path.relpath(path, local))
            files.make_folder(os.path.dirname(target))
            files.write_bytes(target, files.read(path))
    print(f"{', '.join(names)}: copied to {kept}", flush=True)


def _files_of(path: str) -> list[str]:
    if not os.path.isdir(path):
        return [path]
    return [os.path.join(folder, name) for folder, names in files.walk(path) for name in names]


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Returns a Markdown table of rows with the same names; numbers have three decimals."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names)]
    lines += [[_cell(row[name]) for name in names] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|")


def frame(page: str, height: int = 800) -> str:
    """Returns HTML that shows an HTML file inside a notebook, with nothing else to load."""
    text = html.escape(pathlib.Path(page).read_text(encoding="utf-8"))
    return f'<iframe srcdoc="{text}" width="100%" height="{height}" style="border: 0"></iframe>'


def read_answers(path: str) -> dict[str, list[str]]:
    """Reads a prediction file `id,images`: query → images, best first."""
    with open(path, newline="", encoding="utf-8") as file:
        return {row["id"]: row["images"].split() for row in csv.DictReader(file)}


def photographs(folder: str) -> dict[str, str]:
    """Returns the ids that `export/embed.py --images` gives, with the paths."""
    found = sorted(pathlib.Path(folder).rglob("*"))
    names = {str(path): path.relative_to(folder).as_posix() for path in found}
    return {
        re.sub(r"\s+", "_", name): path
        for path, name in names.items()
        if name.lower().endswith(PICTURES) and not f"/{name}".count("/.")
    }


def grid(pictures: Sequence[tuple[str, str]], side: int = 160) -> str:
    """Returns HTML of small pictures in rows.

    Args:
        pictures: (path, caption) pairs.
        side: the longer side of a picture, pixels.
    """
    figures = [
        f'<figure style="margin: 0; width: {side}px"><img src="{_thumbnail(path, side)}">'
        f'<figcaption style="font: 12px sans-serif; overflow-wrap: anywhere">'
        f"{html.escape(caption)}</figcaption></figure>"
        for path, caption in pictures
    ]
    style = "display: flex; flex-wrap: wrap; gap: 8px; align-items: end"
    return f'<div style="{style}">{"".join(figures)}</div>'


def _thumbnail(path: str, side: int) -> str:
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        small = ImageOps.exif_transpose(image).convert("RGB")
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
