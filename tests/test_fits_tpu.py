"""tools/fits_tpu.py: the TPU compiler's answers, and what is read out of them."""

import importlib.metadata
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT

from tools import fits_tpu
from training import ahead_of_time, tpu_generations
from training.ahead_of_time import GIB, CannotCompileError
from training.ahead_of_time_buffers import fullest_moment, hbm_traffic, padded_bytes


def compiler_or_skip():
    try:
        ahead_of_time.check_installed()
    except CannotCompileError as error:
        pytest.skip(str(error))


TINY = ["--recipe", "tiny", "--stage", "1", "--classes", "1000", "--batch-per-core", "8"]


def test_tiny_step_fits_four_generations(tmp_path, capsys):
    compiler_or_skip()
    results, answers = str(tmp_path / "results.jsonl"), str(tmp_path / "answers.json")
    topologies = ["v2:2x2", "v3:2x2", "v5e:2x2", "v6e:2x2"]
    command = [*TINY, "--topology", *topologies, "--results", results]
    assert fits_tpu.main([*command, "--json", answers]) == 0
    found = json.loads(pathlib.Path(answers).read_text())
    assert [row["topology"] for row in found] == topologies
    for row in found:
        assert row["fits"]
        assert row["available"] == ahead_of_time.hbm(row["topology"])
        # Weights and momentum of 176,000 parameters at 4 bytes, and the images.
        assert 1.4e6 < row["arguments"] < row["needed"] < 0.1 * GIB
        assert row["aliased"] > 1.4e6  # the variables are updated in place
        assert row["flops"] > 1e6
        # Weights and momentum are read and written.
        assert row["bytes_accessed"] > row["hbm_traffic"] > 1.4e6 + row["arguments"]
        # Liveness and the compiler's own figure, which has its gaps and its reserve.
        assert row["buffers"]["total"] == pytest.approx(row["peak"], rel=0.1, abs=16 * 2**20)
        names = [buffer["name"] for buffer in row["buffers"]["largest"]]
        assert "head/centers" in names
        assert "another variable" not in names
    # Eight cores and four cores sum over other replicas: two programs, on two chips each.
    assert len({row["digest"] for row in found}) == 2
    printed = capsys.readouterr().out
    assert "| efficientnet | 32 | 1,000 | 8 | v6e:2x2 |" in printed

    assert fits_tpu.main([*TINY, "--quick", "--json", answers]) == 0
    (quick,) = json.loads(pathlib.Path(answers).read_text())
    assert quick["digest"] == found[2]["digest"]
    assert quick["arguments"] == found[2]["arguments"]
    assert quick["code"] < found[2]["code"]
    # Nothing lies in the vector memory, which the compiler's figure counts as well.
    assert quick["hbm_traffic"] == pytest.approx(quick["bytes_accessed"], rel=0.1)
    assert found[2]["hbm_traffic"] < 0.9 * found[2]["bytes_accessed"]

    before = pathlib.Path(results).read_text()
    pathlib.Path(results).write_text(before[:-20])  # as a kill leaves it
    again = [*TINY, "--topology", "v2:2x2", "v3:2x2", "v5e:2x2", "--results", results]
    assert fits_tpu.main([*again, "--json", answers]) == 0
    assert json.loads(pathlib.Path(answers).read_text()) == found[:3]
    assert len(pathlib.Path(results).read_text().splitlines()) == 3


def test_step_that_does_not_fit(tmp_path, capsys):
    compiler_or_skip()
    command = ["--recipe", "tiny", "--stage", "1", "--classes", "1000", "--topology", "v2:2x2"]
    command += ["--batch-per-core", "4000", "--set", "stage.image_size=512"]
    assert fits_tpu.main([*command, "--json", str(tmp_path / "answer.json")]) == 1
    (row,) = json.loads((tmp_path / "answer.json").read_text())
    assert not row["fits"]
    assert row["needed"] > row["available"] == ahead_of_time.hbm("v2:2x2")
    assert "does not fit: needs" in capsys.readouterr().out


