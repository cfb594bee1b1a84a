"""The file itself: its keys and blocks, the space it takes, and what opening it costs."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from vecstore.config import DEAD_BLOCKS_FLOOR, DTYPES, METRICS_BY_DTYPE, Settings
from vecstore.errors import CorruptionError
from vecstore.storage import blocks, ids, keys
from vecstore.storage.header import GraphHeader, Header, read_header, write_header
from vecstore.storage.session import Session
from vecstore.storage.store import find

# -- keys and blocks


def test_keys_order_as_their_bytes_do() -> None:
    numbers = [0, 1, 255, 256, 65_535, 65_536, 2**24, keys.MAX_NUMBER]
    every = [(kind, number) for kind in sorted({keys.HEADER, keys.CATALOG, *keys.KINDS}) for number in numbers]
    packed = [keys.key(*one) for one in every]
    orders = [keys.order(*one) for one in every]
    assert packed == sorted(packed)
    assert orders == sorted(orders)
    assert len(set(packed)) == len(set(orders)) == len(every)
    assert {len(key) for key in packed} == {keys.KEY_BYTES}
    assert [int.from_bytes(key, "big") for key in packed] == orders
    assert set(keys.NAMES) == {keys.HEADER, keys.CATALOG, *keys.KINDS}


def test_catalog_numbers_do_not_collide() -> None:
    numbers = [keys.catalog_number(kind, part) for kind in keys.KINDS for part in (0, 1, 2**20)]
    assert len(set(numbers)) == len(numbers)
    assert max(numbers) <= keys.MAX_NUMBER


@pytest.mark.parametrize("page_bytes", [4096, 16_384])
def test_a_layout_wastes_little(page_bytes: int) -> None:
    for dtype in DTYPES:
        for dim in [*range(1, 2100, 7), 512, 768, 1024, 1536, 3072, 4096, 10_000, 65_536]:
            settings = Settings(dim, METRICS_BY_DTYPE[dtype][0], dtype)
            layout = blocks.layout(settings, page_bytes, True)
            size = layout.data_pages * page_bytes
            fixed = blocks.PAGE_HEAD_BYTES + blocks.HEAD_BYTES
            assert fixed % 64 == 0  # pages begin at multiples of 64, so payloads do
            assert layout.rows >= 1
            assert layout.rows * settings.row_bytes + fixed <= size
            waste = 1 - layout.rows * settings.row_bytes / size
            if waste >= 0.016:
                fewest = max(1, 16_384 // page_bytes, -(-(settings.row_bytes + fixed) // page_bytes))
                choices = range(fewest, max(fewest, 65_536 // page_bytes) + 1)
                best = min(1 - (n * page_bytes - fixed) // settings.row_bytes * settings.row_bytes / (n * page_bytes) for n in choices)
                assert waste == pytest.approx(best)
            assert layout.record_payload <= 0xFFFF - blocks.HEAD_BYTES


@pytest.mark.parametrize("page_bytes", [4096, 16_384])
def test_rows_cross_as_few_pages_as_they_can(page_bytes: int) -> None:
    def crossings(layout: blocks.Layout) -> int:
        firsts = blocks.PAGE_HEAD_BYTES + layout.row_start + np.arange(layout.rows) * layout.row_bytes
        assert firsts[0] >= blocks.PAGE_HEAD_BYTES + blocks.HEAD_BYTES
        assert firsts[0] % 64 == 0
        assert firsts[-1] + layout.row_bytes <= layout.data_pages * page_bytes
        return int(((firsts + layout.row_bytes - 1) // page_bytes - firsts // page_bytes).sum())

    for dim in [*range(1, 2100, 13), 128, 256, 384, 512, 768, 1024, 10_000]:
        for dtype in ("float32", "uint8"):
            settings = Settings(dim, "l2", dtype)
            old, new = (blocks.layout(settings, page_bytes, aligned) for aligned in (False, True))
            assert (old.rows, old.data_pages, old.row_start) == (new.rows, new.data_pages, blocks.HEAD_BYTES)
            assert crossings(new) <= crossings(old)
            if settings.row_bytes in (64, 128, 256, 512, 1024):
                assert crossings(new) == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_payloads_are_aligned_in_the_file(opened: Any, path: str, dtype: str) -> None:
    collection = opened(dim=96, dtype=dtype, metric=METRICS_BY_DTYPE[dtype][0])
    rng = np.random.default_rng(0)
    rows = rng.integers(1, 100, (3000, 12 if dtype == "binary" else 96)).astype(np.uint8)
    collection.add(range(3000), rows, [{"n": n} for n in range(3000)])
    seen = 0
    raw = Path(path).read_bytes()
    with collection._file.snapshot() as state:
        for kind in keys.KINDS:
            for number in np.flatnonzero(state.present(kind)).tolist():
                page = state._place(kind, number)
                start = page * state.layout.page_bytes + blocks.PAGE_HEAD_BYTES
                assert (start + blocks.HEAD_BYTES) % 64 == 0
                block = state.block(kind, number)
                assert raw[start : start + block.size] == block.tobytes()
                seen += 1
        assert int(state.addresses(keys.VECTORS, np.arange(2))[0] + state.layout.row_start) % 64 == 0
    assert seen > 5


def test_a_block_knows_itself() -> None:
    block = blocks.new_block(keys.VECTORS, 7, 4080)
    blocks.payload(block)[:] = np.arange(4032) % 251
    blocks.seal(block, 12)
    blocks.check(block, keys.VECTORS, 7, 12)
    for kind, number, generation in ((keys.RECORDS, 7, 12), (keys.VECTORS, 8, 12), (keys.VECTORS, 7, 11)):
        with pytest.raises(CorruptionError):
            blocks.check(block, kind, number, generation)
    for place in range(block.size):  # every byte counts, those of the header and the checksum as well
        block[place] ^= 0x10
        with pytest.raises(CorruptionError, match="vectors 7 is damaged"):
            blocks.check(block, keys.VECTORS, 7, 12)
        block[place] ^= 0x10
    blocks.check(block, keys.VECTORS, 7, 12)


def test_a_header_survives_and_believes_nothing() -> None:
    header = Header(Settings(5, "ip", "int8"), uuid=b"u" * 16, seed=2**64 - 1, created=1.5, slots=9, records=8, tail=3)
    header.graph = GraphHeader(
        nodes=8, degree=47, code_bytes=64, codec="noise", entries=2, index_bytes=70, built=8, slots=9, seed=5, stamp=2**64 - 1,
        graph_first=1, codes_first=2, index_first=3,
    )  # fmt: skip
    block = write_header(header, 4096)
    assert read_header(block, 1000) == header
    rng = np.random.default_rng(0)
    end = blocks.HEAD_BYTES + blocks.count_of(block)
    for _ in range(3000):
        damaged = block.copy()
        for place in rng.integers(blocks.HEAD_BYTES, end, rng.integers(1, 4)).tolist():
            damaged[place] = rng.integers(256)
        try:
            found = read_header(damaged, 1000)
        except vecstore.VecstoreError:
            continue
        assert found.text_ids <= found.records <= found.slots
        if found.graph is not None:
            assert found.graph.slots <= found.slots
            assert 1 <= found.graph.entries <= found.graph.nodes


# -- the table of ids


@pytest.mark.parametrize("kind", ["text", "whole", "both"])
def test_a_hundred_thousand_ids(opened: Any, kind: str) -> None:
    rng = np.random.default_rng(1)
    names: list[Any] = [f"photos/2024/{n:07}.jpg" if kind == "text" or (kind == "both" and n % 2) else n for n in range(100_000)]
    order = rng.permutation(len(names))
    collection = opened(dim=8, dtype="binary", durability="none")
    start = 0
    depths = set()
    while start < order.size:
        part = order[start : start + int(rng.choice([1, 10, 500, 5000, 20_000]))]
        collection.add([names[place] for place in part.tolist()], np.ones((part.size, 1), dtype=np.uint8))
        start += part.size
        with collection._file.snapshot() as state:
            depths.add(state.header.depth)
    assert len(depths) > 2  # the directory has doubled along the way
    with collection._file.snapshot() as state:
        slot_of = np.empty(order.size, dtype=np.int64)
        slot_of[order] = np.arange(order.size)
        assert (find(state, ids.hash_ids(names, state.header.seed)) == slot_of).all()
        for place in rng.integers(0, order.size, 200).tolist():
            assert find(state, ids.hash_ids([names[place]], state.header.seed)).tolist() == [slot_of[place]]
        strangers: list[Any] = [f"no {n}" for n in range(50_000)] + [10**6 + n for n in range(50_000)]
        if kind == "text":
            strangers += list(range(1000))
        assert (find(state, ids.hash_ids(strangers, state.header.seed)) == -1).all()
        table = ids.directory(state)
        assert table.size == 1 << state.header.depth
        buckets = int(state.present(keys.IDS).sum())
        assert set(table.tolist()) == set(range(buckets))
        assert 100_000 / (504 * buckets) > 0.5  # buckets are filled by half at least
    gone = rng.permutation(100_000)[:70_000]
    assert collection.delete([names[place] for place in gone.tolist()]) == 70_000
    left = np.ones(100_000, dtype=bool)
    left[gone] = False
    found = np.array([record is not None for record in collection.get(names)])
    assert (found == left).all()
    assert collection.verify().ok


def test_ids_hash_alike_however_they_come() -> None:
    for value in ("", "a", "a\0", "\0", "é" * 63, "x" * 64, "x" * 65, "\U0001f600" * 64):
        alone = ids.hash_ids([value], 5).hashes[0]
        among = ids.hash_ids(["some", value, "y" * 200, "z" * 30], 5).hashes[1]
        mixed = ids.hash_ids([3, value, "y"], 5).hashes[1]
        assert alone == among == mixed
    hashes = ids.hash_ids(["a", "a\0", "\0a", "b", "", "\0", "x" * 64, "x" * 65], 5).hashes
    assert len(set(hashes.tolist())) == 8
    assert ids.hash_ids([1], 5).hashes[0] != ids.hash_ids([1], 6).hashes[0]


# -- space


def dead_rows(collection: vecstore.Collection) -> tuple[int, int]:
    """(dead rows in blocks, rows that the blocks hold)."""
    stats = collection.stats()
    with collection._file.snapshot() as state:
        rows = stats["blocks"]["vectors"] * state.layout.rows
        return rows - stats["count"], rows


def test_dead_rows_stay_below_a_quarter(opened: Any) -> None:
    collection = opened(dim=128, metric="l2", durability="none")
    rng = np.random.default_rng(2)
    with collection._file.snapshot() as state:
        floor = DEAD_BLOCKS_FLOOR * state.layout.rows
    alive: set[int] = set()
    for step in range(60):
        draw = rng.random()
        if draw < 0.4 or len(alive) < 500:
            new = (rng.integers(0, 20_000, 1500)).tolist()
            new = list(dict.fromkeys(new))
            collection.upsert(new, rng.standard_normal((len(new), 128)), [{"step": step}] * len(new))
            alive.update(new)
        elif draw < 0.9:
            gone = rng.choice(sorted(alive), len(alive) // int(rng.integers(2, 8)), replace=False).tolist()
            assert collection.delete(gone) == len(gone)
            alive.difference_update(gone)
        else:
            lowest = sorted(alive)[: len(alive) // 2]
            collection.delete(lowest)
            alive.difference_update(lowest)
        dead, rows = dead_rows(collection)
        assert dead <= 0.25 * rows + floor, (step, dead, rows)
    assert collection.verify().ok
    assert {record.id for record in collection.scan(vectors=False)} == alive


@pytest.mark.parametrize(("calls", "most"), [(50, 1.6), (1, 2.3)])
def test_replacing_half_again_and_again_reuses_the_space(opened: Any, path: str, calls: int, most: float) -> None:
    """A call that replaces half of all touches every block, and the old ones must live until it is committed."""
    rng = np.random.default_rng(3)
    count, dim = 20_000, 64

    def metadata(n: int) -> list[dict[str, Any]]:
        return [{"n": int(value), "name": "x" * 40} for value in rng.integers(0, 100, n)]

    fresh = opened(path + ".fresh", dim=dim, metric="l2", durability="none")
    fresh.add(range(count), rng.standard_normal((count, dim)), metadata(count))
    fresh_bytes = os.path.getsize(fresh.path)
    collection = opened(dim=dim, metric="l2", durability="none")
    collection.add(range(count), rng.standard_normal((count, dim)), metadata(count))
    for _ in range(10):
        half = rng.permutation(count)[: count // 2]
        for part in np.array_split(half, calls):
            collection.upsert(part, rng.standard_normal((part.size, dim)), metadata(part.size))
    assert os.path.getsize(path) <= most * fresh_bytes
    assert collection.verify().ok
    collection.compact()
    assert os.path.getsize(path) <= 1.1 * fresh_bytes


def test_a_sliding_window_is_bounded(opened: Any, path: str) -> None:
    """A log that keeps its newest records: forever adding and deleting takes no more space."""
    collection = opened(dim=32, metric="l2", durability="none")
    rng = np.random.default_rng(4)
    sizes = []
    for step in range(150):
        first = step * 500
        collection.add(range(first, first + 500), rng.standard_normal((500, 32)), [{"step": step, "text": "x" * 60}] * 500)
        if step >= 20:
            collection.delete(where={"step": {"$lte": step - 20}})
            assert len(collection) == 10_000
        sizes.append(os.path.getsize(path))
    assert sizes[-1] <= 1.2 * sizes[60]
    assert sizes[-1] <= 3 * 10_000 * (32 * 4 + 120)
    assert collection.verify().ok


def test_long_records_free_their_blocks(opened: Any, path: str) -> None:
    collection = opened(dim=2, metric="l2", durability="none")
    for step in range(30):
        collection.upsert(range(20), np.full((20, 2), step), [{"text": "z" * 100_000, "step": step}] * 20)
        collection.update(range(10), [{"text": "w" * 50_000}] * 10)
    assert os.path.getsize(path) < 5 * 20 * 100_000
    assert collection.get(3).metadata == {"text": "w" * 50_000, "step": 29}
    assert collection.verify().ok


# -- what opening costs


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = str(tmp_path_factory.mktemp("large") / "large.vec")
    with vecstore.open(path, dim=512, metric="l2", durability="none") as collection:
        rows = np.random.default_rng(0).standard_normal((10_000, 512)).astype(np.float32)
        for start in range(0, 110_000, 10_000):
            names = [f"photo {n}" for n in range(start, start + 10_000)]
            collection.add(names, rows, [{"n": n, "name": "x" * 30} for n in range(start, start + 10_000)])
    assert os.path.getsize(path) >= 200 << 20
    yield path
    os.unlink(path)


def resident(path: str) -> int:
    """Bytes of a file that are in the page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
    size = os.path.getsize(path)
    pages = -(-size // mmap.PAGESIZE)
    table = (ctypes.c_ubyte * pages)()
    fd = os.open(path, os.O_RDONLY)
    try:
        address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
        assert libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), table) == 0
        libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size))
    finally:
        os.close(fd)
    return sum(one & 1 for one in table) * mmap.PAGESIZE


