"""The kernels that build on a card, compiled for one without one: they compile, and what is to be in registers is there."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys

import pytest

# In a process of its own: the simulator and the compiler do not live in one, and compiling takes memory.
COMPILE = """
import sys
import numpy as np
from numba import cuda, float32, float64, int32, int64, uint8, uint32
from numba.core.errors import NumbaWarning
import warnings
warnings.simplefilter("ignore")
try:
    from numba.cuda.cudadrv import nvvm
    nvvm.NVVM()
except Exception as error:
    print("NONE", " ".join(str(error).split())[:200])
    raise SystemExit
# Functions that kernels call ask the card that is there what they are compiled for.
from numba.cuda import dispatcher
from types import SimpleNamespace
dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=(9, 0))
from vecstore.kernels import reference_codes as layout
from vecstore.kernels.cuda import coder, gram, leaf, prune

f1, f2, i1, l1 = float32[::1], float32[:, ::1], int32[::1], int64[::1]
u1, u2, b1, b2 = uint32[::1], uint32[:, ::1], uint8[::1], uint8[:, ::1]
lists = (u2, f2, i1)
group = (f2, u1, l1, l1)
kernels = {
    "tables": (gram.tables_kernel(gram._TILE), (*group, *group, l1, l1, f1)),
    "nearest": (gram.nearest_kernel(8), (f1, int64, int32[:, ::1])),
    "chain": (gram.chain_kernel(1024), (f1, b1, i1)),
    "edges": (leaf.edges_kernel(32, 12, 128), (f1, l1, l1, l1, i1, l1, int64, int64, float32, u2, f2)),
    "collect": (prune.collect_kernel(64, 64), (u2, f2, *lists)),
    "prune": (prune.prune_kernel(47, 64), (f1, *lists, float32, u2)),
    "count": (prune.count_kernel(), (u2, l1)),
    "come_back": (prune.come_back_kernel(), (u2, *lists, l1, u1, f1)),
    "turned": (prune.turned_kernel(64, 64), (u2, *lists, l1, u1, f1)),
}
for kind in layout.SCALARS:
    kernels[f"scalar {layout.BITS[kind]}"] = coder.scalar_kernel(kind), (f2, f1, f2, int64, float32, float32, b2)
for kind in layout.PRODUCTS:
    kernels[f"product {layout.BITS[kind]}"] = coder.product_kernel(kind), (f2, f1, f1, b2)
    kernels[f"sums {layout.BITS[kind]}"] = coder.sums_kernel(kind), (b2, float64[:, ::1], i1, float64[:, ::1], int64[:, ::1])
for name, (kernel, signature) in kernels.items():
    ptx, _ = cuda.compile_ptx(kernel.py_func, signature, cc=(9, 0))
    print("KERNEL", name)
    print(ptx)
print("END")
"""


@pytest.fixture(scope="module")
def compiled() -> dict[str, str]:
    """The PTX of each kernel for sm_90."""
    if importlib.util.find_spec("numba_cuda") is None:
        pytest.skip("numba-cuda is not installed: pip install '.[cuda]'")
    run = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, timeout=570)
    if run.stdout.startswith("NONE"):
        pytest.skip(f"there is no NVVM to compile with: {run.stdout[5:].strip()}")
    assert run.returncode == 0, run.stderr[-4000:]
    assert run.stdout.endswith("END\n")
    parts = re.split(r"^KERNEL (.*)\n", run.stdout, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_all_kernels_compile_for_a_card(compiled: dict[str, str]) -> None:
    assert len(compiled) == 17
    for name, ptx in compiled.items():
        assert ".target sm_90" in ptx, name
        assert ".visible .entry" in ptx, name


def test_sums_stay_in_registers_and_nothing_hot_is_float64(compiled: dict[str, str]) -> None:
    """A local depot is memory: what a loop adds up in there costs a hundred times as much."""
    for name, ptx in compiled.items():
        if name in ("tables", "nearest", "product 8", "product 4"):
            assert "__local_depot" not in ptx, name
        if not name.startswith("sums"):
            assert not re.search(r"\b(add|mul|fma)\.\w*\.?f64", ptx), name
        if name.startswith("scalar"):
            # A product that is rounded together with a sum would make other codes than the CPU's.
            assert "fma." not in ptx, name
    assert len(re.findall(r"fma\.rn\.f32", compiled["tables"])) >= 64
    assert "call" not in re.sub(r"//.*", "", compiled["tables"])
