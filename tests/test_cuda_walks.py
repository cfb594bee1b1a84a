"""The walk for graphics cards is compiled for an H100 without one: what Numba makes of it must be what a card can run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vecstore.kernels.cuda.card import simulated

if simulated():
    pytest.skip("the simulator compiles nothing", allow_module_level=True)
pytest.importorskip("numba_cuda", reason="numba-cuda is not installed: pip install '.[cuda]'")

_COMPILE = """
import json, sys, warnings
warnings.simplefilter("ignore")
from types import SimpleNamespace
from numba import cuda, types
from numba.cuda import dispatcher
from vecstore.kernels.cuda import beam

# Functions that kernels call are compiled for the card that is there, and here is none.
dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=(9, 0))

def vector(element): return types.Array(element, 1, "C")
def table(element): return types.Array(element, 2, "C")
i4, i8, u2, u4 = types.int32, types.int64, types.uint16, types.uint32
arguments = (
    vector(i4), table(u4), vector(i8), vector(u4), vector(u4), table(i4), table(u2), vector(i8), vector(i8), table(i4),
    i8, i8, i8, i8, types.float64, table(u4), vector(i4), table(i4),
)
def compiled(plan):
    text, _ = cuda.compile_ptx(beam.walk(beam.Plan(*plan)).py_func, types.void(*arguments), cc=(9, 0))
    return text

print(json.dumps([compiled(plan) for plan in json.loads(sys.argv[1])]))
"""
# Of 128 coordinates in scalar codes of 4, 8, 2 and 1 bits and of products; of packed bits; of 768 coordinates in products and
# in scalar codes, with a pool so long that what was seen lies in memory.
PLANS = {
    "scalar4": (1, 16, 48, 112, 4, True, True),
    "scalar8": (0, 32, 48, 112, 8, True, True),
    "scalar2": (2, 8, 48, 112, 2, True, True),
    "scalar1": (3, 4, 48, 112, 1, True, True),
    "product8": (4, 8, 48, 112, 2, True, True),
    "hamming": (6, 4, 48, 112, 1, True, True),
    "jaccard": (7, 4, 48, 112, 1, True, True),
    "product8, long": (4, 48, 48, 112, 8, True, False),
    "scalar4, long": (1, 96, 48, 112, 8, False, True),
}
NO_COMPILER = "NVVM", "nvvm", "libcudart", "nvJitLink", "nvrtc"
# As many as `beam` allows a thread.
REGISTERS = 96


@pytest.fixture(scope="module")
def compiled() -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_ENABLE_CUDASIM"}
    command = [sys.executable, "-c", _COMPILE, json.dumps(list(PLANS.values()))]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    if run.returncode:
        reason = run.stderr.strip().splitlines()[-1]
        if any(name in reason for name in NO_COMPILER):
            pytest.skip(f"no compiler for graphics cards here: {reason[:100]}")
        raise AssertionError(run.stderr[-4000:])
    return dict(zip(PLANS, json.loads(run.stdout), strict=True))


@pytest.mark.parametrize("name", PLANS)
def test_the_walk_compiles_to_what_an_h100_has(compiled: dict[str, str], name: str) -> None:
    text, plan = compiled[name], PLANS[name]
    assert ".target sm_90" in text
    assert "call" not in text, "all of it is one function"
    assert "ld.global.nc.v4.u32" in text, "codes are read 16 bytes at a time"
    assert ("atom.shared.exch" in text) == plan[5], "where what was seen lies"
    assert ("dp4a" in text) == (plan[0] <= 3), "scalar codes are multiplied four bytes at a time"


@pytest.mark.parametrize("name", PLANS)
def test_the_walk_needs_no_more_registers_than_it_is_given(
    compiled: dict[str, str], name: str, tmp_path: Path
) -> None:
    assembler = shutil.which("ptxas")
    if assembler is None:
        pytest.skip("ptxas is not installed")
    source = tmp_path / "walk.ptx"
    # An assembler older than the compiler refuses its version, though nothing newer is used.
    source.write_text(re.sub(r"\.version [\d.]+", ".version 8.0", compiled[name]))
    options = ["-arch=sm_90", "-v", "-maxrregcount", str(REGISTERS), "-o", str(tmp_path / "walk.cubin")]
    run = subprocess.run([assembler, *options, str(source)], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in run.stderr
