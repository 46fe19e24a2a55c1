"""Generations of TPUs: their slices, cores and memories. TensorFlow is not loaded."""

import dataclasses
import math
import re


@dataclasses.dataclass(frozen=True)
class Generation:
    """A generation of TPUs.

    Attributes:
        smallest: its smallest slice.
        cores_per_chip: that run a replica each.
        hbm: GiB per core that a program can have, as the compiler of libtpu 0.0.42 enforces it.
        vector_memory: MiB per core, which arithmetic reaches without HBM.
    """

    smallest: str
    cores_per_chip: int
    hbm: float
    vector_memory: int


GENERATIONS = {
    "v2": Generation("v2:2x2", 2, 7.48, 16),
    "v3": Generation("v3:2x2", 2, 15.48, 16),
    "v4": Generation("v4:2x2x1", 2, 15.25, 16),
    "v5e": Generation("v5e:2x2", 1, 15.75, 128),
    "v5p": Generation("v5p:2x2x1", 1, 95.74, 64),
    "v6e": Generation("v6e:2x2", 1, 31.25, 128),
    "tpu7x": Generation("tpu7x:2x2x1", 2, 94.75, 64),
}
_OTHER_NAMES = {"v5litepod": "v5e", "v5lite": "v5e"}


def of_topology(topology: str) -> Generation:
    """Returns the generation of a slice such as "v5e:2x2".

    Raises:
        ValueError: no such topology; the message lists the known ones.
    """
    name, _, sides = topology.partition(":")
    found = GENERATIONS.get(name)
    wanted = r"\d+x\d+x\d+" if found and found.smallest.endswith("x1") else r"\d+x\d+"
    if found is None or not re.fullmatch(wanted, sides):
        known = ", ".join(f"{g.smallest} ({g.hbm} GiB per core)" for g in GENERATIONS.values())
        raise ValueError(
            f"--topology: expected one of {known}, or a larger slice of one. Received: {topology!r}"
        )
    return found


def cores(topology: str) -> int:
    """Returns how many replicas a slice such as "v5e:2x2" runs.

    Raises:
        ValueError: see `of_topology`.
    """
    found = of_topology(topology)
    chips = math.prod(int(side) for side in topology.partition(":")[2].split("x"))
    return chips * found.cores_per_chip


def of_accelerator(name: str) -> Generation | None:
    """Returns the generation of an accelerator type such as "v3-8" or "v5litepod-4", or None."""
    kind = name.strip().lower().partition("-")[0]
    return GENERATIONS.get(_OTHER_NAMES.get(kind, kind))
