"""Tiles of products of queries and rows, of which only what may still count is written: a value below its query's limit.

A block of threads multiplies a tile of queries by a tile of rows, a few of each a thread, so that what is read once
from shared memory is used many times in registers. Distances come of the product and of the row's norm, as on the CPU:
`l2` leaves out the square of the query. Hits are appended to the query's list. A list that is full goes on being
counted, so the caller sees that hits were lost, and asks again for fewer rows.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import cuda, float32, float64, int32, uint32, uint64

from .card import Card, DeviceArray, Stream, simulated
from .compile import kernel


@dataclass(frozen=True)
class Shape:
    """How a block's tile is shared out among its threads: powers of two."""

    across: int
    """Threads along the queries, and along the rows."""
    down: int
    queries: int
    """Queries of a thread, and rows of a thread: their products are its registers."""
    rows: int
    depth: int
    """Dimensions that lie in shared memory at a time."""

    @property
    def threads(self) -> int:
        return self.across * self.down

    @property
    def tile_queries(self) -> int:
        return self.across * self.queries

    @property
    def tile_rows(self) -> int:
        return self.down * self.rows


# 128 sums a thread: for a step of a dimension 24 numbers come from shared memory and 128 are multiplied, so that the
# multipliers wait for one another and not for memory. 128 threads of some 200 registers, two such blocks an SM.
_WIDE = Shape(across=16, down=8, queries=8, rows=16, depth=16)
# Few queries are bound by the reading of rows: a narrow tile leaves fewer threads with nothing to do.
_NARROW = Shape(across=8, down=16, queries=4, rows=8, depth=16)
# The simulator runs a Python thread for each.
_SIMULATED = Shape(across=2, down=2, queries=4, rows=8, depth=4)

_FEW_QUERIES = 32
# What is read behind the last row of a tile are less numbers than a tile is deep, and a row may have but one.
_BEHIND = 16


def shape_for(queries: int) -> Shape:
    """The tile for so many queries."""
    if simulated():
        return _SIMULATED
    return _NARROW if queries <= _FEW_QUERIES else _WIDE


