"""One field out of many packed records: where its value lies, and what it is if it is a number, a bool or null.

Records are msgpack: metadata, or an id and metadata. Texts, lists and dicts are only found and hashed, so that each
distinct one is unpacked once. What is not as it should be is left to the plain path, which says what is wrong.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# What kernels take is said by their signatures for Numba, at the end of the file.

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .compile import compiled, helper, reads, writes

ABSENT, NULL, FALSE, TRUE, NUMBER, TEXT, OTHER, LARGE = range(8)
"""What a value is; LARGE is a whole number that a float64 may not hold."""

_UNSOUND = -1
_EXACT = 1 << 53


def _float_of(bits: int, element: Any, kind: Any) -> Any:
    @intrinsic
    def float_of(typingctx: Any, word: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value = builder.bitcast(builder.trunc(args[0], ir.IntType(bits)), kind)
            return value if bits == 64 else builder.fpext(value, ir.DoubleType())

        return types.float64(types.uint64), emit

    return float_of


_single, _double = _float_of(32, types.float32, ir.FloatType()), _float_of(64, types.float64, ir.DoubleType())


@helper
def _number(data, at, count):
    """The next bytes as one number, the first the most significant."""
    value = types.uint64(0)
    for i in range(count):
        value = (value << types.uint64(8)) | types.uint64(data[at + i])
    return value


@helper
def _extent(data, at, end):
    """(bytes of a head and what it holds itself, values that follow inside); the former is _UNSOUND if it leads outside."""
    if at >= end:
        return _UNSOUND, 0
    head = types.int64(data[at])
    size, inside, wide = 1, 0, 0
    if head <= 0x7F or head >= 0xE0 or head == 0xC0 or head == 0xC2 or head == 0xC3:
        return 1, 0
    if head <= 0x8F:
        inside = 2 * (head & 15)
    elif head <= 0x9F:
        inside = head & 15
    elif head <= 0xBF:
        size += head & 31
    elif 0xC4 <= head <= 0xC6:
        wide = 1 << (head - 0xC4)
    elif 0xC7 <= head <= 0xC9:
        wide = 1 << (head - 0xC7)
    elif head == 0xCA:
        size += 4
    elif head == 0xCB:
        size += 8
    elif 0xCC <= head <= 0xCF:
        size += 1 << (head - 0xCC)
    elif 0xD0 <= head <= 0xD3:
        size += 1 << (head - 0xD0)
    elif 0xD4 <= head <= 0xD8:
        size += 1 + (1 << (head - 0xD4))
    elif 0xD9 <= head <= 0xDB:
        wide = 1 << (head - 0xD9)
    elif 0xDC <= head <= 0xDF:
        wide = 2 << (head & 1)
    else:
        return _UNSOUND, 0
    if wide:
        if at + 1 + wide > end:
            return _UNSOUND, 0
        count = types.int64(_number(data, at + 1, wide))
        size += wide
        if head >= 0xDC:
            inside = count if head <= 0xDD else 2 * count
        else:
            size += count + (head <= 0xC9 and head >= 0xC7)
    if size > end - at or inside > end - at:
        return _UNSOUND, 0
    return size, inside


@helper
def _behind(data, at, end):
    """The place behind a value; _UNSOUND if it is cut off."""
    left = 1
    while left > 0:
        size, inside = _extent(data, at, end)
        if size < 0:
            return _UNSOUND
        at += size
        left += inside - 1
    return at


@helper
def _is_key(data, at, size, key, first, last):
    """Whether the text at a place, head included, is this key."""
    length = last - first
    head = types.int64(data[at])
    if not (0xA0 <= head <= 0xBF or 0xD9 <= head <= 0xDB) or size < length:
        return False
    start = at + size - length
    inside = 1 if head <= 0xBF else 1 + (1 << (head - 0xD9))
    if start != at + inside:
        return False
    differ = 0
    for i in range(length):
        differ += data[start + i] != key[first + i]
    return differ == 0


@helper
def _find(data, at, end, key, first, last):
    """(whether there is a dict at this place, where the value of a key in it begins); _UNSOUND if it has none."""
    size, inside = _extent(data, at, end)
    head = types.int64(data[at]) if size > 0 else 0
    if size < 0 or not (0x80 <= head <= 0x8F or head == 0xDE or head == 0xDF):
        return False, _UNSOUND
    at += size
    for _ in range(inside // 2):
        size, nested = _extent(data, at, end)
        if size < 0 or nested:
            return False, _UNSOUND
        mine = _is_key(data, at, size, key, first, last)
        at += size
        if mine:
            return True, at
        at = _behind(data, at, end)
        if at < 0:
            return False, _UNSOUND
    return True, _UNSOUND


@helper
def _classify(data, at, size):
    """(what a value is, its number)."""
    head = types.int64(data[at])
    if head <= 0x7F:
        return NUMBER, types.float64(head)
    if head >= 0xE0:
        return NUMBER, types.float64(head - 256)
    if head == 0xC0:
        return NULL, np.nan
    if head == 0xC2 or head == 0xC3:
        return FALSE + (head - 0xC2), np.nan
    if head == 0xCA:
        return NUMBER, _single(_number(data, at + 1, 4))
    if head == 0xCB:
        return NUMBER, _double(_number(data, at + 1, 8))
    if 0xCC <= head <= 0xCF:
        word = _number(data, at + 1, size - 1)
        return (NUMBER, types.float64(word)) if word < _EXACT else (LARGE, np.nan)
    if 0xD0 <= head <= 0xD3:
        bits = types.uint64(8 * (size - 1))
        word = types.int64(_number(data, at + 1, size - 1) << (types.uint64(64) - bits)) >> types.int64(
            64 - bits
        )
        return (NUMBER, types.float64(word)) if -_EXACT < word < _EXACT else (LARGE, np.nan)
    if 0xA0 <= head <= 0xBF or 0xD9 <= head <= 0xDB:
        return TEXT, np.nan
    return OTHER, np.nan


@helper
def _hash(data, at, end):
    value = types.uint64(0xCBF29CE484222325)
    for i in range(at, end):
        value = (value ^ types.uint64(data[i])) * types.uint64(0x9E3779B97F4A7C15)
        value ^= value >> types.uint64(29)
    return value


@helper
def _value(data, at, end, key, key_ends):
    """(whether the record is sound, where the value begins): under the whole name, else along its parts."""
    sound, found = _find(data, at, end, key, 0, key_ends[0])
    if found >= 0 or not sound:
        return sound, found
    for part in range(1, len(key_ends)):
        sound, at = _find(data, at, end, key, key_ends[part - 1], key_ends[part])
        if at < 0:
            # What is no dict has no part; a dict that is cut off is found by going behind it.
            return True, _UNSOUND
    return True, at if len(key_ends) > 1 else _UNSOUND


def _pick(packed, ends, ids, sound_before, key, key_ends, kinds, numbers, starts, lengths, hashes):
    begin = 0
    for i in range(len(ends)):
        at, end = begin, ends[i]
        begin = end
        if ids[i]:
            size, inside = _extent(packed, at, end)
            if size != 1 or inside != 2:
                return i
            at = _behind(packed, at + 1, end)
        if at < 0 or (not sound_before and _behind(packed, at, end) != end):
            return i
        sound, place = _value(packed, at, end, key, key_ends)
        if not sound:
            return i
        kinds[i], numbers[i] = ABSENT, np.nan
        if place < 0:
            continue
        behind = _behind(packed, place, end)
        kinds[i], numbers[i] = _classify(packed, place, behind - place)
        starts[i], lengths[i] = place, behind - place
        if kinds[i] >= TEXT:
            hashes[i] = _hash(packed, place, behind)
    return -1


@functools.cache
def pick() -> Any:
    """`(packed: uint8[], ends: int64[n], ids: uint8[n], sound_before, key: uint8[], key_ends: int64[m], kinds: uint8[n],
    numbers: float64[n], starts: int64[n], lengths: int64[n], hashes: uint64[n]) -> int`.

    Record i is `packed[ends[i - 1] : ends[i]]`, an id and metadata where `ids[i]`, else metadata. The key is the whole name of
    a field, and then its parts. A value lies at `starts[i]`, `lengths[i]` bytes long; it has a hash if it is no number, bool
    or null. Returns the first record that is none, or -1. `sound_before` says that it was -1 for these very records, of another
    field: they are not looked through once more.
    """
    i64, u8 = types.int64, types.uint8
    given = (reads(u8), reads(i64), reads(u8), types.boolean, reads(u8), reads(i64))
    return compiled(
        _pick, *given, writes(u8), writes(types.float64), writes(i64), writes(i64), writes(types.uint64)
    )


def _agree(packed, starts, lengths, others):
    for i in range(len(starts)):
        other = others[i]
        if lengths[i] != lengths[other]:
            return False
        for j in range(lengths[i]):
            if packed[starts[i] + j] != packed[starts[other] + j]:
                return False
    return True


@functools.cache
def agree() -> Any:
    """`(packed: uint8[], starts: int64[n], lengths: int64[n], others: int64[n]) -> bool`: whether the bytes of each value are
    those of value `others[i]`."""
    i64 = types.int64
    return compiled(_agree, reads(types.uint8), reads(i64), reads(i64), reads(i64))
