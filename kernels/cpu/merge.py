"""Rows of edges from two graphs over the same nodes become one, and what is out of reach is found, a window at a time.

No whole graph has to be in memory for either. A row begins with a word that is no edge: what the node stands for.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# What kernels take is said by their signatures for Numba, at the end of the file.

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import types

from .compile import compiled, helper, reads, writes
from .prune import NONE

# A node is unseen, or was come to, or was also gone on from.
UNSEEN, SEEN, LEFT = 0, 1, 2


@helper
def _offer(row, size, node):
    """Puts a node behind the first `size` of a row unless it is there; returns the new size."""
    for a in range(size):
        if row[a] == node:
            return size
    row[size] = node
    return size + 1


def _merge(rows, others, places, nodes, first, last):
    degree = others.shape[1]
    mine = np.empty(degree, np.uint32)
    for i in range(first, last):
        row, other = rows[i, 1:], others[places[i]]
        mine[:] = row
        size = 0
        for a in range(degree):
            if size < degree and mine[a] != NONE:
                size = _offer(row, size, nodes[mine[a]])
            if size < degree and other[a] != NONE:
                size = _offer(row, size, nodes[other[a]])
        row[size:] = NONE


def _spread(rows, first, marks):
    """Goes on from every node of this window that was come to, as far as that leads within the window."""
    count = len(rows)
    stack = np.empty(count, np.int64)
    left = 0
    for start in range(count):
        if marks[first + start] != SEEN:
            continue
        marks[first + start] = LEFT
        stack[0] = start
        size = 1
        while size > 0:
            size -= 1
            row = rows[stack[size], 1:]
            left += 1
            for a in range(len(row)):
                if row[a] == NONE:
                    break
                other = types.int64(row[a])
                if marks[other] == UNSEEN:
                    inside = first <= other < first + count
                    marks[other] = LEFT if inside else SEEN
                    if inside:
                        stack[size] = other - first
                        size += 1
    return left


@functools.cache
def merge() -> Any:
    """`(rows: uint32[n, 1 + r], others: uint32[m, r], places: int64[n], nodes: uint32[p], first, last)`.

    Row i, from `first` to `last`, takes in the row `places[i]` of the others: the nearest of both in turn, none
    twice, as many as it holds. An edge e leads to `nodes[e]` afterwards. Rows of edges are filled up with NONE.
    """
    u32, i64 = types.uint32, types.int64
    return compiled(_merge, writes(u32, 2), reads(u32, 2), reads(i64), reads(u32), i64, i64)


@functools.cache
def spread() -> Any:
    """`(rows: uint32[n, 1 + r], first, marks: uint8[nodes]) -> nodes gone on from`: a window of the nodes from `first` on."""
    return compiled(_spread, reads(types.uint32, 2), types.int64, writes(types.uint8))
