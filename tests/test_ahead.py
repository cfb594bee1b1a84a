"""Reading ahead of need: what is asked for comes in, answers stay the same, and in memory nothing is asked for."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import vecstore
from vecstore import config
from vecstore.index import watch
from vecstore.index.watch import Watch

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what is in memory")

CALL = """
import sys
import numpy as np
from numba import types
from vecstore.kernels.cpu.ahead import will_need
from vecstore.kernels.cpu.compile import compiled

def ask(address, length):
    will_need(address, length)

kernel = compiled(ask, types.int64, types.int64)
"""


@pytest.fixture(scope="module")
def ask() -> Any:
    content: dict[str, Any] = {}
    exec(compile(CALL, __file__, "exec"), content)
    return content["kernel"]


def resident(address: int, pages: int) -> list[bool]:
    found = (ctypes.c_ubyte * pages)()
    assert not ctypes.CDLL(None).mincore(ctypes.c_void_p(address), ctypes.c_size_t(pages * mmap.PAGESIZE), found)
    return [bool(one & 1) for one in found]


@LINUX
def test_pages_that_are_asked_for_come_in(ask: Any, tmp_path: Path) -> None:
    path, page, pages = tmp_path / "file", mmap.PAGESIZE, 64
    path.write_bytes(os.urandom(pages * page))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        os.fsync(file.fileno())
        data = np.frombuffer(mapped, dtype=np.uint8)
        address = data.ctypes.data
        mapped.madvise(mmap.MADV_RANDOM)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if any(resident(address, pages)):
            pytest.skip("the file system keeps its files in memory")
        ask(address + 5 * page + 100, 200)
        ask(address + 21 * page - 1, 2)  # across two pages
        assert data[[5 * page, 20 * page, 21 * page]].tolist()  # waits until they are there
        assert np.flatnonzero(resident(address, pages)).tolist() == [5, 20, 21]
        del data


def test_advice_about_no_mapped_file_is_no_harm(ask: Any) -> None:
    array = np.arange(100_000)
    ask(array.ctypes.data + 8, array.nbytes - 8)
    ask(0, 100)
    ask(1 << 46, 1 << 20)
    assert array.sum() == 4_999_950_000


def test_a_kernel_that_calls_the_system_is_kept_on_disk(tmp_path: Path) -> None:
    """The call is found again by name in the next process."""
    script = tmp_path / "script.py"
    script.write_text(
        CALL + "array = np.zeros(10_000)\nkernel(array.ctypes.data, array.nbytes)\n"
        "print(sum(kernel.stats.cache_hits.values()), sum(kernel.stats.cache_misses.values()))\n"
    )
    env = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    for told in ("0 1", "1 0"):
        found = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True, check=True)
        assert found.stdout.strip() == told


# -- searches


@pytest.fixture
def walked(opened: Any, path: str, monkeypatch: pytest.MonkeyPatch) -> vecstore.Collection:
    monkeypatch.setattr(config, "GRAPH_FROM", 400)
    monkeypatch.setattr(config, "GRAPH_FROM_BYTES", 0)
    collection: vecstore.Collection = opened(dim=64, metric="l2", durability="none")
    collection.add(range(3000), np.random.default_rng(0).standard_normal((3000, 64)))
    return collection


def test_answers_are_the_same_whether_the_disk_is_asked_or_not(
    walked: vecstore.Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = np.random.default_rng(1).standard_normal((100, 64))
    found = []
    for cold in (False, True):
        monkeypatch.setattr(Watch, "cold", property(lambda self, cold=cold: cold))
        batch = walked.search(queries, k=5, recall=0.9)
        singles = [walked.search(query, k=5, recall=0.9) for query in queries]
        assert [hits.ids for hits in singles] == batch.ids.tolist()
        told = walked.explain(queries[0], k=5)
        found.append((batch.ids.tolist(), batch.distances.tolist(), {name: told[name] for name in told if "ms" not in name}))
    assert found[0][:2] == found[1][:2]


@LINUX
def test_searches_in_memory_end_it(walked: vecstore.Collection) -> None:
    for query in np.random.default_rng(1).standard_normal((20, 64)):
        walked.search(query)
    with walked._file.snapshot() as state:
        assert not walked._graph._keeper.of(state).watch.cold


# -- the watch


class Counts:
    """What the system counts of each thread, told by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads: dict[int, list[int]] = {}
        monkeypatch.setattr(watch, "resource", SimpleNamespace(getrusage=self._usage), raising=False)
        monkeypatch.setattr(watch, "_WHO", 1)

    def mine(self) -> list[int]:
        return self.reads.setdefault(threading.get_ident(), [0, 0])

    def _usage(self, who: int) -> Any:
        blocks, faults = self.mine()
        return SimpleNamespace(ru_inblock=blocks, ru_majflt=faults)


@pytest.mark.parametrize("place", [0, 1])
def test_reads_begin_it_and_looks_without_end_it(monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    counts, watching = Counts(monkeypatch), Watch()
    assert watching.cold  # who knows what the first search meets
    for _ in range(8):
        assert watching.cold
        watching.look()
    assert not watching.cold
    counts.mine()[place] += 8
    watching.look()
    for _ in range(8):
        assert watching.cold
        watching.look()
    assert not watching.cold


def test_what_another_thread_reads_does_not_count_here(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, watching = Counts(monkeypatch), Watch()
    for _ in range(10):
        watching.look()

    def other() -> None:
        counts.mine()[0] = 1000  # read by this thread before it ever searched
        watching.look()
        watching.look()

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert not watching.cold
    watching.look()
    assert not watching.cold


def test_where_the_system_counts_nothing_nothing_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_WHO", None)
    watching = Watch()
    assert not watching.cold
    watching.look()
    assert not watching.cold
