"""The nearest of what was found, ordered by (value, slot): a block of threads sorts one query's candidates.

What a query keeps, its pool, and the hits that were appended since, fit into shared memory together; a bitonic sort
orders as much of it as there is, and the worst that is kept becomes the limit for all rows to come.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import cuda, float32, int32

from .card import Card, DeviceArray, Stream, simulated
from .compile import kernel

NONE = np.int32(2**31 - 1)
"""The slot of a place in a pool that nothing was found for; its value is infinite."""

ROOM = 4096
"""Candidates that can be sorted at once: 32 KiB of shared memory."""
_SIMULATED_ROOM = 128


def room() -> int:
    return _SIMULATED_ROOM if simulated() else ROOM


@functools.cache
def _kernel(room: int, threads: int) -> Any:
    none = int(NONE)

    def merge(pool_values, pool_slots, limits, values, slots, counts):
        some_values = cuda.shared.array(room, float32)
        some_slots = cuda.shared.array(room, int32)
        query = cuda.blockIdx.x
        thread = cuda.threadIdx.x
        pool = pool_values.shape[1]
        found = min(counts[query], values.shape[1])
        if found == 0:
            return
        size = 2
        while size < pool + found:
            size *= 2
        for at in range(thread, size, threads):
            if at < pool:
                some_values[at] = pool_values[query, at]
                some_slots[at] = pool_slots[query, at]
            elif at < pool + found:
                some_values[at] = values[query, at - pool]
                some_slots[at] = slots[query, at - pool]
            else:
                some_values[at] = float32(np.inf)
                some_slots[at] = int32(none)
        cuda.syncthreads()
        run = 2
        while run <= size:
            step = run // 2
            while step > 0:
                for at in range(thread, size // 2, threads):
                    low = 2 * at - at % step
                    high = low + step
                    value_low = some_values[low]
                    value_high = some_values[high]
                    slot_low = some_slots[low]
                    slot_high = some_slots[high]
                    later = value_low > value_high or (value_low == value_high and slot_low > slot_high)
                    if later == ((low & run) == 0):
                        some_values[low] = value_high
                        some_values[high] = value_low
                        some_slots[low] = slot_high
                        some_slots[high] = slot_low
                cuda.syncthreads()
                step //= 2
            run *= 2
        for at in range(thread, pool, threads):
            pool_values[query, at] = some_values[at]
            pool_slots[query, at] = some_slots[at]
        if thread == 0:
            limits[query] = some_values[pool - 1]
            counts[query] = 0

    return kernel(merge)


def merge(
    card: Card,
    pool: tuple[DeviceArray, DeviceArray],
    limits: DeviceArray,
    hits: tuple[DeviceArray, DeviceArray, DeviceArray],
    stream: Stream,
) -> None:
    """Takes each query's hits into its pool, ascending; sets its limit; and empties its hits.

    Pool and hits together are at most `room()` wide. Rows that come later have larger slots than those in the pool,
    so that one whose value equals the limit cannot enter.
    """
    with card.working():
        _kernel(room(), 4 if simulated() else 256)[limits.shape[0], 4 if simulated() else 256, stream](
            *pool, limits, *hits
        )
