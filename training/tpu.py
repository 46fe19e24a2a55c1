"""From `--tpu` to a TPUStrategy, or to a sentence that says what is missing.

Each way to a TPU fails in its own way: with an error that names something else, or by waiting for
ever. So addresses are tried with a time limit before TensorFlow is asked to connect.
"""

import functools
import importlib.util
import os
import urllib.parse

import tensorflow as tf

import tensorflow_wheels
from training import tpu_generations
from training.probes import DeviceError, greet_grpc, within

PORT = 8470  # of a TPU's worker
LOOK_UP_SECONDS = 30.0
CONNECT_SECONDS = 300.0  # a large slice takes minutes to start
# What the hosted environments set, in the order in which they are asked.
VARIABLES = ("KUBE_GOOGLE_CLOUD_TPU_ENDPOINTS", "TPU_NAME", "COLAB_TPU_ADDR")
CLOUD_MODULES = ("googleapiclient", "oauth2client")  # that TensorFlow looks a name up with
WITHOUT = "without --tpu the run takes the GPU or the CPU"


def make_strategy(tpu: str) -> tf.distribute.Strategy:
    """Connects to a TPU, starts it and returns its strategy.

    Args:
        tpu: "" for the environment's (Colab, Kaggle, TPU VM, GKE), "local" for the chips of this
            machine, a name in Google Cloud's project, or "grpc://host:port", several joined by
            commas.

    Raises:
        DeviceError: there is none.
    """
    tpu = tpu or environment_tpu()
    if tpu != "local":
        _check_address(tpu)
    resolver = _resolve(tpu)
    _start(resolver, tpu)
    return tf.distribute.TPUStrategy(resolver)


def environment_tpu() -> str:
    """Returns the TPU that the environment names, or "local" where this machine may have one.

    Raises:
        DeviceError: nothing says that there is one.
    """
    for name in VARIABLES:
        if value := os.environ.get(name):
            plain = name == "COLAB_TPU_ADDR" and "://" not in value
            return f"grpc://{value}" if plain else value
    if _has_tpu_wheel():
        return "local"
    raise DeviceError(
        f"--tpu: expected the environment's TPU; found none (none of {', '.join(VARIABLES)} is "
        f"set, and {_wheel()} cannot drive a chip of this machine). On Colab or Kaggle choose a "
        f"TPU runtime, on a TPU VM install the [tpu] extra; {WITHOUT}"
    )


def is_remote(strategy: tf.distribute.Strategy) -> bool:
    """Whether the strategy's hosts are other machines, which do not see this one's disk."""
    resolver = getattr(strategy, "cluster_resolver", None)
    is_tpu = isinstance(resolver, tf.distribute.cluster_resolver.TPUClusterResolver)
    return is_tpu and resolver.master() != ""


def check_paths(strategy: tf.distribute.Strategy, **paths: str) -> None:
    """Checks that the TPU's hosts can reach what they are to read.

    Raises:
        DeviceError: a path on this machine's disk, for a TPU of other machines.
    """
    for name, path in paths.items():
        if is_remote(strategy) and "://" not in path:
            raise DeviceError(
                f"--{name}: expected gs://BUCKET/..., since the TPU's hosts read it and do not "
                f"see this machine's disk. Received: {path}"
            )


def vector_memory() -> int | None:
    """Returns the bytes of vector memory of a core, in a TPU strategy's scope; else None.

    Where nothing says of which generation the TPU is, the least that any has: with too large a
    number a step would do arithmetic twice for nothing.
    """
    strategy = tf.distribute.get_strategy()
    stated = getattr(strategy, "vector_memory", None)
    if stated or not isinstance(strategy, tf.distribute.TPUStrategy):
        return stated
    return (generation() or tpu_generations.GENERATIONS["v2"]).vector_memory * 2**20


