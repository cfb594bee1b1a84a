"""The kernels for cards, compiled for an H100 without one: what the compiler makes of them can be read."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vecstore.kernels.cuda.card import simulated

if simulated():
    pytest.skip("the simulator compiles nothing", allow_module_level=True)
pytest.importorskip("numba_cuda", reason="numba-cuda is not installed: pip install '.[cuda]'")

from numba import cuda, types

from vecstore.kernels.cuda import norms, select, tile

F32, I32, U32, U8 = types.float32, types.int32, types.uint32, types.uint8
STORED = {"float32": types.float32, "float16": types.float16, "uint8": U8, "int8": types.int8}


def array(kind: Any, ndim: int = 1) -> Any:
    return types.Array(kind, ndim, "C")


HITS = array(F32, 2), array(I32, 2), array(I32)


def compiled(kernel: Any, *signature: Any) -> str:
    """PTX for compute capability 9.0."""
    try:
        text, _ = cuda.compile_ptx(kernel.py_func, types.void(*signature), cc=(9, 0))
    except Exception as error:
        missing = type(error).__name__ in ("NvvmSupportError", "CudaSupportError") or "libnvvm" in str(error)
        if missing or "nvvm" in str(error).lower():
            pytest.skip(f"NVIDIA's compiler is not installed: {error}")
        raise
    return text if isinstance(text, str) else text.decode()


def assembled(text: str, tmp_path: Path) -> dict[str, int]:
    """What ptxas says of it: registers, and bytes of stack and spills."""
    installed = (str(path) for root in sys.path for path in Path(root).glob("nvidia/*/bin/ptxas"))
    program = next(installed, None) or shutil.which("ptxas")
    if program is None:
        pytest.skip("ptxas is not installed")
    source = tmp_path / "kernel.ptx"
    source.write_text(text)
    run = subprocess.run(
        [program, "-v", "-arch=sm_90", str(source), "-o", str(tmp_path / "kernel.cubin")],
        capture_output=True,
        text=True,
    )
    if "Unsupported .version" in run.stderr:
        pytest.skip("ptxas is older than the compiler")
    assert run.returncode == 0, run.stderr
    numbers = {
        "registers": r"Used (\d+) registers",
        "stack": r"(\d+) bytes stack frame",
        "spills": r"(\d+) bytes spill stores",
    }
    return {name: int(found[1]) for name, form in numbers.items() if (found := re.search(form, run.stderr))}


def tiles(metric: str, dtype: str, shape: tile.Shape) -> str:
    where = (I32,) * 5
    if dtype == "binary":
        rows = array(U32), array(I32), array(U8)
        return compiled(tile._bits(metric, shape), *rows, *where, array(U32), array(I32), array(F32), *HITS)
    rows = array(STORED[dtype]), array(F32), array(U8)
    return compiled(tile._dense(metric, shape), *rows, *where, array(F32), array(F32), *HITS)


@pytest.mark.parametrize("shape", [tile._WIDE, tile._NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize(
    ("metric", "dtype"),
    [
        ("l2", "float32"),
        ("ip", "float16"),
        ("cosine", "uint8"),
        ("l2", "int8"),
        ("hamming", "binary"),
        ("jaccard", "binary"),
    ],
)
def test_tiles_are_computed_in_registers(metric: str, dtype: str, shape: tile.Shape, tmp_path: Path) -> None:
    text = tiles(metric, dtype, shape)
    assert "sm_90" in text
    made = "popc.b32" if dtype == "binary" else "fma.rn.f32"
    products = shape.queries * shape.rows
    assert text.count(made) >= products
    multiplying = text[text.index(made) : text.rindex("ld.shared")]
    assert ".local" not in multiplying, "sums lie in memory while they are made"
    assert multiplying.count("ld.shared") < shape.queries + shape.rows
    if metric != "jaccard":
        assert not re.search(r"\b(add|sub|mul|div|fma)\.(rn\.)?f64", text)
    used = assembled(text, tmp_path)
    assert used["spills"] == 0
    assert used["stack"] <= 4 * products
    # Two blocks a multiprocessor, at least.
    assert 2 * shape.threads * used["registers"] <= 65_536


def test_norms_and_selection_compile(tmp_path: Path) -> None:
    for kind in STORED.values():
        assembled(compiled(norms._kernel(False, 8, 16), array(kind, 2), array(F32)), tmp_path)
    assembled(compiled(norms._kernel(True, 8, 16), array(U32, 2), array(I32)), tmp_path)
    text = compiled(select._kernel(select.ROOM, 256), array(F32, 2), array(I32, 2), array(F32), *HITS)
    assert ".local" not in text
    assert ".f64" not in text
    assembled(text, tmp_path)
