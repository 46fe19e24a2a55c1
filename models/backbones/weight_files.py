"""Files of PyTorch weights as arrays: safetensors and .npz, of which nothing is executed."""

import json
import math
import pathlib
import zipfile

import ml_dtypes
import numpy as np

SUFFIXES = (".safetensors", ".npz")
PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl")
DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
# PyTorch's own files are pickles, which run code when they are loaded.
RECIPE = (
    'python -c "import torch; from safetensors.torch import save_file; '
    "s = torch.load('{name}', map_location='cpu', weights_only=True); "
    "s = s.get('state_dict', s.get('model', s)); "
    "save_file({{k: v.clone().contiguous() for k, v in s.items()}}, '{stem}.safetensors')\""
)


def read_state(path: str) -> dict[str, np.ndarray]:
    """Reads the arrays of a file by their names.

    Args:
        path: `.safetensors` or `.npz`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another kind of file, or a damaged one; for PyTorch's own, which can run code
            when read, the message has the line that turns it into safetensors.
    """
    file = pathlib.Path(path)
    if file.suffix in PICKLES:
        recipe = RECIPE.format(name=file.name, stem=file.stem)
        raise ValueError(
            f"{path}: expected {' or '.join(SUFFIXES)}. Received: {file.suffix}, a pickle, which "
            f"can run code when it is read. Where torch and safetensors are installed: {recipe}"
        )
    if file.suffix not in SUFFIXES:
        raise ValueError(f"{path}: expected {' or '.join(SUFFIXES)}. Received: {file.suffix!r}")
    if not file.is_file():
        raise FileNotFoundError(f"expected a file of weights. Received: {path}, which is not there")
    if file.suffix == ".safetensors":
        return read_safetensors(path)
    return _read_npz(path)


def read_safetensors(path: str) -> dict[str, np.ndarray]:
    """Reads a file in the safetensors format: length of the header, header in JSON, data.

    Args:
        path: the file.

    Returns:
        {name: array}, read-only.

    Raises:
        ValueError: the file is damaged.

    Reference:
        https://github.com/huggingface/safetensors#format
    """
    content = pathlib.Path(path).read_bytes()
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        raise _damaged(path, f"{len(content)} bytes for a header of {length}")
    try:
        header = json.loads(content[8 : 8 + length])
        header.pop("__metadata__", None)
        data = memoryview(content)[8 + length :]
        return {name: _array(name, entry, data) for name, entry in header.items()}
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error


def _read_npz(path: str) -> dict[str, np.ndarray]:
    if not zipfile.is_zipfile(path):  # np.load takes other kinds of files too
        raise ValueError(f"{path}: expected an .npz file. Received: something else")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise ValueError(f"{path}: expected an .npz file of arrays. Received: {error}") from error


def _array(name: str, entry: dict, data: memoryview) -> np.ndarray:
    dtype, shape = np.dtype(DTYPES[entry["dtype"]]), tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or not 0 <= begin <= end <= len(data) or end - begin != size:
        raise ValueError(
            f"{name}: bytes {begin} to {end} of {len(data)} for shape {shape}, {dtype}"
        )
    return np.frombuffer(data[begin:end], dtype).reshape(shape)


def _damaged(path: str, reason: str) -> ValueError:
    return ValueError(f"{path}: expected a safetensors file. Received: {reason}")
