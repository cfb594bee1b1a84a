"""What a node may be linked to when the graph is changed in place: candidates from rows, later edges and dead nodes' rows."""

# mypy: allow-untyped-defs, allow-untyped-calls
# What kernels take is said by their signatures for Numba, at the end of the file.

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import types

from .compile import compiled, helper, reads, writes
from .later import PLACES
from .prune import NONE, offer, squared


@helper
def _add(found, count, node):
    if count == len(found):
        return count
    for a in range(count):
        if found[a] == node:
            return count
    found[count] = node
    return count + 1


@helper
def _place_of(ids, node):
    """Where a number is in an ascending list that has it."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) >> 1
        if ids[middle] < node:
            low = middle + 1
        else:
            high = middle
    return low


def _mend(rows, nodes, alive, lines, heads, origin, heirs, dead_ids, dead_rows, found, sizes):
    for i in range(len(rows)):
        node = nodes[i]
        sizes[i] = -1
        if alive[node] == 0:
            continue
        count = 0
        dead = False
        for e in range(1, rows.shape[1]):
            other = rows[i, e]
            if other == NONE:
                break
            if alive[other]:
                count = _add(found[i], count, other)
            else:
                dead = True
        kept = count
        # The older ones are in the row, or were found to be too many for it.
        since = max(types.int64(rows[i, 0]) - origin, 0)
        line = types.int64(heads[node]) if node < len(heads) else types.int64(-1)
        while line >= 0:
            for place in range(PLACES - 1, -1, -1):
                number, other = types.int64(lines[line, 2 + 2 * place]), lines[line, 3 + 2 * place]
                if number >= since and number != NONE and alive[other] and other != node:
                    count = _add(found[i], count, other)
            newer = types.int64(lines[line, 2]) >= since
            line = types.int64(np.int32(lines[line, 0])) if newer else types.int64(-1)
        if dead:
            for e in range(1, rows.shape[1]):
                other = rows[i, e]
                if other == NONE:
                    break
                if alive[other]:
                    continue
                place = _place_of(dead_ids, other)
                wanted = heirs
                for b in range(1, dead_rows.shape[1]):
                    beyond = dead_rows[place, b]
                    if beyond == NONE or wanted == 0:
                        break
                    if alive[beyond] and beyond != node:
                        before = count
                        count = _add(found[i], count, beyond)
                        wanted -= count > before
        if dead or count > kept:
            sizes[i] = count
            for a in range(count, found.shape[1]):
                found[i, a] = NONE


def _weigh(table, owners, candidates, first, last, ids, distances, counts):
    for i in range(first, last):
        owner = owners[i]
        for a in range(candidates.shape[1]):
            id_ = candidates[i, a]
            if id_ != NONE and id_ != owner:
                counts[i] = offer(ids[i], distances[i], counts[i], id_, squared(table[owner], table[id_]))


_I32, _I64, _U32, _F32 = types.int32, types.int64, types.uint32, types.float32


@functools.cache
def mend() -> Any:
    """`(rows: uint32[n, 1 + r], nodes: int64[n], alive: uint8[m], lines: uint32[l, 16], heads: int32[h], origin,
    heirs, dead_ids: uint32[d], dead_rows: uint32[d, 1 + r], found: uint32[n, c], sizes: int32[n])`.

    Finds for the rows of nodes where they should lead: to live neighbours, along the edges that came later, and to
    `heirs` of what each dead neighbour led to; the ascending numbers and the rows of these are given. `sizes` is -1
    for rows that stay as they are, and those of dead nodes. Every number must have been checked to be a node's.
    """
    tables = (reads(_U32, 2), reads(_I64), reads(types.uint8), reads(_U32, 2), reads(_I32), _I64, _I64)
    return compiled(_mend, *tables, reads(_U32), reads(_U32, 2), writes(_U32, 2), writes(_I32))


@functools.cache
def weigh() -> Any:
    """`(table: float32[t, d], owners: int64[n], candidates: uint32[n, c], first, last, ids: uint32[n, l], distances:
    float32[n, l], counts: int32[n])`.

    Fills the lists of the owners from `first` to `last` with their nearest candidates. All are rows of the table.
    """
    lists = (writes(_U32, 2), writes(_F32, 2), writes(_I32))
    return compiled(_weigh, reads(_F32, 2), reads(_I64), reads(_U32, 2), _I64, _I64, *lists)
