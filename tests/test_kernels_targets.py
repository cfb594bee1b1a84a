"""The same answers on other processors: the suite again, compiled for less, and machine code for ARM."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

X86 = platform.machine().lower() in ("x86_64", "amd64")
HASWELL = "+sse4.2,+popcnt,+lzcnt,+bmi,+bmi2,+avx,+avx2,+fma,+f16c"


def run(arguments: list[str], **settings: str) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")} | settings
    result = subprocess.run(
        [sys.executable, *arguments], env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    return result.stdout


def run_suite(**settings: str) -> None:
    tests = Path(__file__).parent
    files = [str(tests / name) for name in ("test_kernels.py", "test_kernels_checksum.py")]
    root = ["--rootdir", str(tests.parent), "-c", str(tests.parent / "pyproject.toml")]
    run(["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *root, *files], **settings)


def test_a_generic_processor_answers_the_same() -> None:
    run_suite(NUMBA_CPU_NAME="generic")


def test_avx2_answers_the_same() -> None:
    from vecstore.kernels import dispatch

    if not X86 or not {"avx2", "fma", "f16c"} <= dispatch.cpu_features():
        pytest.skip("this processor has no AVX2")
    run_suite(NUMBA_CPU_NAME="haswell", NUMBA_CPU_FEATURES=HASWELL)


# The shapes for ARM are chosen by the machine's name. Python's own calls and Numba's runtime are left to the
# linker; what may not appear is a call to a library function for an operation on numbers.
ARM = """
import platform
platform.machine = lambda: "aarch64"
import re
import llvmlite.binding as llvm
llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
try:
    target = llvm.Target.from_triple("aarch64-linux-gnu")
except RuntimeError:
    print("no target")
    raise SystemExit
from vecstore.kernels import dispatch
assert dispatch.cpu_target() == dispatch.CpuTarget(4, 6, 4, True)
cpu = dispatch.cpu()
machine = target.create_target_machine(cpu="generic", features="+neon", opt=3, reloc="pic")
kernels = {
    "checksum": cpu.checksum.first_bad_block(),
    "l2": cpu.distance.kernel("l2", "float32"),
    "half": cpu.distance.kernel("ip", "float16"),
    "cosine": cpu.distance.kernel("cosine", "uint8"),
    "hamming": cpu.distance.kernel("hamming", "binary"),
    "push": cpu.select.push(),
    "batch": cpu.tile.scan_batch("l2", "float16"),
}
for name, kernel in kernels.items():
    [text] = getattr(kernel, "func", kernel).inspect_llvm().values()
    # The count of references in Numba's runtime, which LLVM has fitted to x86 already.
    text = re.sub(r"tail call i8 @llvm.x86.atomic.sub.cc.*", "add i8 0, 0", text)
    text = re.sub(r"declare .*@llvm.x86.atomic.sub.cc.*", "", text)
    assert "llvm.x86" not in text, name
    text = re.sub(r"target (triple|datalayout) = .*", "", text)
    text = re.sub(r'"(target-cpu|target-features)"="[^"]*"', "", text)
    module = llvm.parse_assembly(text)
    module.triple, module.data_layout = "aarch64-linux-gnu", str(machine.target_data)
    module.verify()
    code = machine.emit_object(module)
    assert code[:4] == b"\\x7fELF" and int.from_bytes(code[18:20], "little") == 183, name
    for called in (b"__extendhfsf2", b"__gnu_h2f", b"fmaf", b"sqrtf", b"nextafter", b"__popcount"):
        assert called not in code, (name, called)
    assembly = machine.emit_assembly(module)
    print(name, len(code), assembly.count("fmla"), assembly.count(".4h"))
"""


@pytest.mark.skipif(not X86, reason="cross-compiles from x86-64")
def test_the_kernels_compile_for_arm(tmp_path: Path) -> None:
    settings = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": HASWELL, "NUMBA_CACHE_DIR": str(tmp_path)}
    printed = run(["-c", ARM], **settings)
    if "no target" in printed:
        pytest.skip("this llvmlite has no aarch64 target")
    lines = {name: numbers for name, *numbers in map(str.split, printed.splitlines())}
    fused = {name: int(numbers[1]) for name, numbers in lines.items()}
    # A register tile of 6 rows by 4 vectors, 8 dimensions deep: all of it fused multiply-adds.
    assert fused["batch"] >= 6 * 4 * 8
    assert fused["l2"] > 0
    assert int(lines["half"][2]) > 0


def test_choosing_a_backend_does_not_import_numba() -> None:
    run(
        [
            "-c",
            "import sys, vecstore.kernels.dispatch, vecstore.kernels.reference\n"
            "assert not {'numba', 'llvmlite'} & set(sys.modules)",
        ]
    )
