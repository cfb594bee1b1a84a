"""The records of hits, copied out of mapped blocks: their ids' marks, and their bytes as they are packed.

The layout is that of ``storage``'s slot table and record blocks. Numba checks no bounds, so no number that
was read from the file becomes a part of an address before it was compared with what it may be.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# What kernels take is said by their signatures for Numba, at the end of the file.

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import types

from .ahead import will_need
from .compile import compiled, helper, reads, trusting, writes
from .memory import address_of, as_uint16, as_uint32, as_uint64, copy, load, prefetch

DONE, UNKNOWN_SLOTS, UNKNOWN_RECORDS, TOO_SMALL, LONG_RECORD, UNSOUND = range(6)
"""What came of it. Unknown blocks: give their addresses and call again; a record that is long, or blocks
that contradict themselves, are left to the plain path."""

_HEAD_BYTES = 48
_COUNT, _USED = 28, 32
_SLOT_BYTES = 16
_BLOCK, _INDEX, _FLAGS = 8, 12, 14
_TEXT, _LONG = 1, 2
# A record takes its slot's number (4) and its end (2) beside its bytes.
_OWNER_BYTES, _ENTRY_BYTES = 4, 6


@helper
def _ask(address, length, cold):
    if cold:
        will_need(address, length)
    else:
        prefetch(address)


def _fetch(slot_blocks, record_blocks, total_slots, per_block, capacity, slots, cold, marks, text, ends, packed):
    # Each pass reads what the one before led to. Within a pass nothing waits for anything else, so many reads
    # are under way at once: of memory, and of the disk where it is known to be asked.
    count = len(slots)
    indexes = np.empty(count, np.int64)
    sources = np.empty(count, np.int64)
    unknown = False
    for i in range(count):
        slot = slots[i]
        if slot < 0 or slot >= total_slots:
            return UNSOUND, 0, 0
        number = slot // per_block
        if number >= len(slot_blocks):
            return UNSOUND, 0, 0
        block = types.int64(slot_blocks[number])
        unknown |= block == 0
        sources[i] = block + _HEAD_BYTES + (slot - number * per_block) * _SLOT_BYTES
        _ask(sources[i], _SLOT_BYTES, cold)
    if unknown:
        return UNKNOWN_SLOTS, 0, 0

    texts = 0
    for i in range(count):
        entry = sources[i]
        number = types.int64(load(as_uint32(entry + _BLOCK), 0))
        flags = load(as_uint16(entry + _FLAGS), 0)
        if flags & _LONG:
            return LONG_RECORD, 0, 0
        if number >= len(record_blocks):
            return UNSOUND, 0, 0
        marks[i] = types.int64(load(as_uint64(entry), 0))
        text[i] = flags & _TEXT
        texts += text[i]
        indexes[i] = load(as_uint16(entry + _INDEX), 0)
        ends[i] = number
        sources[i] = types.int64(record_blocks[number])
        unknown |= sources[i] == 0
        _ask(sources[i] + _COUNT, 12, cold)
    if unknown:
        return UNKNOWN_RECORDS, 0, 0

    for i in range(count):
        held = types.int64(load(as_uint32(sources[i] + _COUNT), 0))
        _ask(sources[i] + _HEAD_BYTES + _OWNER_BYTES * held + 2 * indexes[i], 2, cold)

    size = 0
    for i in range(count):
        block, index = sources[i], indexes[i]
        held = types.int64(load(as_uint32(block + _COUNT), 0))
        used = load(as_uint64(block + _USED), 0)
        if used > types.uint64(capacity) or held * _ENTRY_BYTES + types.int64(used) > capacity:
            return UNSOUND, 0, 0
        if index >= held:
            return UNSOUND, 0, 0
        record_ends = as_uint16(block + _HEAD_BYTES + _OWNER_BYTES * held)
        begin = types.int64(load(record_ends, index - 1)) if index > 0 else 0
        end = types.int64(load(record_ends, index))
        if begin > end or end > types.int64(used):
            return UNSOUND, 0, 0
        sources[i] = block + _HEAD_BYTES + _ENTRY_BYTES * held + begin
        _ask(sources[i], end - begin, cold)
        size += end - begin
        ends[i] = size
    if size > len(packed):
        return TOO_SMALL, size, texts

    begin = 0
    for i in range(count):
        copy(address_of(packed) + begin, sources[i], ends[i] - begin)
        begin = ends[i]
    return DONE, size, texts


@functools.cache
def fetch() -> Any:
    """`(slot_blocks: uint64[], record_blocks: uint64[], total_slots, per_block, capacity, slots: int64[n],
    cold, marks: int64[n], text: uint8[n], ends: int64[n], packed: uint8[]) -> (code, bytes, texts)`.

    Addresses of blocks go by block number, 0 where one is not known yet. `per_block` is how many slots a
    block of the slot table has, `capacity` the bytes that a block of records has for them; `cold` is 1 while
    these come from the disk. Record i is
    `packed[ends[i - 1] : ends[i]]`; `texts` counts the ids that are texts. After UNKNOWN_RECORDS, `ends`
    holds the numbers of the records' blocks; after TOO_SMALL, `bytes` says how many are needed.
    """
    i64, u8, u64 = types.int64, types.uint8, types.uint64
    blocks = (reads(u64), reads(u64), i64, i64, i64)
    return compiled(_fetch, *blocks, reads(i64), i64, writes(i64), writes(u8), writes(i64), writes(u8))


def fetch_by(*tables: Any) -> Any:
    """`fetch` from these tables: what it takes besides is handed over contiguous, and of the right types."""
    return trusting(fetch(), *tables)
