"""The order of the records: blocks of shards, resumed anywhere, reading one block at most."""

import hashlib
import itertools
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT

from input_pipeline import ops, order, pipeline, records, schema

SHARDS, OPEN = 45, order.OPEN_SHARDS


def payload(shard, number, size=0):
    return f"{shard} {number}".encode() + bytes(size)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """45 shards of 3 to 5 records, so 3 blocks: (paths, counts)."""
    folder = tmp_path_factory.mktemp("small")
    counts = [3 + shard % 3 for shard in range(SHARDS)]
    return write_shards(folder, counts), counts


def write_shards(folder, counts, size=0):
    paths = []
    for shard, count in enumerate(counts):
        paths.append(str(folder / f"{shard:03d}"))
        with records.RecordWriter(paths[-1]) as writer:
            for number in range(count):
                writer.write(payload(shard, number, size))
    return paths


def read(shards, count, *, seed=5, **options):
    paths, counts = shards
    options.setdefault("images_per_epoch", sum(counts))
    dataset = order.shuffled_records(paths, counts, seed=seed, **options)
    return [
        (bytes(record["serialized"].numpy()), record["seed"].numpy().tolist())
        for record in dataset.take(count)
    ]


def test_an_epoch_has_every_record_once_and_a_block_its_shards(small):
    total = sum(small[1])
    found = [record for record, _ in read(small, 2 * total)]
    everything = sorted(payload(s, n) for s in range(SHARDS) for n in range(small[1][s]))
    assert sorted(found[:total]) == sorted(found[total:]) == everything
    assert found[:total] != found[total:]
    shards = [int(record.split()[0]) for record in found[:total]]
    opened = list(dict.fromkeys(shards))  # in the order of their first records
    for block in range(0, SHARDS, OPEN):
        members = set(opened[block : block + OPEN])
        places = [place for place, shard in enumerate(shards) if shard in members]
        assert places == list(range(places[0], places[-1] + 1))
    assert shards[:60] != sorted(shards[:60], key=opened.index)  # mixed inside a block


def test_few_shards_keep_the_order_of_one_shuffle_buffer(small):
    """The order of all runs before there were blocks: shards of one block, spelled out."""
    paths, counts = small[0][:OPEN], small[1][:OPEN]
    expected = []
    for epoch in range(3):
        seeds = tf.constant([5, epoch], tf.int64)
        shuffled = tf.random.experimental.stateless_shuffle(tf.constant(paths), seeds)
        lists = [list(records.read_records(path.decode())) for path in shuffled.numpy()]
        turns = [record for turn in itertools.zip_longest(*lists) for record in turn if record]
        mixed = tf.data.Dataset.from_tensor_slices(turns).shuffle(
            order.SHUFFLE_BUFFER, seed=5 + epoch * 1_000_003, reshuffle_each_iteration=False
        )
        expected += [
            (bytes(record.numpy()), [5 + epoch * 1_000_003, position])
            for position, record in enumerate(mixed)
        ]
    assert read((paths, counts), len(expected)) == expected


@pytest.mark.parametrize("left_out", [0, 7, 90])
def test_starting_anywhere_gives_the_rest(small, left_out):
    """Over blocks, epochs and the records that an epoch leaves out, a whole block among them."""
    per_epoch = sum(small[1]) - left_out
    whole = read(small, 2 * per_epoch + 9, images_per_epoch=per_epoch)
    assert [seed[1] for _, seed in whole] == [*range(per_epoch), *range(per_epoch), *range(9)]
    for first in [*range(0, per_epoch, 47), per_epoch - 1, per_epoch, per_epoch + 64]:
        rest = read(small, min(40, len(whole) - first), images_per_epoch=per_epoch, first=first)
        assert rest == whole[first : first + 40], first


def test_the_seed_makes_the_order(small):
    assert read(small, 50) == read(small, 50)
    assert read(small, 50) != read(small, 50, seed=6)


def bytes_read():
    """What this process has asked files for, as the kernel counts it."""
    text = pathlib.Path("/proc/self/io").read_text("ascii")
    return int(text.split()[1])


