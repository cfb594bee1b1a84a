"""Whole-graph passes: an order in which near nodes are near each other, and a graph with no node out of reach."""

# mypy: allow-untyped-defs, allow-untyped-calls
# What kernels take is said by their signatures for Numba, at the end of the file.

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import types

from .compile import compiled, helper, reads, writes
from .prune import NONE, squared


@helper
def _chain(vectors, members, start):
    """Orders members in place so that each is followed by the nearest of the rest; begins next to `start`."""
    at = start
    for place in range(len(members)):
        best, nearest = place, np.float32(np.inf)
        for other in range(place, len(members)):
            distance = squared(vectors[at], vectors[members[other]])
            if distance < nearest:
                best, nearest = other, distance
        members[place], members[best] = members[best], members[place]
        at = members[place]
    return at


def _chain_cells(vectors, members, bounds, first, last):
    for cell in range(first, last):
        part = members[bounds[cell] : bounds[cell + 1]]
        if len(part) > 0:
            _chain(vectors, part, part[0])


@helper
def _visit(edges, start, seen, queue):
    """Marks everything that can be reached from a node; returns how many were new."""
    seen[start] = 1
    queue[0] = start
    head, tail = 0, 1
    while head < tail:
        node = queue[head]
        head += 1
        for b in range(edges.shape[1]):
            other = edges[node, b]
            if other == NONE:
                break
            if seen[other] == 0:
                seen[other] = 1
                queue[tail] = other
                tail += 1
    return tail


@helper
def _host(edges, node, seen, last):
    """A node within reach with room for an edge, near this one where there is such: or the one linked last."""
    for b in range(edges.shape[1]):
        other = edges[node, b]
        if other == NONE:
            break
        if seen[other] != 0 and edges[other, edges.shape[1] - 1] == NONE:
            return types.int64(other)
    return last


@helper
def _last_place(row):
    """Where the next edge of a row goes: behind those that are used, or over the last of them."""
    place = len(row) - 1
    while place > 0 and row[place - 1] == NONE:
        place -= 1
    return place


def _connect(edges, entries):
    """Adds edges until every node can be reached from the entries; returns how many it added."""
    seen = np.zeros(len(edges), np.uint8)
    queue = np.empty(len(edges), np.int64)
    for i in range(len(entries)):
        if seen[entries[i]] == 0:
            _visit(edges, types.int64(entries[i]), seen, queue)
    last = types.int64(entries[0])
    added = 0
    for node in range(len(edges)):
        if seen[node] != 0:
            continue
        host = _host(edges, node, seen, last)
        place = _last_place(edges[host])
        dropped = edges[host, place]
        edges[host, place] = np.uint32(node)
        added += 1
        # Where the host had no room, its farthest edge goes, and what that led to hangs on this node: before
        # it is seen what can be reached from here, as an edge of this node's may have to go for that.
        if dropped != NONE:
            edges[node, _last_place(edges[node])] = dropped
        _visit(edges, node, seen, queue)
        last = node
    return added


@functools.cache
def chain_cells() -> Any:
    """`(vectors: float32[n, d], members: int64[m], bounds: int64[c + 1], first, last)`: orders cells in place."""
    i64 = types.int64
    return compiled(_chain_cells, reads(types.float32, 2), writes(i64), reads(i64), i64, i64)


@functools.cache
def connect() -> Any:
    """`(edges: uint32[n, r], entries: uint32[e]) -> edges added`, in place."""
    return compiled(_connect, writes(types.uint32, 2), reads(types.uint32))