def test_sharded_head_takes_its_part_alone(tmp_path):
    """Of 40,000 centres and their momentum each of the four cores has a quarter."""
    compiler_or_skip()
    answer = str(tmp_path / "answer.json")
    command = [*TINY[:-4], "--classes", "40000", "--batch-per-core", "8", "--quick"]
    assert fits_tpu.main([*command, "--set", "model.head=sharded", "--json", answer]) == 0
    (row,) = json.loads(pathlib.Path(answer).read_text())
    shards = [b for b in row["buffers"]["largest"] if b["name"].startswith("head/")]
    assert {b["shape"] for b in shards} == {"f32[10000,32]"}
    assert len(shards) == 2


def test_embedding_step(tmp_path):
    compiler_or_skip()
    answer = str(tmp_path / "answer.json")
    assert fits_tpu.main([*TINY, "--step", "embed", "--json", answer]) == 0
    (row,) = json.loads(pathlib.Path(answer).read_text())
    assert row["aliased"] == 0
    assert row["outputs"] >= 8 * 32 * 4


@pytest.mark.parametrize(
    ("topology", "cores"),
    [("v2:2x2", 8), ("v3:4x4", 32), ("v4:2x2x1", 8), ("v5e:2x2", 4), ("v5p:2x2x2", 8)],
)
def test_cores(topology, cores):
    assert tpu_generations.cores(topology) == cores


@pytest.mark.parametrize("topology", ["v9:2x2", "v5e", "v5e:2x2x1", "v4:2x2", "v5litepod-4"])
def test_unknown_topology(topology, capsys):
    assert fits_tpu.main(["--stage", "1", "--topology", topology]) == 2
    error = capsys.readouterr().err
    assert "v5e:2x2 (15.75 GiB per core)" in error
    assert repr(topology) in error


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--recipe", "tiny", "--stage", "1"], "--classes or --data"),
        (["--stage", "1", "--cores", "5"], "1 … 4 on v5e:2x2"),
        (["--stage", "9"], "stages 1 … 5"),
        (["--stage", "1", "--member", "Z"], "A, B, C, D"),
        (["--stage", "1", "--data", "nowhere"], "manifest.json"),
    ],
)
def test_wrong_arguments(arguments, expected, capsys):
    assert fits_tpu.main(arguments) == 2
    assert expected in capsys.readouterr().err


def asked(*words):
    args = fits_tpu.parse_args(list(words))
    return list(fits_tpu.programs(args, fits_tpu.recipes.load(args.recipe)))


def test_real_numbers_of_classes():
    stages = asked("--stage", "all", "--topology", "v3:2x2")
    assert [p.classes for p in stages] == [81_313, 203_094, 203_094, 203_094, 203_094]
    assert [p.batch_per_core for p in stages] == [8, 8, 8, 4, 4]
    assert [p.stage.image_size for p in stages] == [512, 512, 640, 736, 736]
    assert len(asked("--stage", "all", "--member", "all", "--topology", "v3:2x2", "v5e:2x2")) == 34


def test_classes_of_a_manifest(shards):
    (program,) = asked("--stage", "1", "--data", shards)
    assert program.classes == 7
    (program,) = asked("--stage", "2", "--data", shards)
    assert program.classes == 8


def test_missing_compiler(monkeypatch):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(CannotCompileError, match=r"pip install -e .\[aot\].*libtpu missing"):
        ahead_of_time.check_installed()


EARLY = (
    "XlaRuntimeError: RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for "
    "HLO temporaries (23.20G) exceeds available HBM (15.75G)."
)
LATE = """XlaRuntimeError: RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. \
Used 16.50G of 15.75G hbm. Exceeded hbm capacity by 768.00M.

  Largest program allocations in hbm:

  1. Size: 529.00M
     Operator: op_name="backbone/block2a" source_file="ops.py" source_line=1
     Shape: bf16[8,368,368,192]{3,0,2,1:T(8,128)(2,1)}
     Unpadded size: 396.75M
     ==========================

  2. Size: 1.50K
     Shape: f32[3,128]{1,0:T(8,128)}
     ==========================
"""


