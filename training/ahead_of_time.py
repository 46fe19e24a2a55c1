"""Asks the TPU compiler, on a machine without a TPU, whether a step fits and what it costs.

`ahead_of_time_lower` makes the program of a step, `compile_step` compiles it in a process of its
own. It proves that every operation has a TPU form, and the memory; not TPUStrategy's rewriting
and infeed, and neither speed nor numerics on the chip.
"""

import contextlib
import ctypes
import importlib.metadata
import json
import math
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from progress import format_seconds
from training import tpu_generations

GIB = 2**30
RESULT = "result.json"
# Private names of these are used, and the three fit each other.
VERSIONS = {"jax": "0.10.2", "jaxlib": "0.10.2"}
# Before libtpu is loaded: else it asks the cloud's metadata server, for minutes.
ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_PLATFORMS": "cpu",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}
_ROOT = pathlib.Path(__file__).resolve().parents[1]
_SPARE_MEMORY = GIB // 2  # less than that left on this machine ends a compile
_BATCHES = sorted({n << k for n in (4, 5, 6, 7) for k in range(10)} | {1, 2, 3})


class CannotCompileError(RuntimeError):
    """The compiler gave no answer; the message says why and what to do."""


def hbm(topology: str) -> int:
    """Returns the bytes of HBM that a core's program can have."""
    return round(tpu_generations.of_topology(topology).hbm * GIB)


def check_installed() -> dict[str, str]:
    """Returns the versions of jax, jaxlib and libtpu.

    Raises:
        CannotCompileError: the extra `aot` is missing or another version is installed.
    """
    found = {}
    for name in (*VERSIONS, "libtpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    wrong = [n for n in VERSIONS if found.get(n) != VERSIONS[n]]
    if wrong or "libtpu" not in found:
        received = ", ".join(f"{n} {found.get(n, 'missing')}" for n in (*VERSIONS, "libtpu"))
        raise CannotCompileError(
            "the TPU compiler needs jax[tpu]==0.10.2 on Linux x86-64: pip install -e .[aot]. "
            f"Received: {received}"
        )
    return found


def end_with_parent() -> None:
    """Has Linux kill this process when its parent ends, in whatever way."""
    death_signal = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>
    ctypes.CDLL(None).prctl(death_signal, signal.SIGKILL)


def compile_step(
    folder: str,
    topology: str,
    *,
    quick: bool = False,
    timeout: float | None = None,
    stream: TextIO | None = None,
) -> dict:
    """Compiles the lowered step in `folder` in a process of its own.

    Args:
        folder: where `ahead_of_time_lower.Lowered.save` wrote it.
        topology: such as "v5e:2x2".
        quick: compile with the compiler's least effort for speed: nothing is kept in the vector
            memory.
        timeout: seconds.
        stream: where the time that has passed is shown.

    Returns:
        fits; needed, available (bytes of HBM per core); buffers (see
        `ahead_of_time_buffers.fullest_moment`); compile_seconds; host_memory (bytes). Where it
        fits also arguments, outputs, aliased, temporaries, code, peak (bytes), flops,
        bytes_accessed and, of those, hbm_traffic; else reason.

    Raises:
        CannotCompileError: any other answer than the two.
    """
    command = [sys.executable, "-m", "training.ahead_of_time_compile", folder, topology]
    command += ["quick"] * quick
    result_path = pathlib.Path(folder, RESULT)
    result_path.unlink(missing_ok=True)
    start = time.monotonic()
    output = run(command, f"compiling for {topology}", timeout=timeout, stream=stream)
    if not result_path.exists():
        raise CannotCompileError(f"the compiler ended without a result: {shorten(output)}")
    result = json.loads(result_path.read_text())
    if "error" in result:
        return {**_refusal(result, topology), "compile_seconds": time.monotonic() - start}
    # What the variables, the batch and the program's own data take, whatever is alive when.
    own = result["outputs"] - result["aliased"] + result["temporaries"] + result["code"]
    return {
        "fits": True,
        "needed": result["arguments"] + own,
        "available": hbm(topology),
        **result,
    }


def _refusal(result: dict, topology: str) -> dict:
    sizes = sizes_of(result["error"])
    if sizes is None:
        raise CannotCompileError(f"{topology}: {shorten(result['error'])}")
    return {
        "fits": False,
        **sizes,
        "reason": shorten(result["error"]),
        "buffers": {"largest": allocations(result["error"])},
        "host_memory": result["host_memory"],
    }


def sizes_of(message: str) -> dict[str, int] | None:
    """Returns `needed` and `available` in bytes from a RESOURCE_EXHAUSTED text, else None."""
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    patterns = (
        r"HLO temporaries \(([\d.]+\w?)\) exceeds available HBM \(([\d.]+\w?)\)",
        r"Used ([\d.]+\w?) of ([\d.]+\w?) hbm",
    )
    for pattern in patterns:
        match = re.search(pattern, message)
        if match:
            return {"needed": _bytes(match[1]), "available": _bytes(match[2])}
    return None


def allocations(message: str) -> list[dict]:
    """Returns the allocations that a RESOURCE_EXHAUSTED text lists, as {"name", "shape", "bytes"}.

    Where the compiler sees early that a program cannot fit it lists none.
    """
    found = []
    for entry in re.split(r"\n\s*\d+\. Size: ", message)[1:]:
        name = re.search(r'op_name="([^"]*)"', entry)
        shape = re.search(r"Shape: (\w+\[[\d,]*\])", entry)
        size = re.match(r"[\d.]+[KMGT]?", entry)
        if size and shape:
            label = name[1] if name else "unnamed"
            found.append({"name": label, "shape": shape[1], "bytes": _bytes(size[0])})
    return found


def _bytes(text: str) -> int:
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    scale = units.get(text[-1], 1)
    return round(float(text.rstrip("KMGTB")) * scale)


def shorten(message: str, length: int = 400) -> str:
    """Returns the telling part of an error text: one line, without the stack."""
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    told = [line for line in lines if re.match(r"[\w.]*(Error|EXHAUSTED|ARGUMENT)\b", line)]
    text = (told or lines or ["no message"])[-1 if told else 0]
    return text if len(text) <= length else text[: length - 2] + " …"


def run(
    command: Sequence[str],
    what: str,
    *,
    timeout: float | None = None,
    stream: TextIO | None = None,
) -> str:
    """Runs a child process and returns what it printed; it never outlives this call.

    It is killed by SIGKILL, since libtpu ignores SIGTERM: on Ctrl-C, on `timeout`, and when this
    machine runs out of memory.

    Raises:
        CannotCompileError: it was killed or failed.
    """
    with tempfile.TemporaryFile() as output:
        environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(_ROOT)}
        child = subprocess.Popen(  # noqa: S603  (our own modules)
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=_ROOT,
            env=environment,
            start_new_session=True,
        )
        try:
            _watch(child, what, timeout, stream)
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        output.seek(0)
        text = output.read().decode(errors="replace")
    if child.returncode == -signal.SIGKILL:
        raise CannotCompileError(
            f"{what}: the process was killed from outside, most often for lack of memory on this "
            "machine (8 to 11 GB for a B5 or B7)"
        )
    if child.returncode:
        raise CannotCompileError(f"{what}: {shorten(text)}")
    return text


