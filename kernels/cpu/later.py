"""Edges that came after their node's row was written: for each node a chain of cache lines, the newest first.

A line holds the number of the node's next older line, and places for edges, filled from the first on: how many edges
there had been before this one, and the node it leads to. A walk of an older snapshot passes over the edges that it
has not got, and every chain ends, whatever else is being appended meanwhile.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# What kernels take is said by their signatures for Numba, at the end of the file.

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import types

from .compile import compiled, helper, reads, writes
from .memory import address_of, as_int32, as_uint32, load, prefetch

LINE_WORDS, PLACES = 16, 7
NONE = np.uint32(0xFFFFFFFF)
_LINE_BYTES, _FIRST = 4 * LINE_WORDS, 2
# While an edge is written, what those to come will touch is brought from memory: heads, then lines.
_HEADS_AHEAD, _LINES_AHEAD = 32, 16


@helper
def since_of(frame, row):
    """The first edge that a row has not got. The row begins with how many there had been when it was written."""
    return max(types.int64(load(as_uint32(row), 0)) - frame.later_origin, types.int64(0))


@helper
def ask_for_head(frame, node):
    """Has the number of a node's newest line brought from memory to the cache."""
    if frame.later_count != 0:
        prefetch(frame.later_heads + 4 * node)


@helper
def newest_line(frame, node):
    """The address of a node's newest line, which is asked for; 0 if there is none."""
    if frame.later_count == 0:
        return types.int64(0)
    return _line(frame, types.int64(load(as_int32(frame.later_heads), node)))


@helper
def older_line(frame, line, since):
    """The address of the next older line that has an edge since then; 0 if there is none."""
    if number_at(line, 0) < since:
        return types.int64(0)
    return _line(frame, types.int64(load(as_int32(line), 0)))


@helper
def number_at(line, place):
    """How many edges there had been before the one in this place; more than there can be where there is none."""
    return types.int64(load(as_uint32(line), _FIRST + 2 * place))


@helper
def other_at(line, place):
    return types.int64(load(as_uint32(line), _FIRST + 2 * place + 1))


@helper
def _line(frame, number):
    if number < 0:
        return types.int64(0)
    address = frame.later_lines + _LINE_BYTES * number
    prefetch(address)
    return address


@helper
def _ask(pairs, at, nodes, heads, lines):
    if at + _HEADS_AHEAD < len(pairs) and pairs[at + _HEADS_AHEAD, 0] < nodes:
        prefetch(address_of(heads) + 4 * types.int64(pairs[at + _HEADS_AHEAD, 0]))
    if at + _LINES_AHEAD < len(pairs) and pairs[at + _LINES_AHEAD, 0] < nodes:
        head = types.int64(heads[pairs[at + _LINES_AHEAD, 0]])
        if head >= 0:
            prefetch(address_of(lines) + _LINE_BYTES * head)


def _append(pairs, number, nodes, heads, lines, used):
    for i in range(len(pairs)):
        _ask(pairs, i, nodes, heads, lines)
        if pairs[i, 0] >= nodes or pairs[i, 1] >= nodes:
            return -1 - i
        node = types.int64(pairs[i, 0])
        line, place = types.int64(heads[node]), types.int64(PLACES)
        if line >= 0:
            place = types.int64(0)
            while place < PLACES and lines[line, _FIRST + 2 * place] != NONE:
                place += 1
        fresh = place == PLACES
        if fresh:
            if used[0] == len(lines):
                return i
            line, place = used[0], types.int64(0)
            used[0] += 1
            lines[line] = NONE
            lines[line, 0] = np.uint32(heads[node])
        lines[line, _FIRST + 2 * place + 1] = pairs[i, 1]
        lines[line, _FIRST + 2 * place] = np.uint32(number + i)
        if fresh:
            heads[node] = line
    return len(pairs)


@functools.cache
def append() -> Any:
    """`(pairs: uint32[n, 2], number, nodes, heads: int32[m], lines: uint32[l, 16], used: int64[1]) -> int`.

    Puts edges from node to other into the chains; there were `number` before the first. How many, all unless the lines
    are used up; or -1 - i where pair i names a node which is none.
    """
    i32, i64, u32 = types.int32, types.int64, types.uint32
    return compiled(_append, reads(u32, 2), i64, i64, writes(i32), writes(u32, 2), writes(i64))
