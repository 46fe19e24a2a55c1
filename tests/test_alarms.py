"""Which lines of a log raise which alarm, by hand-made logs and by trainings that go wrong."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
import trainers
from test_checkpoints import pieces
from trainers import BATCH, CLASSES, examples

from models.objectives import SumOfTerms
from models.pair_terms import CenterTerm, ContrastiveTerm
from models.terms import SoftmaxTerm
from training import stages
from training.alarms import Alarms
from training.checkpoints import Checkpoints
from training.optimizers import build_optimizer
from training.plan import Plan
from training.reporting import read_log
from training.trainer import NonFiniteError, Trainer

LN_C = math.log(1000)


def log(last, every=100, **changes):
    """Lines of a training that goes well, changed by fields or functions of the step."""
    rows = []
    for step in range(every, last + 1, every):
        row = {
            "event": "train",
            "step": step,
            "loss": LN_C * 0.7,
            "accuracy": 0.1,
            "scale": 10.0,
            "target_cosine": 0.4,
            "learning_rate": 0.1,
            "input_wait": 0.02,
            "seconds": 0.2 * step,
        }
        values = {name: f(step) if callable(f) else f for name, f in changes.items()}
        rows.append({**row, **values})
    return rows


def raised(rows, steps_per_epoch=500):
    """(step, cause) of what is raised for 1,000 classes at batch 64."""
    alarms = Alarms(num_classes=1000, batch_size=64, steps_per_epoch=steps_per_epoch)
    return [(row["step"], alarm.cause) for row in rows for alarm in alarms.see(row)]


def test_a_training_that_learns_raises_nothing():
    assert raised(log(5000)) == []


@pytest.mark.parametrize(("steps_per_epoch", "patience"), [(500, 1500), (7, 200), (25_000, 3000)])
def test_chance_is_called_once_after_three_epochs(steps_per_epoch, patience):
    rows = log(5000, accuracy=0.001, loss=LN_C)
    assert raised(rows, steps_per_epoch) == [(patience, "chance")]


def test_what_guessing_gives_by_hand():
    """750 steps of 64 images: 1/1000 + 3·sqrt(0.001·0.999/51200) = 0.00142, in 800 of them."""
    assert raised(log(1500, accuracy=0.0014, loss=LN_C)) == [(1500, "chance")]
    assert raised(log(1500, accuracy=0.0015, loss=LN_C)) == []
    assert raised(log(1500, accuracy=0.0014, loss=0.89 * LN_C)) == []
    assert raised(log(1500, accuracy=0.0014, loss=0.91 * LN_C)) == [(1500, "chance")]
    late = log(1500, accuracy=lambda step: 0.2 if step > 1400 else 0.0, loss=LN_C)
    assert raised(late) == []


def test_collapse():
    assert raised(log(1500, accuracy=0.0, target_cosine=0.95)) == [(1500, "collapse")]
    assert raised(log(1500, target_cosine=0.95)) == []
    alike = {"event": "retrieval", "mean_cosine": 0.99}
    early, late = log(400), log(1600)
    assert raised([*early, {**alike, "step": 400}]) == []
    assert raised([*late, {**alike, "step": 1600}]) == [(1600, "collapse")]
    assert raised([*late, {**alike, "step": 1600, "mean_cosine": 0.9}]) == []


def test_a_scale_that_runs_away():
    rows = log(1000, scale=lambda step: 10.0 if step < 600 else 41.0)
    assert raised(rows) == [(600, "scale")]
    assert raised(log(1000, scale=64.0)) == []


def test_a_training_without_scale_and_cosine_has_the_other_alarms():
    rows = log(1500, accuracy=0.001, loss=LN_C, input_wait=0.6)
    rows = [{n: v for n, v in row.items() if n not in ("scale", "target_cosine")} for row in rows]
    assert raised(rows) == [(300, "input"), (1500, "chance")]


def test_input_that_is_slower_than_the_step():
    """60 % waiting: a batch takes 1 / 0.4 = 2.5 steps. One slow interval is none."""
    slow = (100, 200, 500, 700, 800)  # the first minute ends at step 300
    rows = log(1000, input_wait=lambda step: 0.6 if step in slow else 0.0)
    assert raised(rows) == [(800, "input")]
    alarms = Alarms(num_classes=1000, batch_size=64, steps_per_epoch=500)
    (alarm,) = [alarm for row in rows for alarm in alarms.see(row)]
    assert "wait 60% of the time" in alarm.message
    assert "2.5 times as long" in alarm.message


def test_what_was_raised_before_a_stop_is_not_raised_again():
    rows = log(3000, accuracy=0.0, loss=LN_C)
    alarms = Alarms(num_classes=1000, batch_size=64, steps_per_epoch=500)
    assert [len(alarms.see(row)) for row in rows].count(1) == 1
    again = Alarms(num_classes=1000, batch_size=64, steps_per_epoch=500)
    for row in rows[:20]:
        again.see(row)
    assert not any(again.see(row) for row in rows[20:])


def run(folder, data, steps=12, steps_per_epoch=6, trainer=None, **options):
    trainer = trainer or trainers.make_trainer(loss={"scale": 10.0}, **options)

    def batches_from(first_step):
        return iter(pieces(data, first_step, 10**6, BATCH))

    stages.run_stage(
        str(folder / "model.keras"),
        trainer,
        Plan(1, steps, steps_per_epoch, log_every=3, checkpoint_seconds=0, checkpoint_share=1e9),
        batches_from,
        num_classes=trainers.CLASSES,
        first_images=lambda: data[0][:BATCH],
        ids_of=lambda step: [f"image-{step}-{row}" for row in range(BATCH)],
    )
    return read_log(str(folder / "log.jsonl"))


def test_a_batch_that_is_not_finite_is_named_and_the_checkpoints_stay(tmp_path, capsys):
    data = examples(12 * BATCH)
    data[2][7 * BATCH + 5] = np.nan  # the weight of one image of the eighth batch
    with pytest.raises(NonFiniteError, match=r"step 8 .* image-7-0, image-7-1, .* and 16 more"):
        run(tmp_path, data)
    rows = read_log(str(tmp_path / "log.jsonl"))
    assert (rows[-1]["event"], rows[-1]["cause"], rows[-1]["step"]) == ("alarm", "not finite", 7)
    assert rows[-1]["ids"] == [f"image-7-{row}" for row in range(BATCH)]
    assert "ALARM: the loss of step 8 is nan" in capsys.readouterr().out
    saved = sorted(int(path.stem[5:]) for path in (tmp_path / "checkpoints").glob("*.index"))
    assert len(saved) == 2
    assert saved[-1] in (6, 7)
    assert not (tmp_path / "model.keras").exists()
    data[2][7 * BATCH + 5] = 1.0
    assert run(tmp_path, data)[-1]["step"] == 12


def remembering_trainer():
    """Its centres and its memory change within a step, before it is known whether that counts."""
    parts = [SoftmaxTerm(), CenterTerm(weight=0.1), ContrastiveTerm("pairs", memory=2 * BATCH)]
    model = trainers.make_model(head=False)
    layers = [layer for part in parts for layer, _ in part.layers(CLASSES)]
    return Trainer(
        trainers.strategy_of(1),
        keras.Model(model.input, [layer(model.output) for layer in layers]),
        SumOfTerms(parts),
        build_optimizer("sgd", 0.01),
        global_batch_size=BATCH,
    )


def test_nothing_of_a_step_that_is_not_finite_is_saved(tmp_path):
    data = examples(12 * BATCH)
    trainer, whole, restored = (remembering_trainer() for _ in range(3))
    data[2][7 * BATCH + 5] = np.nan
    with pytest.raises(NonFiniteError):
        run(tmp_path, data, trainer=trainer)
    saved = Checkpoints(
        str(tmp_path / "checkpoints"), restored.checkpoint_variables(), restored.optimizer
    )
    step = saved.restore()
    assert step in (6, 7)
    result = trainers.train(whole, step, data)
    assert "scale" not in result
    assert "target_cosine" not in result
    expected, kept, left = (
        {v.path: v.numpy() for v in each.model.variables} for each in (whole, restored, trainer)
    )
    assert {"centers/centers", "pairs_memory/rows", "pairs_memory/next_row"} < expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(kept[name], value, name)
    assert (left["pairs_memory/rows"] != kept["pairs_memory/rows"]).any()  # as seen in between


def test_a_training_that_cannot_learn_is_told(tmp_path, capsys):
    """Labels drawn at random, and a rate of next to nothing."""
    images, labels, weights = examples(40 * BATCH)
    labels = np.random.default_rng(5).integers(0, CLASSES, len(labels), dtype=np.int32)
    rows = run(tmp_path, (images, labels, np.ones_like(weights)), steps=240, rate=1e-9)
    alarms = [row for row in rows if row["event"] == "alarm" and row["cause"] != "input"]
    assert [row["cause"] for row in alarms] == ["chance"]
    assert f"1/C = {1 / CLASSES:.2g}" in alarms[0]["message"]
    assert capsys.readouterr().out.count("ALARM: the accuracy stays at chance") == 1


def test_the_first_batch_is_shown(tmp_path):
    run(tmp_path, examples(12 * BATCH))
    picture = tf.io.decode_png((tmp_path / "batch.png").read_bytes()).numpy()
    assert picture.shape == (4 * 8, 6 * 8, 3)
    images = examples(12 * BATCH)[0]
    np.testing.assert_array_equal(picture[8:16, 16:24], images[6 + 2])
