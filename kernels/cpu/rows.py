"""Single vectors in the stored blocks, for a kernel that compares a few: where they lie, and whether they are whole.

A row is believed once its block was found whole, or the pages that it lies on were found right by their sums.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

from numba import types

from .ahead import will_need
from .compile import helper
from .memory import as_uint32, as_uint64, load, prefetch
from .verify import ensure_pages, ensure_whole

_LINE = 64
_PAGE_HEAD = 16


@helper
def vector_at(frame, slot, weights):
    """The address of a stored vector; 0 where it is damaged. `frame` is a walk's."""
    block = slot // frame.vector_rows
    start = types.int64(load(as_uint64(frame.vector_addresses), block))
    generation = load(as_uint64(frame.vector_generations), block)
    offset = frame.vector_start + (slot - block * frame.vector_rows) * frame.row_bytes
    seen = as_uint64(frame.vector_seen)
    if load(seen, block) != generation:
        sums = as_uint32(frame.vector_sums + 4 * frame.vector_pages * block)
        if start != 0 and frame.vector_pages > 0 and load(sums, 0) != 0:
            first = (_PAGE_HEAD + offset) // frame.page_bytes
            last = (_PAGE_HEAD + offset + frame.row_bytes - 1) // frame.page_bytes
            pages_seen = as_uint64(frame.vector_pages_seen + 8 * frame.vector_pages * block)
            if not ensure_pages(start, first, last, generation, sums, pages_seen, frame.page_bytes, weights):
                return types.int64(0)
        else:
            length, kind = frame.vector_length, frame.vector_kind
            if not ensure_whole(start, length, kind, block, generation, frame.base, frame.page_bytes, weights):
                return types.int64(0)
            seen[block] = generation
    return start + offset


@helper
def _place(frame, slot):
    block = slot // frame.vector_rows
    start = types.int64(load(as_uint64(frame.vector_addresses), block)) + frame.vector_start
    return start + (slot - block * frame.vector_rows) * frame.row_bytes


@helper
def ask_for_vector(frame, slot):
    """Has a vector brought from memory to the cache."""
    start = _place(frame, slot)
    for offset in range(0, frame.row_bytes + _LINE, _LINE):
        prefetch(start + offset)


@helper
def read_vector(frame, slot):
    """Has a vector brought from the disk to memory."""
    will_need(_place(frame, slot), frame.row_bytes)
