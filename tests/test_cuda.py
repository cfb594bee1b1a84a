"""The kernels for graphics cards: their tests run in the simulator, which a whole process must be started for."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vecstore.kernels.cuda.card import simulated

FOLDER = Path(__file__).parent / "simulated"


@pytest.mark.skipif(simulated(), reason="this is the simulator")
@pytest.mark.parametrize("name", [*sorted(path.name for path in FOLDER.glob("test_*.py")), "../test_kernels.py"])
def test_in_the_simulator(name: str, pytestconfig: pytest.Config) -> None:
    if importlib.util.find_spec("numba.cuda") is None and importlib.util.find_spec("numba_cuda") is None:
        pytest.skip("numba-cuda is not installed: pip install '.[cuda]'")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-k",
        "card" if name.startswith("..") else "",
        str((FOLDER / name).resolve()),
    ]
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
    run = subprocess.run(
        command, cwd=pytestconfig.rootpath, env=environment, capture_output=True, text=True, timeout=570
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert " passed" in run.stdout


def test_the_script_says_where_there_is_no_card(pytestconfig: pytest.Config) -> None:
    if os.environ.get("VECSTORE_TEST_CUDA"):
        pytest.skip("this machine has one")
    command = [sys.executable, str(FOLDER.parent.parent / "bench" / "card.py")]
    run = subprocess.run(command, cwd=pytestconfig.rootpath, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.startswith("No graphics card to measure: ")
    assert "Nothing was measured." in run.stderr
    assert "Traceback" not in run.stderr
