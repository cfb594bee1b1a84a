"""The k nearest of many distances, ordered by (distance, slot), in a bounded max-heap.

Runs of distances are first compared with the worst kept, many at a time; only a run with a hit is looked
into. A heap is two arrays and a size; the worst entry is first. Distances are never NaN.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# What kernels take is said by their signatures for Numba, at the end of the file.

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import types

from .compile import compiled, helper, reads, writes
from .memory import address_of, as_float32, load, next_below

_RUN = 256


@helper
def _after(dist_a, slot_a, dist_b, slot_b):
    return dist_a > dist_b or (dist_a == dist_b and slot_a > slot_b)


@helper
def _sink(heap_dist, heap_slot, size, dist, slot):
    """Puts an entry in place of the first and restores the order."""
    hole = 0
    while True:
        child = 2 * hole + 1
        if child >= size:
            break
        right = child + 1
        if right < size and _after(heap_dist[right], heap_slot[right], heap_dist[child], heap_slot[child]):
            child = right
        if not _after(heap_dist[child], heap_slot[child], dist, slot):
            break
        heap_dist[hole], heap_slot[hole] = heap_dist[child], heap_slot[child]
        hole = child
    heap_dist[hole], heap_slot[hole] = dist, slot


@helper
def offer(heap_dist, heap_slot, size, dist, slot):
    """Takes an entry in if it is among the best; returns the new size."""
    if size == len(heap_dist):
        if size > 0 and _after(heap_dist[0], heap_slot[0], dist, slot):
            _sink(heap_dist, heap_slot, size, dist, slot)
        return size
    hole = size
    while hole > 0:
        parent = (hole - 1) // 2
        if not _after(dist, slot, heap_dist[parent], heap_slot[parent]):
            break
        heap_dist[hole], heap_slot[hole] = heap_dist[parent], heap_slot[parent]
        hole = parent
    heap_dist[hole], heap_slot[hole] = dist, slot
    return size + 1


@helper
def limit(heap_dist, heap_slot, size, lowest_slot):
    """Only distances <= this can enter, for slots from `lowest_slot` on.

    A tie with the worst enters only with a smaller slot. Where none can come, ties are left out here
    already; otherwise data with many equal distances would look into every run.
    """
    if size < len(heap_dist):
        return np.float32(np.inf)
    if size == 0:
        return np.float32(-np.inf)
    if lowest_slot > heap_slot[0]:
        return next_below(heap_dist[0])
    return heap_dist[0]


@helper
def any_within(dist, start, stop, bound):
    # Through a pointer: with an array, the compiler would provide for negative indices.
    run = as_float32(address_of(dist) + 4 * start)
    hits = np.int32(0)
    for j in range(stop - start):
        hits += np.int32(load(run, j) <= bound)
    return hits > 0


def _push(dist, mask, first_slot, heap_dist, heap_slot, size):
    bound = limit(heap_dist, heap_slot, size, first_slot)
    for start in range(0, len(dist), _RUN):
        stop = min(start + _RUN, len(dist))
        if not any_within(dist, start, stop, bound):
            continue
        for j in range(start, stop):
            if dist[j] <= bound and mask[j] != 0:
                size = offer(heap_dist, heap_slot, size, dist[j], first_slot + j)
                bound = limit(heap_dist, heap_slot, size, first_slot + j)
    return size


push_all = helper(_push)


def _sort(heap_dist, heap_slot, size):
    for last in range(size - 1, 0, -1):
        dist, slot = heap_dist[last], heap_slot[last]
        heap_dist[last], heap_slot[last] = heap_dist[0], heap_slot[0]
        _sink(heap_dist, heap_slot, last, dist, slot)


def _within(dist, mask, first_slot, bound, out_slots, out_dist):
    count = 0
    for start in range(0, len(dist), _RUN):
        stop = min(start + _RUN, len(dist))
        if not any_within(dist, start, stop, bound):
            continue
        for j in range(start, stop):
            if dist[j] <= bound and mask[j] != 0:
                out_slots[count] = first_slot + j
                out_dist[count] = dist[j]
                count += 1
    return count


@functools.cache
def push() -> Any:
    """`(dist: float32[n], mask: uint8[n], first_slot, heap_dist: float32[k], heap_slot: int64[k], size)`.

    Entry j of `dist` is slot `first_slot + j`, left out where its mask is 0. Returns the new size.
    """
    f32, i64 = types.float32, types.int64
    return compiled(_push, reads(f32), reads(types.uint8), i64, writes(f32), writes(i64), i64)


@functools.cache
def sort() -> Any:
    """`(heap_dist, heap_slot, size)`: turns a heap into ascending order, in place; it is no heap then."""
    return compiled(_sort, writes(types.float32), writes(types.int64), types.int64)


@functools.cache
def within() -> Any:
    """`(dist, mask, first_slot, limit: float32, out_slots: int64[n], out_dist: float32[n]) -> count`.

    Everything masked-in with a distance <= `limit`; the outputs are at least as long as `dist`. Distances
    and limit are rounded: a caller who wants an exact radius widens it a little and checks what comes.
    """
    f32, i64 = types.float32, types.int64
    return compiled(_within, reads(f32), reads(types.uint8), i64, f32, writes(i64), writes(f32))
