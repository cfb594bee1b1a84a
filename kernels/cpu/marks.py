"""Slots that lie in rows, one by one or as a mask: what many values of a field choose."""

# mypy: allow-untyped-defs, allow-untyped-calls
# What kernels take is said by their signatures for Numba, at the end of the file.

from __future__ import annotations

import functools
from typing import Any

from numba import types

from .compile import compiled, reads, writes


def _mark_rows(slots, lows, highs, mask):
    for row in range(len(lows)):
        for place in range(lows[row], highs[row]):
            mask[types.uint32(slots[place])] = 1


def _list_rows(slots, lows, highs, listed):
    count = 0
    for row in range(len(lows)):
        for place in range(lows[row], highs[row]):
            listed[count] = slots[place]
            count += 1


@functools.cache
def mark_rows() -> Any:
    """`(slots: int32[n], lows: int32[r], highs: int32[r], mask: uint8[m])`: 1 for `slots[lows[i]:highs[i]]` of each row.

    Slots are 0 or more and less than m.
    """
    i32 = types.int32
    return compiled(_mark_rows, reads(i32), reads(i32), reads(i32), writes(types.uint8))


@functools.cache
def list_rows() -> Any:
    """`(slots: int32[n], lows: int32[r], highs: int32[r], listed: int32[c])`: the same slots, row by row; c are as many."""
    i32 = types.int32
    return compiled(_list_rows, reads(i32), reads(i32), reads(i32), writes(i32))
