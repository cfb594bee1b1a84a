"""The checksum of stored blocks, read in place. `reference.block_checksum` says what it is."""

# mypy: allow-untyped-defs, allow-untyped-calls
# What kernels take is said by their signatures for Numba, at the end of the file.

from __future__ import annotations

import functools
from typing import Any

from numba import types

from .compile import compiled, helper, reads, writes
from .memory import address_of, as_uint32, as_uint64, copy, load, store

_HEADER = 48
_GENERATION = 16
_FIELD = 40
_FIELD_WORDS = _FIELD // 4
_PAGE_HEAD_WORDS = 4


@helper
def _sum(address, n_words, weights, first):
    words = as_uint32(address)
    total = types.uint64(0)
    for i in range(n_words):
        total += types.uint64(load(words, i)) * weights[first + i]
    return total


@helper
def block_sum(address, length, weights):
    head = _sum(address, _FIELD_WORDS, weights, 0)
    return head + _sum(address + _HEADER, (length - _HEADER) // 4, weights, _FIELD_WORDS)


def _checksum(address, n_words, weights):
    return _sum(types.int64(address), n_words, weights, 0)


def _block_checksum(address, length, weights):
    return block_sum(types.int64(address), length, weights)


def _first_bad_block(addresses, length, weights):
    for i in range(len(addresses)):
        address = types.int64(addresses[i])
        if load(as_uint64(address + _FIELD), 0) != block_sum(address, length, weights):
            return i
    return -1


@helper
def page_sum(address, page, page_bytes, weights):
    """That of a page of the block at an address, which follows LMDB's header in the first one."""
    first = _PAGE_HEAD_WORDS if page == 0 else 0
    start = address + page * page_bytes + 4 * (first - _PAGE_HEAD_WORDS)
    return types.uint32(_sum(start, page_bytes // 4 - first, weights, first) >> types.uint64(32))


def _page_sums(addresses, page_bytes, weights, sums):
    for i in range(len(addresses)):
        for page in range(sums.shape[1]):
            sums[i, page] = page_sum(types.int64(addresses[i]), page, page_bytes, weights)


def _fill_blocks(rows, row_start, page_bytes, weights, blocks, sums):
    used = rows.shape[1]
    length = blocks.shape[1]
    for i in range(len(blocks)):
        address = address_of(blocks) + i * length
        blocks[i, _HEADER:row_start] = 0
        copy(address + row_start, address_of(rows) + i * used, used)
        blocks[i, row_start + used :] = 0
        store(as_uint64(address + _FIELD), block_sum(address, length, weights))
        for page in range(sums.shape[1]):
            sums[i, page] = page_sum(address, page, page_bytes, weights)


def _seal_blocks(addresses, lengths, generation, weights):
    for i in range(len(addresses)):
        address = types.int64(addresses[i])
        store(as_uint64(address + _GENERATION), types.uint64(generation))
        store(as_uint64(address + _FIELD), block_sum(address, lengths[i], weights))


_WEIGHTS = reads(types.uint64)


@functools.cache
def checksum() -> Any:
    """`(address: int, n_words: int, weights) -> int`: the checksum of `n_words` 4-byte words."""
    return compiled(_checksum, types.uint64, types.int64, _WEIGHTS)


@functools.cache
def block_checksum() -> Any:
    """`(address: int, length: int, weights) -> int`: that of a block of `length` bytes, header and all."""
    return compiled(_block_checksum, types.uint64, types.int64, _WEIGHTS)


@functools.cache
def first_bad_block() -> Any:
    """`(addresses: uint64[n], length: int, weights) -> int`: the first that does not match, or -1.

    All blocks have the same length; `weights` are at least `reference.checksum_weights(length // 4 - 2)`.
    """
    return compiled(_first_bad_block, reads(types.uint64), types.int64, _WEIGHTS)


@functools.cache
def page_sums() -> Any:
    """`(addresses: uint64[n], page_bytes: int, weights, sums: uint32[n, pages])`: the sums of all pages of blocks."""
    return compiled(_page_sums, reads(types.uint64), types.int64, _WEIGHTS, writes(types.uint32, 2))


@functools.cache
def fill_blocks() -> Any:
    """`(rows: uint8[n, used], row_start: int, page_bytes: int, weights, blocks: uint8[n, length], sums: uint32[n, pages])`

    Puts each block's rows into it, behind its header, whose other fields are right already, and its checksum.
    Gives the sums of its pages as well.
    """
    rows, blocks, sums = reads(types.uint8, 2), writes(types.uint8, 2), writes(types.uint32, 2)
    return compiled(_fill_blocks, rows, types.int64, types.int64, _WEIGHTS, blocks, sums)


@functools.cache
def seal_blocks() -> Any:
    """`(addresses: uint64[n], lengths: int64[n], generation: int, weights)`: stamps both into blocks."""
    integer = types.int64
    return compiled(_seal_blocks, reads(types.uint64), reads(integer), integer, _WEIGHTS)
