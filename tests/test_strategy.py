"""Where the training runs, and what is said when that is not there: real sockets and resolvers."""

import contextlib
import http.server
import importlib.util
import socket
import subprocess
import sys
import threading
import time

import keras
import pytest
import tensorflow as tf
from conftest import ROOT

import tensorflow_wheels
from training import hosts, probes, strategy, tpu
from training.ahead_of_time_lower import OneReplica
from training.meeting import meet
from training.probes import DeviceError
from training.tpu_generations import GENERATIONS, of_accelerator

VARIABLES = (*tpu.VARIABLES, "GCE_METADATA_HOST", "GCE_METADATA_IP", "TF_CONFIG", "TPU_CONFIG")


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@contextlib.contextmanager
def listening(answer=None):
    """A port that takes connections and is silent, or answers each with some bytes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept = []

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    kept.append(connection)
                    if answer is not None:
                        connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        for connection in kept:
            connection.close()


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Metadata(http.server.BaseHTTPRequestHandler):
    """Google Cloud's metadata server, as far as TensorFlow asks it."""

    def do_GET(self):
        value = {
            "/computeMetadata/v1/instance/zone": b"projects/1/zones/europe-west4-a",
            "/computeMetadata/v1/instance/attributes/accelerator-type": b"v5litepod-16",
        }
        self.send_response(200)
        self.send_header("Metadata-Flavor", "Google")
        self.end_headers()
        self.wfile.write(value.get(self.path, b"museum"))

    def log_message(self, *args):
        pass


@pytest.fixture
def metadata(monkeypatch):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.server_port}")
        monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{server.server_port}")
        yield
        server.shutdown()


# Wheels.


@pytest.mark.parametrize(
    ("versions", "words"),
    [
        ({"tensorflow-cpu": "2.20.0"}, None),
        ({"tensorflow-cpu": "2.20.0", "libtpu": "0.0.42.1"}, None),  # for the check of memory
        ({"tensorflow-tpu": "2.20.0", "libtpu": "0.0.31"}, None),
        ({"tensorflow-tpu": "2.20.0", "libtpu": "0.0.14"}, None),
        ({"tensorflow-tpu": "2.20.0", "libtpu": "0.0.32.1"}, "aborts beside libtpu 0.0.32.1"),
        ({"tensorflow-tpu": "2.20.0", "libtpu": "0.0.13"}, "expected libtpu 0.0.14 to 0.0.31"),
        ({"tensorflow-tpu": "2.20.0"}, "installed without libtpu"),
        (
            {"tensorflow": "2.19.0", "tensorflow-tpu": "2.20.0", "libtpu": "0.0.31"},
            "tensorflow 2.19.0 and tensorflow-tpu 2.20.0 are installed into one folder",
        ),
    ],
)
def test_wheels_that_do_not_go_together(versions, words, monkeypatch):
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    problem = tensorflow_wheels.find_problem(versions)
    assert problem is None if words is None else words in problem


