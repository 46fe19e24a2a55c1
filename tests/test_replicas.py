"""However many replicas share a batch, training is the same; what is a replica's own is defined."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import trainers
from trainers import BATCH, examples

import recipes
from benchmarks import replica_cases
from benchmarks import replicas as processes
from models import heads
from training import replicas

Normalization = keras.layers.BatchNormalization
ADACOS = {"loss": {"scale": "adacos"}}
UNFROZEN = {"layers": [Normalization], "frozen": False}


def synchronized(trainer):
    assert replicas.synchronize_batchnorm(trainer.model) == 1
    return trainer


@pytest.mark.parametrize(
    ("number", "options"),
    [
        (2, {"weight_decay": 0.1, "clip_norm": 1.0}),
        (8, {"is_global": True, "optimizer": "adamw", "rate": 0.01, **ADACOS}),
    ],
    ids=["sgd", "global-adamw"],
)
def test_replicas_equal_one_device(number, options):
    pair = [trainers.make_trainer(number_of, **options) for number_of in (1, number)]
    results = [trainers.train(trainer, 5) for trainer in pair]
    assert results[0] == pytest.approx(results[1], rel=1e-5)
    assert trainers.largest_difference(*pair) < 2e-6


@pytest.mark.parametrize("number", [2, 8])
def test_synchronized_batchnorm_equals_one_device_and_the_default_does_not(number):
    one = trainers.make_trainer(**UNFROZEN)
    own = trainers.make_trainer(number, **UNFROZEN)
    shared = synchronized(trainers.make_trainer(number, **UNFROZEN))
    for trainer in (one, own, shared):
        trainers.train(trainer, 4)
    # Statistics by E[x²] − E[x]² on one side, by E[(x − E[x])²] on the other: 1e-6 per step.
    assert trainers.largest_difference(one, shared) < 2e-5
    assert trainers.largest_difference(one, own) > 1e-3


def test_synchronized_batchnorm_in_pieces():
    """An all-reduce inside accumulation: each piece's statistics are the global piece's."""
    make = {"accumulate": 3, **UNFROZEN}
    two, eight = (synchronized(trainers.make_trainer(number, **make)) for number in (2, 4))
    results = [trainers.train(trainer, 2) for trainer in (two, eight)]
    assert all(np.isfinite(result["loss"]) for result in results)


def test_the_winners_scale_is_of_the_replicas_own_images():
    """The mean over two replicas of the scale of 12 images each; the global one is of all 24.

    The first half's labels are the nearest centres, so that its median angle is the smaller one.
    """
    images, labels, weights = examples(BATCH)
    own, shared = (trainers.make_trainer(2, is_global=g, **ADACOS) for g in (False, True))
    cosines = own.model(images)
    labels[:12] = np.argmax(cosines[:12], axis=1)
    halves = [slice(0, 12), slice(12, 24)]
    expected = [heads.adacos_scale(cosines[half], labels[half]) for half in halves]
    data = (images, labels, weights)
    scales = [trainers.train(trainer, 1, data)["scale"] for trainer in (own, shared)]
    assert scales[0] == pytest.approx(float(np.mean(expected)), rel=1e-5)
    assert scales[1] == pytest.approx(float(heads.adacos_scale(cosines, labels)), rel=1e-5)
    assert abs(scales[0] - scales[1]) > 0.005
    assert trainers.largest_difference(own, shared) > 1e-4


def test_gather_and_sum_in_the_order_of_the_replicas():
    strategy = trainers.strategy_of(3)

    @tf.function
    def run():
        return strategy.run(step)

    def step():
        number = tf.cast(replicas.replica_id(), tf.float32)
        return replicas.gather(tf.stack([number, 10 + number])), replicas.add_up(number)

    gathered, total = run()
    for values in strategy.experimental_local_results(gathered):
        np.testing.assert_array_equal(values, [0, 10, 1, 11, 2, 12])
    assert [float(t) for t in strategy.experimental_local_results(total)] == [3, 3, 3]


def test_two_processes_equal_one_device():
    """Real processes under MultiWorkerMirroredStrategy, the tiny recipe's network."""
    change, differences = processes.compare(["global"], ["2x1"], steps=2)["global"]
    assert change > 0.01
    assert differences["2x1"] < 2e-6


def test_every_neck_and_every_set_of_losses_of_the_recipes_is_a_case():
    """And each loss finds its images on any of 8 replicas."""
    cases = replica_cases.cases().values()
    tables = {case.recipe: [] for case in cases}
    for case in cases:
        member, stage = case.tables(processes.BATCH)
        tables[case.recipe].append(kinds_of(member.model))
        assert stage.image_size % processes.TILES == 0 or not case.tiled
        if any(text.startswith("extent") for text in member.model.losses):
            assert processes.BATCH // 8 % stage.images_per_class == 0
    for name in recipes.NAMES:
        twin = name if name == "tiny" else f"{name}_tiny"
        for member in recipes.load(twin).members:
            assert kinds_of(member.model) in tables[twin]


def kinds_of(network):
    return [text.partition(":")[0] for text in (network.neck, network.pooling, *network.losses)]


@pytest.mark.parametrize(
    ("differs", "found", "expected"),
    [
        (False, {"order": 9.0, "2": 1e-7, "8": 1e-6}, True),
        (False, {"order": 0.0, "2": 1e-7, "8": 0.1}, False),
        (True, {"order": 0.0, "2": 0.1, "8": 0.2}, True),
        (True, {"order": 0.9, "2": 0.1, "8": 1e-6}, False),
    ],
)
def test_one_layout_that_is_not_as_it_must_be_tells(differs, found, expected):
    case = replica_cases.Case(differs=differs)
    assert processes.is_as_expected(case, 1.0, found) is expected
