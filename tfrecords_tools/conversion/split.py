"""Which image goes where: the order of labels, the splits and the shuffle.

Every choice depends on the seed and the image's id only, never on the order of the table, the
machine or the number of workers.
"""

import hashlib
import re
from collections.abc import Iterable

from input_pipeline import schema

ONE_OF_FOUR = "one-of-four"
NONE = "none"
VALIDATION_RULES = (ONE_OF_FOUR, NONE)
TRAIN_SPLITS = (schema.TRAIN_CLEAN, schema.TRAIN_NOISY, schema.VALIDATION)

_MIN_IMAGES = 4  # a class with fewer clean images gives none to validation
_INTEGER = re.compile(r"[+-]?[0-9]+")

# One image of every class with enough clean ones: that whose hash is lowest.
_CHOOSE_VALIDATION = """
UPDATE images SET split = ? FROM (
    SELECT number AS chosen,
        row_number() OVER (PARTITION BY class ORDER BY choice, id) AS place,
        count(*) OVER (PARTITION BY class) AS members
    FROM images WHERE split = ?
) WHERE number = chosen AND place = 1 AND members >= ?
"""


def sort_class_ids(labels: Iterable[str]) -> list[str]:
    """Returns the different labels that are not empty: by number if all are integers, else text."""
    class_ids = sorted(set(labels) - {""})
    if all(_INTEGER.fullmatch(class_id) for class_id in class_ids):
        class_ids.sort(key=int)
    return class_ids


def statements(one_split: str | None, validation: str) -> list[tuple[str, tuple]]:
    """Returns the SQL statements, with their values, that set the split of the usable images.

    Either all go to `one_split`, or the clean ones to train_clean and the others to train_noisy.
    With "one-of-four" one image of every class with at least 4 clean images goes to validation
    (Google Landmark Retrieval 2020, first place); with "none" there is no validation split.
    """
    clean, noisy = (one_split,) * 2 if one_split else (schema.TRAIN_CLEAN, schema.TRAIN_NOISY)
    result = [
        (
            "UPDATE images SET split = CASE WHEN reason IS NOT NULL THEN NULL "
            "WHEN clean THEN ? ELSE ? END",
            (clean, noisy),
        )
    ]
    if not one_split and validation == ONE_OF_FOUR:
        values = (schema.VALIDATION, schema.TRAIN_CLEAN, _MIN_IMAGES)
        result.append((_CHOOSE_VALIDATION, values))
    return result


def in_order(names: Iterable[str]) -> list[str]:
    """Returns names of splits in the order of the manifest."""
    return sorted(names, key=(*TRAIN_SPLITS, *names).index)


def rank(image_id: str, seed: int, purpose: str) -> bytes:
    """Returns 8 bytes to sort by, then by id; the orders of two purposes are independent."""
    return hashlib.sha256(f"{purpose}:{seed}:{image_id}".encode()).digest()[:8]
