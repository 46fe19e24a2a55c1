"""Compiles a lowered step for a TPU.

    python -m training.ahead_of_time_compile FOLDER TOPOLOGY [quick]

Reads what `ahead_of_time_lower.Lowered.save` wrote into FOLDER and writes result.json there. This
runs in a process of its own, since libtpu must find its environment before it is loaded, ignores
SIGTERM, and takes gigabytes; `ahead_of_time.compile_step` starts it. TensorFlow is not loaded.

The names of jax and jaxlib below are private: both are pinned, together with libtpu.
"""

import json
import os
import pathlib
import resource
import sys
import time

if not __package__:
    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])

import files
from training import ahead_of_time, ahead_of_time_buffers


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    folder, topology, *quick = argv or sys.argv[1:]
    ahead_of_time.end_with_parent()
    os.environ.update(ahead_of_time.ENVIRONMENT)
    try:
        result = compile_saved(folder, topology, quick=bool(quick))
    except Exception as error:
        result = {"error": f"{type(error).__name__}: {error}"}
    result["host_memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    files.write_text(os.path.join(folder, ahead_of_time.RESULT), json.dumps(result))
    sys.stdout.flush()
    os._exit(0)  # libtpu's threads would hold the process


def compile_saved(folder: str, topology: str, *, quick: bool = False) -> dict:
    """Returns what the compiler says of the step in `folder`, sizes in bytes.

    Args:
        folder, topology, quick: see `ahead_of_time.compile_step`.

    Raises:
        Exception: XlaRuntimeError with RESOURCE_EXHAUSTED where the step does not fit.
    """
    with files.open_file(os.path.join(folder, "step.json")) as file:
        step = json.load(file)
    start = time.monotonic()
    module = files.read(os.path.join(folder, "step.mlirbc"))
    compiled = _compile(module, topology, step["replicas"], quick)
    seconds = time.monotonic() - start
    memory, cost = compiled.get_compiled_memory_stats(), compiled.cost_analysis()
    text = compiled.hlo_modules()[0].to_string()
    return {
        "compile_seconds": seconds,
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes,
        "aliased": memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "code": memory.generated_code_size_in_bytes,
        "peak": memory.peak_memory_in_bytes,
        "flops": cost["flops"],
        "bytes_accessed": cost["bytes accessed"],
        "hbm_traffic": ahead_of_time_buffers.hbm_traffic(text),
        "buffers": ahead_of_time_buffers.fullest_moment(text, step["parameters"]),
    }


def _compile(module: bytes, topology: str, replicas: int, quick: bool):
    import numpy as np
    from jax._src import compiler
    from jax._src.interpreters.mlir import make_ir_context
    from jax._src.lib import _jax
    from jax._src.lib.mlir import ir
    from jax.experimental import topologies

    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    devices = devices[:replicas]
    options = compiler.get_compile_options(
        num_replicas=replicas,
        num_partitions=1,
        device_assignment=np.array([[device.id] for device in devices]),
    )
    if quick:
        options.executable_build_options.exec_time_optimization_effort = -1.0
    with make_ir_context() as context:
        context.allow_unregistered_dialects = True
        return devices[0].client.compile(
            ir.Module.parse(module),
            executable_devices=_jax.DeviceList(tuple(devices)),
            compile_options=options,
        )


if __name__ == "__main__":
    sys.exit(main())
