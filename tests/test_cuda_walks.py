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

REGISTERS = 96
"""As many as `beam` allows a thread."""

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
plan = beam.Plan(*json.loads(sys.argv[1]))
ptx, _ = cuda.compile_ptx(beam.walk(plan).py_func, types.void(*arguments), cc=(9, 0))
sys.stdout.write(ptx)
"""
# Of 128 coordinates in scalar codes of 4, 8, 2 and 1 bits and of products, of bits, and of 768 coordinates in products and
# scalar codes; and where edges came later and pools are so long that what was seen lies in memory.
VARIANTS = [
    (1, 16, 48, 48, 4, True, True), (0, 32, 48, 48, 8, True, True), (2, 8, 48, 48, 2, True, True),
    (3, 4, 48, 48, 1, True, True), (4, 8, 48, 48, 2, True, True), (4, 48, 48, 48, 8, True, False),
    (6, 4, 48, 48, 1, True, True), (7, 4, 48, 48, 1, True, True), (1, 96, 48, 112, 8, False, True),
]  # fmt: skip
NO_COMPILER = "NVVM", "nvvm", "libcudart", "No module named 'numba.cuda'", "nvJitLink", "nvrtc"


def compiled(variant: tuple[int, ...]) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_ENABLE_CUDASIM"}
    run = subprocess.run(
        [sys.executable, "-c", _COMPILE, json.dumps(variant)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if run.returncode:
        reason = run.stderr.strip().splitlines()[-1]
        if any(name in reason for name in NO_COMPILER):
            pytest.skip(f"no compiler for graphics cards here: {reason[:100]}")
        raise AssertionError(run.stderr[-4000:])
    return run.stdout


@pytest.mark.skipif(simulated(), reason="the simulator compiles nothing")
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_the_walk_compiles_for_an_h100(variant: tuple[int, ...], tmp_path: Path) -> None:
    ptx = compiled(variant)
    kind = variant[0]
    assert ".target sm_90" in ptx
    assert "atom.shared.exch" in ptx or not variant[5], "the table of what was seen is in shared memory"
    assert "ld.global.nc.v4.u32" in ptx, "codes are read 16 bytes at a time"
    if kind in (0, 1, 2, 3):
        assert "dp4a" in ptx
    assembler = shutil.which("ptxas")
    if assembler is None:
        return
    # An assembler older than the compiler refuses its version, though nothing newer is used.
    (tmp_path / "walk.ptx").write_text(re.sub(r"\.version [\d.]+", ".version 8.0", ptx))
    run = subprocess.run(
        [assembler, "-arch=sm_90", "-v", "-maxrregcount", str(REGISTERS), str(tmp_path / "walk.ptx"), "-o", str(tmp_path / "walk.cubin")],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    print(run.stderr)
    assert "0 bytes spill stores, 0 bytes spill loads" in run.stderr