@functools.cache
def _dense(metric: str, shape: Shape) -> Any:
    across, down, depth, threads = shape.across, shape.down, shape.depth, shape.threads
    mine_queries, mine_rows = shape.queries, shape.rows
    tile_queries, tile_rows = shape.tile_queries, shape.tile_rows
    # So many rows are fetched at once, `depth` neighbouring numbers of each, by threads that are neighbours.
    at_once = threads // depth
    row_steps, query_steps = tile_rows // at_once, tile_queries // at_once
    # One more than a power of two: the threads that fill a column do not meet in one bank.
    row_stride, query_stride = tile_rows + 1, tile_queries + 1
    is_l2, is_ip = metric == "l2", metric == "ip"

    def score(
        rows, norms, mask, origin, first, count, dim, n_queries, queries, limits, values, slots, counts
    ):
        some_rows = cuda.shared.array((depth, row_stride), float32)
        some_queries = cuda.shared.array((depth, query_stride), float32)
        sums = cuda.local.array((mine_rows, mine_queries), float32)
        factors = cuda.local.array(mine_queries, float32)
        next_rows = cuda.local.array(row_steps, float32)
        next_queries = cuda.local.array(query_steps, float32)
        # Masked, so that the compiler knows that no index is negative and leaves out what would look for that.
        thread = cuda.threadIdx.x & (threads - 1)
        left = thread & (across - 1)
        top = thread // across
        d_mine = thread & (depth - 1)
        r_mine = thread // depth
        first_query = cuda.blockIdx.x * tile_queries
        first_row = first + cuda.blockIdx.y * tile_rows
        end = first + count
        for a in range(mine_rows):
            for b in range(mine_queries):
                sums[a, b] = float32(0)
        # Numbers are fetched into registers one step ahead, while those in shared memory are multiplied. Behind the last
        # row, query or dimension something is read all the same: rows and queries have room behind them for that.
        row_at = (first_row + r_mine) * dim + d_mine
        query_at = (first_query + r_mine) * dim + d_mine
        inside = d_mine < dim
        for step in range(row_steps):
            x = float32(rows[uint64(row_at + step * at_once * dim)])
            next_rows[step] = x if inside else float32(0)
        for step in range(query_steps):
            next_queries[step] = queries[uint64(query_at + step * at_once * dim)]
        for start in range(0, dim, depth):
            cuda.syncthreads()
            for step in range(row_steps):
                some_rows[d_mine, r_mine + step * at_once] = next_rows[step]
            for step in range(query_steps):
                some_queries[d_mine, r_mine + step * at_once] = next_queries[step]
            cuda.syncthreads()
            if start + depth < dim:
                row_at += depth
                query_at += depth
                inside = start + depth + d_mine < dim
                for step in range(row_steps):
                    x = float32(rows[uint64(row_at + step * at_once * dim)])
                    next_rows[step] = x if inside else float32(0)
                for step in range(query_steps):
                    next_queries[step] = queries[uint64(query_at + step * at_once * dim)]
            for d in range(depth):
                for b in range(mine_queries):
                    factors[b] = some_queries[d, left + b * across]
                for a in range(mine_rows):
                    x = some_rows[d, top + a * down]
                    for b in range(mine_queries):
                        sums[a, b] += x * factors[b]
        for a in range(mine_rows):
            row = first_row + top + a * down
            if row < end and mask[row] != 0:
                base = float32(1)
                scale = float32(-1)
                if is_l2:
                    base = norms[row]
                    scale = float32(-2)
                elif is_ip:
                    base = float32(0)
                else:
                    scale = float32(-1) / math.sqrt(norms[row])
                for b in range(mine_queries):
                    query = first_query + left + b * across
                    if query < n_queries:
                        value = base + scale * sums[a, b]
                        if value < limits[query]:
                            place = cuda.atomic.add(counts, query, 1)
                            if place < values.shape[1]:
                                values[query, place] = value
                                slots[query, place] = origin + row

    return kernel(score)


@functools.cache
def _bits(metric: str, shape: Shape) -> Any:
    """As `_dense`, of the counts of common bits, which both distances follow from."""
    across, down, depth, threads = shape.across, shape.down, shape.depth, shape.threads
    mine_queries, mine_rows = shape.queries, shape.rows
    tile_queries, tile_rows = shape.tile_queries, shape.tile_rows
    at_once = threads // depth
    row_steps, query_steps = tile_rows // at_once, tile_queries // at_once
    row_stride, query_stride = tile_rows + 1, tile_queries + 1
    is_hamming = metric == "hamming"

    def score(
        rows,
        norms,
        mask,
        origin,
        first,
        count,
        words,
        n_queries,
        queries,
        query_bits,
        limits,
        values,
        slots,
        counts,
    ):
        some_rows = cuda.shared.array((depth, row_stride), uint32)
        some_queries = cuda.shared.array((depth, query_stride), uint32)
        sums = cuda.local.array((mine_rows, mine_queries), int32)
        factors = cuda.local.array(mine_queries, uint32)
        next_rows = cuda.local.array(row_steps, uint32)
        next_queries = cuda.local.array(query_steps, uint32)
        thread = cuda.threadIdx.x & (threads - 1)
        left = thread & (across - 1)
        top = thread // across
        d_mine = thread & (depth - 1)
        r_mine = thread // depth
        first_query = cuda.blockIdx.x * tile_queries
        first_row = first + cuda.blockIdx.y * tile_rows
        end = first + count
        for a in range(mine_rows):
            for b in range(mine_queries):
                sums[a, b] = int32(0)
        row_at = (first_row + r_mine) * words + d_mine
        query_at = (first_query + r_mine) * words + d_mine
        inside = d_mine < words
        for step in range(row_steps):
            x = rows[uint64(row_at + step * at_once * words)]
            next_rows[step] = x if inside else uint32(0)
        for step in range(query_steps):
            next_queries[step] = queries[uint64(query_at + step * at_once * words)]
        for start in range(0, words, depth):
            cuda.syncthreads()
            for step in range(row_steps):
                some_rows[d_mine, r_mine + step * at_once] = next_rows[step]
            for step in range(query_steps):
                some_queries[d_mine, r_mine + step * at_once] = next_queries[step]
            cuda.syncthreads()
            if start + depth < words:
                row_at += depth
                query_at += depth
                inside = start + depth + d_mine < words
                for step in range(row_steps):
                    x = rows[uint64(row_at + step * at_once * words)]
                    next_rows[step] = x if inside else uint32(0)
                for step in range(query_steps):
                    next_queries[step] = queries[uint64(query_at + step * at_once * words)]
            for d in range(depth):
                for b in range(mine_queries):
                    factors[b] = some_queries[d, left + b * across]
                for a in range(mine_rows):
                    x = some_rows[d, top + a * down]
                    for b in range(mine_queries):
                        # Words of 32 bits stay so: Numba makes 64 of what two of them give.
                        sums[a, b] += int32(cuda.popc(uint32(x & factors[b])))
        for a in range(mine_rows):
            row = first_row + top + a * down
            if row < end and mask[row] != 0:
                for b in range(mine_queries):
                    query = first_query + left + b * across
                    if query < n_queries:
                        common = sums[a, b]
                        both = norms[row] + query_bits[query]
                        value = float32(0)
                        if is_hamming:
                            value = float32(int32(both - 2 * common))
                        elif both > 0:
                            # Rounded once, from integers, as on the CPU: the same value everywhere.
                            value = float32(float64(1) - float64(common) / float64(both - common))
                        if value < limits[query]:
                            place = cuda.atomic.add(counts, query, 1)
                            if place < values.shape[1]:
                                values[query, place] = value
                                slots[query, place] = origin + row

    return kernel(score)


