"""PyTorch weights by name: what fits, what is refused, and the files they come in."""

import json

import keras
import ml_dtypes
import numpy as np
import pytest

from models import backbones
from models.backbones import weight_files
from models.backbones.conversion import load_torch_weights
from tools import convert_weights

SIZES = {"width": 0.125, "depth": 0.1}


def small():
    """A convolution of each kind, a norm and a dense layer, named as in PyTorch."""
    images = keras.Input((None, None, 4))
    x = keras.layers.Conv2D(6, (3, 2), groups=2, use_bias=False, name="a.conv")(images)
    x = keras.layers.BatchNormalization(name="a.bn")(x)
    x = keras.layers.DepthwiseConv2D(3, name="b.0")(x)
    return keras.Model(images, keras.layers.Dense(5, name="b.1")(x), name="small")


def state_of_small(seed=1):
    shapes = {
        "a.conv.weight": (6, 2, 3, 2),
        "a.bn.weight": (6,),
        "a.bn.bias": (6,),
        "a.bn.running_mean": (6,),
        "a.bn.running_var": (6,),
        "b.0.weight": (6, 1, 3, 3),
        "b.0.bias": (6,),
        "b.1.weight": (5, 6),
        "b.1.bias": (5,),
    }
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def model():
    return small()


def test_every_weight_is_set(model):
    state = state_of_small()
    load_torch_weights(model, state | {"a.bn.num_batches_tracked": np.int64(7)})
    convolution, depthwise = model.get_layer("a.conv").kernel, model.get_layer("b.0").kernel
    for row, column, channel, filter_ in np.ndindex(3, 2, 2, 6):
        expected = state["a.conv.weight"][filter_, channel, row, column]
        assert convolution.numpy()[row, column, channel, filter_] == expected
    for row, column, channel in np.ndindex(3, 3, 6):
        expected = state["b.0.weight"][channel, 0, row, column]
        assert depthwise.numpy()[row, column, channel, 0] == expected
    norm = model.get_layer("a.bn")
    for name in ("weight", "bias", "running_mean", "running_var"):
        own = {"weight": "gamma", "bias": "beta", "running_var": "moving_variance"}
        weight = getattr(norm, own.get(name, "moving_mean"))
        np.testing.assert_array_equal(weight, state[f"a.bn.{name}"])
    np.testing.assert_array_equal(model.get_layer("b.1").kernel, state["b.1.weight"].T)
    np.testing.assert_array_equal(model.get_layer("b.1").bias, state["b.1.bias"])


def test_a_wrapped_module_is_the_module(model):
    state = state_of_small(2)
    load_torch_weights(model, {f"module.{name}": value for name, value in state.items()})
    np.testing.assert_array_equal(model.get_layer("b.0").bias, state["b.0.bias"])


def test_the_classifier_is_left_out(model):
    load_torch_weights(model, state_of_small() | {"fc.weight": np.ones((3, 5))})
    with pytest.raises(ValueError, match=r"fc.weight: nothing in the model"):
        load_torch_weights(model, state_of_small() | {"fc.weight": np.ones((3, 5))}, ignore=())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b.1.bias": None}, r"'small'. Received: b.1.bias: missing$"),
        ({"c.0.weight": np.ones(3)}, r"Received: c.0.weight: nothing in the model$"),
        ({"a.bn.bias": np.ones(7)}, r"a.bn.bias: shape \(7,\) for \(6,\)"),
        ({"b.0.weight": np.ones((6, 3, 3))}, r"b.0.weight: shape \(6, 3, 3\) for \(3, 3, 6, 1\)"),
        ({"b.1.weight": np.ones((6, 5))}, r"b.1.weight: shape \(5, 6\) for \(6, 5\), transposed"),
        ({"a.bn.running_var": np.full(6, np.nan)}, r"a.bn.running_var: values .* not finite"),
        ({"b.1.bias": None, "b.2.bias": np.ones(5)}, r"b.1.bias: missing; b.2.bias: nothing"),
    ],
)
def test_nothing_is_set_unless_all_is_explained(model, change, message):
    load_torch_weights(model, state_of_small(3))
    before = model.get_weights()
    state = {name: v for name, v in (state_of_small(4) | change).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        load_torch_weights(model, state)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def safetensors(arrays, dtypes=(), **header):
    """The bytes of a file in that format, by its specification."""
    names = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64"}
    entries, data = dict(header), b""
    for name, array in arrays.items():
        offsets = [len(data), len(data) + array.nbytes]
        entries[name] = {"dtype": names[array.dtype.name], "shape": list(array.shape)}
        entries[name]["data_offsets"] = offsets
        data += array.tobytes()
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def test_safetensors_of_every_dtype(tmp_path):
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.float16([0.5, -1.5]),
        "c": np.array([[1.5], [3.0]], ml_dtypes.bfloat16),
        "d": np.array(7, np.int64),
        "e": np.zeros((0, 4), np.float32),
    }
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors(arrays, __metadata__={"format": "pt"}))
    received = weight_files.read_state(str(path))
    assert received.keys() == arrays.keys()
    for name, array in arrays.items():
        assert received[name].dtype == array.dtype
        np.testing.assert_array_equal(received[name], array)


