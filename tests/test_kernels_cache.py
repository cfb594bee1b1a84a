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
