"""Compiled kernels stay on disk, and a disk that will not have them is no reason to fail."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numba.core.caching import FunctionCache

from vecstore.kernels import dispatch
from vecstore.kernels.cpu import cache

COUNT = """
from vecstore.kernels import dispatch
cpu = dispatch.cpu()
kernels = [cpu.distance.kernel("l2", "uint8"), cpu.select.push(), cpu.checksum.first_bad_block()]
stats = [getattr(kernel, "func", kernel).stats for kernel in kernels]
print(sum(sum(s.cache_hits.values()) for s in stats), sum(sum(s.cache_misses.values()) for s in stats))
"""


def compile_in_new_process(folder: Path) -> str:
    env = os.environ | {"NUMBA_CACHE_DIR": str(folder)}
    command = [sys.executable, "-c", COUNT]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.strip()


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    assert compile_in_new_process(tmp_path) == "0 3"
    assert compile_in_new_process(tmp_path) == "3 0"
    for path in tmp_path.rglob("*.nbc"):
        path.write_bytes(path.read_bytes()[:100])
    assert compile_in_new_process(tmp_path) == "0 3"


TWO_TYPES = """
import sys
import numpy as np
from numba import types
from vecstore.kernels.cpu import compile

def double(values):
    for i in range(len(values)):
        values[i] *= 2

element = getattr(types, sys.argv[1])
kernel = compile.compiled(double, compile.writes(element))
values = np.ones(3, sys.argv[1])
kernel(values)
assert values.tolist() == [2, 2, 2]
print(sum(kernel.stats.cache_hits.values()))
"""


def test_processes_that_compile_at_once_do_not_mix_up_their_files(tmp_path: Path) -> None:
    """One function for many types, which processes that begin together all find not there yet."""
    script = tmp_path / "script.py"
    script.write_text(TWO_TYPES)
    names = ["int8", "int16", "int32", "int64", "float32", "float64"]

    def run_all() -> list[str]:
        env = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
        started = [
            subprocess.Popen([sys.executable, script, name], env=env, stdout=subprocess.PIPE, text=True) for name in names
        ]
        found = [process.communicate()[0].strip() for process in started]
        assert [process.returncode for process in started] == [0] * len(names)
        return found

    assert run_all() == ["0"] * len(names)
    assert run_all() == ["1"] * len(names)
    assert len(list(tmp_path.rglob("*.nbc"))) == len(names)


@pytest.fixture
def fresh() -> Iterator[None]:
    """Kernels compiled within the test are its own."""
    select = dispatch.cpu().select
    cache.folder.cache_clear()
    select.sort.cache_clear()
    yield
    cache.folder.cache_clear()
    select.sort.cache_clear()


def sort_three() -> None:
    values, slots = np.array([3, 1, 2], np.float32), np.arange(3)
    dispatch.cpu().select.sort()(values, slots, 3)
    assert slots.tolist() == [1, 2, 0]


@pytest.mark.usefixtures("fresh")
def test_without_any_folder_kernels_are_compiled_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder can be made in a file")
    monkeypatch.setattr(cache, "_candidates", lambda: iter([tmp_path / "file" / "folder"]))
    assert cache.folder() is None
    sort_three()


@pytest.mark.usefixtures("fresh")
def test_a_disk_that_fills_up_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "_candidates", lambda: iter([tmp_path]))
    monkeypatch.setattr(FunctionCache, "save_overload", full)
    sort_three()


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="a matter of POSIX permissions")
def test_a_folder_that_others_may_write_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, own = tmp_path / "shared", tmp_path / "own"
    shared.mkdir()
    shared.chmod(0o777)
    monkeypatch.setattr(cache, "_candidates", lambda: iter([shared, own]))
    cache.folder.cache_clear()
    try:
        assert cache.folder() == own
        assert own.stat().st_mode & 0o077 == 0
    finally:
        cache.folder.cache_clear()


def test_the_key_covers_all_kernel_sources() -> None:
    assert len(cache.source_stamp()) == 64
    assert (cache._SOURCES / "microkernel.py").exists()
