"""Records and ids of a bulk load: packed values are told apart and put together, and texts hashed, many at once."""

# mypy: allow-untyped-defs, allow-untyped-calls
# What kernels take is said by their signatures for Numba, at the end of the file.

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import types

from .compile import compiled, helper, reads, writes
from .memory import address_of, as_uint8, copy, load

# Deeper values than this are left to Python, which knows what is too deep.
_MOST_DEPTH = 32
_SCALAR, _TEXT, _LIST, _MAP, _OTHER = 0, 1, 2, 3, 4


@helper
def _number(at, length):
    number = types.int64(0)
    for i in range(length):
        number = number << 8 | types.int64(load(as_uint8(at), i))
    return number


@helper
def _token(at, end):
    """(what begins here, bytes of it and of a text behind it, values inside it) of msgpack's forms."""
    first = types.int64(load(as_uint8(at), 0))
    if first < 0x80 or first >= 0xE0:
        return _SCALAR, 1, 0
    if first < 0x90:
        return _MAP, 1, first & 15
    if first < 0xA0:
        return _LIST, 1, first & 15
    if first < 0xC0:
        return _TEXT, 1 + (first & 31), 0
    if 0xCC <= first <= 0xD3:
        return _SCALAR, 1 + (1 << (first & 3)), 0
    if first == 0xC0 or first == 0xC2 or first == 0xC3:
        return _SCALAR, 1, 0
    if first == 0xCB:
        return _SCALAR, 9, 0
    if 0xD9 <= first <= 0xDB and end - at > 1 << (first - 0xD9):
        width = 1 << (first - 0xD9)
        return _TEXT, 1 + width + _number(at + 1, width), 0
    if first >= 0xDC and end - at > 2 << (first & 1):
        width = 2 << (first & 1)
        return (_LIST if first < 0xDE else _MAP), 1 + width, _number(at + 1, width)
    return _OTHER, 0, 0


@helper
def _map_end(at, end, left, keyed):
    """Where the map that begins here ends; 0 if it is none, or holds what metadata may not."""
    if at >= end:
        return 0
    what, length, inside = _token(at, end)
    at += length
    if what != _MAP or at > end:
        return 0
    depth = 0
    rest, in_map = inside * 2, True
    while True:
        while rest == 0:
            if depth == 0:
                return at
            depth -= 1
            rest, in_map = left[depth], keyed[depth]
        if at >= end:
            return 0
        what, length, inside = _token(at, end)
        at += length
        if what == _OTHER or at > end or (in_map and rest & 1 == 0 and what != _TEXT):
            return 0
        rest -= 1
        if inside > 0:
            if depth == _MOST_DEPTH:
                return 0
            left[depth], keyed[depth] = rest, in_map
            depth += 1
            in_map = what == _MAP
            rest = inside * 2 if in_map else inside


def _join_records(texts, text_at, maps, map_at, packed, ends):
    left = np.empty(_MOST_DEPTH, dtype=np.int64)
    keyed = np.empty(_MOST_DEPTH, dtype=np.bool_)
    to = start = address_of(packed)
    room = start + len(packed)
    text, last_text = address_of(texts) + text_at, address_of(texts) + len(texts)
    at, last = address_of(maps) + map_at, address_of(maps) + len(maps)
    for i in range(len(ends)):
        end = _map_end(at, last, left, keyed)
        if end == 0:
            return -1
        length = 0
        if len(texts) > 0:
            if text >= last_text:
                return -1
            what, length, _ = _token(text, last_text)
            if what != _TEXT or text + length > last_text or to + 1 + length > room:
                return -1
            packed[to - start] = 0x92
            copy(to + 1, text, length)
            text += length
            to += 1 + length
        if to + end - at > room:
            return -1
        copy(to, at, end - at)
        to += end - at
        at = end
        ends[i] = to - start
    return to - start


def _weigh_texts(points, ends, weights, sums):
    begin = 0
    for i in range(len(ends)):
        total = types.uint64(0)
        for j in range(ends[i] - begin):
            total += types.uint64(points[begin + j]) * weights[j]
        sums[i] = total
        begin = ends[i]


@functools.cache
def join_records() -> Any:
    """`(texts: uint8[], text_at: int, maps: uint8[], map_at: int, packed: uint8[], ends: int64[n]) -> int`

    Puts n packed maps one behind the other, each behind a packed text where there are any, as pairs. Gives the
    bytes that they take; -1 if a map's key is no text, or a value of a kind that metadata does not have.
    """
    data = reads(types.uint8)
    integer = types.int64
    return compiled(_join_records, data, integer, data, integer, writes(types.uint8), writes(integer))


@functools.cache
def weigh_texts() -> Any:
    """`(points: uint8[], ends: int64[n], weights: uint64[], sums: uint64[n])`: texts of one byte a character, their
    characters each times the weight of its place.

    `weights` are at least as many as the longest text has characters.
    """
    return compiled(
        _weigh_texts, reads(types.uint8), reads(types.int64), reads(types.uint64), writes(types.uint64)
    )
