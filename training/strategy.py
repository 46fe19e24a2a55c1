"""Where the training runs: a TPU, the GPUs, several hosts, several CPUs, or this CPU."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from training import hosts, tpu
from training.probes import DeviceError

# bfloat16 is native from this compute capability on (Ampere). Below it float16 would need the
# loss to be scaled, so float32 is what trains the same.
BFLOAT16_CAPABILITY = (8, 0)


def make_strategy(tpu_name: str | None = None, *, cpus: int = 1) -> tf.distribute.Strategy:
    """Returns the strategy for the devices at hand.

    Has to come before anything else runs on a device, if there are several hosts or CPUs.

    Args:
        tpu_name: None for GPU or CPU; otherwise see `tpu.make_strategy`.
        cpus: logical devices that this CPU is cut into, to see what as many replicas do.

    Returns:
        TPUStrategy; MultiWorkerMirroredStrategy, where TF_CONFIG names several hosts;
        MirroredStrategy over the GPUs or the logical CPUs; or the default one of one device.

    Raises:
        DeviceError: what was asked for is not there.
    """
    if cpus < 1:
        raise DeviceError(f"--cpus: expected at least 1. Received: {cpus}")
    if tpu_name is not None:
        if cpus > 1:
            raise DeviceError("expected --tpu or --cpus. Received: both")
        return tpu.make_strategy(tpu_name)
    if len(hosts.find()[0]) > 1:
        if cpus > 1:
            raise DeviceError("expected --cpus or the hosts of TF_CONFIG. Received: both")
        return hosts.make_strategy()
    if cpus > 1:
        return _over_cpus(cpus)
    if len(tf.config.list_physical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def precision_for(strategy: tf.distribute.Strategy) -> str:
    """Returns the Keras dtype policy: mixed_bfloat16 where bfloat16 is native, else float32."""
    kind = _kind(strategy)
    if kind == "GPU":
        return precision_of_gpus(_gpu_details())
    return "mixed_bfloat16" if kind == "TPU" else "float32"


def precision_of_gpus(gpus: Sequence[dict]) -> str:
    """Returns the policy that all GPUs can have.

    Args:
        gpus: of each what `tf.config.experimental.get_device_details` says.
    """
    oldest = min(details.get("compute_capability", (0, 0)) for details in gpus)
    return "mixed_bfloat16" if oldest >= BFLOAT16_CAPABILITY else "float32"


def describe(strategy: tf.distribute.Strategy) -> str:
    """Returns the first line of the output: devices, replicas, hosts, precision, TensorFlow."""
    counts = {"replica": strategy.num_replicas_in_sync, "host": num_hosts(strategy)}
    replicas_and_hosts = ", ".join(_count(number, noun) for noun, number in counts.items())
    return (
        f"{device(strategy)}, {replicas_and_hosts}, "
        f"{keras.config.dtype_policy().name}, TensorFlow {tf.__version__}"
    )


def device(strategy: tf.distribute.Strategy) -> str:
    """Returns "TPU", "CPU", or "GPU" with the names of the GPUs."""
    kind = _kind(strategy)
    if kind != "GPU":
        return kind
    names = {details.get("device_name", "GPU") for details in _gpu_details()}
    return f"GPU ({', '.join(sorted(names))})"


def num_hosts(strategy: tf.distribute.Strategy) -> int:
    """Returns how many machines, or processes of TF_CONFIG, hold the replicas."""
    if isinstance(strategy, tf.distribute.TPUStrategy):
        return strategy.extended.num_hosts
    return hosts.Hosts(strategy).count


def _over_cpus(count: int) -> tf.distribute.Strategy:
    cpu = tf.config.list_physical_devices("CPU")[0]
    logical = [tf.config.LogicalDeviceConfiguration()] * count
    try:
        if len(tf.config.get_logical_device_configuration(cpu) or ()) < count:
            tf.config.set_logical_device_configuration(cpu, logical)
    except RuntimeError:
        raise DeviceError(
            f"--cpus {count}: the CPU of this process is in use as one device; start a new process"
        ) from None
    # Sums in a fixed order, without the threads that collectives need for each replica.
    return tf.distribute.MirroredStrategy(
        [f"CPU:{number}" for number in range(count)],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


def _kind(strategy: tf.distribute.Strategy) -> str:
    if isinstance(strategy, tf.distribute.TPUStrategy):
        return "TPU"
    mirrored = (tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy)
    if isinstance(strategy, mirrored):
        return "GPU" if "GPU" in strategy.extended.worker_devices[0] else "CPU"
    return "GPU" if tf.config.list_physical_devices("GPU") else "CPU"


def _gpu_details() -> list[dict]:
    gpus = tf.config.list_physical_devices("GPU")
    return [tf.config.experimental.get_device_details(gpu) for gpu in gpus]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"