def test_wrong_wheels_are_told_before_the_import(tmp_path):
    """Their metadata in a folder of their own, in an interpreter without site-packages."""
    for name, version in (("tensorflow_tpu", "2.20.0"), ("libtpu", "0.0.42.1")):
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        text = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
        (folder / "METADATA").write_text(text)
    code = "import sys; sys.path[:0] = sys.argv[1:]; import train"
    command = [sys.executable, "-S", "-c", code, str(ROOT), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: tensorflow-tpu 2.20 aborts beside libtpu 0.0.42.1")
    assert done.stderr.count("\n") == 1


def test_google_cloud_is_known_by_its_metadata_server(metadata):
    assert tensorflow_wheels.is_on_google_cloud()


@pytest.mark.parametrize("answer", [None, b"HTTP/1.1 403 Forbidden\r\n\r\n", b"nothing of HTTP\n"])
def test_what_else_is_at_that_address_is_no_cloud(answer, monkeypatch):
    with listening(answer) as port:
        monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{port}")
        started = time.monotonic()
        assert not tensorflow_wheels.is_on_google_cloud(timeout=0.3)
        assert time.monotonic() - started < 3


# Generations.


@pytest.fixture
def ask_again():
    tpu.generation.cache_clear()
    yield
    tpu.generation.cache_clear()


def test_generation_of_the_environment(ask_again, monkeypatch):
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v3-8")
    assert tpu.generation() is GENERATIONS["v3"]


def test_generation_of_a_tpu_vm(ask_again, metadata, monkeypatch):
    monkeypatch.delenv("TPU_ACCELERATOR_TYPE", raising=False)
    assert tpu.generation() is GENERATIONS["v5e"]


def test_generation_that_nothing_says(ask_again, monkeypatch):
    monkeypatch.delenv("TPU_ACCELERATOR_TYPE", raising=False)
    with listening(b"HTTP/1.1 403 Forbidden\r\n\r\n") as port:
        monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{port}")
        assert tpu.generation() is None


@pytest.mark.parametrize(("name", "known"), [("v6e-8", "v6e"), ("V5p-128", "v5p"), ("v9-1", None)])
def test_accelerator_types(name, known):
    assert of_accelerator(name) is GENERATIONS.get(known)


def test_vector_memory_of_a_step_for_a_tpu():
    with OneReplica(4, 2**27).scope():
        assert tpu.vector_memory() == 2**27
    assert tpu.vector_memory() is None


# Probes.


def test_within_gives_up_and_hands_on():
    assert probes.within(5, lambda a, b: a + b, 1, 2) == 3
    with pytest.raises(TimeoutError, match=r"no answer in 0\.1 seconds"):
        probes.within(0.1, time.sleep, 5)
    with pytest.raises(ZeroDivisionError):
        probes.within(5, lambda: 1 / 0)


def test_a_server_of_tensorflow_answers():
    server = tf.distribute.Server.create_local_server()
    host, port = server.target.removeprefix("grpc://").split(":")
    probes.greet_grpc(host, int(port))


# --tpu.


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", r"expected the environment's TPU; found none.*choose a TPU runtime"),
        ("museum-1", r"none answers here.*--tpu local.*--tpu grpc://ADDRESS:8470"),
        ("10.0.0.2", r"is written --tpu grpc://10\.0\.0\.2:8470"),
        ("10.0.0.2:8470", r"is written --tpu grpc://10\.0\.0\.2:8470"),
        (
            "local",
            r"no TPU started in this machine .*TPU'\)\. .*no TPU in it: pip install -e '\.\[tpu\]",
        ),
        ("grpc://10.0.0.2", r"expected grpc://host:port.*Received: grpc://10\.0\.0\.2"),
        ("grpc://10.0.0.2:port", r"expected grpc://host:port"),
        ("http://10.0.0.2:8470", r"expected grpc://host:port"),
        ("grpc://nowhere.invalid:8470", r"no TPU answers at that address"),
    ],
)
def test_no_tpu_is_one_sentence(name, message, monkeypatch):
    with listening(b"HTTP/1.1 403 Forbidden\r\n\r\n") as port:
        monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{port}")
        with pytest.raises(DeviceError, match=message) as caught:
            strategy.make_strategy(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, r"no answer in 5 seconds"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", r"no gRPC server"),
    ],
)
def test_an_address_where_no_tpu_is(answer, message):
    with listening(answer) as port, pytest.raises(DeviceError, match=message):
        strategy.make_strategy(f"grpc://127.0.0.1:{port}")


def test_nobody_listens():
    address = f"grpc://127.0.0.1:{closed_port()}"
    with pytest.raises(DeviceError, match=r"no TPU answers at that address.*refused"):
        strategy.make_strategy(address)


def test_the_environment_names_the_tpu(monkeypatch):
    monkeypatch.setenv("COLAB_TPU_ADDR", "10.0.0.2:8470")
    assert tpu.environment_tpu() == "grpc://10.0.0.2:8470"
    monkeypatch.setenv("TPU_NAME", "local")
    assert tpu.environment_tpu() == "local"


@pytest.mark.usefixtures("metadata")
def test_a_name_is_looked_up_in_the_cloud():
    """As far as the interface for TPUs, for which two packages are missing here."""
    missing = r"needs two packages: pip install google-api-python-client oauth2client"
    if all(map(importlib.util.find_spec, tpu.CLOUD_MODULES)):
        missing = r"expected a TPU of that name .* the look-up failed"
    with pytest.raises(DeviceError, match=missing):
        strategy.make_strategy("museum-1")


# Without --tpu.


