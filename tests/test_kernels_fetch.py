"""Copying hits' records out of mapped blocks: the kernel beside the plain path, and over blocks made to harm."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import vecstore
from vecstore.errors import CorruptionError
from vecstore.kernels import dispatch
from vecstore.storage import fetch as fetching
from vecstore.storage import keys, store
from vecstore.storage.blocks import HEAD_BYTES, PAGE_HEAD_BYTES
from vecstore.storage.slots import LONG, TEXT

WILD = [0, 1, 2, 3, 0x7F, 0xFF, 0xFFFE, 0xFFFF, 0x10000, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, (1 << 63) - 1]
WILD += [1 << 63, (1 << 64) - 48, (1 << 64) - 1]


@pytest.fixture(scope="module")
def kernels() -> Any:
    dispatch.cpu()
    loaded = dispatch.fetch_kernels()
    assert loaded is not None
    return loaded


def ids_of(kind: str, count: int) -> list[Any]:
    return [f"id-{n}" if kind == "text" or (kind == "both" and n % 3 == 0) else n - 7 for n in range(count)]


def filled(opened: Any, kind: str, count: int = 3000, **options: Any) -> vecstore.Collection:
    rng = np.random.default_rng(5)
    collection: vecstore.Collection = opened(dim=4, metric="l2", **options)
    metadata = [{"n": n, "text": "x" * int(rng.integers(0, 60))} for n in range(count)]
    collection.add(ids_of(kind, count), rng.standard_normal((count, 4)), metadata)
    return collection


def same(one: fetching.Fetched, other: fetching.Fetched) -> None:
    for mine, theirs in zip(one, other, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            np.testing.assert_array_equal(mine, theirs)
            assert mine.dtype == theirs.dtype


# -- the kernel beside the plain path


@pytest.mark.parametrize("kind", ["whole", "text", "both"])
def test_the_kernel_copies_what_the_plain_path_copies(kernels: Any, opened: Any, kind: str) -> None:
    rng = np.random.default_rng(0)
    collection = filled(opened, kind)
    for turn in range(4):
        with collection._file.snapshot() as state:
            live = store.live_slots(state)
            for size in (0, 1, 2, 10, 17, 500, 20_000):
                slots = rng.choice(live, size)
                found = fetching._fetch(kernels, state, slots, cold=False)
                assert found is not None
                same(found, fetching.fetch_plainly(state, slots))
            assert np.count_nonzero(state.cache["fetch"].record_blocks)  # type: ignore[attr-defined]
        some = rng.permutation(ids_of(kind, 3000))[:300].tolist()
        some = [int(id_) if not str(id_).startswith("id") else id_ for id_ in some]
        if turn == 0:
            collection.update(some, [{"again": "y" * int(rng.integers(0, 900))} for _ in some])
        elif turn == 1:
            collection.delete(some)
        else:
            collection.upsert(some, rng.standard_normal((300, 4)))


def test_records_of_all_lengths(kernels: Any, opened: Any) -> None:
    """Buffers that are too small are asked for again; long records and what comes with them are read plainly."""
    collection = opened(dim=2, metric="l2")
    lengths = [0, 1, 10, 100, 1000, 2000, 3000, 4000, 5000, 20_000, 100_000]
    collection.add(range(len(lengths)), np.eye(2)[np.zeros(len(lengths), int)], [{"t": "z" * n} for n in lengths])
    with collection._file.snapshot() as state:
        short = np.arange(7)
        for slots in (short[-1:], short[:1], np.repeat(short, 1000), short[:2], short):
            found = fetching._fetch(kernels, state, slots, cold=False)
            assert found is not None
            same(found, fetching.fetch_plainly(state, slots))
            # What nobody will read is not held on to.
            whole = found.packed if found.packed.base is None else found.packed.base
            assert whole.nbytes <= 4 * found.ends[-1] + 4096
        assert fetching._fetch(kernels, state, np.arange(len(lengths)), cold=False) is None
        same(fetching.fetch(state, np.arange(11)), fetching.fetch_plainly(state, np.arange(11)))
    hits = collection.search([1, 0], k=11)
    assert {hit.id: len(hit.metadata["t"]) for hit in hits} == dict(enumerate(lengths))


def test_slots_that_do_not_exist_are_told_of(kernels: Any, opened: Any) -> None:
    collection = filled(opened, "whole")
    with collection._file.snapshot() as state:
        for slot in (-1, state.header.slots, 1 << 40, -(1 << 62)):
            for slots in (np.array([slot]), np.array([5] * 30 + [slot])):
                assert fetching._fetch(kernels, state, slots, cold=False) is None
                with pytest.raises(CorruptionError, match="names a slot that does not exist"):
                    fetching.fetch(state, slots)


def test_a_damaged_block_is_found_by_its_checksum(kernels: Any, opened: Any, path: str) -> None:
    for kind in (keys.RECORDS, keys.SLOTS):
        collection = filled(opened, "whole", at=f"{path}{kind}")
        with collection._file.snapshot() as state:
            page = state._place(kind, 0)
            place = page * state.layout.page_bytes + PAGE_HEAD_BYTES + HEAD_BYTES + 100
        collection.close()
        with open(collection.path, "r+b") as file:
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 4]))
        collection = vecstore.open(collection.path)
        for query in (np.ones(4), np.ones((3, 4))):
            for _ in range(2):
                with pytest.raises(CorruptionError, match=f"block {keys.NAMES[kind]} 0 is damaged: its checksum"):
                    collection.search(query, k=3000)
        collection.close()


def test_a_verification_ends_what_was_believed(kernels: Any, opened: Any) -> None:
    collection = filled(opened, "whole")
    collection.search(np.ones(4))
    with collection._file.snapshot() as state:
        before = state.cache["fetch"]
        assert collection.verify().ok
        collection.search(np.ones(4))
        assert state.cache["fetch"] is not before


# -- the kernel alone, over blocks made to harm


class Made:
    """Copies of a state's blocks, to be spoilt, and what a careful reader would take from them."""

    def __init__(self, state: Any) -> None:
        self.slot_blocks = [state.block(keys.SLOTS, n).copy() for n in range(state.header.counts[keys.SLOTS])]
        self.record_blocks = [state.block(keys.RECORDS, n).copy() for n in range(state.header.counts[keys.RECORDS])]
        self.total = state.header.slots
        self.per_block = state.layout.table_payload // 16
        self.capacity = state.layout.record_payload

    def addresses(self) -> tuple[np.ndarray, np.ndarray]:
        of = [np.array([b.ctypes.data for b in blocks], dtype=np.uint64) for blocks in (self.slot_blocks, self.record_blocks)]
        return of[0], of[1]

    def run(self, kernels: Any, slots: np.ndarray, room: int = 1 << 18) -> tuple[int, list[tuple[int, int, bytes]]]:
        """The same whether the disk is asked or not."""
        found = [self._run(kernels, slots, room, cold) for cold in (0, 1)]
        assert found[0] == found[1]
        return found[0]

    def _run(self, kernels: Any, slots: np.ndarray, room: int, cold: int) -> tuple[int, list[tuple[int, int, bytes]]]:
        count = slots.size
        marks, ends = np.empty(count, np.int64), np.empty(count, np.int64)
        text, packed = np.empty(count, np.uint8), np.full(room + 64, 0xEE, np.uint8)
        code, size, texts = kernels.fetch()(
            *self.addresses(), self.total, self.per_block, self.capacity, slots, cold, marks, text, ends, packed[:room]
        )
        assert (packed[room:] == 0xEE).all()
        if code != kernels.DONE:
            return code, []
        assert texts == text.sum()
        assert size == (ends[-1] if count else 0) <= room
        pieces = np.split(packed[:size], ends[:-1]) if count else []
        return code, [(mark, flag, piece.tobytes()) for mark, flag, piece in zip(marks.tolist(), text.tolist(), pieces, strict=True)]

    def expected(self, slots: np.ndarray) -> tuple[str, list[tuple[int, int, bytes]]]:
        found = []
        for slot in slots.tolist():
            if not 0 <= slot < self.total or slot // self.per_block >= len(self.slot_blocks):
                return "unsound", []
        for slot in slots.tolist():
            start = HEAD_BYTES + slot % self.per_block * 16
            entry = self.slot_blocks[slot // self.per_block][start : start + 16].tobytes()
            mark, number = int.from_bytes(entry[:8], "little", signed=True), int.from_bytes(entry[8:12], "little")
            index, flags = int.from_bytes(entry[12:14], "little"), int.from_bytes(entry[14:16], "little")
            if flags & LONG:
                return "long", []
            if number >= len(self.record_blocks):
                return "unsound", []
            found.append((mark, flags & TEXT, number, index))
        records = []
        for mark, text, number, index in found:
            block = self.record_blocks[number]
            held, used = int.from_bytes(block[28:32].tobytes(), "little"), int.from_bytes(block[32:40].tobytes(), "little")
            if 6 * held + used > self.capacity or index >= held:
                return "unsound", []
            ends = [0, *block[HEAD_BYTES + 4 * held : HEAD_BYTES + 6 * held].view("<u2").tolist()]
            if not ends[index] <= ends[index + 1] <= used:
                return "unsound", []
            heap = HEAD_BYTES + 6 * held
            records.append((mark, text, block[heap + ends[index] : heap + ends[index + 1]].tobytes()))
        return "done", records


@pytest.fixture
def made(opened: Callable[..., vecstore.Collection]) -> Callable[[], Made]:
    collection = filled(opened, "both", 1200)
    return lambda: _made(collection)


def _made(collection: vecstore.Collection) -> Made:
    with collection._file.snapshot() as state:
        return Made(state)


def check(kernels: Any, blocks: Made, slots: np.ndarray) -> str:
    code, found = blocks.run(kernels, slots)
    verdict, expected = blocks.expected(slots)
    names = {kernels.DONE: "done", kernels.LONG_RECORD: "long", kernels.UNSOUND: "unsound"}
    assert names[code] == verdict
    assert found == expected
    return verdict


def test_wild_numbers_in_the_slot_table(kernels: Any, made: Any) -> None:
    rng = np.random.default_rng(1)
    verdicts = set()
    for start, width in ((0, 8), (8, 4), (12, 2), (14, 2)):
        for value in WILD:
            blocks = made()
            slots = rng.integers(0, blocks.total, 12)
            slot = int(slots[5])
            place = HEAD_BYTES + slot % blocks.per_block * 16 + start
            wild = value.to_bytes(8, "little")[:width]
            blocks.slot_blocks[slot // blocks.per_block][place : place + width] = np.frombuffer(wild, np.uint8)
            verdicts.add(check(kernels, blocks, slots))
    assert verdicts == {"done", "long", "unsound"}


def test_wild_numbers_in_the_blocks_of_records(kernels: Any, made: Any) -> None:
    rng = np.random.default_rng(2)
    verdicts = []
    blocks = made()
    held = int.from_bytes(blocks.record_blocks[0][28:32].tobytes(), "little")
    ends = HEAD_BYTES + 4 * held
    for start, width in ((28, 4), (32, 8), (ends, 2), (ends + 2 * (held // 2), 2), (ends + 2 * (held - 1), 2)):
        for value in WILD:
            blocks = made()
            wild = np.frombuffer(value.to_bytes(8, "little")[:width], np.uint8)
            blocks.record_blocks[0][start : start + width] = wild
            slots = np.concatenate((rng.integers(0, held, 20), [0, 1, held // 2, held // 2 + 1, held - 1]))
            verdicts.append(check(kernels, blocks, slots.astype(np.int64)))
    assert {"done", "unsound"} <= set(verdicts)


def test_random_damage(kernels: Any, made: Any) -> None:
    rng = np.random.default_rng(3)
    verdicts: dict[str, int] = {}
    blocks = made()
    sound = copy.deepcopy(blocks.slot_blocks), copy.deepcopy(blocks.record_blocks)
    for _ in range(3000):
        blocks.slot_blocks, blocks.record_blocks = copy.deepcopy(sound)
        for block in (*blocks.slot_blocks, *blocks.record_blocks):
            if rng.random() < 0.5:
                block[rng.integers(0, block.size if rng.random() < 0.5 else 64, 3)] = rng.integers(0, 256, 3)
        verdict = check(kernels, blocks, rng.integers(0, blocks.total, 8))
        verdicts[verdict] = verdicts.get(verdict, 0) + 1
    assert min(verdicts["done"], verdicts["unsound"]) > 100


def test_unknown_blocks_and_small_buffers(kernels: Any, made: Any) -> None:
    blocks = made()
    slots = np.arange(blocks.total)
    code, records = blocks.run(kernels, slots)
    assert code == kernels.DONE
    size = sum(len(packed) for _, _, packed in records)
    assert blocks.run(kernels, slots, size)[0] == kernels.DONE
    assert blocks.run(kernels, slots, size - 1)[0] == blocks.run(kernels, slots, 0)[0] == kernels.TOO_SMALL
    assert blocks.run(kernels, slots[:0], 0)[0] == kernels.DONE

    def ask(slot_blocks: np.ndarray, record_blocks: np.ndarray, wanted: np.ndarray) -> tuple[int, np.ndarray]:
        numbers = np.empty(wanted.size, np.int64), np.empty(wanted.size, np.int64)
        texts, packed = np.empty(wanted.size, np.uint8), np.empty(1 << 18, np.uint8)
        limits = blocks.total, blocks.per_block, blocks.capacity
        out = kernels.fetch()(slot_blocks, record_blocks, *limits, wanted, 0, numbers[0], texts, numbers[1], packed)
        return out[0], numbers[1]

    slot_blocks, record_blocks = blocks.addresses()
    for place in range(slot_blocks.size):
        some = slot_blocks.copy()
        some[place] = 0
        assert ask(some, record_blocks, slots)[0] == kernels.UNKNOWN_SLOTS
        assert ask(some, record_blocks, np.append(slots, -1))[0] == kernels.UNSOUND
        assert ask(slot_blocks[:place], record_blocks, slots)[0] == kernels.UNSOUND
    for place in range(record_blocks.size):
        some = record_blocks.copy()
        some[place] = 0
        code, numbers = ask(slot_blocks, some, slots)
        assert code == kernels.UNKNOWN_RECORDS
        assert set(numbers.tolist()) == set(range(record_blocks.size))
        assert ask(slot_blocks, record_blocks[:place], slots)[0] == kernels.UNSOUND
