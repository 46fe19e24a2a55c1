"""Score of a matching: `python eval/matching.py --matches CSV --solution CSV` -> its F1."""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Mapping

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import columns
from eval import command


def score(matches: Mapping[str, str], truths: Mapping[str, str]) -> dict:
    """Scores the folder that each video is matched to.

    Args:
        matches: folder by video; videos without a match are left out.
        truths: the right folder by video; "" where no folder has the item.

    Returns:
        precision, the right ones among the matches; recall, the right ones among the videos that
        have a folder; f1, their harmonic mean; each 0 where it is 0 / 0. Counts: matched, right,
        videos, and those of them without a folder.

    Raises:
        ValueError: a match of an unknown video.
    """
    unknown = sorted(matches.keys() - truths.keys())
    if unknown:
        raise ValueError(
            f"expected videos of the solution. Received: {len(unknown)} others, such as "
            f"{unknown[0]!r}"
        )
    right = sum(bool(truths[video]) and truths[video] == matches[video] for video in matches)
    answered = sum(map(bool, truths.values()))
    precision = right / max(len(matches), 1)
    recall = right / max(answered, 1)
    return {
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / max(precision + recall, 1e-12),
        "matched": len(matches),
        "right": right,
        "videos": len(truths),
        "without_folder": len(truths) - answered,
    }


def evaluate(matches: str, solution: str) -> dict:
    """Scores the table of `retrieval/match.py` against a table `video,folder`; see `score`.

    Raises:
        FileNotFoundError: there is no such table.
        ValueError: columns are missing, or a video stands there twice.
    """
    return score(_read(matches), _read(solution))


def _read(path: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for video, folder in columns.read_columns(path, ["video", "folder"]):
        if video in found:
            raise ValueError(f"{path}: expected each video once. Received: {video!r} again")
        found[video] = folder
    return found


def main(argv: list[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog="python eval/matching.py", description="Precision, recall and F1 of matched videos."
    )
    parser.add_argument("--matches", metavar="CSV", required=True, help="of retrieval/match.py")
    parser.add_argument("--solution", metavar="CSV", required=True, help="video,folder")
    parser.add_argument("--output", metavar="JSON", help="write the results here as well")
    options = parser.parse_args(argv)
    try:
        command.show(evaluate(options.matches, options.solution), options.output)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
