"""A mask out of slots that lie in rows: what many values of a field choose, where that is a good part of all."""

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


@functools.cache
def mark_rows() -> Any:
    """`(slots: int32[n], lows: int32[r], highs: int32[r], mask: uint8[m])`: 1 for `slots[lows[i]:highs[i]]` of each row.

    Slots are 0 or more and less than m.
    """
    i32 = types.int32
    return compiled(_mark_rows, reads(i32), reads(i32), reads(i32), writes(types.uint8))
