"""What a search takes home: its hits' ids and records, copied and not decoded.

A kernel copies them where Numba is loaded and the state is a committed one. It believes no number in the
file, and leaves all that is unusual to the plain path, which is its oracle too.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vecstore.kernels import dispatch
from vecstore.storage import keys
from vecstore.storage.blocks import Bytes
from vecstore.storage.slots import TEXT, read_slots
from vecstore.storage.state import SLOT_BYTES, Blocks, Numbers, State
from vecstore.storage.store import read_packed

_Addresses = NDArray[np.uint64]

# How many bytes a record is expected to take, before any was seen.
_LIKELY_BYTES = 64
# Fewer records than this for a thread are not worth handing to one.
_SLOTS_A_THREAD = 2_000
# No more than this is set aside on a guess: the kernel says what is needed.
_MOST_GUESSED = 1 << 20


class Fetched(NamedTuple):
    """Records in the order they were asked for. Record i is ``packed[ends[i - 1] : ends[i]]``."""

    marks: Numbers
    # 1 where the id is a text; None where all are integers.
    text: Bytes | None
    ends: Numbers
    packed: Bytes


def fetch(
    blocks: Blocks,
    slots: Numbers,
    *,
    cold: bool = False,
    threads: int = 1,
    executor: Callable[[int], Executor] | None = None,
) -> Fetched:
    """The records in these slots; ``cold`` says that searches read from the disk just now."""
    slots = np.ascontiguousarray(slots, dtype=np.int64)
    kernels = dispatch.fetch_kernels()
    if kernels is not None and isinstance(blocks, State):
        parts = 1 if executor is None else min(threads, slots.size // _SLOTS_A_THREAD)
        if parts > 1:
            assert executor is not None
            each = executor(threads).map(
                lambda part: _fetch(kernels, blocks, part, cold=cold), np.array_split(slots, parts)
            )
            fetched = _joined(list(each))
        else:
            fetched = _fetch(kernels, blocks, slots, cold=cold)
        if fetched is not None:
            return fetched
    return fetch_plainly(blocks, slots)


def fetch_plainly(blocks: Blocks, slots: Numbers) -> Fetched:
    """As ``fetch``, by NumPy, from any state."""
    entries = read_slots(blocks, slots)
    records = read_packed(blocks, entries)
    text = ((entries["flags"] & TEXT) > 0).astype(np.uint8)
    ends = np.cumsum(np.fromiter(map(len, records), dtype=np.int64, count=len(records)))
    packed = np.frombuffer(b"".join(records), dtype=np.uint8)
    return Fetched(entries["mark"].astype(np.int64), text if text.any() else None, ends, packed)


class _Tables:
    """Where a state's blocks lie, as far as they were asked for: by number, 0 for one that was not yet."""

    def __init__(self, state: State, kernels: Any) -> None:
        self.slot_blocks: _Addresses = np.zeros(state.header.counts[keys.SLOTS], dtype=np.uint64)
        self.record_blocks: _Addresses = np.zeros(state.header.counts[keys.RECORDS], dtype=np.uint64)
        self.slots_a_block = state.layout.table_payload // SLOT_BYTES
        sizes = state.header.slots, self.slots_a_block, state.layout.record_payload
        self.run = kernels.fetch_by(self.slot_blocks, self.record_blocks, *sizes)
        # A whole verification begins to check anew, and so do we.
        self.checked = state.checked
        self.likely_bytes = _LIKELY_BYTES


def _fetch(kernels: Any, state: State, slots: Numbers, *, cold: bool) -> Fetched | None:
    """None where the plain path must say what is the matter."""
    tables: Any = state.cache.get("fetch")
    if tables is None or tables.checked is not state.checked:
        tables = state.cache["fetch"] = _Tables(state, kernels)
    count = slots.size
    marks, ends, text = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.uint8)
    packed = np.empty(min(count * tables.likely_bytes, _MOST_GUESSED), np.uint8)
    while True:
        code, size, texts = tables.run(slots, cold, marks, text, ends, packed)
        if code == kernels.DONE:
            if packed.size > 4 * size + 4096:
                tables.likely_bytes = _guess(size, count)
                packed = packed[:size].copy()
            return Fetched(marks, text if texts else None, ends, packed[:size])
        if code == kernels.UNKNOWN_SLOTS:
            _find(state, keys.SLOTS, tables.slot_blocks, slots // tables.slots_a_block)
        elif code == kernels.UNKNOWN_RECORDS:
            _find(state, keys.RECORDS, tables.record_blocks, ends)
        elif code == kernels.TOO_SMALL:
            tables.likely_bytes = _guess(size, count)
            packed = np.empty(size, np.uint8)
        else:
            return None


def _joined(parts: list[Fetched | None]) -> Fetched | None:
    """Parts that were fetched beside each other as one; None where one of them is missing."""
    whole = [part for part in parts if part is not None]
    if len(whole) < len(parts):
        return None
    marks, text, ends, packed = zip(*whole, strict=True)
    starts = np.cumsum([0, *(part.size for part in packed[:-1])])
    texts = [
        np.zeros(own.size, dtype=np.uint8) if each is None else each
        for own, each in zip(marks, text, strict=True)
    ]
    return Fetched(
        np.concatenate(marks),
        None if all(each is None for each in text) else np.concatenate(texts),
        np.concatenate([own + start for own, start in zip(ends, starts.tolist(), strict=True)]),
        np.concatenate(packed),
    )


def _guess(size: int, count: int) -> int:
    return max(_LIKELY_BYTES, 5 * size // (4 * count))


def _find(state: State, kind: int, table: _Addresses, numbers: Numbers) -> None:
    """Note where these blocks lie, each checked once.

    In the map for single reads: the other one would read much ahead that no hit asks for.
    """
    wanted = np.zeros(table.size, dtype=np.bool_)
    wanted[numbers] = True
    unknown = np.flatnonzero(wanted & (table == 0))
    rows = state.file_rows(kind, unknown)
    assert rows is not None
    data, offsets = rows
    table[unknown] = offsets.astype(np.uint64) + np.uint64(data.ctypes.data)
