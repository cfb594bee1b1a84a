"""The wheel: it holds every module of the tree and nothing else, and works away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {"vecstore": "vecstore", "kernels": "vecstore/kernels", "embed": "vecstore/embed"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that the checkout stays as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            source.mkdir(exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    if not (source / "README.md").exists():
        (source / "README.md").write_text("vecstore\n")
    for name in FOLDERS:
        for file in (ROOT / name).rglob("*"):
            if file.suffix in (".py", ".typed"):
                target = source / file.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(folder), str(source)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_has_every_module(wheel: Path) -> None:
    assert wheel.name.startswith("vecstore_db-")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {"vecstore/py.typed"}
    for folder, package in FOLDERS.items():
        for file in (ROOT / folder).rglob("*.py"):
            expected.add(f"{package}/{file.relative_to(ROOT / folder).as_posix()}")
    assert names == expected


def test_the_wheel_works_elsewhere(wheel: Path, tmp_path: Path) -> None:
    """Unpacked far from the checkout, in an interpreter that does not see the checkout."""
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    program = """
import os, sys
sys.path[:0] = [sys.argv[1]]
sys.path[:] = [entry for entry in sys.path if not os.path.exists(os.path.join(entry, "pyproject.toml"))]
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
import numpy as np
import vecstore, vecstore.kernels
assert vecstore.__file__.startswith(sys.argv[1]), vecstore.__file__
assert vecstore.kernels.__file__.startswith(sys.argv[1]), vecstore.kernels.__file__
with vecstore.open("a.vec", dim=64, metric="l2") as c:
    c.add(range(40_000), np.random.default_rng(0).standard_normal((40_000, 64)))
    assert c.search(c[7].vector, k=1).ids == [7]
    assert c.verify().ok
print(vecstore.__version__)
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(site)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in wheel.name