def test_first_line_of_one_device_and_of_several():
    one, two = strategy.make_strategy(), strategy.make_strategy(cpus=2)
    assert [strategy.precision_for(each) for each in (one, two)] == ["float32"] * 2
    version = tf.__version__
    assert keras.config.dtype_policy().name == "float32"
    assert strategy.describe(one) == f"CPU, 1 replica, 1 host, float32, TensorFlow {version}"
    assert strategy.describe(two) == f"CPU, 2 replicas, 1 host, float32, TensorFlow {version}"
    tpu.check_paths(two, data="data")  # of this machine


@pytest.mark.parametrize(
    ("capabilities", "policy"),
    [([(8, 0), (9, 0)], "mixed_bfloat16"), ([(8, 6), (7, 5)], "float32"), ([None], "float32")],
)
def test_precision_of_gpus(capabilities, policy):
    details = [{"compute_capability": c, "device_name": "X"} if c else {} for c in capabilities]
    assert strategy.precision_of_gpus(details) == policy


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cpus": 0}, "at least 1"),
        ({"cpus": 99}, "start a new process"),
        ({"tpu_name": "local", "cpus": 2}, "--tpu or --cpus"),
    ],
)
def test_what_cannot_be(arguments, message):
    tf.zeros(())  # the devices of this process are in use
    with pytest.raises(DeviceError, match=message):
        strategy.make_strategy(**arguments)


# TF_CONFIG.


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"cluster": {"worker": ["a:1", "b:1"]}}',
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 2}}',
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": -1}}',
        '{"cluster": {"worker": ["a:1", "b"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "worker", "index": 0}}',
    ],
)
def test_a_cluster_that_is_none(text, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(DeviceError, match=r"TF_CONFIG: expected .*Received: "):
        strategy.make_strategy()


def test_the_place_among_the_hosts(monkeypatch):
    cluster = '{"cluster": {"worker": ["a:1", "b:1"], "chief": ["c:1"]}, "task": %s}'
    monkeypatch.setenv("TF_CONFIG", cluster % '{"type": "worker", "index": 1}')
    assert hosts.find() == (["c:1", "a:1", "b:1"], 2)
    monkeypatch.setenv("TF_CONFIG", cluster % '{"type": "chief", "index": "0"}')
    assert hosts.find() == (["c:1", "a:1", "b:1"], 0)
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {}, "task": {"type": "worker", "index": 0}}')
    assert hosts.find() == ([], 0)


def meeting(addresses, index, seconds, results):
    try:
        meet(addresses, index, seconds=seconds)
        results[index] = "met"
    except DeviceError as error:
        results[index] = str(error)


def run_meeting(addresses, indices, seconds):
    results = {}
    threads = [
        threading.Thread(target=meeting, args=(addresses, index, seconds, results))
        for index in indices
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


def test_hosts_meet_in_any_order():
    addresses = [f"localhost:{closed_port()}" for _ in range(4)]
    assert run_meeting(addresses, (2, 0, 3, 1), 20) == dict.fromkeys(range(4), "met")
    assert run_meeting(addresses, (0, 1, 2, 3), 20) == dict.fromkeys(range(4), "met")


def test_hosts_that_do_not_come_are_named():
    addresses = [f"localhost:{closed_port()}" for _ in range(3)]
    results = run_meeting(addresses, (0, 2), 1)
    assert f"nothing came from {addresses[1]};" in results[0]
    assert "not all hosts came" in results[2]


def test_a_host_that_dies_while_it_waits_is_awaited_again():
    addresses = [f"localhost:{closed_port()}" for _ in range(3)]
    results = {}
    first = threading.Thread(target=meeting, args=(addresses, 0, 20, results))
    first.start()
    port = int(addresses[0].split(":")[1])
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("localhost", port)) as dying:
            dying.sendall(b"waymark: host 1\n")
            break
        time.sleep(0.02)
    assert run_meeting(addresses, (2, 1), 20) == {1: "met", 2: "met"}
    first.join(20)
    assert results == {0: "met"}


def test_the_port_is_taken_or_another_program_answers():
    with listening(b"\0\0\0\4") as port:
        addresses = [f"127.0.0.1:{port}", "127.0.0.1:1"]
        results = run_meeting(addresses, (0, 1), 5)
    assert "cannot listen at" in results[0]
    assert "another program" in results[1]
