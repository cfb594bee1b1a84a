"""Which candidates become a node's edges: arrays in, scratch in, count out.

A candidate is kept unless some kept one is much nearer to it than the node is (Vamana's rule: `alpha`, here
on squared distances, says how much).
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# What kernels take is said by their signatures for Numba, at the end of the file.

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import types

from .compile import compiled, helper, reads, writes
from .memory import address_of, prefetch

NONE = np.uint32(0xFFFFFFFF)


@helper
def squared(a, b):
    total = np.float32(0)
    for j in range(len(a)):
        difference = a[j] - b[j]
        total += difference * difference
    return total


@helper
def prune(vectors, ids, distances, count, alpha, near, edges):
    """Chooses edges among `count` candidates, nearest first; `near` is scratch for the kept vectors.

    Fills `edges` up with NONE; returns how many there are.
    """
    dim = vectors.shape[1]
    for a in range(count):
        start = address_of(vectors) + 4 * dim * types.int64(ids[a])
        for offset in range(0, 4 * dim, 64):
            prefetch(start + offset)
    size = 0
    for a in range(count):
        candidate = vectors[ids[a]]
        clear = True
        for b in range(size):
            # Equal vectors are as near to one another as to the node: one of them is enough.
            if alpha * squared(near[b], candidate) <= distances[a]:
                clear = False
                break
        if clear:
            for j in range(dim):
                near[size, j] = candidate[j]
            edges[size] = ids[a]
            size += 1
            if size == len(edges):
                break
    for b in range(size, len(edges)):
        edges[b] = NONE
    return size


@helper
def offer(ids, distances, count, id_, distance):
    """Puts a candidate into a sorted list unless it is there or too far; returns the new count."""
    room = len(ids)
    if count == room and distance >= distances[room - 1]:
        return count
    present = False
    for a in range(count):
        present |= ids[a] == id_
    if present:
        return count
    place = count if count < room else room - 1
    while place > 0 and distances[place - 1] > distance:
        ids[place], distances[place] = ids[place - 1], distances[place - 1]
        place -= 1
    ids[place], distances[place] = id_, distance
    return min(count + 1, room)


def _collect(members, new_ids, new_distances, first, last, ids, distances, counts):
    for i in range(len(members)):
        node = members[i]
        if first <= node < last:
            for a in range(new_ids.shape[1]):
                if new_ids[i, a] == NONE:
                    break
                counts[node] = offer(ids[node], distances[node], counts[node], new_ids[i, a], new_distances[i, a])


def _prune_all(vectors, ids, distances, counts, alpha, first, last, edges):
    near = np.empty((edges.shape[1], vectors.shape[1]), np.float32)
    for node in range(first, last):
        prune(vectors, ids[node], distances[node], counts[node], alpha, near, edges[node])


def _turn_round(edges, vectors, first, last, ids, distances, counts):
    """Candidates become the edges as they are, and the edges of others that lead here."""
    for node in range(first, last):
        kept = 0
        for b in range(edges.shape[1]):
            if edges[node, b] == NONE:
                break
            for a in range(kept, counts[node]):
                if ids[node, a] == edges[node, b]:
                    ids[node, kept], distances[node, kept] = ids[node, a], distances[node, a]
                    kept += 1
                    break
        counts[node] = kept
    for source in range(len(edges)):
        for b in range(edges.shape[1]):
            node = types.int64(edges[source, b])
            if node == NONE:
                break
            if first <= node < last:
                apart = squared(vectors[source], vectors[node])
                counts[node] = offer(ids[node], distances[node], counts[node], np.uint32(source), apart)


_F32, _I64, _U32, _I32 = types.float32, types.int64, types.uint32, types.int32
_LISTS = (writes(_U32, 2), writes(_F32, 2), writes(_I32))


@functools.cache
def collect() -> Any:
    """`(members: int64[m], ids: uint32[m, k], distances: float32[m, k], first, last, lists…)`.

    Adds a leaf's edges to the lists of the members from `first` to `last`. The lists of candidates are
    `ids: uint32[n, c], distances: float32[n, c], counts: int32[n]`, nearest first.
    """
    return compiled(_collect, reads(_I64), reads(_U32, 2), reads(_F32, 2), _I64, _I64, *_LISTS)


@functools.cache
def prune_all() -> Any:
    """`(vectors: float32[n, d], lists…, alpha, first, last, edges: uint32[n, r])`."""
    lists = (reads(_U32, 2), reads(_F32, 2), reads(_I32))
    return compiled(_prune_all, reads(_F32, 2), *lists, _F32, _I64, _I64, writes(_U32, 2))


@functools.cache
def turn_round() -> Any:
    """`(edges: uint32[n, r], vectors: float32[n, d], first, last, lists…)`: edges and those that come back."""
    return compiled(_turn_round, reads(_U32, 2), reads(_F32, 2), _I64, _I64, *_LISTS)
