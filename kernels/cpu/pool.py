"""The best nodes of a walk so far: sorted keys of a score, a node and whether it was expanded.

A key is `score << 32 | node << 1 | expanded` in one signed word, so that keys compare as scores do, and then
as nodes. A pool is an array of keys with room for one more than it keeps.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .compile import helper
from .memory import address_of

FARTHEST = np.int64(0x7FFFFFFFFFFFFFFF)

_I1, _I64 = ir.IntType(1), ir.IntType(64)


@intrinsic
def _move(typingctx: Any, target: Any, source: Any, n_bytes: Any) -> Any:
    """Copies bytes between addresses that may overlap."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, byte, _I64, _I1])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.memmove.p0.p0.i64")
        pointers = [builder.inttoptr(value, byte) for value in args[:2]]
        builder.call(function, [*pointers, args[2], ir.Constant(_I1, 0)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), emit


@helper
def key_of(score, node):
    return (types.int64(score) << 32) | (node << 1)


@helper
def node_of(key):
    return (key & 0xFFFFFFFF) >> 1


@helper
def score_of(key):
    return key >> 32


@helper
def take(pool, size, room, key):
    """Puts a key into the pool; returns its place, or -1 where it was there already or is too far.

    The caller's size grows by one up to `room` when the place is not -1.
    """
    expanded = key | 1
    low, high = 0, size
    while low < high:
        middle = (low + high) >> 1
        if pool[middle] <= expanded:
            low = middle + 1
        else:
            high = middle
    if low >= room or (low > 0 and (pool[low - 1] | 1) == expanded):
        return -1
    start = address_of(pool) + 8 * low
    _move(start + 8, start, 8 * (size - low))
    pool[low] = key
    return low
