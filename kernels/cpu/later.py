"""Edges that came after their node's row was written, in the order they came, and a chain of them for each node.

A link of a chain is where the node's next older one is, and the node that this edge leads to. So a walk of an older
snapshot passes over the links that it has not got, and every chain ends, whatever else is being appended meanwhile.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# What kernels take is said by their signatures for Numba, at the end of the file.

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import types

from .compile import compiled, helper, writes
from .memory import as_int32, as_uint32, load, prefetch

NO_LINK = -1


@helper
def since_of(frame, row):
    """The first link that a row has not got. The row begins with how many there had been when it was written."""
    return max(types.int64(load(as_uint32(row), 0)) - frame.later_origin, types.int64(0))


@helper
def first_later(frame, node):
    """The newest link of a node that this snapshot has; NO_LINK if there is none."""
    if frame.later_count == 0:
        return types.int64(NO_LINK)
    return _older(frame, types.int64(load(as_int32(frame.later_heads), node)))


@helper
def ask_for_later(frame, node):
    """Has a node's newest link brought from memory to the cache."""
    if frame.later_count != 0:
        prefetch(frame.later_heads + 4 * node)


@helper
def next_later(frame, link):
    return _older(frame, types.int64(load(as_int32(frame.later_links), 2 * link)))


@helper
def other_of(frame, link):
    return types.int64(load(as_uint32(frame.later_links), 2 * link + 1))


@helper
def _older(frame, link):
    while link >= frame.later_count:
        link = types.int64(load(as_int32(frame.later_links), 2 * link))
    if link != NO_LINK:
        prefetch(frame.later_links + 8 * link)
    return link


def _chain(links, first, last, nodes, heads):
    for i in range(first, last):
        if links[i, 0] >= nodes or links[i, 1] >= nodes:
            return i
        node = types.int64(links[i, 0])
        links[i, 0] = np.uint32(heads[node])
        heads[node] = i
    return -1


@functools.cache
def chain() -> Any:
    """`(links: uint32[n, 2], first, last, nodes, heads: int32[m]) -> int`.

    Makes links of the pairs (node, other) from `first` to `last`. The first that names a node which is none, or -1.
    """
    i32, i64 = types.int32, types.int64
    return compiled(_chain, writes(types.uint32, 2), i64, i64, i64, writes(i32))