def drop_from_cache(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what is in its cache")
def test_opening_a_large_file_touches_little_of_it(large: str) -> None:
    drop_from_cache(large)
    before = resident(large)
    if before > os.path.getsize(large) // 10:
        pytest.skip("this file system does not let go of its cache")
    with vecstore.open(large, mode="r") as collection:
        assert collection.get("photo 77777").metadata["n"] == 77_777
    assert resident(large) - before < 0.03 * os.path.getsize(large)


def test_opening_a_large_file_is_quick(large: str) -> None:
    times = []
    for n in range(9):
        begun = time.perf_counter()
        with vecstore.open(large, mode="r") as collection:
            assert collection.get(f"photo {n}").metadata["n"] == n
        times.append(time.perf_counter() - begun)
    assert sorted(times)[4] < 0.02, times


# -- what is loaded


@pytest.mark.parametrize("work", ["", "c = vecstore.open(path); c.get('a'); c.get(list(range(3))); c.search([0, 0]); len(c)"])
def test_importing_and_getting_load_no_compiler(opened: Any, path: str, work: str) -> None:
    opened(dim=2, metric="l2").add(["a", 1], [[0, 0], [1, 1]])
    program = (
        f"import sys\npath = {path!r}\nimport vecstore\n{work}\n"
        "heavy = {'numba', 'llvmlite', 'torch', 'torchvision', 'PIL', 'scipy', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_session_changes_nothing_until_it_commits(opened: Any, path: str) -> None:
    collection = opened(dim=2, metric="l2")
    collection.add("a", [1, 0])
    before = Path(path).read_bytes()
    with collection._file.writing(1.0):
        session = Session(collection._file)
        session.create(keys.VECTORS)
        session.close()
    assert Path(path).read_bytes() == before


def test_a_stub_that_names_no_block_is_damage(opened: Any, path: str) -> None:
    """A negative number once passed the check, and ended in an IndexError."""
    import msgpack

    from vecstore.storage.records import long_blocks

    with opened(dim=2) as made:
        made.add("long", [1, 0], {"text": "x" * 40_000})
        with made._file.snapshot() as state:
            for numbers in ([-1], [1 << 40], [0.5], [None]):
                with pytest.raises(vecstore.CorruptionError):
                    long_blocks(state, msgpack.packb([10, numbers]))