def entry(begin, end, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def header(text, data=bytes(8)):
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    return len(text).to_bytes(8, "little") + text + data


DAMAGED = {
    "empty": b"",
    "cut in the length": b"\x08\0\0",
    "cut in the header": (10**15).to_bytes(8, "little") + b"{}",
    "cut in the data": header({"a": entry(0, 8)}, bytes(7)),
    "no JSON": header(b"{'a'}"),
    "no text": header(b"\xff\xfe"),
    "nested too deeply": header(b"[" * 100_000),
    "a list": header([1]),
    "an entry of another kind": header({"a": 1}),
    "no offsets": header({"a": {"dtype": "F32", "shape": [2]}}),
    "an unknown dtype": header({"a": entry(0, 8, dtype="F4")}),
    "another size": header({"a": entry(0, 4)}),
    "offsets back to front": header({"a": entry(8, 0)}),
    "an offset before the data": header({"a": entry(-8, 0)}),
    "a negative shape": header({"a": entry(0, 8, shape=(-1, -2))}),
    "a broken shape": header({"a": entry(0, 8, shape=(0.5, 4))}),
    "a shape in words": header({"a": entry(0, 8, shape="ab")}),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_safetensors(kind, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(DAMAGED[kind])
    with pytest.raises(ValueError, match=r"x.safetensors: expected a safetensors file. Received"):
        weight_files.read_state(str(path))


def test_npz_of_arrays_only(tmp_path):
    path = str(tmp_path / "x.npz")
    np.savez(path, a=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"x.npz: expected an .npz file of arrays"):
        weight_files.read_state(path)
    (tmp_path / "x.npz").write_bytes(b"\x93NUMPY")
    with pytest.raises(ValueError, match=r"x.npz: expected an .npz file"):
        weight_files.read_state(path)


@pytest.mark.parametrize("name", ["r.pth", "r.pt", "r.bin"])
def test_pickles_are_refused_with_the_way_out(name, tmp_path):
    (tmp_path / name).write_bytes(b"not even a pickle")
    with pytest.raises(ValueError, match=r"can run code.*save_file\(.*'r\.safetensors'\)\"$"):
        backbones.build_backbone("resnet50", weights=str(tmp_path / name), **SIZES)


def torch_state(model):
    """A model's weights under PyTorch's names, the other way round from the converter."""
    names = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean",
             "moving_variance": "running_var", "kernel": "weight", "bias": "bias"}  # fmt: skip
    state = {}
    for layer in model.layers:
        for weight in layer.weights:
            value = weight.numpy()
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
            state[f"{layer.name}.{names[weight.name]}"] = np.ascontiguousarray(value)
    return state


@pytest.fixture(scope="module")
def source():
    return backbones.build_backbone("resnet50", **SIZES)


def same_weights(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a.weights, b.weights, strict=True))


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_converted_file_and_the_file_itself(source, suffix, tmp_path, capsys):
    path, target = str(tmp_path / f"resnet.{suffix}"), str(tmp_path / "resnet.weights.h5")
    state = torch_state(source) | {"fc.weight": np.ones((2, 3), np.float32)}
    if suffix == "npz":
        np.savez(path, **state)
    else:
        (tmp_path / "resnet.safetensors").write_bytes(safetensors(state))
    arguments = ["--backbone", "resnet50", "--input", path, "--output", target]
    sizes = [f"--{name}={value}" for name, value in SIZES.items()]
    assert convert_weights.main([*arguments, *sizes]) == 0
    assert "converted from torchvision resnet50" in capsys.readouterr().out
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"resnet.{suffix}", target[-17:]]
    for weights in (path, target):
        assert same_weights(backbones.build_backbone("resnet50", weights=weights, **SIZES), source)


def test_what_the_command_refuses(tmp_path, capsys):
    target = str(tmp_path / "x.weights.h5")
    arguments = ["--backbone", "resnet50", "--input", str(tmp_path / "x.npz"), "--output"]
    sizes = [f"--{name}={value}" for name, value in SIZES.items()]
    assert convert_weights.main([*arguments, target, *sizes]) == 1
    assert "there is no such file" in capsys.readouterr().err
    np.savez(tmp_path / "x.npz", a=np.ones(2))
    assert convert_weights.main([*arguments, target, *sizes]) == 1
    assert "conv1.weight: missing" in capsys.readouterr().err
    assert convert_weights.main([*arguments, str(tmp_path / "x.h5"), *sizes]) == 1
    assert "ends with .weights.h5" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["x.npz"]


def test_no_pytorch_module_has_keras_names(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.ones(2))
    sizes = {"width": 0.25, "depth": 0.25}
    with pytest.raises(ValueError, match=r"expected a file that Keras wrote. Received: '.*x.npz'"):
        backbones.build_backbone("efficientnet", weights=str(tmp_path / "x.npz"), **sizes)
