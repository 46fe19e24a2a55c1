"""Several processes that train together, one on each host, each with its part of the input.

Only MultiWorkerMirroredStrategy has a process on every host. A slice of a TPU pod has one process,
which drives all its hosts, so that for this module it is one host.
"""

import json
import os
import zlib
from collections.abc import Callable

import tensorflow as tf

from input_pipeline.shares import Share
from training.meeting import meet
from training.probes import DeviceError

TASKS = ("chief", "worker")
WAIT_SECONDS = 600.0


def find() -> tuple[list[str], int]:
    """Returns the addresses of the hosts that the variable TF_CONFIG names, and this one's place.

    Raises:
        DeviceError: TF_CONFIG does not describe a cluster with this process in it.
    """
    text = os.environ.get("TF_CONFIG", "")
    try:
        config = json.loads(text or "{}")
        cluster = config.get("cluster") or {}
        addresses = [str(address) for kind in TASKS for address in cluster.get(kind, ())]
        if not any(cluster.values()):
            return [], 0
        kind, index = config["task"]["type"], int(config["task"]["index"])
        place = addresses.index(cluster[kind][index])
        right = set(cluster) <= set(TASKS) and index >= 0
        right &= len(set(addresses)) == len(addresses) and all(map(_has_port, addresses))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        right = False
    if not right:
        raise DeviceError(
            'TF_CONFIG: expected {"cluster": {"worker": ["host:port", ...]}, "task": {"type": '
            f'"worker", "index": this host\'s place in the list}}}}. Received: {text[:300]}'
        )
    return addresses, place


def make_strategy(*, seconds: float = WAIT_SECONDS) -> tf.distribute.Strategy:
    """Returns the strategy over all hosts of TF_CONFIG, once they are all there.

    Args:
        seconds: how long to wait for the others.

    Raises:
        DeviceError: a port is taken, or the others do not come.
    """
    addresses, place = find()
    meet(addresses, place, seconds=seconds)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0][:200]
        raise DeviceError(
            f"TF_CONFIG: the host at {addresses[place]} did not start ({first}); its port must be "
            "free and reached by the others"
        ) from None


def _has_port(address: str) -> bool:
    return address.rpartition(":")[2].isdigit()


def distribute(
    strategy: tf.distribute.Strategy, make: Callable[[Share], tf.data.Dataset]
) -> tf.distribute.DistributedDataset:
    """Makes the input of each host on that host.

    Args:
        strategy: where.
        make: a host's share → its dataset, a batch for each of its replicas in turn.
    """

    def on_a_host(context: tf.distribute.InputContext) -> tf.data.Dataset:
        hosts = context.num_input_pipelines
        pieces = context.num_replicas_in_sync // hosts
        return make(Share(context.input_pipeline_id, hosts, pieces))

    return strategy.distribute_datasets_from_function(on_a_host)


class Hosts:
    """What the processes of a strategy tell each other.

    Args:
        strategy: theirs.

    Attributes:
        count: number of processes.
        index: this one's number; the first one is the chief, which alone writes.
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        self._strategy = strategy
        self.count, self.index = 1, 0
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            resolver = strategy.cluster_resolver
            cluster = resolver.cluster_spec().as_dict()
            tasks = [(name, i) for name in TASKS for i in range(len(cluster.get(name, ())))]
            self.count = len(tasks)
            self.index = tasks.index((resolver.task_type, resolver.task_id)) if tasks else 0

    @property
    def is_chief(self) -> bool:
        """Whether this process writes logs, checkpoints and models."""
        return self.index == 0

    def gather(self, value: int) -> list[int]:
        """Returns the value of every process; waits until all of them have called it."""
        if self.count <= 1:
            return [int(value)]
        own = tf.one_hot(self.index, self.count, dtype=tf.int64) * int(value)
        sums = self._strategy.experimental_local_results(self._sum(own))[0]
        replicas = self._strategy.num_replicas_in_sync // self.count
        return [int(total) // replicas for total in sums.numpy()]

    def wait(self) -> None:
        """Returns when every process has come here."""
        self.gather(0)

    def check_same(self, value: object, what: str, advice: str) -> None:
        """Checks that a value, compared as text, is the same in every process.

        Raises:
            ValueError: in all of them, if it is not.
        """
        digests = self.gather(zlib.crc32(repr(value).encode()))
        if len(set(digests)) > 1:
            raise ValueError(f"the hosts have different {what}: {advice}. Here: {value}")

    @tf.function
    def _sum(self, own):
        def add_up(values):
            context = tf.distribute.get_replica_context()
            # A copy, since a sum goes where its summands lie, and an argument lies nowhere yet.
            return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(values))

        return self._strategy.run(add_up, args=(own,))
