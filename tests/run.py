"""Everything that is checked before a push: lint, types, tests. Run it with the environment's Python.

Types are checked on the installed form of the package, in which ``kernels`` and ``embed`` lie inside it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def check_types() -> int:
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        (tree / "vecstore").mkdir()
        for entry in (ROOT / "vecstore").iterdir():
            if entry.name != "__pycache__":
                _place(entry, tree / "vecstore" / entry.name)
        for name in ("kernels", "embed"):
            _place(ROOT / name, tree / "vecstore" / name)
        command = [
            sys.executable,
            "-m",
            "mypy",
            "--config-file",
            str(ROOT / "pyproject.toml"),
            "-p",
            "vecstore",
        ]
        cache = str(ROOT / ".mypy_cache" / "as-installed")
        return subprocess.call(
            [*command, "--cache-dir", cache], cwd=folder, env=os.environ | {"MYPYPATH": folder}
        )


def _place(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy2(source, target)


def main() -> int:
    python = [sys.executable, "-m"]
    steps = {
        "lint": lambda: subprocess.call([*python, "ruff", "check", "."], cwd=ROOT),
        "types": check_types,
        # Two at a time: many wait for other processes and for the disk.
        "tests": lambda: subprocess.call([*python, "pytest", "-n", "2", *sys.argv[1:]], cwd=ROOT),
    }
    failed = []
    for name, step in steps.items():
        print(f"== {name}", flush=True)
        if step():
            failed.append(name)
    print("failed: " + ", ".join(failed) if failed else "all is well", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