@pytest.mark.skipif(not pathlib.Path("/proc/self/io").exists(), reason="needs Linux")
def test_starting_late_reads_a_few_blocks_at_most(tmp_path):
    """The block of the position and the two that get ready meanwhile, of 20 in an epoch."""
    counts = [4] * (20 * OPEN)
    paths = write_shards(tmp_path, counts, size=10_000)
    block = OPEN * os.path.getsize(paths[0])
    for first in (0, 63, 64, 700, 1270, 5 * 1280 + 800, 1000 * 1280 + 5):
        before = bytes_read()
        read((paths, counts), 1, first=first)
        assert bytes_read() - before < 3.5 * block, first


@pytest.mark.parametrize("change", ["missing", "short", "cut", "checksum"])
def test_a_shard_that_does_not_hold_its_records_is_an_error(tmp_path, change):
    """Any other way on would give a resumed run other batches."""
    counts = [4] * 5
    paths = write_shards(tmp_path, counts, size=100)
    path = pathlib.Path(paths[2])
    data = path.read_bytes()
    record = len(data) // 4
    if change == "missing":
        path.unlink()
    elif change == "short":
        path.write_bytes(data[: 3 * record])
    elif change == "cut":
        path.write_bytes(data[:-3])
    else:
        path.write_bytes(data[:50] + bytes([data[50] ^ 1]) + data[51:])
    with pytest.raises(
        (tf.errors.NotFoundError, tf.errors.FailedPreconditionError, tf.errors.DataLossError)
    ):
        read((paths, counts), 20)


PROGRAM = """
import hashlib, sys
import tensorflow as tf
from input_pipeline import ops, pipeline, schema
tf.random.set_seed(3001)  # as training does; the order depends on it
folder, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
images = pipeline.ImageSet(schema.Manifest.load(folder), "total")
batches = pipeline.training_batches(
    images, square=ops.Square(8), batch_size=8, seed=3, first_step=first
)
for batch in batches.take(last - first):
    digest = hashlib.sha256(b"".join(part.numpy().tobytes() for part in batch))
    print(digest.hexdigest(), flush=True)
"""


def start(folder, first, last, log):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, folder, str(first), str(last)],
        stdout=log,
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )


def test_killed_and_started_again_gives_the_same_batches(many_shards, tmp_path):
    """Batches' hashes of a process that is killed, and of one that goes on, over two epochs."""
    tf.random.set_seed(3001)
    images = pipeline.ImageSet(schema.Manifest.load(many_shards), "total")
    steps = 2 * (images.num_images // 8) + 3
    batches = pipeline.training_batches(images, square=ops.Square(8), batch_size=8, seed=3)
    expected = [
        hashlib.sha256(b"".join(part.numpy().tobytes() for part in batch)).hexdigest()
        for batch in batches.take(steps)
    ]
    assert len(set(expected)) == steps
    path = tmp_path / "hashes"
    with open(path, "wb") as log:
        process = start(many_shards, 0, 100_000, log)
        while path.read_bytes().count(b"\n") < 5 and process.poll() is None:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    logged = path.read_text("ascii")
    lines = logged[: logged.rfind("\n")].split("\n")[: steps - 4]
    assert lines == expected[: len(lines)]
    with open(path, "wb") as log:
        assert start(many_shards, len(lines), steps, log).wait() == 0
    assert path.read_text("ascii").split() == expected[len(lines) :]


@pytest.fixture(scope="module")
def many_shards(photographs, tmp_path_factory):
    """`photographs` in 45 training shards, so 3 blocks; one record is no image any more."""
    from tfrecords_tools.write import write

    folder = str(tmp_path_factory.mktemp("many"))
    table = f"table:{photographs / 'train.csv'}"
    write(folder, sources=[table], images_per_shard=2, workers=1, stream=None)
    manifest = schema.Manifest.load(folder)
    assert len(manifest.shard_paths("train_clean", "train_noisy")) > 2 * OPEN
    damage(manifest.shard_paths("train_clean")[3])
    return folder


def damage(path):
    """Overwrites the first image of a shard, keeping the rest and the framing whole."""
    whole = list(records.read_records(path))
    start_of_image = whole[0].index(b"\xff\xd8\xff")
    noise = np.random.default_rng(0).bytes(40)
    whole[0] = whole[0][:start_of_image] + noise + whole[0][start_of_image + 40 :]
    with records.RecordWriter(path) as writer:
        for each in whole:
            writer.write(each)