def test_sizes_of_exhaustion():
    assert ahead_of_time.sizes_of(EARLY) == {
        "needed": round(23.2 * GIB),
        "available": round(15.75 * GIB),
    }
    assert ahead_of_time.sizes_of(LATE) == {
        "needed": round(16.5 * GIB),
        "available": round(15.75 * GIB),
    }
    assert ahead_of_time.sizes_of("XlaRuntimeError: INTERNAL: 3 of 4") is None


def test_allocations_of_exhaustion():
    assert ahead_of_time.allocations(LATE) == [
        {"name": "backbone/block2a", "shape": "bf16[8,368,368,192]", "bytes": 529 * 2**20},
        {"name": "unnamed", "shape": "f32[3,128]", "bytes": 1536},
    ]
    assert ahead_of_time.allocations(EARLY) == []


def test_shortened_texts():
    trace = "Traceback (most recent call last):\n  File x\nValueError: shape (3,) of y\n"
    assert ahead_of_time.shorten(trace) == "ValueError: shape (3,) of y"
    assert ahead_of_time.shorten("") == "no message"
    assert len(ahead_of_time.shorten("x" * 1000, 100)) == 100


@pytest.mark.parametrize(
    ("kind", "dimensions", "layout", "expected"),
    [
        ("f32", (3, 128), "1,0:T(8,128)", 8 * 128 * 4),
        ("bf16", (8, 368, 368, 192), "3,0,2,1:T(8,128)(2,1)", 368 * 368 * 8 * 256 * 2),
        ("bf16", (16, 512, 512, 3), "0,3,2,1:T(4,128)(2,1)", 512 * 512 * 4 * 128 * 2),
        ("f32", (5,), "0:T(128)", 128 * 4),
        ("f32", (), ":T(128)", 128 * 4),
        ("pred", (7, 9), "", 63),
        ("f32", (8, 128), "1,0:T(8,128)S(1)", 0),
    ],
)
def test_padded_bytes(kind, dimensions, layout, expected):
    assert padded_bytes(kind, dimensions, layout) == expected


MODULE = """HloModule step, is_scheduled=true, input_output_alias={ {0}: (0, {}, may-alias) }, x={}

%fused (p: f32[1024]) -> f32[1024] {
  ROOT %inside = f32[9999999]{0:T(1024)} parameter(0)
}

ENTRY %main (p0: f32[1024], p1: f32[2048]) -> (f32[1024]) {
  %p0 = f32[1024]{0:T(1024)} parameter(0)
  %p1 = f32[2048]{0:T(1024)} parameter(1)
  %a = (f32[4096]{0:T(1024)}, f32[1024]{0:T(1024)}) fusion(%p1), calls=%fused, \
metadata={op_name="wide"}
  %a0 = f32[4096]{0:T(1024)} get-tuple-element(%a), index=0
  %a1 = f32[1024]{0:T(1024)} get-tuple-element(%a), index=1
  %fast = (f32[4096]{0:T(1024)S(1)}, f32[4096]{0:T(1024)}, u32[]{:S(2)}) copy-start(%a0)
  %b = f32[1024]{0:T(1024)} fusion(%a1, /*index=1*/%p0), calls=%fused, \
backend_config={"aliasing_operands":{"lists":[{"indices":["0","2"]}]}}
  %near = f32[4096]{0:T(1024)S(1)} copy-done(%fast)
  %c = f32[1024]{0:T(1024)} fusion(%b, %near), calls=%fused, metadata={op_name="update"}
  ROOT %t = (f32[1024]{0:T(1024)}) tuple(%c)
}
"""


