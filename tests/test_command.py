"""What training commands share: exit codes, and the one sentence of every failure."""

import pytest
import tensorflow as tf
from conftest import ROOT

import train
from detection import fit
from training.command import exit_code
from training.probes import DeviceError
from training.stop_signal import StoppedError
from training.trainer import NonFiniteError
from training.writing import StorageError

RESULT = {"loss": float("nan"), "gradient_norm": float("nan")}
ENDS = [
    (ValueError("expected a number"), 2, "error: expected a number"),
    (FileNotFoundError(2, "No such file", "a.csv"), 2, "error: [Errno 2] No such file: 'a.csv'"),
    (NonFiniteError(7, 0, RESULT), 2, "error: the loss of step 8 is nan"),
    (DeviceError("--tpu: none"), 2, "error: --tpu: none"),
    (tf.errors.DataLossError(None, None, "corrupted record"), 1, "error: a shard is damaged"),
    (tf.errors.UnavailableError(None, None, "Connection reset"), 1, "error: another host, the TPU"),
    (
        tf.errors.ResourceExhaustedError(None, None, "OOM on GPU:0\nat x"),
        1,
        "error: a device's memo",
    ),
    (StorageError("the log could not be written"), 1, "error: the log could not be written"),
    (OSError(28, "No space left on device"), 1, "error: [Errno 28] No space left on device"),
    (StoppedError("stage 1 is saved at step 9"), 130, "stage 1 is saved at step 9; the same"),
    (KeyboardInterrupt(), 130, "stopped; the same command goes on from there"),
]


@pytest.mark.parametrize(("error", "code", "words"), ENDS)
def test_each_failure_is_a_code_and_a_sentence(error, code, words, capsys):
    def work():
        raise error

    assert exit_code(work, damaged="a shard is damaged") == code
    told = capsys.readouterr().err
    assert told.startswith(words)
    assert told.count("\n") == 1


def test_what_succeeds_says_nothing_and_what_is_a_fault_of_ours_is_not_hidden(capsys):
    assert exit_code(lambda: None, damaged="") == 0
    assert capsys.readouterr().err == ""
    with pytest.raises(ZeroDivisionError):
        exit_code(lambda: 1 / 0, damaged="")


@pytest.mark.parametrize(
    ("tpu", "words"),
    [
        ("local", "no TPU started in this machine"),
        ("grpc://127.0.0.1:9", "no TPU answers at that address"),
        ("10.0.0.2", "is written --tpu grpc://10.0.0.2:8470"),
    ],
)
def test_both_commands_say_the_same_of_a_tpu_that_is_not_there(tpu, words, tmp_path, capsys):
    detector = ["--boxes", str(ROOT / "none.csv"), "--workdir", str(tmp_path), "--tpu", tpu]
    network = ["--recipe", "tiny", "--stage", "1", "--workdir", str(tmp_path), "--tpu", tpu]
    for main, arguments in ((fit.main, detector), (train.main, network)):
        assert main(arguments) == 2
        told = capsys.readouterr().err
        assert told.startswith("error: --tpu ")
        assert words in told
    assert not list(tmp_path.iterdir())
