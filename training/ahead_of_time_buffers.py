"""What lies in a TPU's memory at a compiled program's fullest moment, and what goes to and fro.

Read from the program's text after the compiler's schedule, since its own list of allocations is
not handed out. Shapes count with their padding: on a TPU the two innermost dimensions of an array
are filled up to whole tiles, such as 8 × 128, so that 144 channels take the room of 256.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence

_INSTRUCTION = re.compile(r"\s*(ROOT )?%(\S+) = (\(.*?\)|\S+) ([a-z][a-z0-9\-]*)\(([^)]*)\)(.*)")
_SHAPE = re.compile(r"([a-z]+(\d*)\w*)\[([\d,]*)\](?:\{([^{}]*)\})?")
_ALIASED_OUTPUT = re.compile(r"\{(\d+)\}: \((\d+), \{\}")
_IN_PLACE = re.compile(r'"indices":\["(\d+)","(\d+)"\]')
_OPERATION = re.compile(r'op_name="([^"]*)"')
# Their results are their operands' own buffers.
_VIEWS = ("bitcast", "tuple", "while", "optimization-barrier")
_MOVE_NOTHING = (*_VIEWS, "get-tuple-element", "parameter", "constant", "conditional")


@dataclasses.dataclass
class Buffer:
    """A piece of HBM.

    Attributes:
        name: of the TensorFlow operation or variable it belongs to.
        shape: type and dimensions, without padding.
        bytes: with padding.
        begin, end: numbers of the first and last instruction that need it.
    """

    name: str
    shape: str
    bytes: int
    begin: int
    end: int


def fullest_moment(text: str, parameters: Sequence[str] = (), largest: int = 12) -> dict:
    """Returns the buffers that the program holds when it holds most.

    An estimate by liveness alone: the compiler can do a little better, where an operation writes
    over an operand that it is the last to need, or a little worse, where gaps stay.

    Args:
        text: of a scheduled, compiled module.
        parameters: names of the entry computation's parameters.
        largest: how many buffers are listed.

    Returns:
        {"total": bytes, "largest": [{"name", "shape", "bytes"}]}.
    """
    buffers = _Reader(text, parameters).buffers
    changes: dict[int, int] = {}
    for buffer in buffers:
        changes[buffer.begin] = changes.get(buffer.begin, 0) + buffer.bytes
        changes[buffer.end + 1] = changes.get(buffer.end + 1, 0) - buffer.bytes
    total = fullest = moment = 0
    for time in sorted(changes):
        total += changes[time]
        if total > fullest:
            fullest, moment = total, time
    alive = [buffer for buffer in buffers if buffer.begin <= moment <= buffer.end]
    alive.sort(key=lambda buffer: -buffer.bytes)
    shown = [{"name": b.name, "shape": b.shape, "bytes": b.bytes} for b in alive[:largest]]
    return {"total": fullest, "largest": shown}


def hbm_traffic(text: str) -> int:
    """Returns the bytes that the program reads from HBM and writes to it.

    The compiler's own "bytes accessed" counts the core's vector memory as well, and every array
    that it moves there beforehand twice more. Here an operand of which a fusion reads a part
    counts whole, and what loops do inside does not count.

    Args:
        text: of a scheduled, compiled module.
    """
    total = 0
    sizes: dict[str, list[int]] = {}  # of what each instruction makes
    for found in _instructions(text):
        _, name, kind, operation, operands, _ = found.groups()
        sizes[name] = [_size(match) for match in _SHAPE.finditer(kind)]
        read = [size for operand in _names(operands) for size in sizes.get(operand, [])]
        if operation == "slice-start":
            total += _moved_slice(kind)
        elif operation in ("copy-start", "async-start"):  # their result repeats the operands
            total += sum(sizes[name])
        elif operation not in _MOVE_NOTHING and not operation.endswith("-done"):
            total += sum(sizes[name]) + sum(read)
    return total


def _moved_slice(kind: str) -> int:
    """Returns what is read for a part, of a result `((whole), part, context)`, and written."""
    whole, part = list(_SHAPE.finditer(kind))[:2]
    bare = padded_bytes(part[1], _dimensions(part), re.sub(r"S\(\d+\)", "", part[4] or ""))
    return (bare if _size(whole) else 0) + _size(part)


def padded_bytes(kind: str, dimensions: Sequence[int], layout: str) -> int:
    """Returns the size of an array in HBM; 0 for one in another memory.

    Args:
        kind: "f32", "bf16", "pred", ...
        dimensions: of the array.
        layout: "minor_to_major:T(8,128)(2,1)" as in the text of a module, or empty.
    """
    if "S(" in layout:
        return 0
    order, _, tiling = layout.partition(":")
    inner_first = [dimensions[int(i)] for i in order.split(",") if i] or list(dimensions)[::-1]
    tile = re.match(r"T\(([\d,]+)\)", tiling)
    sizes = [int(size) for size in tile[1].split(",")][::-1] if tile else []
    inner_first += [1] * (len(sizes) - len(inner_first))
    for i, size in enumerate(sizes):
        inner_first[i] = math.ceil(inner_first[i] / size) * size
    bits = int(re.search(r"\d+", kind)[0]) if re.search(r"\d", kind) else 8  # pred: a byte
    return math.prod(inner_first) * bits // 8


class _Reader:
    """Follows the entry computation's instructions, in the order in which they run."""

    def __init__(self, text: str, parameters: Sequence[str]):
        self.buffers: list[Buffer] = []
        self._parameters = parameters
        self._aliased = {int(m[1]) for m in _ALIASED_OUTPUT.finditer(text[: text.find("\n")])}
        self._values: dict[str, list[Buffer | None]] = {}
        self._starts: dict[str, tuple[int, list[Buffer | None]]] = {}
        time = 0
        for time, found in enumerate(_instructions(text)):
            self._read(time, *found.groups())
        for buffer in self._arguments():
            buffer.end = time

    def _arguments(self):
        return [buffer for buffer in self.buffers if buffer.begin < 0]

    def _read(self, time, root, name, kind, operation, operands, rest):
        names = _names(operands)
        used = [buffer for operand in names for buffer in self._values.get(operand, [])]
        for buffer in filter(None, used):
            buffer.end = time
        if operation == "parameter":
            self._values[name] = self._new(kind, -1, self._parameter(int(operands)))
        elif operation in _VIEWS:
            self._values[name] = used
        elif operation == "get-tuple-element":
            index = int(re.search(r"index=(\d+)", rest)[1])
            self._values[name] = self._values[names[0]][index : index + 1]
        elif operation.endswith("-start"):
            self._starts[name] = time, used
        elif operation.endswith("-done"):
            self._finish(time, name, names[0], kind, rest)
        elif operation != "constant":
            self._values[name] = self._results(time, kind, names, rest)
        if root:
            self._give_back(self._values[name])

    def _parameter(self, number):
        known = number < len(self._parameters)
        return self._parameters[number] if known else f"parameter {number}"

    def _finish(self, time, name, start, kind, rest):
        began, used = self._starts[start]
        for buffer in filter(None, used):
            buffer.end = time
        self._values[name] = self._new(kind, began, _operation_name(rest, name))

    def _results(self, time, kind, names, rest):
        """Makes the buffers of an instruction, but for those that it writes in place."""
        values = self._new(kind, time, _operation_name(rest, names[0] if names else ""))
        for match in _IN_PLACE.finditer(rest):
            operand, output = int(match[1]), int(match[2]) - len(names)
            old = self._values.get(names[operand], [None]) if operand < len(names) else [None]
            if 0 <= output < len(values) and len(old) == 1 and old[0] and values[output]:
                self.buffers.remove(values[output])
                values[output] = old[0]
        return values

    def _give_back(self, outputs):
        """New values of variables are written over the old ones."""
        for number, buffer in enumerate(outputs):
            if buffer and number in self._aliased and buffer.begin >= 0:
                buffer.bytes = 0

    def _new(self, kind, time, name) -> list[Buffer | None]:
        values: list[Buffer | None] = []
        for match in _SHAPE.finditer(kind):
            size = _size(match)
            shape = f"{match[1]}[{match[3]}]"
            values.append(Buffer(name, shape, size, time, time) if size else None)
        self.buffers += filter(None, values)
        return values


def _instructions(text: str) -> Iterator[re.Match]:
    entry = text[text.rfind("\nENTRY ") :]
    for line in entry.splitlines()[2:]:
        if line.startswith("}"):
            return
        match = _INSTRUCTION.match(line)
        if match:
            yield match


def _names(operands: str) -> list[str]:
    return re.findall(r"%([^\s,]+)", operands)


def _dimensions(shape: re.Match) -> list[int]:
    return [int(size) for size in shape[3].split(",") if size]


def _size(shape: re.Match) -> int:
    return padded_bytes(shape[1], _dimensions(shape), shape[4] or "")


def _operation_name(rest: str, default: str) -> str:
    match = _OPERATION.search(rest)
    return match[1] if match else default
