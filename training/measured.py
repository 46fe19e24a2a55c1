"""What a log holds besides results: values of clocks and memory, other in every run."""

import dataclasses
import sys
from collections.abc import Iterable

# Fields of a log line that differ between two runs of the same training, and alarms about them.
FIELDS = ("images_per_second", "input_wait", "memory_gb", "seconds")
CAUSES = ("input",)


@dataclasses.dataclass(frozen=True)
class Pace:
    """What the loops since the last report took.

    Attributes:
        steps: that were done.
        seconds: of the loops.
        waited: seconds of these in which the devices waited for batches.
    """

    steps: int
    seconds: float
    waited: float

    @property
    def input_wait(self) -> float:
        """The share of the time that went into waiting for batches."""
        return min(1.0, self.waited / max(self.seconds, 1e-9))


def without(row: dict) -> dict:
    """Returns a log line without what clocks and memory say."""
    return {name: value for name, value in row.items() if name not in FIELDS}


def results(rows: Iterable[dict]) -> list[dict]:
    """Returns what any run of the same training repeats of the lines of its log."""
    return [
        without(row) for row in rows if not (row["event"] == "alarm" and row["cause"] in CAUSES)
    ]


def memory_gb() -> float | None:
    """Returns the memory in use on the first accelerator, else that of this process; GB.

    None where neither is known.
    """
    import tensorflow as tf

    for kind in ("TPU", "GPU"):
        for device in tf.config.list_logical_devices(kind)[:1]:
            try:
                return tf.config.experimental.get_memory_info(device.name)["current"] / 1e9
            except (ValueError, tf.errors.OpError):
                return None
    return _resident_gb()


def _resident_gb() -> float | None:
    if not sys.platform.startswith("linux"):
        return None
    with open("/proc/self/status", encoding="ascii") as file:
        sizes = [line.split()[1] for line in file if line.startswith("VmRSS:")]  # kB
    return int(sizes[0]) * 1024 / 1e9 if sizes else None
