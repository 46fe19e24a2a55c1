"""A small data directory written with the schema alone, for tests of what reads ours."""

import os

from image_files import encode, picture

from input_pipeline import records, schema

CLASS_IDS = ("7", "red shoe", "ä", "203093")
SPLITS = {"train_clean": (3, 2), "train_noisy": (2,), "validation": (1, 1)}  # images per shard


def images():
    """Yields (split, id, label, is_clean, format, encoded), shard after shard."""
    number = 0
    for split, sizes in SPLITS.items():
        for _ in range(sum(sizes)):
            image_format = "png" if number % 3 == 2 else "jpeg"
            encoded = encode(picture(number, (24 + number, 16)), image_format)
            label = number % len(CLASS_IDS)
            yield split, f"id{number}", label, split != "train_noisy", image_format, encoded
            number += 1


def write_own(directory):
    """Writes `images` and their manifest; returns the directory as text."""
    rest, splits, counts = images(), {}, {split: [0] * len(CLASS_IDS) for split in SPLITS}
    for split, sizes in SPLITS.items():
        shards = []
        for shard, size in enumerate(sizes):
            path = os.path.join(directory, schema.shard_name(split, shard, len(sizes)))
            with records.RecordWriter(path) as writer:
                for _ in range(size):
                    _, image_id, label, is_clean, image_format, encoded = next(rest)
                    counts[split][label] += 1
                    width = 24 + int(image_id[2:])
                    record = schema.encode_example(
                        encoded=encoded, image_format=image_format, height=16, width=width,
                        label=label, image_id=image_id, is_clean=is_clean,
                    )  # fmt: skip
                    writer.write(record)
            name = os.path.basename(path)
            shards.append(schema.Shard(name, size, writer.bytes, writer.crc32c))
        splits[split] = tuple(shards)
    clean, noisy = (tuple(counts[split]) for split in ("train_clean", "train_noisy"))
    schema.Manifest(str(directory), splits, CLASS_IDS, clean, noisy, {}, 0, "").save()
    return str(directory)
