"""Where the training runs: a TPU, the GPUs, or this CPU."""

import socket
import urllib.error
import urllib.parse

import keras
import tensorflow as tf


class NoTPUError(RuntimeError):
    """`--tpu` was given and no TPU answers; the message says what to do next."""


def make_strategy(tpu: str | None = None) -> tf.distribute.Strategy:
    """Returns the strategy for the devices at hand.

    Args:
        tpu: None for GPU or CPU; "" for the environment's TPU (Colab, Kaggle, TPU VM); else a
            name, "local" or "grpc://host:port".

    Returns:
        TPUStrategy, MirroredStrategy over several GPUs, or the default strategy of one device.

    Raises:
        NoTPUError: `tpu` was given and there is none.
    """
    if tpu is not None:
        return _tpu_strategy(tpu)
    if len(tf.config.list_physical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def describe(strategy: tf.distribute.Strategy) -> str:
    """Returns the first line of the output: which devices, how many replicas, which precision."""
    devices = tf.config.list_logical_devices()
    kind = next((k for k in ("TPU", "GPU") if any(d.device_type == k for d in devices)), "CPU")
    replicas = strategy.num_replicas_in_sync
    precision = keras.config.dtype_policy().name
    return f"{kind}, {replicas} replica{'s' if replicas > 1 else ''}, {precision}"


def precision_for(tpu: str | None) -> str:
    """Returns the Keras dtype policy: bfloat16 on a TPU, where it is native, else float32."""
    return "float32" if tpu is None else "mixed_bfloat16"


def _tpu_strategy(tpu: str) -> tf.distribute.Strategy:
    _check_address(tpu)
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=tpu)
    except (ValueError, urllib.error.URLError, OSError) as error:
        wanted = f"a TPU named {tpu!r}" if tpu else "the environment's TPU"
        raise NoTPUError(
            f"--tpu: expected {wanted}; found none ({_first_line(error)}). On Colab or Kaggle "
            "choose a TPU runtime, on a TPU VM give --tpu local; without --tpu the run takes the "
            "GPU or the CPU"
        ) from None
    try:
        if tpu != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (tf.errors.OpError, RuntimeError) as error:
        raise NoTPUError(
            f"--tpu {tpu}: the TPU system did not start ({_first_line(error)}). Install the [tpu] "
            "extra, which brings tensorflow-tpu and a libtpu that fits, and run on a TPU VM"
        ) from None
    return tf.distribute.TPUStrategy(resolver)


def _check_address(tpu: str) -> None:
    """Probes a grpc:// address first: connecting to one where nobody listens hangs."""
    if "://" not in tpu:
        return
    address = urllib.parse.urlsplit(tpu)
    try:
        socket.create_connection((address.hostname, address.port or 8470), timeout=5).close()
    except OSError as error:
        raise NoTPUError(
            f"--tpu {tpu}: nobody answers at that address ({error}). Check that the TPU is "
            "running and that this machine is in its network"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