@dataclass
class Piece:
    """Rows on the card, or a part of those: what a launch compares."""

    rows: DeviceArray
    """`(room_for(n) or more, dim)` of their stored type, or as many words of uint32 for packed bits."""
    norms: DeviceArray
    mask: DeviceArray
    origin: int
    """The slot of the first row."""


def score(
    card: Card,
    metric: str,
    piece: Piece,
    first: int,
    count: int,
    queries: DeviceArray,
    n_queries: int,
    query_bits: DeviceArray | None,
    limits: DeviceArray,
    hits: tuple[DeviceArray, DeviceArray, DeviceArray],
    stream: Stream,
) -> None:
    """Appends to each query's hits every masked-in row from `first` on whose value is below the query's limit.

    Queries are `(room_for_queries(n), dim)`, zeros behind them. `hits` are values `(queries, capacity)`, slots of that
    shape, and counts, which may come to exceed the capacity.
    """
    shape = shape_for(n_queries)
    grid = -(-n_queries // shape.tile_queries), -(-count // shape.tile_rows)
    own = (
        np.int32(piece.origin),
        np.int32(first),
        np.int32(count),
        np.int32(queries.shape[1]),
        np.int32(n_queries),
    )
    rows, flat = piece.rows.reshape(piece.rows.size), queries.reshape(queries.size)
    with card.working():
        if query_bits is None:
            launched = _dense(metric, shape)[grid, shape.threads, stream]
            launched(rows, piece.norms, piece.mask, *own, flat, limits, *hits)
        else:
            launched = _bits(metric, shape)[grid, shape.threads, stream]
            launched(rows, piece.norms, piece.mask, *own, flat, query_bits, limits, *hits)


def most_rows(queries: int) -> int:
    """Rows that one launch may take: the grid ends there."""
    return 65_535 * shape_for(queries).tile_rows


def room_for(rows: int) -> int:
    """Rows that an array must have room for: whole tiles are read, and up to a tile's depth behind them."""
    return rows + (_SIMULATED if simulated() else _WIDE).tile_rows + _BEHIND


def room_for_queries(queries: int) -> int:
    """Likewise: whole tiles of queries, and what lies behind the last."""
    tile = shape_for(queries).tile_queries
    return -(-queries // tile) * tile + _BEHIND
