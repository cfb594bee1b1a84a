"""Candidates for a graph's edges from leaves, whose distances lie in tables: a thread for each member.

A table is the same both ways, so threads side by side read what lies side by side: each its column.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# What kernels take is said where they are launched.

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import cuda, float32, int32

from .card import DeviceArray, simulated
from .compile import kernel
from .gram import INFINITY, Groups

NONE = np.uint32(0xFFFFFFFF)


@functools.cache
def edges_kernel(looked_at: int, kept: int, threads: int) -> Any:
    LOOKED_AT, KEPT, THREADS = looked_at, kept, threads

    def edges(table, starts, firsts, sizes, owners, places, low, fanout, alpha, ids, distances):
        near = cuda.shared.array((LOOKED_AT, THREADS), int32)
        apart = cuda.shared.array((LOOKED_AT, THREADS), float32)
        at, thread = cuda.grid(1), cuda.threadIdx.x
        if at >= owners.shape[0]:
            return
        node = places[at] // fanout - low
        if node < 0 or node >= ids.shape[0]:
            return
        first = places[at] % fanout * KEPT
        leaf = owners[at]
        size, start = sizes[leaf], starts[leaf]
        own = at - firsts[leaf]
        found = 0
        farthest = INFINITY
        for other in range(size):
            distance = table[start + other * size + own]
            if other != own and (found < LOOKED_AT or distance < farthest):
                place = found if found < LOOKED_AT else LOOKED_AT - 1
                while place > 0 and apart[place - 1, thread] > distance:
                    apart[place, thread] = apart[place - 1, thread]
                    near[place, thread] = near[place - 1, thread]
                    place -= 1
                apart[place, thread], near[place, thread] = distance, other
                found = min(found + 1, LOOKED_AT)
                if found == LOOKED_AT:
                    farthest = apart[LOOKED_AT - 1, thread]
        count = 0
        for a in range(found):
            other, bound = near[a, thread], apart[a, thread]
            clear = True
            for b in range(count):
                if alpha * table[start + near[b, thread] * size + other] <= bound:
                    clear = False
                    break
            if clear:
                # Those that are kept move to the front, where all were looked at already.
                near[count, thread] = other
                ids[node, first + count] = places[firsts[leaf] + other] // fanout
                distances[node, first + count] = bound
                count += 1
                if count == KEPT:
                    break
        for b in range(count, KEPT):
            ids[node, first + b] = NONE

    return kernel(edges)


def edges(
    table: DeviceArray,
    starts: DeviceArray,
    leaves: Groups,
    owners: DeviceArray,
    places: DeviceArray,
    low: int,
    fanout: int,
    looked_at: int,
    kept: int,
    alpha: np.float32,
    ids: DeviceArray,
    distances: DeviceArray,
) -> None:
    """Up to `kept` others for each member of the leaves whose tables these are, of the `looked_at` nearest.

    `owners: int32[m]` and `places: int64[m]` say of each member in which leaf it lies, and where its edges go: place p to
    the p % fanout-th part of row p // fanout - low of `ids: uint32[n, fanout * kept]` and `distances: float32[…]`. What
    is no row of these is left out. Filled up with NONE.
    """
    threads = 4 if simulated() else 128
    launched = edges_kernel(looked_at, kept, threads)
    launched[-(-owners.shape[0] // threads), threads](
        table, starts, leaves.firsts, leaves.sizes, owners, places, low, fanout, alpha, ids, distances
    )