@functools.cache
def generation() -> tpu_generations.Generation | None:
    """Returns what the environment (Colab, Kaggle, GKE) or a TPU VM's metadata say this TPU is."""
    name = os.environ.get("TPU_ACCELERATOR_TYPE")
    name = name or tensorflow_wheels.metadata("instance/attributes/accelerator-type")
    return tpu_generations.of_accelerator(name or "")


def _check_address(tpu: str) -> None:
    if "://" in tpu:
        for address in tpu.split(","):
            _check_grpc(address.strip())
    elif ":" in tpu or tpu.count(".") == 3:
        raise DeviceError(
            f"--tpu {tpu}: an address is written --tpu grpc://{tpu.split(':')[0]}:8470"
        )
    elif not within(LOOK_UP_SECONDS, tensorflow_wheels.is_on_google_cloud):
        raise DeviceError(
            f"--tpu {tpu}: a TPU's name is looked up at Google Cloud's metadata server, and none "
            "answers here. On a TPU VM give --tpu local, outside of Google Cloud --tpu "
            f"grpc://ADDRESS:{PORT}; {WITHOUT}"
        )
    elif not all(map(importlib.util.find_spec, CLOUD_MODULES)):
        raise DeviceError(
            f"--tpu {tpu}: looking up a TPU's name needs two packages: pip install "
            f"google-api-python-client oauth2client; on the TPU VM itself give --tpu local; "
            f"{WITHOUT}"
        )


def _check_grpc(address: str) -> None:
    try:
        parts = urllib.parse.urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or parts.scheme != "grpc":
        raise DeviceError(
            f"--tpu: expected grpc://host:port, port {PORT} as a rule. Received: {address}"
        )
    try:
        greet_grpc(host, port)
    except OSError as error:
        raise DeviceError(
            f"--tpu {address}: no TPU answers at that address ({_first_line(error)}). Check that "
            "the TPU is running and that this machine is in its network"
        ) from None


def _resolve(tpu: str) -> tf.distribute.cluster_resolver.TPUClusterResolver:
    def look_up():
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu)
        resolver.master()
        return resolver

    try:
        # Asks the metadata server and the TPU's interface in the cloud, both without a limit.
        return within(LOOK_UP_SECONDS, look_up)
    except Exception as error:
        raise DeviceError(
            f"--tpu {tpu}: expected a TPU of that name in this machine's project and zone; the "
            f"look-up failed ({_first_line(error)}). `gcloud compute tpus tpu-vm list` shows the "
            f"names; {WITHOUT}"
        ) from None


def _start(resolver, tpu: str) -> None:
    def connect():
        if tpu != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)

    try:
        within(CONNECT_SECONDS, connect)
    except (tf.errors.OpError, RuntimeError, TimeoutError) as error:
        where = "in this machine" if tpu == "local" else f"at {tpu}"
        raise DeviceError(
            f"--tpu {tpu}: no TPU started {where} ({_first_line(error)}). {_advice(tpu)}; {WITHOUT}"
        ) from None


def _advice(tpu: str) -> str:
    if tpu != "local":
        return "Check that the TPU is ready and runs the same version of TensorFlow"
    if not _has_tpu_wheel():
        return f"{_wheel()} has no TPU in it: pip install -e '.[tpu]' in an environment of its own"
    return (
        "Check that this is a TPU VM or a TPU runtime of Colab or Kaggle, and that no other "
        "process holds the chips"
    )


def _has_tpu_wheel() -> bool:
    return "tensorflow-tpu" in tensorflow_wheels.installed()


def _wheel() -> str:
    wheels = [name for name in tensorflow_wheels.installed() if name != "libtpu"]
    return " ".join([*wheels[:1], tf.__version__]) if wheels else f"TensorFlow {tf.__version__}"


def _first_line(error: Exception) -> str:
    """Returns the first line of a message that says something."""
    empty = ("Graph execution error:", "Detected at node", "<stack traces", "[[")
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(empty)]
    # Behind it come the names of nodes and attributes, in another order each time.
    return (said or [type(error).__name__])[0].split(" used by {{")[0][:200]