def test_fullest_moment_by_hand():
    found = fullest_moment(MODULE, ["weights", "images"])
    # Both parameters stay; %a is 4096 + 1024 wide; %b is written over %a1 and %c over %p0.
    assert found["total"] == 4 * (1024 + 2048 + 4096 + 1024)
    assert [(b["name"], b["bytes"]) for b in found["largest"]] == [
        ("wide", 4 * 4096),
        ("images", 4 * 2048),
        ("weights", 4 * 1024),
        ("wide", 4 * 1024),
    ]


def test_traffic_by_hand():
    # %a, the copy of %a0 into other memory, %b, and %c, which reads that copy.
    expected = 4 * ((2048 + 4096 + 1024) + 4096 + (1024 + 1024 + 1024) + (1024 + 1024))
    assert hbm_traffic(MODULE) == expected
    slices = MODULE.replace(
        "  %b =",
        """  %s = ((f32[4096]{0:T(1024)}), f32[2048]{0:T(1024)S(1)}, s32[]{:S(2)}) slice-start(%a0)
  %sd = f32[2048]{0:T(1024)S(1)} slice-done(%s)
  %copy = f32[2048]{0:T(1024)} copy(%sd)
  %b =""",
    )
    # Half of %a0 is read, and later written back.
    assert hbm_traffic(slices) == expected + 4 * (2048 + 2048)


@pytest.mark.parametrize("fixed", [0.5, 3.0])
@pytest.mark.parametrize("each", [0.02, 0.1, 0.61, 1.9, 20.0])
@pytest.mark.parametrize("start", [1, 8, 100])
def test_largest_batch(fixed, each, start):
    asked_for = []

    def measure(batch):
        asked_for.append(batch)
        # Near the end the compiler saves memory by computing things again.
        needed = min(fixed + each * batch, max(15.0, fixed + 0.9 * each * batch))
        return {"fits": needed <= 15.75, "needed": needed, "available": 15.75}

    found = ahead_of_time.largest_batch(measure, start)
    assert len(asked_for) == len(set(asked_for)) == len(found) <= 7
    fitting = [b for b in range(1, 4000) if fixed + 0.9 * each * b <= 15.75]
    best = max((b for b, result in found.items() if result["fits"]), default=0)
    failing = min(b for b, result in found.items() if not result["fits"])
    if not fitting:
        assert best == 0
    else:
        assert best <= fitting[-1] < failing <= 1.5 * best + 1


IGNORING = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(100)"


def test_child_that_takes_too_long_is_killed():
    start = time.monotonic()
    with pytest.raises(CannotCompileError, match="compiling: not ready after 1 s"):
        ahead_of_time.run([sys.executable, "-c", IGNORING], "compiling", timeout=1)
    assert time.monotonic() - start < 60


def test_child_that_was_killed_from_outside():
    program = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(CannotCompileError, match="lack of memory on this machine"):
        ahead_of_time.run([sys.executable, "-c", program], "compiling")


def test_child_that_fails():
    with pytest.raises(CannotCompileError, match="lowering: ValueError: no such thing"):
        ahead_of_time.run([sys.executable, "-c", "raise ValueError('no such thing')"], "lowering")


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone ends a child with its parent")
def test_child_ends_with_its_parent(tmp_path):
    child = (
        "from training.ahead_of_time import end_with_parent; import os, time, pathlib; "
        f"end_with_parent(); pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); "
        "time.sleep(100)"
    )
    parent = (
        "import sys; from training import ahead_of_time; "
        f"ahead_of_time.run([sys.executable, '-c', {child!r}], 'child')"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=ROOT)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.05)
    pid = int((tmp_path / "pid").read_text())
    process.send_signal(signal.SIGKILL)
    process.wait()
    for _ in range(200):
        if not is_alive(pid):
            break
        time.sleep(0.05)
    assert not is_alive(pid)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in pathlib.Path(f"/proc/{pid}/status").read_text()
