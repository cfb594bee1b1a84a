"""All squared distances between groups of vectors, as tables: blocks of threads multiply tile by tile.

A thread keeps a square of sums in registers, and what they are made of lies in shared memory meanwhile. Sums go
over the coordinates in their order whatever the tile, so the distance from a to b is that from b to a, to the bit.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# What kernels take is said where they are launched.

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numba import cuda, float32, int32, uint32

from .card import DeviceArray, simulated
from .compile import kernel

INFINITY = np.float32(np.inf)
MOST_GROUPS = 65_535
"""So many groups a launch: the grid's second side is no longer."""
_LAST = np.int32(0x7FFFFFFF)


@dataclass(frozen=True)
class Tile:
    """The part of a table that one block of threads makes: `across`**2 threads, with `each`**2 distances each."""

    across: int
    each: int
    depth: int
    """Coordinates that are in shared memory at once: a power of two."""

    @property
    def side(self) -> int:
        return self.across * self.each


# 64 sums a thread and four of them for each number that is read from shared memory: what a multiprocessor can read
# in the time that it takes to add them up. A warp reads 64 bytes in a row of each vector.
_TILE = Tile(across=8, each=8, depth=16)
# The simulator has a Python thread for each thread.
_SIMULATED = Tile(across=2, each=4, depth=8)


def tile() -> Tile:
    return _SIMULATED if simulated() else _TILE


class Groups(NamedTuple):
    """Rows of vectors in groups: group g is `members[firsts[g] : firsts[g] + sizes[g]]`."""

    vectors: DeviceArray
    """float32[n, d]"""
    members: DeviceArray
    """uint32[m]"""
    firsts: DeviceArray
    """int64[g]"""
    sizes: DeviceArray
    """int64[g]"""
    largest: int
    """The most members of a group."""


@functools.cache
def tables_kernel(shape: Tile) -> Any:
    SIDE, EACH, ACROSS, DEPTH = shape.side, shape.each, shape.across, shape.depth
    THREADS = ACROSS * ACROSS
    # Two more, so that what a warp stores lies in banks of its own.
    PADDED, AT_ONCE = SIDE + 2, 4
    # Numbers that are masked, or have no sign, are seen to be no negative indices: nothing is compiled that looks for such.
    BITS, MASK = DEPTH.bit_length() - 1, (1 << SIDE.bit_length()) - 1

    def tables(
        rows,
        row_members,
        row_firsts,
        heights,
        columns,
        column_members,
        column_firsts,
        widths,
        starts,
        origins,
        out,
    ):
        left = cuda.shared.array((DEPTH, PADDED), float32)
        right = cuda.shared.array((DEPTH, PADDED), float32)
        left_norms = cuda.shared.array(SIDE, float32)
        right_norms = cuda.shared.array(SIDE, float32)
        left_rows = cuda.shared.array(SIDE, uint32)
        right_rows = cuda.shared.array(SIDE, uint32)
        sums = cuda.local.array((EACH, EACH), float32)
        xs = cuda.local.array(AT_ONCE, float32)
        ys = cuda.local.array(AT_ONCE, float32)
        group, thread = cuda.blockIdx.y, cuda.threadIdx.x & (THREADS - 1)
        height, width = heights[group], widths[group]
        if height == 0 or width == 0:
            return
        abreast = (width + SIDE - 1) // SIDE
        top = cuda.blockIdx.x // abreast * SIDE
        start = cuda.blockIdx.x % abreast * SIDE
        if top >= height:
            return
        centred, origin = origins[group] >= 0, np.uint32(max(origins[group], 0))
        dim = rows.shape[1]
        for r in range(thread, SIDE, THREADS):
            left_norms[r] = right_norms[r] = np.float32(0)
            left_rows[r] = right_rows[r] = np.uint32(0)
            if top + r < height:
                left_rows[r] = row_members[row_firsts[group] + top + r]
            if start + r < width:
                right_rows[r] = column_members[column_firsts[group] + start + r]
        for i in range(EACH):
            for j in range(EACH):
                sums[i, j] = np.float32(0)
        down, over = thread // ACROSS, thread % ACROSS
        for begin in range(0, dim, DEPTH):
            cuda.syncthreads()
            for step in range(0, DEPTH * SIDE, THREADS * AT_ONCE):
                # What is not there is read elsewhere and left out: so a few are asked for before the first is waited for.
                for u in range(AT_ONCE):
                    at = step + u * THREADS + thread
                    r, column = (at >> BITS) & MASK, np.uint32(min(begin + (at & (DEPTH - 1)), dim - 1))
                    shift = rows[origin, column] if centred else np.float32(0)
                    xs[u] = rows[left_rows[r], column] - shift
                    ys[u] = columns[right_rows[r], column] - shift
                for u in range(AT_ONCE):
                    at = step + u * THREADS + thread
                    r, k = (at >> BITS) & MASK, at & (DEPTH - 1)
                    left[k, r] = xs[u] if top + r < height and begin + k < dim else np.float32(0)
                    right[k, r] = ys[u] if start + r < width and begin + k < dim else np.float32(0)
            cuda.syncthreads()
            for r in range(thread, SIDE, THREADS):
                x, y = left_norms[r], right_norms[r]
                for k in range(DEPTH):
                    x += left[k, r] * left[k, r]
                    y += right[k, r] * right[k, r]
                left_norms[r], right_norms[r] = x, y
            for k in range(DEPTH):
                for i in range(EACH):
                    x = left[k, down + i * ACROSS]
                    for j in range(EACH):
                        sums[i, j] += x * right[k, over + j * ACROSS]
        cuda.syncthreads()
        for i in range(EACH):
            r = down + i * ACROSS
            for j in range(EACH):
                c = over + j * ACROSS
                if top + r < height and start + c < width:
                    distance = (left_norms[r] + right_norms[c]) - np.float32(2) * sums[i, j]
                    # What is no number lies infinitely far.
                    if not distance > np.float32(0):
                        distance = np.float32(0) if distance <= np.float32(0) else INFINITY
                    out[starts[group] + (top + r) * width + start + c] = distance

    return kernel(tables)