def _watch(child, what: str, timeout: float | None, stream: TextIO | None) -> None:
    """Waits for the child and shows the time."""
    start = shown = time.monotonic()
    interval = 1.0 if stream is not None and stream.isatty() else 30.0  # seconds
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(0.5)
            break
        now = time.monotonic()
        left = _free_memory()
        if left < _SPARE_MEMORY:
            raise CannotCompileError(
                f"{what}: stopped, as only {left / GIB:.1f} GiB of this machine's memory were "
                "left (a B5 or B7 takes 8 to 11 GB)"
            )
        if timeout is not None and now - start > timeout:
            raise CannotCompileError(f"{what}: not ready after {format_seconds(timeout)}")
        if stream is not None and now - shown >= interval:
            shown = now
            end, begin = ("", "\r") if stream.isatty() else ("\n", "")
            text = f"{begin}{what}: {format_seconds(now - start)}"
            print(f"{text:<70}", end=end, file=stream, flush=True)
    if stream is not None and stream.isatty() and shown > start:
        print(f"\r{'':<70}\r", end="", file=stream, flush=True)


def _free_memory() -> float:
    """Returns the bytes that are left on this machine; infinite where it does not say."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        text = pathlib.Path("/proc/meminfo").read_text()
        return int(re.search(r"MemAvailable:\s+(\d+) kB", text)[1]) * 1024
    return math.inf


def largest_batch(measure: Callable[[int], dict], start: int = 8) -> dict[int, dict]:
    """Searches the largest batch per core that fits, with few compiles.

    Among 1, 2, 3 and 4 to 7 times the powers of two. The memory grows about linearly with the
    batch: after two answers the next size is predicted, and the end is always two neighbouring
    sizes of which one fits and one does not.

    Args:
        measure: batch → a result with fits, needed and available.
        start: the first size.

    Returns:
        The results by batch; those with `fits` below the others.
    """
    results: dict[int, dict] = {}
    low, high = -1, len(_BATCHES)  # positions that fit, and that do not
    position = min(range(high), key=lambda i: abs(_BATCHES[i] - start))
    while high - low > 1:
        batch = _BATCHES[position]
        results[batch] = measure(batch)
        low, high = (position, high) if results[batch]["fits"] else (low, position)
        predicted = _predict(results)
        position = max(i for i in range(len(_BATCHES)) if _BATCHES[i] <= predicted or i == 0)
        position = min(max(position, low + 1), high - 1)
    return dict(sorted(results.items()))


def _predict(results: dict[int, dict]) -> float:
    """Returns the batch that would fill the memory."""
    known = sorted((batch, result["needed"]) for batch, result in results.items())
    available = next(iter(results.values()))["available"]
    (first, below), (last, above) = (0, 0.0), known[-1]
    if len(known) > 1:
        first, below = known[-2]
    slope = (above - below) / (last - first)
    return last + (available - above) / slope if slope > 0 else math.inf
