"""Candidates become edges: lists of them merged, pruned, and offered to those whom they lead to. A thread a node.

All that could differ from run to run is settled by distance, then by number: the same lists give the same edges.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# What kernels take is said where they are launched.

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import cuda, float32, int32, uint32

from .card import DeviceArray, simulated
from .compile import device, kernel
from .leaf import NONE


@device
def put(ids, distances, thread, count, room, id_, distance):
    """Puts a candidate into a thread's sorted list unless it is too far; returns the new count."""
    place = count
    if count == room:
        place = room - 1
        last = distances[place, thread]
        if distance > last or (distance == last and id_ > ids[place, thread]):
            return count
    while place > 0 and (
        distances[place - 1, thread] > distance
        or (distances[place - 1, thread] == distance and ids[place - 1, thread] > id_)
    ):
        ids[place, thread] = ids[place - 1, thread]
        distances[place, thread] = distances[place - 1, thread]
        place -= 1
    ids[place, thread], distances[place, thread] = id_, distance
    return min(count + 1, room)


@functools.cache
def collect_kernel(room: int, threads: int) -> Any:
    ROOM, THREADS = room, threads

    def collect(found, apart, ids, distances, counts):
        near = cuda.shared.array((ROOM, THREADS), uint32)
        far = cuda.shared.array((ROOM, THREADS), float32)
        node, thread = cuda.grid(1), cuda.threadIdx.x
        if node >= found.shape[0]:
            return
        count = 0
        for a in range(found.shape[1]):
            id_ = found[node, a]
            present = id_ == NONE
            for b in range(count):
                present |= near[b, thread] == id_
            if not present:
                count = put(near, far, thread, count, ROOM, id_, apart[node, a])
        counts[node] = count
        for a in range(count):
            ids[node, a], distances[node, a] = near[a, thread], far[a, thread]

    return kernel(collect)


def collect(
    found: DeviceArray, apart: DeviceArray, ids: DeviceArray, distances: DeviceArray, counts: DeviceArray
) -> None:
    """Lists of candidates from what was found for each node, `uint32[n, m]` and `float32[n, m]`.

    The lists are `ids: uint32[n, c], distances: float32[n, c], counts: int32[n]`, nearest first, ties by number.
    """
    threads = 4 if simulated() else 64
    launched = collect_kernel(ids.shape[1], threads)
    launched[-(-found.shape[0] // threads), threads](found, apart, ids, distances, counts)


@functools.cache
def prune_kernel(degree: int, threads: int) -> Any:
    DEGREE, THREADS = degree, threads

    def prune(table, ids, distances, counts, alpha, edges):
        kept = cuda.shared.array((DEGREE, THREADS), int32)
        node, thread = cuda.grid(1), cuda.threadIdx.x
        if node >= ids.shape[0]:
            return
        count, room = counts[node], np.int64(ids.shape[1])
        start = node * room * room
        size = 0
        for a in range(count):
            bound = distances[node, a]
            clear = True
            for b in range(size):
                # Equal vectors are as near to one another as to the node: one of them is enough.
                if alpha * table[start + a * count + kept[b, thread]] <= bound:
                    clear = False
                    break
            if clear:
                kept[size, thread] = a
                edges[node, size] = ids[node, a]
                size += 1
                if size == DEGREE:
                    break
        for b in range(size, DEGREE):
            edges[node, b] = NONE

    return kernel(prune)


def prune(
    table: DeviceArray,
    ids: DeviceArray,
    distances: DeviceArray,
    counts: DeviceArray,
    alpha: np.float32,
    edges: DeviceArray,
) -> None:
    """`edges: uint32[n, r]` of lists of candidates; `table` has the distances among those of node i from i * c * c on."""
    threads = 4 if simulated() else 64
    launched = prune_kernel(edges.shape[1], threads)
    launched[-(-ids.shape[0] // threads), threads](table, ids, distances, counts, alpha, edges)


@functools.cache
def count_kernel() -> Any:
    def count(edges, incoming):
        at = cuda.grid(1)
        if at < edges.shape[0] * edges.shape[1]:
            node = edges[at // edges.shape[1], at % edges.shape[1]]
            if node != NONE:
                cuda.atomic.add(incoming, node, 1)

    return kernel(count)


def count(edges: DeviceArray, incoming: DeviceArray) -> None:
    """Adds to `incoming: int64[n]` how many of the edges lead to each node."""
    threads = 4 if simulated() else 256
    count_kernel()[-(-edges.shape[0] * edges.shape[1] // threads), threads](edges, incoming)


@functools.cache
def come_back_kernel() -> Any:
    def come_back(edges, ids, distances, counts, ends, sources, apart):
        source = cuda.grid(1)
        if source >= edges.shape[0]:
            return
        kept = 0
        for a in range(counts[source]):
            if kept < edges.shape[1] and ids[source, a] == edges[source, kept]:
                # Places are given out in any order: what is made of them is the same in every order.
                place = cuda.atomic.add(ends, edges[source, kept], 1)
                sources[place], apart[place] = source, distances[source, a]
                ids[source, kept], distances[source, kept] = ids[source, a], distances[source, a]
                kept += 1
        counts[source] = kept

    return kernel(come_back)


@functools.cache
def turned_kernel(room: int, threads: int) -> Any:
    ROOM, THREADS = room, threads

    def turned(edges, ids, distances, counts, ends, sources, apart):
        near = cuda.shared.array((ROOM, THREADS), uint32)
        far = cuda.shared.array((ROOM, THREADS), float32)
        node, thread = cuda.grid(1), cuda.threadIdx.x
        if node >= edges.shape[0]:
            return
        own = counts[node]
        count = own
        for a in range(count):
            near[a, thread], far[a, thread] = ids[node, a], distances[node, a]
        for at in range(ends[node - 1] if node > 0 else 0, ends[node]):
            source = sources[at]
            present = False
            for b in range(own):
                present |= edges[node, b] == source
            if not present:
                count = put(near, far, thread, count, ROOM, source, apart[at])
        counts[node] = count
        for a in range(count):
            ids[node, a], distances[node, a] = near[a, thread], far[a, thread]

    return kernel(turned)


def turn_round(
    edges: DeviceArray,
    ids: DeviceArray,
    distances: DeviceArray,
    counts: DeviceArray,
    ends: DeviceArray,
    sources: DeviceArray,
    apart: DeviceArray,
) -> None:
    """Lists of candidates become the edges that were pruned from them, and those of others that lead here.

    `sources: uint32[e]` and `apart: float32[e]` are room for all edges. `ends: int64[n]` says where each node's part of it
    begins, and where it ends afterwards.
    """
    threads = 4 if simulated() else 64
    blocks = -(-edges.shape[0] // threads)
    lists = ids, distances, counts
    come_back_kernel()[blocks, threads](edges, *lists, ends, sources, apart)
    turned_kernel(ids.shape[1], threads)[blocks, threads](edges, *lists, ends, sources, apart)
