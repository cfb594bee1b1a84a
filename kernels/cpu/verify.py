"""Checks of stored blocks inside other kernels, each block when it is touched first.

What makes a block whole is what ``storage`` says in ``State.block``: LMDB's header before it, its own header,
and the checksum over all of it. A kernel that was told no gives up, and the plain path says what is wrong.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# What kernels take is said by their signatures for Numba, at the end of the file.

from __future__ import annotations

import functools
from typing import Any

from numba import types

from .checksum import block_sum, page_sum
from .compile import compiled, helper, reads, writes
from .memory import as_uint16, as_uint32, as_uint64, load

_PAGE_HEAD = 16
_MAGIC = int.from_bytes(b"vsB1", "little")
_LARGE_VALUE = 4


@helper
def ensure_whole(address, length, kind, number, generation, base, page_bytes, weights):
    """Whether a block of `length` bytes at an address is this one, of this generation, and undamaged.

    `address`, `base` (of the file's first page), `length`, `kind`, `number` and `page_bytes` are int64,
    `generation` is uint64, `weights` at least `reference.checksum_weights(length // 4 - 2)`.
    """
    if address < base + _PAGE_HEAD:
        return False
    longs, shorts, words = as_uint64(address), as_uint16(address - _PAGE_HEAD), as_uint32(address)
    page = (address - _PAGE_HEAD - base) // page_bytes
    if types.int64(load(as_uint64(address - _PAGE_HEAD), 0)) != page or load(shorts, 5) != _LARGE_VALUE:
        return False
    if types.int64(load(as_uint32(address - _PAGE_HEAD), 3)) * page_bytes != length + _PAGE_HEAD:
        return False
    if load(words, 0) != _MAGIC or types.int64(load(words, 1)) != kind:
        return False
    if types.int64(load(longs, 1)) != number or load(longs, 2) != generation:
        return False
    if types.int64(load(words, 6)) != length:
        return False
    return load(longs, 5) == block_sum(address, length, weights)


@helper
def ensure_pages(address, first, last, generation, sums, seen, page_bytes, weights):
    """Whether these pages of the block at an address are those whose sums were written with it.

    `sums` and `seen` are the block's rows: the sum of each page, and the generation that it was found right in.
    """
    for page in range(first, last + 1):
        if load(seen, page) != generation:
            if page_sum(address, page, page_bytes, weights) != load(sums, page):
                return False
            seen[page] = generation
    return True


def _first_not_whole(places, addresses, generations, seen, first, length, kind, base, page_bytes, weights):
    for i in range(len(places)):
        b = places[i]
        if b < 0 or b >= len(addresses):
            return i
        if seen[b] != generations[b]:
            if not ensure_whole(
                types.int64(addresses[b]), length, kind, first + b, generations[b], base, page_bytes, weights
            ):
                return i
            seen[b] = generations[b]
    return -1


@functools.cache
def first_not_whole() -> Any:
    """`(places: int64[n], addresses: uint64[m], generations: uint64[m], seen: uint64[m], first, length, kind,
    base, page_bytes, weights) -> int`.

    Checks those blocks of a lazy table, by their places in it, that were not seen yet, and notes the whole
    ones. The first that is not whole, or -1.
    """
    i64, u64 = types.int64, types.uint64
    arrays = (reads(i64), reads(u64), reads(u64), writes(u64))
    return compiled(_first_not_whole, *arrays, i64, i64, i64, i64, i64, reads(u64))
