"""Builds shim.c, runs Python under it, and talks to it from inside."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

OFF, KILL_BEFORE, KILL_HALF, KILL_AFTER, FAIL_ONCE, FAIL_ON, SHORT_ONCE, LATE_ONCE = range(8)

HERE = Path(__file__).parent


def missing() -> str | None:
    """Why the shim cannot be used here, or None."""
    if not sys.platform.startswith("linux"):
        return "the shim is for Linux"
    if shutil.which("cc") is None:
        return "there is no C compiler"
    return None


def build(folder: Path) -> Path:
    library = folder / "shim.so"
    command = ["cc", "-shared", "-fPIC", "-O2", "-Wall", "-o", str(library), str(HERE / "shim.c")]
    subprocess.run(command, check=True, capture_output=True)
    return library


def memory_folder() -> str | None:
    """A folder in memory where there is one: cases are many, and the disk is simulated anyway."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def run(
    module: str, *arguments: object, preload: bool = True, stream: bool = False, timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one campaign of this package in a process of its own, under the shim unless told otherwise."""
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        library = str(build(Path(folder))) if preload else ""
        environment = {
            **os.environ,
            **({"LD_PRELOAD": library, "SHIM": library} if preload else {}),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
            "PYTHONUNBUFFERED": "1",
        }
        command = [sys.executable, "-m", f"faults.{module}", folder, *map(str, arguments)]
        output = None if stream else subprocess.PIPE
        return subprocess.run(
            command, env=environment, text=True, stdout=output, stderr=subprocess.STDOUT, timeout=timeout
        )


class Shim:
    """The preloaded library, seen from the process that runs under it."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ["SHIM"])
        self._library.shim_arm.argtypes = [
            ctypes.c_char_p, ctypes.c_int, ctypes.c_long, ctypes.c_int, ctypes.c_int
        ]  # fmt: skip
        self._library.shim_calls.restype = self._library.shim_hits.restype = ctypes.c_long

    def arm(self, folder: str, mode: int = OFF, at: int = 0, error: int = 0, log: int = -1) -> None:
        """Watch a folder: in this mode, from the at-th call on, with this errno; log to this descriptor."""
        self._library.shim_arm(os.path.realpath(folder).encode(), mode, at, error, log)

    def disarm(self) -> None:
        self._library.shim_disarm()

    def mark(self, text: str) -> None:
        self._library.shim_mark(text.encode())

    @property
    def calls(self) -> int:
        return int(self._library.shim_calls())

    @property
    def hits(self) -> int:
        return int(self._library.shim_hits())
