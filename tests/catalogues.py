"""Catalogues of images that are on no disk, and the slow, obvious way to plan them."""

import collections
from hashlib import sha256

from tfrecords_tools.conversion.catalogue import Catalogue
from tfrecords_tools.readers.tables import Row


def make_rows(sizes, clean=True):
    """Rows of classes "0", "1", … with `sizes` images each."""
    kind = "c" if clean else "n"
    return [
        Row(f"{kind}{label}-{number}", str(label), "/x.jpg", clean)
        for label, size in enumerate(sizes)
        for number in range(size)
    ]


def inspect(catalogue, bad=()):
    """Finds every image good, a JPEG file of 40 × 30 pixels, but those with ids in `bad`."""
    ids = dict(catalogue.ask("SELECT number, id FROM images"))
    for batch in catalogue.uninspected():
        numbers = [place[0] for place in batch]
        catalogue.add_inspections(
            [
                [number, "missing", *[None] * 6]
                if ids[number] in bad
                else [number, None, "jpeg", 40, 30, "unchanged", 1000 + number, f"{number:x}"]
                for number in numbers
            ]
        )


def make_catalogue(rows, *, seed=0, split=None, validation="one-of-four", bad=(), path=":memory:"):
    """A catalogue of rows, inspected and planned."""
    catalogue = Catalogue(str(path))
    catalogue.fill(rows, seed)
    inspect(catalogue, bad)
    catalogue.plan(split, validation)
    return catalogue


def plan_slowly(rows, *, seed=0, split=None, validation="one-of-four"):
    """{split: ids in the order of the records} of usable rows."""

    def draw(purpose):
        return lambda row: (sha256(f"{purpose}:{seed}:{row.id}".encode()).digest()[:8], row.id)

    splits = collections.defaultdict(list)
    by_class = collections.defaultdict(list)
    for row in rows:
        if split:
            splits[split].append(row)
        elif row.is_clean:
            by_class[row.label].append(row)
        else:
            splits["train_noisy"].append(row)
    for members in by_class.values():
        if validation == "one-of-four" and len(members) >= 4:
            chosen = min(members, key=draw("validation"))
            splits["validation"].append(chosen)
            members.remove(chosen)
        splits["train_clean"] += members
    return {name: [row.id for row in sorted(splits[name], key=draw("shuffle"))] for name in splits}
