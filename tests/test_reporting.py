"""Measuring retrieval, pictures, lines, TensorBoard, the profiler, and what a full disk says."""

import json
import pathlib
import resource
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import trainers
from trainers import BATCH, examples

from input_pipeline import ops, pipeline, schema
from input_pipeline.batch_ids import training_ids
from training import held_out, measured, pictures, profiling, reporting
from training.averaging import WeightAverage
from training.writing import StorageError, reason

ROOT = pathlib.Path(__file__).resolve().parents[1]
ABOUT = {"stage": 1, "total_steps": 100, "steps_per_epoch": 10, "batch_size": 8, "num_classes": 9}
RESULT = {"loss": 2.0, "accuracy": 0.25, "scale": 9.5, "target_cosine": 0.3, "learning_rate": 0.01}
PACE = measured.Pace(steps=5, seconds=2.0, waited=0.5)


def slow_measure(vectors, labels):
    """Recall@1 and mAP@100 query by query, by sorting everything."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    firsts, precisions = [], []
    for query in range(len(labels)):
        others = [i for i in range(len(labels)) if i != query]
        relevant = sum(labels[i] == labels[query] for i in others)
        if not relevant:
            continue
        order = sorted(others, key=lambda i, q=query: (-float(unit[q] @ unit[i]), i))[:100]
        hits = [labels[i] == labels[query] for i in order]
        firsts.append(hits[0])
        found = [sum(hits[: k + 1]) / (k + 1) for k in range(len(hits)) if hits[k]]
        precisions.append(sum(found) / min(relevant, 100))
    return np.mean(firsts), np.mean(precisions)


def test_retrieval_against_a_slow_twin():
    rng = np.random.default_rng(0)
    labels = np.concatenate([rng.integers(0, 12, 250), np.full(130, 12), [50]])
    vectors = rng.normal(size=(len(labels), 8)) + np.eye(60, 8)[labels % 8] * 2
    result = held_out.measure(vectors, labels)
    expected = slow_measure(vectors.astype(np.float32), labels)
    # Two cosines that differ in the last bit may change places, 1e-6 of the mean here.
    assert (result["recall_at_1"], result["map_at_100"]) == pytest.approx(expected, abs=1e-5)
    assert (result["queries"], result["images"]) == (380, 381)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = (unit @ unit.T)[~np.eye(len(unit), dtype=bool)]
    assert result["mean_cosine"] == pytest.approx(pairs.mean(), abs=1e-6)


def test_retrieval_by_hand():
    """Positions 0, 1, 3 of one class on a line: ranks (1, 3), (1, 3), (2, 3)."""
    angles = np.array([0.0, 0.1, 0.25, 0.5])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    result = held_out.measure(vectors, np.array([4, 4, 7, 4]))
    assert result["recall_at_1"] == pytest.approx(2 / 3)
    expected = [(1 + 2 / 3) / 2, (1 + 2 / 3) / 2, (1 / 2 + 2 / 3) / 2]
    assert result["map_at_100"] == pytest.approx(np.mean(expected))
    equal = held_out.measure(np.ones((4, 2)), np.array([4, 4, 7, 4]))  # ties by position
    assert equal["recall_at_1"] == 1.0
    assert equal["map_at_100"] == pytest.approx(np.mean([(1 + 2 / 3) / 2, (1 + 2 / 3) / 2, 1.0]))
    assert equal["mean_cosine"] == pytest.approx(1.0)
    assert held_out.measure(np.ones((2, 2)), np.array([0, 1]))["queries"] == 0


@pytest.mark.parametrize("number", [1, 2])
def test_retrieval_of_a_trainer(number):
    """On any number of replicas, with the averaged weights and without what fills the batch."""
    options = {"make_average": lambda variables: WeightAverage(variables, decay=0.5)}
    trainer = trainers.make_trainer(number, rate=5.0, **options)
    trainers.train(trainer, 2)
    images, labels, _ = examples(2 * BATCH, seed=3)
    weights = np.ones(2 * BATCH, np.float32)
    weights[40:] = 0
    data = trainers.distributed(trainer, (images, labels, weights))
    result = held_out.make_measure(trainer)(data)
    limited = held_out.make_measure(trainer, limit=30)(data)
    network = tf.keras.Model(trainer.model.input, trainer.model.get_layer("bottleneck").output)
    with trainer.averaged_weights():
        vectors = network(images).numpy()
    assert result == pytest.approx(held_out.measure(vectors[:40], labels[:40]), rel=1e-5)
    assert limited == pytest.approx(held_out.measure(vectors[:30], labels[:30]), rel=1e-5)


def test_a_grid_of_pictures():
    images = np.random.default_rng(0).integers(0, 256, (8, 10, 10, 3), dtype=np.uint8)
    grid = pictures.grid(images)
    assert grid.shape == (20, 60, 3)
    np.testing.assert_array_equal(grid[10:20, 10:20], images[7])
    assert not grid[10:20, 20:].any()
    large = np.full((40, 512, 512, 3), 77, np.uint8)
    assert pictures.grid(large).shape == (4 * 160, 6 * 160, 3)
    assert (pictures.grid(large) == 77).all()


def test_a_grid_of_pictures_that_are_not_square():
    images = np.random.default_rng(1).integers(0, 256, (8, 10, 20, 3), dtype=np.uint8)
    grid = pictures.grid(images)
    assert grid.shape == (20, 120, 3)
    np.testing.assert_array_equal(grid[10:20, 20:40], images[7])
    large = np.full((3, 400, 200, 3), 77, np.uint8)
    assert pictures.grid(large).shape == (160, 3 * 80, 3)


def test_ids_are_those_of_the_batch_that_training_sees(shards):
    """The label of each id is that of the image at its place, over the end of an epoch too."""
    keras.utils.set_random_seed(1)  # as train.py does
    images = pipeline.ImageSet(schema.Manifest.load(shards), "total")
    labels = {}
    for path in images.shard_paths():
        for serialized in tf.data.TFRecordDataset(path):
            example = ops.parse()({"serialized": serialized})
            labels[example[schema.ID].numpy().decode()] = int(example[schema.LABEL])
    for step in (0, 3, 25):
        batch = pipeline.training_batches(
            images, square=ops.Square(8), batch_size=8, seed=5, first_step=step
        )
        ids = training_ids(images, batch_size=8, seed=5, step=step)
        assert [labels[name] for name in ids] == next(iter(batch))[1].numpy().tolist()
        assert len(set(ids)) == 8


def test_a_line_has_all_that_is_to_be_seen(tmp_path, capsys):
    reporter = reporting.Reporter(str(tmp_path), first_step=0, **ABOUT)
    reporter.train(5, RESULT, PACE)
    line = capsys.readouterr().out
    for part in ("step 5/100", "loss 2.0000", "accuracy 0.250", "lr 1.00e-02", "s 9.50"):
        assert part in line
    assert "cosine 0.300  20 images/s" in line
    assert "GB  38 s left" in line  # 95 steps at 0.4 s
    (row,) = reporting.read_log(str(tmp_path / "log.jsonl"))
    assert row["input_wait"] == 0.25
    assert measured.results([row])[0] == {
        "event": "train",
        "stage": 1,
        "epoch": 0.5,
        "step": 5,
        **RESULT,
    }
    assert 0.01 < row["memory_gb"] < 100


def test_a_line_has_scale_and_cosine_only_where_there_are_any(tmp_path, capsys):
    reporter = reporting.Reporter(str(tmp_path), first_step=0, **ABOUT)
    plain = {name: RESULT[name] for name in ("loss", "accuracy", "learning_rate")}
    reporter.train(5, plain, PACE)
    assert "lr 1.00e-02  20 images/s" in capsys.readouterr().out


def test_retrieval_without_a_query_is_no_zero(tmp_path, capsys):
    reporter = reporting.Reporter(str(tmp_path), first_step=0, **ABOUT)
    reporter.retrieval(10, held_out.measure(np.eye(3), np.arange(3)))
    assert "retrieval is not measured" in capsys.readouterr().out
    (row,) = reporting.read_log(str(tmp_path / "log.jsonl"))
    assert not {"recall_at_1", "map_at_100"} & row.keys()
    assert row["mean_cosine"] == pytest.approx(0.0)


def test_the_best_accuracy_is_made_from_the_lines_kept(tmp_path, capsys):
    for first, accuracies in [(0, [0.2, 0.6, 0.9]), (20, [0.4, 0.6])]:
        reporter = reporting.Reporter(str(tmp_path), first_step=first, **ABOUT)
        for number, accuracy in enumerate(accuracies, start=1):
            result = {"loss": 1.0, "accuracy": accuracy}
            reporter.validation(first + 10 * number, result)
        reporter.close()
    rows = reporting.read_log(str(tmp_path / "log.jsonl"))
    assert [row["step"] for row in rows] == [10, 20, 30, 40]
    assert [(row["best_accuracy"], row["best_step"]) for row in rows] == [
        (0.2, 10), (0.6, 20), (0.6, 20), (0.6, 20),
    ]  # fmt: skip
    assert "best 0.600 at step 20" in capsys.readouterr().out


def test_tensorboard_has_scalars_and_the_picture(tmp_path):
    reporter = reporting.Reporter(str(tmp_path), first_step=0, **ABOUT)
    reporter.pictures(examples(4)[0])
    reporter.train(5, RESULT, PACE)
    reporter.close()
    (path,) = (tmp_path / "tensorboard").glob("events.*")
    tags = set()
    for event in tf.data.TFRecordDataset(str(path)):
        tags |= {value.tag for value in tf.compat.v1.Event.FromString(event.numpy()).summary.value}
    assert {"batch", "train/loss", "train/scale", "train/images_per_second"} <= tags


def test_the_profiler_records_its_steps(tmp_path):
    profile = profiling.Profile(str(tmp_path), (2, 3))
    for step in range(5):
        profile.at(step)
        tf.reduce_sum(tf.ones((4, 4)))
    profile.stop()
    assert list(tmp_path.rglob("*.xplane.pb"))
    assert profiling.parse("10:20") == (10, 20)
    for text in ("10", "0:3", "5:4", "a:b"):
        with pytest.raises(Exception, match="expected FIRST:LAST"):
            profiling.parse(text)


def test_an_error_is_told_in_one_line():
    error = tf.errors.OutOfRangeError(None, None, "{{function_node x}} /a/b; File too large [Op]\n")
    assert reason(error) == "/a/b; File too large [Op]"
    assert reason(OSError(28, "No space left on device")) == "[Errno 28] No space left on device"


def test_a_log_on_a_full_disk(tmp_path):
    reporter = reporting.Reporter(str(tmp_path), first_step=0, **ABOUT)
    reporter.train(5, RESULT, PACE)
    size = (tmp_path / "log.jsonl").stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"the log could not be written .*same command"):
            reporter.train(10, RESULT, PACE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(reporting.read_log(str(tmp_path / "log.jsonl"))) == 1


def limited(arguments, size):
    """Runs train.py with no file larger than `size`."""
    script = (
        "import resource, sys; sys.path.insert(0, sys.argv.pop(1)); "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size})); "
        "import train; sys.exit(train.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_a_disk_that_is_full_while_saving_ends_the_run_with_a_sentence(shards, tmp_path):
    command = ["--recipe", "tiny", "--data", shards, "--workdir", str(tmp_path), "--stage", "1"]
    done = limited(command, 300_000)
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert "the checkpoint of step 1 could not be written" in line
    assert "start the same command again" in line
    assert "Traceback" not in done.stderr
    folder = tmp_path / "A" / "stage-1"
    assert not list((folder / "checkpoints").iterdir())
    rows = [json.loads(text) for text in (folder / "log.jsonl").read_text().splitlines()]
    assert all(row["event"] for row in rows)
