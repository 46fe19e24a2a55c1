"""Every host's part of the batches: together what one host has, and each from its own shards."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from input_pipeline import ops, order, pipeline, records, schema, shares
from input_pipeline.shares import Share

SHARDS = 4 * order.OPEN_SHARDS + 3


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """67 shards of 2 to 4 records, so 4 lanes: (paths, counts)."""
    folder = tmp_path_factory.mktemp("many")
    counts = [2 + shard % 3 for shard in range(SHARDS)]
    paths = []
    for shard, count in enumerate(counts):
        paths.append(str(folder / f"{shard:03d}"))
        with records.RecordWriter(paths[-1]) as writer:
            for number in range(count):
                writer.write(f"{shard} {number}".encode())
    return paths, counts


def read(many, count, batch_size=16, **options):
    paths, counts = many
    dataset = shares.training_records(paths, counts, seed=5, batch_size=batch_size, **options)
    return [
        (bytes(record["serialized"].numpy()), tuple(record["seed"].numpy().tolist()))
        for record in dataset.take(count)
    ]


def steps_of(many):
    return sum(many[1]) // 16


@pytest.fixture(scope="module")
def whole(many):
    """Two epochs and two steps of one host."""
    return read(many, (2 * steps_of(many) + 2) * 16)


def test_an_epoch_has_each_record_once_in_another_order(many, whole):
    size = steps_of(many) * 16
    first, second = ([record for record, _ in whole[i * size : (i + 1) * size]] for i in (0, 1))
    everything = {f"{s} {n}".encode() for s in range(SHARDS) for n in range(many[1][s])}
    for epoch in (first, second):
        assert len(set(epoch)) == size
        assert set(epoch) < everything
        assert len(everything) - size < 16
    assert first != second
    positions = [position for _, (_, position) in whole]
    assert positions == [*range(size), *range(size), *range(32)]


@pytest.mark.parametrize("hosts", [3, 8])
def test_hosts_together_have_the_batches_of_one(many, hosts):
    """3 hosts cut through lanes, and of 8 hosts two have one lane."""
    batch_size, steps = (48, 5) if hosts == 3 else (16, 6)
    rows = batch_size // hosts
    expected = read(many, steps * batch_size, batch_size)
    found = [read(many, steps * rows, batch_size, share=Share(h, hosts)) for h in range(hosts)]
    together = [
        each for step in range(steps) for own in found for each in own[step * rows :][:rows]
    ]
    assert together == expected


@pytest.mark.parametrize("host", [0, 1])
def test_a_host_starts_anywhere(many, whole, host):
    steps = steps_of(many)
    for first in (3, steps - 1, 2 * steps + 1):
        own = [r for i, r in enumerate(whole) if i % 16 // 8 == host and i // 16 >= first][:8]
        assert read(many, 8, first_step=first, share=Share(host, 2)) == own


def test_a_host_opens_the_shards_of_its_lanes_only(many, tmp_path):
    """All others are taken away; of an epoch's 67 shards a host of four has about 17."""
    share, count = Share(1, 4), steps_of(many) * 4 - 4 * 4
    expected = read(many, count, share=share)
    used = {int(record.split()[0]) for record, _ in expected}
    assert len(used) < SHARDS // 4 + 4
    paths = [path if i in used else str(tmp_path / "gone") for i, path in enumerate(many[0])]
    # The inputs of lanes get the next blocks ready, so not to the very end.
    assert read((paths, many[1]), count // 2, share=share) == expected[: count // 2]


@pytest.mark.parametrize(
    ("shards", "batch_size", "lanes"),
    [(131, 64, 8), (128, 24, 8), (127, 64, 4), (64, 6, 2), (31, 64, 1), (1, 8, 1), (4000, 21, 1)],
)
def test_lanes_depend_on_data_and_batch(shards, batch_size, lanes):
    assert shares.number_of_lanes(shards, batch_size) == lanes


def arrays(dataset, count=-1):
    return [tuple(part.numpy() for part in batch) for batch in dataset.take(count)]


def joined(pieces):
    return tuple(map(np.concatenate, zip(*pieces, strict=True)))


@pytest.mark.parametrize(("hosts", "pieces"), [(1, 4), (2, 2)])
def test_pieces_of_batches(shards, hosts, pieces):
    """Images, labels and weights, for training and validation; 7 validation images are padded."""
    images = pipeline.ImageSet(schema.Manifest.load(shards), "total")
    options = {"square": ops.Square(8), "batch_size": 4}

    def both(share=None, times=1):
        training = pipeline.training_batches(images, seed=3, share=share, **options)
        validation = pipeline.validation_batches(images, share=share, **options)
        return arrays(training, 6 * times), arrays(validation)

    parts = [both(Share(host, hosts, pieces), pieces) for host in range(hosts)]
    for found, whole in zip(zip(*parts, strict=True), both(), strict=True):
        assert {len(own) for own in found} == {len(whole) * pieces}
        for step, expected in enumerate(whole):
            own = [own[step * pieces : (step + 1) * pieces] for own in found]
            for part, right in zip(joined(itertools.chain(*own)), expected, strict=True):
                np.testing.assert_array_equal(part, right)
    training = pipeline.training_batches(images, seed=3, share=Share(), **options)
    assert training.cardinality() == tf.data.INFINITE_CARDINALITY


def test_a_batch_must_divide():
    with pytest.raises(ValueError, match=r"2 hosts times 3 replicas\. Received: 8"):
        Share(0, 2, 3).rows(8)
