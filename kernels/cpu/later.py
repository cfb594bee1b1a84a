"""Edges that came after their node's row was written: pairs in the order they came, and a chain of them for each node.

A chain leads from a pair to an older one. So a walk of an older snapshot passes over the pairs that it has not got,
and every chain ends, whatever else is being appended meanwhile.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# What kernels take is said by their signatures for Numba, at the end of the file.

from __future__ import annotations

import functools
from typing import Any

from numba import types

from .compile import compiled, helper, reads, writes
from .memory import as_int32, as_uint32, load

NO_PAIR = -1


@helper
def since_of(frame, row):
    """The first pair that a row has not got. The row begins with how many there had been when it was written."""
    return max(types.int64(load(as_uint32(row), 0)) - frame.later_origin, types.int64(0))


@helper
def first_later(frame, node):
    """The newest pair of a node that this snapshot has; NO_PAIR if there is none."""
    if frame.later_count == 0:
        return types.int64(NO_PAIR)
    return _older(frame, types.int64(load(as_int32(frame.later_heads), node)))


@helper
def next_later(frame, pair):
    return _older(frame, types.int64(load(as_int32(frame.later_nexts), pair)))


@helper
def other_of(frame, pair):
    return types.int64(load(as_uint32(frame.later_pairs), 2 * pair + 1))


@helper
def _older(frame, pair):
    while pair >= frame.later_count:
        pair = types.int64(load(as_int32(frame.later_nexts), pair))
    return pair


def _chain(pairs, first, last, nodes, heads, nexts):
    for i in range(first, last):
        if pairs[i, 0] >= nodes or pairs[i, 1] >= nodes:
            return i
        node = types.int64(pairs[i, 0])
        nexts[i] = heads[node]
        heads[node] = i
    return -1


@functools.cache
def chain() -> Any:
    """`(pairs: uint32[n, 2], first, last, nodes, heads: int32[m], nexts: int32[n]) -> int`.

    Adds the pairs from `first` to `last` to their nodes' chains. The first that names a node which is none, or -1.
    """
    i32, i64 = types.int32, types.int64
    return compiled(_chain, reads(types.uint32, 2), i64, i64, i64, writes(i32), writes(i32))
