"""Which image goes where: labels, splits, shuffle and shards.

Every choice depends on the seed and the image's id only, never on the order of the table, the
machine or the number of workers.
"""

import hashlib
import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

from input_pipeline import schema
from tfrecords_tools.tables import Row

ONE_OF_FOUR = "one-of-four"
NONE = "none"
VALIDATION_RULES = (ONE_OF_FOUR, NONE)
TRAIN_SPLITS = (schema.TRAIN_CLEAN, schema.TRAIN_NOISY, schema.VALIDATION)

_MIN_IMAGES = 4  # a class with fewer clean images gives none to validation
_INTEGER = re.compile(r"[+-]?[0-9]+")


def sort_class_ids(labels: Iterable[str]) -> list[str]:
    """Returns the different labels that are not empty: by number if all are integers, else text."""
    class_ids = sorted(set(labels) - {""})
    if all(_INTEGER.fullmatch(class_id) for class_id in class_ids):
        class_ids.sort(key=int)
    return class_ids


def split_for_training(
    rows: Iterable[Row], *, seed: int = 0, validation: str = ONE_OF_FOUR
) -> dict[str, list[Row]]:
    """Returns the rows of train_clean, train_noisy and validation, each shuffled.

    With "one-of-four" one image of every class with at least 4 clean images goes to validation
    (Google Landmark Retrieval 2020, first place); with "none" there is no validation split. Splits
    without images are left out.
    """
    if validation not in VALIDATION_RULES:
        raise ValueError(f"expected validation in {VALIDATION_RULES}. Received: {validation!r}")
    splits: dict[str, list[Row]] = {split: [] for split in TRAIN_SPLITS}
    clean_by_class = defaultdict(list)
    for row in rows:
        if row.is_clean:
            clean_by_class[row.label].append(row)
        else:
            splits[schema.TRAIN_NOISY].append(row)
    for members in clean_by_class.values():
        if validation == ONE_OF_FOUR and len(members) >= _MIN_IMAGES:
            chosen = min(members, key=lambda row: rank(row.id, seed, "validation"))
            splits[schema.VALIDATION].append(chosen)
            members.remove(chosen)
        splits[schema.TRAIN_CLEAN].extend(members)
    return {split: shuffle(members, seed) for split, members in splits.items() if members}


def shuffle(rows: Iterable[Row], seed: int) -> list[Row]:
    """Returns the rows in an order that looks random and depends on seed and ids only."""
    return sorted(rows, key=lambda row: rank(row.id, seed, "shuffle"))


def rank(image_id: str, seed: int, purpose: str) -> bytes:
    """Returns 32 bytes to sort by; the orders of two purposes are independent."""
    return hashlib.sha256(f"{purpose}:{seed}:{image_id}".encode()).digest()


def cut_into_shards(
    splits: Mapping[str, list[Row]], images_per_shard: int
) -> dict[str, dict[str, list[Row]]]:
    """Returns {split: {shard name: rows}}; the sizes of a split's shards differ by one at most."""
    plan: dict[str, dict[str, list[Row]]] = {}
    for split, rows in splits.items():
        shards = -(-len(rows) // images_per_shard)
        borders = [shard * len(rows) // shards for shard in range(shards + 1)]
        plan[split] = {
            schema.shard_name(split, shard, shards, stop - start): rows[start:stop]
            for shard, (start, stop) in enumerate(itertools.pairwise(borders))
        }
    return plan


def count_by_class(rows: Iterable[Row], class_ids: list[str]) -> tuple[int, ...]:
    """Returns the number of rows of each class."""
    counts = dict.fromkeys(class_ids, 0)
    for row in rows:
        counts[row.label] += 1
    return tuple(counts.values())
