"""One replica's step as a program for the TPU compiler, on a machine without a TPU.

The program is what TPUStrategy would run on each core as far as XLA sees it: `OneReplica` stands
for one of N replicas, and its all-reduces are in the program.
"""

import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops  # tf.raw_ops leaves these out

import files

MODULE = "step.mlirbc"
DESCRIPTION = "step.json"

_DEVICE = "/cpu:0"
_OneDeviceExtended = type(tf.distribute.OneDeviceStrategy(_DEVICE).extended)


class OneReplica(tf.distribute.Strategy):
    """One of several replicas, whose step can be lowered but not run.

    Collectives become XLA's: an all-reduce as TPUStrategy has it, and an all-gather as a sum of
    arrays that are zero in the others' places, which is how TPUStrategy does it.

    Args:
        replicas: how many there are.
        vector_memory: bytes, of the core that the step is for.
    """

    def __init__(self, replicas: int, vector_memory: int = 2**24):
        super().__init__(_OneReplicaExtended(self, replicas))
        self.vector_memory = vector_memory


class _Context(tf.distribute.ReplicaContext):
    def all_gather(self, value, axis, options=None):
        return tf.nest.map_structure(lambda part: self._gathered(part, axis), value)

    def _gathered(self, part, axis):
        own = tf.one_hot(self.replica_id_in_sync_group, self.num_replicas_in_sync, dtype=part.dtype)
        own = tf.reshape(own, [-1] + [1] * (part.shape.rank - axis))
        parts = self.all_reduce("sum", tf.expand_dims(part, axis) * own)
        shape = part.shape.as_list()
        shape[axis] *= self.num_replicas_in_sync
        return tf.reshape(parts, shape)


class _OneReplicaExtended(_OneDeviceExtended):
    def __init__(self, strategy, replicas):
        super().__init__(strategy, _DEVICE)
        self._replicas = replicas

    @property
    def _num_replicas_in_sync(self):
        return self._replicas

    def _use_merge_call(self):
        return False

    def _call_for_each_replica(self, fn, args, kwargs):
        replica = gen_xla_ops.xla_replica_id()
        with _Context(self._container_strategy(), replica_id_in_sync_group=replica):
            return fn(*args, **kwargs)

    def _replica_ctx_all_reduce(self, reduce_op, value, options=None):
        groups = tf.constant([list(range(self._replicas))])

        def reduce(part):
            part = tf.convert_to_tensor(part)
            total = gen_xla_ops.xla_all_reduce(part, groups, "Add", "CrossReplica")
            if reduce_op == tf.distribute.ReduceOp.MEAN:
                total /= tf.cast(self._replicas, part.dtype)
            return total

        return tf.nest.map_structure(reduce, value)


@dataclasses.dataclass(frozen=True)
class Lowered:
    """A lowered step.

    Attributes:
        module: StableHLO, MLIR bytecode.
        digest: of the program's text; equal steps have equal ones, in every process.
        parameters: the names of the program's parameters: arguments, then variables.
        replicas: how many the program is for.
    """

    module: bytes
    digest: str
    parameters: tuple[str, ...]
    replicas: int

    def save(self, folder: str) -> None:
        """Writes the files that `ahead_of_time_compile` reads."""
        files.write_bytes(os.path.join(folder, MODULE), self.module)
        described = {
            "digest": self.digest,
            "parameters": self.parameters,
            "replicas": self.replicas,
        }
        files.write_text(os.path.join(folder, DESCRIPTION), json.dumps(described))


def lower(
    strategy: tf.distribute.Strategy,
    step: Callable,
    arguments: Sequence[tf.TensorSpec],
    variables: Mapping[str, tf.Variable] | None = None,
) -> Lowered:
    """Lowers one replica's step; nothing is run and no data is needed.

    Args:
        strategy: where the step's variables were made, a `OneReplica` or the default strategy.
        step: what `strategy.run` takes; may assign variables.
        arguments: with static shapes; their names become those of the program's parameters.
        variables: variables by the name that they have in the result.

    Raises:
        Exception: from TensorFlow, where an operation has no XLA form or a shape is not static.
    """

    @tf.function(jit_compile=True, autograph=False)
    def program(*tensors):
        return strategy.run(step, args=tensors)

    captured = program.get_concrete_function(*arguments).captured_inputs
    names = {id(variable.handle): name for name, variable in (variables or {}).items()}
    parameters = [spec.name or f"argument {i}" for i, spec in enumerate(arguments)]
    parameters += [names.get(id(tensor), "another variable") for tensor in captured]
    serialized = program.experimental_get_compiler_ir(*arguments)(stage="hlo_serialized")
    module, text = _to_stablehlo(serialized)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Lowered(module, digest, tuple(parameters), strategy.num_replicas_in_sync)


def _to_stablehlo(serialized: bytes) -> tuple[bytes, str]:
    """Returns the module as bytecode, and as text without the places in the source."""
    from jax._src.interpreters.mlir import make_ir_context
    from jax._src.lib import _jax
    from jax._src.lib.mlir import ir

    with make_ir_context() as context:
        context.allow_unregistered_dialects = True
        module = ir.Module.parse(_jax.mlir.hlo_to_stablehlo(serialized))
        copies = []

        def visit(operation):
            # The TPU compiler does not know mhlo.copy, a hint to the CPU's.
            if operation.name == "mhlo.copy":
                operation.results[0].replace_all_uses_with(operation.operands[0])
                copies.append(operation)
            return ir.WalkResult.ADVANCE

        module.operation.walk(visit)
        for operation in copies:
            operation.erase()
        module.operation.attributes["sym_name"] = ir.StringAttr.get("step")
        bytecode = io.BytesIO()
        module.operation.write_bytecode(bytecode)
        return bytecode.getvalue(), module.operation.get_asm(enable_debug_info=False)