def tables(left: Groups, right: Groups, starts: DeviceArray, origins: DeviceArray, out: DeviceArray) -> None:
    """`out[starts[g] + i * (columns in g) + j]` = |left i of group g - right j of group g|**2, for every group.

    `starts: int64[g]`, `origins: int64[g]`, `out: float32[…]`. An origin is a row of the left vectors that lies among
    those of its group: distances are then as exact as these are near it, however far all are from nought. Or -1.
    """
    shape = tile()
    blocks = -(-left.largest // shape.side) * -(-right.largest // shape.side)
    if blocks:
        launched = tables_kernel(shape)
        launched[(blocks, starts.shape[0]), shape.across**2](*left[:4], *right[:4], starts, origins, out)


@functools.cache
def nearest_kernel(wanted: int) -> Any:
    # Read together, as a thread waits long for each.
    WANTED, AT_ONCE = wanted, 4

    def nearest(table, leaders, chosen):
        row = cuda.grid(1)
        count = chosen.shape[0]
        if row >= count:
            return
        best = cuda.local.array(WANTED, float32)
        names = cuda.local.array(WANTED, int32)
        for s in range(WANTED):
            best[s], names[s] = INFINITY, _LAST
        values = cuda.local.array(AT_ONCE, float32)
        for first in range(0, leaders, AT_ONCE):
            for u in range(AT_ONCE):
                values[u] = INFINITY
                if first + u < leaders:
                    values[u] = table[(first + u) * count + row]
            for u in range(AT_ONCE):
                distance = values[u]
                name = np.int32(first + u) if first + u < leaders else _LAST
                last = WANTED - 1
                if distance < best[last] or (distance == best[last] and name < names[last]):
                    # Each place is passed, so that the list stays in registers.
                    for s in range(WANTED):
                        if distance < best[s] or (distance == best[s] and name < names[s]):
                            other, its = best[s], names[s]
                            best[s], names[s] = distance, name
                            distance, name = other, its
        for s in range(WANTED):
            chosen[row, s] = names[s]

    return kernel(nearest)


def nearest(table: DeviceArray, leaders: int, chosen: DeviceArray) -> None:
    """The nearest leaders of each vector, nearest first, ties by number: `table: float32[leaders * n], chosen: int32[n, f]`.

    A row of the table has all vectors' distances from one leader. There are f leaders at least.
    """
    threads = 4 if simulated() else 128
    launched = nearest_kernel(chosen.shape[1])
    launched[-(-chosen.shape[0] // threads), threads](table, leaders, chosen)


@functools.cache
def chain_kernel(threads: int) -> Any:
    THREADS = threads

    def chain(table, used, order):
        best = cuda.shared.array(THREADS, float32)
        names = cuda.shared.array(THREADS, int32)
        thread, count = cuda.threadIdx.x, order.shape[0]
        at = 0
        for place in range(count):
            nearest, name = INFINITY, _LAST
            for other in range(thread, count, THREADS):
                if used[other] == 0:
                    distance = table[at * count + other]
                    if distance < nearest or name == _LAST:
                        nearest, name = distance, np.int32(other)
            best[thread], names[thread] = nearest, name
            stride = THREADS // 2
            while stride > 0:
                cuda.syncthreads()
                if thread < stride:
                    distance, other = best[thread + stride], names[thread + stride]
                    if distance < best[thread] or (distance == best[thread] and other < names[thread]):
                        best[thread], names[thread] = distance, other
                stride //= 2
            cuda.syncthreads()
            at = names[0]
            if thread == at % THREADS:
                used[at] = 1
            if thread == 0:
                order[place] = at
            cuda.syncthreads()

    return kernel(chain)


def chain(table: DeviceArray, used: DeviceArray, order: DeviceArray) -> None:
    """An order in which each is followed by the nearest of the rest, from the first on; ties by number.

    `table: float32[n * n], used: uint8[n], order: int32[n]`; none is used at first.
    """
    threads = 4 if simulated() else 1024
    chain_kernel(threads)[1, threads](table, used, order)
